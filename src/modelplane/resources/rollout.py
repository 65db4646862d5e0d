"""A Rollout: one revision on its way to an environment's traffic. Pure data.

Created by the promotion controller, moved by the rollout controller; people pause, resume,
promote or roll back by changing its spec through actions. The two versions in it are always
called stable and candidate.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Literal

from pydantic import Field

from modelplane.resources.meta import Condition, Name, Part, Resource
from modelplane.resources.revision import Revision
from modelplane.resources.strategy import Strategy

RolloutPhase = Literal[
    "Pending", "Deploying", "Ramping", "Paused", "Promoted", "RolledBack", "Failed", "Superseded",
    "Concluded",
]  # fmt: skip
FINISHED_ROLLOUT: frozenset[str] = frozenset(
    {"Promoted", "RolledBack", "Failed", "Superseded", "Concluded"}
)
MetricVerdictName = Literal["harm", "pass", "undecided", "unavailable"]
AbVerdict = Literal["", "pass", "harm", "undecided"]


class RolloutRequest(Part):
    """What a person wants of a running rollout."""

    action: Literal["promote", "rollback"]
    subject: str
    reason: str = ""
    at: datetime


class WeightLimit(Part):
    """What a playbook allows the candidate while it deals with an alert."""

    weight_pct: float = Field(ge=0, le=100, description="At most this much.")
    run: str = Field(description="The PlaybookRun; it takes the limit away when it is over.")


class RolloutSpec(Part):
    """What is rolled out over what."""

    deployment: Name
    promotion: str
    ordinal: int = Field(ge=1, description="Of the deployment's rollouts.")
    stable: Revision | None = Field(default=None, description="Absent for a first deployment.")
    candidate: Revision
    paused: bool = False
    limit: WeightLimit | None = Field(
        default=None, description="While there is one, the candidate's weight does not grow."
    )
    request: RolloutRequest | None = None
    superseded_by: str | None = Field(default=None, description="The promotion that took over.")
    lane: str = Field(
        default="",
        description="`POLICY/VERSION` of the traffic policy it belongs to; empty: the "
        "deployment's own.",
    )


class MetricReport(Part):
    """One metric's judgement, as people read it. Rates are 0 to 1, latencies microseconds."""

    name: str
    verdict: MetricVerdictName
    stable: float | None = None
    candidate: float | None = None
    difference: float | None = None
    lower: float | None = Field(default=None, description="Anytime-valid bound of the difference.")
    upper: float | None = Field(default=None, description="Anytime-valid bound of the difference.")
    margin: float | None = None
    e_value: float | None = Field(default=None, description="Evidence of harm; 1/alpha decides.")
    requests_needed: int | None = Field(default=None, description="Candidate requests still.")
    sentence: str = ""


class SliceReport(Part):
    """One part of the users, as the evidence has it. Rates are 0 to 1."""

    name: str = Field(description="Such as `user.region=west`.")
    requests: int = Field(default=0, description="Of the candidate's.")
    stable: float | None = None
    candidate: float | None = None
    e_value: float | None = Field(default=None, description="Evidence of harm to this part.")
    harm: bool = False


class Judgement(Part):
    """What the evidence says of a candidate now.

    Written by the analysis controller together with the evidence, once a second; read by the
    rollout decision and by people watching. Data, so no change of it is audited.
    """

    step_id: int = Field(
        description="The newest step in which a request met the candidate; -1 before any did."
    )
    at: datetime = Field(description="End of the newest interval in it.")
    warm: bool = Field(default=False, description="Stable has been seen enough to judge against.")
    harm: bool = False
    passes: bool = Field(default=False, description="Every metric is within its margin.")
    unavailable: tuple[str, ...] = Field(
        default=(), description="Metrics that cannot be measured here."
    )
    bad_replica: str | None = None
    allowed_weight_pct: float = Field(
        default=0.0, description="The largest weight the risk budget allows now."
    )
    stable_rps: float = Field(default=0.0, description="Requests per second to the deployment.")
    requests_needed: int | None = Field(default=None, description="Candidate requests still.")
    candidate_requests: int = 0
    failed_requests: int = 0
    saved_requests: int = Field(default=0, description="Failed ones that stable answered.")
    dispersion: float = Field(default=1.0, description="How correlated failures are (phi).")
    metrics: tuple[MetricReport, ...] = ()
    slices: tuple[SliceReport, ...] = ()
    compared: int = Field(default=0, description="Pairs of answers compared, of a shadow.")
    different: int = Field(default=0, description="Pairs whose answers differ.")
    different_lower: float | None = Field(
        default=None, description="Anytime-valid lower bound of the share that differs."
    )
    examples: tuple[str, ...] = Field(
        default=(), description="How some of the answers differ, in words."
    )
    sentence: str = ""


class RolloutStep(Part):
    """One weight the candidate had; the last entry is the present one."""

    id: int = Field(ge=0)
    weight_pct: float
    started_at: datetime
    reason: str = ""
    applied_at: datetime | None = Field(
        default=None, description="When the gateway acknowledged the weight."
    )


class RolloutStatus(Part):
    """Where it is and why."""

    phase: RolloutPhase = "Pending"
    reason: str = Field(default="", description="Stable code of the last decision.")
    message: str = Field(default="", description="The last decision in one sentence.")
    weight_pct: float = 0.0
    step_id: int = 0
    steps: tuple[RolloutStep, ...] = ()
    strategy: Strategy | None = Field(default=None, description="The one last decided by.")
    started_at: datetime | None = None
    ramp_started_at: datetime | None = Field(
        default=None, description="When the candidate first had traffic."
    )
    finished_at: datetime | None = None
    bad_replica: str | None = Field(default=None, description="Blamed instead of the version.")
    mirror_pct: float = Field(default=0.0, description="Share of requests copied to it.")
    candidate_replicas: int | None = Field(
        default=None, description="While rolling: how many it has; absent: all."
    )
    stable_replicas: int | None = Field(
        default=None, description="While rolling: how many stable has; absent: all."
    )
    ready_at: datetime | None = Field(
        default=None, description="When all of its replicas were ready (blue/green)."
    )
    holdback_at: datetime | None = Field(
        default=None, description="When the verdict was good and the holdback began."
    )
    verdict: AbVerdict = Field(
        default="", description="What an A/B/n test concluded of this version."
    )
    metrics: tuple[MetricReport, ...] = ()
    slices: tuple[SliceReport, ...] = ()
    compared: int = 0
    different: int = 0
    examples: tuple[str, ...] = Field(
        default=(), description="How some of the answers differ, in words."
    )
    candidate_requests: int = 0
    failed_requests: int = Field(
        default=0, description="The candidate failed them, whether clients saw it or not."
    )
    saved_requests: int = Field(default=0, description="Failed ones that stable answered.")
    requests_needed: int | None = Field(
        default=None, description="Candidate requests still needed for a verdict, about."
    )
    judged_at: datetime | None = Field(
        default=None, description="How old the figures of a running rollout are."
    )
    conditions: tuple[Condition, ...] = ()


class Rollout(Resource[RolloutSpec, RolloutStatus]):
    """One revision on its way into an environment's traffic."""

    scoped: ClassVar[bool] = True
    plural: ClassVar[str] = "rollouts"

    kind: Literal["Rollout"] = "Rollout"
    spec: RolloutSpec
    status: RolloutStatus = Field(default_factory=RolloutStatus)

    @property
    def finished(self) -> bool:
        """Whether nothing will move any more."""
        return self.status.phase in FINISHED_ROLLOUT
