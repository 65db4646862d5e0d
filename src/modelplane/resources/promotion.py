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
    "Requested", "Validating", "AwaitingApproval", "Approved", "RollingOut",
    "Done", "RolledBack", "Failed", "Superseded", "Refused", "Rejected", "Expired",
]  # fmt: skip
"""``Refused`` by a policy or a failed gate, ``Rejected`` by a person, ``Expired`` unanswered."""
FINISHED_PROMOTION: frozenset[str] = frozenset(
    {"Done", "RolledBack", "Failed", "Superseded", "Refused", "Rejected", "Expired"}
)
WAITING_PROMOTION: frozenset[str] = frozenset(
    {"Requested", "Validating", "AwaitingApproval", "Approved"}
)
"""Nothing has begun yet."""


class PromotionSpec(Part):
    """What should run where, who asked, and why."""

    deployment: Name
    revision: Revision
    ordinal: int = Field(ge=1, description="Of the deployment's promotions; the latest one counts.")
    requested_version: str = Field(default="", description="As written, such as `latest`.")
    subject: Subject
    reason: str = ""
    warnings: tuple[str, ...] = Field(default=(), description="Said when it was requested.")
    restores: str | None = Field(
        default=None,
        description="The promotion that brought this revision here before: going back to what was "
        "approved and served needs no new approval, and no freeze holds it.",
    )
    automatic: bool = Field(default=False, description="Asked for by a policy, not by a person.")
    lane: str = Field(
        default="",
        description="`POLICY/VERSION` of the traffic policy that asks: its rollout runs beside "
        "others. Empty: the deployment's own, which takes the place of all that run.",
    )


class PolicyOutcome(Part):
    """What one policy said of a promotion; kept, since policies change."""

    kind: Literal["PromotionPolicy", "ApprovalPolicy"]
    name: str
    digest: str = Field(description="SHA-256 of the policy's spec, hex.")
    outcome: Literal["allowed", "pending", "refused"]
    message: str = ""


class GateOutcome(Part):
    """What one required pipeline said of the revision."""

    pipeline: str
    run: str
    phase: str
    results: tuple[str, ...] = Field(default=(), description="Names of its StageResults.")


class PromotionStatus(Part):
    """How far it came."""

    phase: PromotionPhase = "Requested"
    reason: str = ""
    message: str = ""
    rollout: str | None = None
    policies: tuple[PolicyOutcome, ...] = ()
    gates: tuple[GateOutcome, ...] = ()
    approvals: tuple[str, ...] = Field(
        default=(), description="The approvals it rests on, `ENVIRONMENT/NAME`."
    )
    evidence_digest: str = Field(
        default="",
        description="SHA-256 over the results of its gates: what approvals are bound to.",
    )
    approved_at: datetime | None = None
    evidence: str | None = Field(
        default=None, description="Digest of the artifact with the signed bundle, once it is over."
    )
    finished_at: datetime | None = None
    conditions: tuple[Condition, ...] = ()


class Promotion(Resource[PromotionSpec, PromotionStatus]):
    """The wish that an environment run a revision, and what became of it."""

    scoped: ClassVar[bool] = True
    plural: ClassVar[str] = "promotions"

    kind: Literal["Promotion"] = "Promotion"
    spec: PromotionSpec
    status: PromotionStatus = Field(default_factory=PromotionStatus)
