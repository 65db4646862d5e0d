"""A Replica: one model server of one revision, run by an agent. Pure data.

The placement controller creates it, asks it to stop, and deletes it once it has stopped; the
agent runs it and reports.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from modelplane.resources.meta import Name, Part, Resource
from modelplane.resources.monitoring import PredictionLog
from modelplane.resources.revision import Revision

ReplicaPhase = Literal[
    "Pending", "Preparing", "Starting", "Ready", "NotReady", "Failed", "Draining", "Stopped"
]


class ReplicaSpec(Part):
    """What should run on the node."""

    deployment: Name
    revision: Revision
    index: int = Field(ge=0)
    node: str = "local"
    allow_pickle: Literal["never", "scanned", "always"] = Field(
        default="never", description="Which artifacts that hold pickles are loaded."
    )
    stopped: bool = Field(default=False, description="Asked to drain and stop.")
    restart: str = Field(
        default="",
        description="Who asked for another start, such as `RUN.STEP`; each is obeyed once.",
    )
    signature: dict[str, Any] | None = None
    signatures: tuple[str, ...] = Field(
        default=(), description="Signature bundles over the files, JSON."
    )
    trusted_keys: tuple[str, ...] = Field(
        default=(),
        description="Public keys, PEM. With any, files start only when one of them signed them.",
    )
    input_example: dict[str, Any] | None = Field(
        default=None, description="The smoke prediction; without one readiness is enough."
    )

    predictions: PredictionLog | None = Field(
        default=None,
        description="What it remembers of each prediction, as its deployment says; changes in "
        "place.",
    )

    @field_validator("allow_pickle", mode="before")
    @classmethod
    def _read_older_form(cls, value: Any) -> Any:
        # Releases before this wrote yes or no.
        return {True: "always", False: "never"}[value] if isinstance(value, bool) else value


class ReplicaStatus(Part):
    """What runs on the node.

    ``Failed`` is final for this replica: it never became ready. A replica that was ready and
    died is restarted and is ``NotReady`` meanwhile.
    """

    phase: ReplicaPhase = "Pending"
    reason: str = ""
    message: str = ""
    address: str = ""
    identity: str = Field(
        default="", description="SPIFFE id that answers there over mutual TLS; empty: no TLS."
    )
    pid: int | None = None
    restarts: int = 0
    restarted: str = Field(default="", description="The `spec.restart` that was obeyed last.")
    ready_at: datetime | None = None
    smoke: Literal["", "passed", "failed", "skipped"] = ""
    log_tail: str = Field(default="", description="Last lines, when it failed.")


class Replica(Resource[ReplicaSpec, ReplicaStatus]):
    """One model server of one revision."""

    scoped: ClassVar[bool] = True
    plural: ClassVar[str] = "replicas"

    kind: Literal["Replica"] = "Replica"
    spec: ReplicaSpec
    status: ReplicaStatus = Field(default_factory=ReplicaStatus)
