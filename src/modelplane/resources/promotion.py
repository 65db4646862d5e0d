"""A Promotion: the wish that an environment run a revision. Pure data.

The only thing that changes what an environment should run: apply and promote create one, and
everything that guards an environment hangs on it.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Literal

from pydantic import Field

from modelplane.resources.meta import Condition, Name, Part, Resource, Subject
from modelplane.resources.revision import Revision

PromotionPhase = Literal[
    "Requested", "Approved", "RollingOut", "Done", "RolledBack", "Failed", "Superseded", "Refused"
]
FINISHED_PROMOTION: frozenset[str] = frozenset(
    {"Done", "RolledBack", "Failed", "Superseded", "Refused"}
)


class PromotionSpec(Part):
    """What should run where, who asked, and why."""

    deployment: Name
    revision: Revision
    ordinal: int = Field(ge=1, description="Of the deployment's promotions; the latest one counts.")
    requested_version: str = Field(default="", description="As written, such as `latest`.")
    subject: Subject
    reason: str = ""
    warnings: tuple[str, ...] = Field(default=(), description="Said when it was requested.")


class PromotionStatus(Part):
    """How far it came."""

    phase: PromotionPhase = "Requested"
    reason: str = ""
    message: str = ""
    rollout: str | None = None
    finished_at: datetime | None = None
    conditions: tuple[Condition, ...] = ()


class Promotion(Resource[PromotionSpec, PromotionStatus]):
    """The wish that an environment run a revision, and what became of it."""

    scoped: ClassVar[bool] = True
    plural: ClassVar[str] = "promotions"

    kind: Literal["Promotion"] = "Promotion"
    spec: PromotionSpec
    status: PromotionStatus = Field(default_factory=PromotionStatus)
