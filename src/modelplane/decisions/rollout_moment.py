"""One decision about a rollout: what it depends on, how it can end, and in which words.

The ground of `decisions.rollout` and of the strategies beside it, which call the methods of
`Moment`; nothing else makes a `RolloutDecision`. Pure. It decides nothing: it only sees to it that
each outcome explains itself, and that a candidate that ends without a promotion has no traffic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from modelplane.decisions.analysis_inputs import LABEL_METRICS
from modelplane.resources.monitoring import Labels
from modelplane.resources.replica import Replica
from modelplane.resources.rollout import (
    Judgement,
    RolloutPhase,
    RolloutSpec,
    RolloutStatus,
    RolloutStep,
)
from modelplane.resources.strategy import Analysis, Strategy

STALE_AFTER_S = 15.0
"""Evidence older than this, in seconds, does not let the weight grow."""

TICK_S = 1.0
"""How soon to look again when only time is missing, seconds at the least."""

LOOK_AGAIN_S = 5.0
"""How late to look again at the most: not every edit of a strategy wakes the rollout."""


REFUSED_FOR_S = 60.0
"""A rollout whose present step the gateway refuses for so many seconds is over."""


class Verdict(StrEnum):
    """What the decision does."""

    HOLD = "hold"
    ADVANCE = "advance"
    PROMOTE = "promote"
    ROLL_BACK = "rollback"
    FAIL = "fail"
    SUPERSEDE = "supersede"
    CONCLUDE = "conclude"


class Reason(StrEnum):
    """Why; part of the API."""

    FINISHED = "Finished"
    SUPERSEDED = "Superseded"
    DELETED = "Deleted"
    POLICY_GONE = "PolicyGone"
    ROLLBACK_REQUESTED = "RollbackRequested"
    HARM = "Harm"
    CLAWED_BACK = "ClawedBack"
    ANSWERS_DIFFER = "AnswersDiffer"
    START_FAILED = "StartFailed"
    STARTING = "Starting"
    FIRST_DEPLOYMENT = "FirstDeployment"
    ALL_AT_ONCE = "AllAtOnce"
    STILL_WARM = "StillWarm"
    PREVIEW = "Preview"
    SWITCHED = "Switched"
    PROMOTE_REQUESTED = "PromoteRequested"
    PAUSED = "Paused"
    DRIFTED = "Drifted"
    LIMITED = "WeightLimited"
    WARMING_UP = "WarmingUp"
    FIRST_STEP = "FirstStep"
    NOT_APPLIED = "WeightNotApplied"
    GATEWAY_REFUSED = "GatewayRefused"
    WAITING_FOR_TRAFFIC = "WaitingForTraffic"
    STALE = "EvidenceStale"
    STRATEGY_CHANGED = "StrategyChanged"
    BAD_REPLICA = "BadReplica"
    INTERVAL = "Interval"
    NEEDS_EVIDENCE = "NeedsEvidence"
    BAKING = "Baking"
    HOLDBACK = "Holdback"
    HOLDBACK_OVER = "HoldbackOver"
    REPLICA_READY = "ReplicaReady"
    REPLICA_BY_REPLICA = "ReplicaByReplica"
    ALL_REPLACED = "AllReplaced"
    COMPARING = "Comparing"
    NEEDS_COMPARISONS = "NeedsComparisons"
    COMPARED = "Compared"
    TEST_OVER = "TestOver"
    ARM_REMOVED = "ArmRemoved"
    WITHIN_BUDGET = "WithinRiskBudget"
    WITHIN_MARGINS = "WithinMargins"
    METRIC_UNAVAILABLE = "MetricUnavailable"
    DEADLINE_HOLD = "DeadlineHold"
    DEADLINE_ROLLBACK = "DeadlineRollback"
    DEADLINE_PROMOTE = "DeadlinePromote"


@dataclass(frozen=True, slots=True)
class AppliedSplit:
    """What the gateway last acknowledged or refused for this deployment.

    Attributes
    ----------
    steps
        Rollouts by uid and the step of each in the acknowledged split.
    applied_at
        When it was acknowledged.
    refusal
        The gateway's message when it refused the newest split, empty otherwise.
    """

    steps: Mapping[str, int] = field(default_factory=dict)
    applied_at: datetime | None = None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class RolloutObservation:
    """Everything a rollout decision depends on besides the rollout itself.

    Attributes
    ----------
    uid
        Of the rollout.
    strategy
        The one that holds now.
    replicas_wanted
        How many replicas the deployment declares.
    replicas
        Those of the candidate that count now.
    split, judgement
        What the gateway does, and what the evidence says.
    restores_warm
        Whether it goes back to what is still warm after a blue/green switch.
    stable_changed
        Whether something else became stable since the rollout began.
    policy_gone
        Whether its traffic policy was deleted.
    labels
        How labels are read, where a metric needs them; None where none does.
    """

    uid: str
    strategy: Strategy
    replicas_wanted: int
    replicas: tuple[Replica, ...]
    split: AppliedSplit
    judgement: Judgement | None
    restores_warm: bool = False
    stable_changed: bool = False
    policy_gone: bool = False
    drift: str = ""
    labels: Labels | None = None


@dataclass(frozen=True, slots=True)
class RolloutDecision:
    """The outcome.

    Attributes
    ----------
    verdict, reason
        What and why.
    status
        The rollout's new status; equal to the old one when nothing changes.
    requeue_after_s
        When to look again if nothing wakes the rollout before; None when finished.
    """

    verdict: Verdict
    reason: Reason
    status: RolloutStatus
    requeue_after_s: float | None


def end_without_deployment(status: RolloutStatus, *, now: datetime) -> RolloutStatus:
    """Return the status of a rollout whose deployment was deleted: nothing is left to decide."""
    message = "the deployment was deleted"
    return _ended(status, now).with_(phase="Failed", reason=Reason.DELETED.value, message=message)


def _ended(status: RolloutStatus, now: datetime) -> RolloutStatus:
    return status.with_(
        weight_pct=0.0,
        mirror_pct=0.0,
        candidate_replicas=None,
        stable_replicas=None,
        finished_at=now,
    )


_PHASES: dict[Verdict, RolloutPhase] = {
    Verdict.PROMOTE: "Promoted",
    Verdict.ROLL_BACK: "RolledBack",
    Verdict.FAIL: "Failed",
    Verdict.SUPERSEDE: "Superseded",
    Verdict.CONCLUDE: "Concluded",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """One decision's inputs, with the three ways to end it.

    Attributes
    ----------
    spec, status, observed, now
        What is decided about; `status` is the new one as far as it is known.
    is_moved
        Whether more of the status changes than its explanation.
    """

    spec: RolloutSpec
    status: RolloutStatus
    observed: RolloutObservation
    now: datetime
    is_moved: bool = False

    def with_status(self, **changes: Any) -> Moment:
        """Return the moment with fields of the status changed besides what the end changes."""
        status = self.status.with_(**changes)
        return replace(self, status=status, is_moved=self.is_moved or status != self.status)

    @property
    def ready(self) -> int:
        """How many of the candidate's replicas are ready."""
        return sum(replica.status.phase == "Ready" for replica in self.observed.replicas)

    @property
    def is_applied(self) -> bool:
        """Whether the gateway acknowledged the present step."""
        return self.observed.split.steps.get(self.observed.uid) == self.status.step_id

    @property
    def has_present_evidence(self) -> bool:
        """Whether requests have met the candidate in the present step."""
        judgement = self.observed.judgement
        return judgement is not None and judgement.step_id == self.status.step_id

    @property
    def passes(self) -> bool:
        """Whether every metric passes on evidence of the present step."""
        judgement = self.observed.judgement
        return judgement is not None and judgement.passes and self.has_present_evidence

    @property
    def label_cap_pct(self) -> float:
        """The largest weight while a metric that needs labels is undecided; else 100."""
        labels, judgement = self.observed.labels, self.observed.judgement
        if labels is None:
            return 100.0
        judged = [m for m in judgement.metrics if m.name in LABEL_METRICS] if judgement else []
        is_decided = bool(judged) and all(metric.verdict == "pass" for metric in judged)
        return 100.0 if is_decided else labels.max_weight

    @property
    def is_stale(self) -> bool:
        """Whether the newest evidence is too old to go by."""
        judgement = self.observed.judgement
        return judgement is None or (self.now - judgement.at).total_seconds() > STALE_AFTER_S

    @property
    def applied_for_s(self) -> float:
        """How long the present step has been in force, seconds."""
        since = self.observed.split.applied_at or self.status.steps[-1].started_at
        return (self.now - since).total_seconds()

    @property
    def running_for_s(self) -> float:
        """How long it is since the first step, seconds."""
        return (self.now - (self.status.ramp_started_at or self.now)).total_seconds()

    @property
    def needs(self) -> str:
        """How many requests are missing, to be added to a sentence; empty when not known."""
        judgement = self.observed.judgement
        if judgement is None or judgement.requests_needed is None:
            return ""
        return f"; needs {judgement.requests_needed:,} more requests to the candidate"

    def is_past(self, deadline_s: float) -> bool:
        """Whether the rollout has taken longer than `deadline_s`."""
        started = self.status.started_at or self.status.ramp_started_at or self.now
        return (self.now - started).total_seconds() >= deadline_s

    def hold(
        self,
        reason: Reason,
        message: str,
        *,
        phase: Literal["Deploying", "Ramping", "Paused"] = "Ramping",
        after_s: float = TICK_S,
    ) -> RolloutDecision:
        """Change nothing but the explanation."""
        status = self._explained(reason, message, phase)
        return RolloutDecision(Verdict.HOLD, reason, status, min(max(after_s, 0.05), LOOK_AGAIN_S))

    def hold_until_applied(self) -> RolloutDecision | None:
        """Hold while the gateway has not acknowledged the present step; None once it has.

        What it goes on refusing ends: a split that is refused whole would also keep the share of
        another rollout that is taken back meanwhile.
        """
        if self.is_applied:
            return None
        refusal = self.observed.split.refusal
        if refusal:
            steps = self.status.steps
            since_s = (self.now - steps[-1].started_at).total_seconds() if steps else 0.0
            if since_s >= REFUSED_FOR_S:
                return self.finish(Verdict.FAIL, Reason.GATEWAY_REFUSED, refusal)
            return self.hold(Reason.GATEWAY_REFUSED, refusal)
        return self.hold(Reason.NOT_APPLIED, "waiting for the gateway to apply the weight")

    def hold_until_known(self, nobody: str) -> RolloutDecision | None:
        """Hold while the evidence of the present step is missing, old, or one replica's fault.

        Parameters
        ----------
        nobody
            What to say when no request has met the candidate in the present step.
        """
        judgement = self.observed.judgement
        if judgement is None or not self.has_present_evidence:
            return self.hold(Reason.WAITING_FOR_TRAFFIC, nobody + self.needs)
        if self.is_stale:
            return self.hold(Reason.STALE, f"no counts since {judgement.at:%H:%M:%S} UTC")
        if judgement.bad_replica:
            message = f"replica {judgement.bad_replica} fails, the version does not: it is replaced"
            return self.hold(Reason.BAD_REPLICA, message)
        return None

    def hold_for_evidence(self, judgement: Judgement) -> RolloutDecision:
        """Hold because a metric does not pass yet, and say which cannot be measured."""
        if judgement.unavailable:
            names = ", ".join(judgement.unavailable)
            return self.hold(Reason.METRIC_UNAVAILABLE, f"{names} cannot be measured yet")
        return self.hold(Reason.NEEDS_EVIDENCE, judgement.sentence)

    def advance(self, weight_pct: float, reason: Reason, message: str) -> RolloutDecision:
        """Begin a new step."""
        status = self._explained(reason, message, "Ramping")
        step_id = status.step_id + 1
        step = RolloutStep(
            id=step_id, weight_pct=weight_pct, started_at=self.now, reason=reason.value
        )
        status = status.with_(
            weight_pct=weight_pct,
            step_id=step_id,
            steps=(*status.steps, step),
            ramp_started_at=status.ramp_started_at or self.now,
        )
        return RolloutDecision(Verdict.ADVANCE, reason, status, TICK_S)

    def finish(self, verdict: Verdict, reason: Reason, message: str) -> RolloutDecision:
        """End the rollout; only a promotion leaves the candidate any traffic."""
        status = self._explained(reason, message, _PHASES[verdict])
        status = _ended(status, self.now)
        if verdict is Verdict.PROMOTE:
            status = status.with_(weight_pct=100.0)
        return RolloutDecision(verdict, reason, status, None)

    def decide_at_deadline(self, analysis: Analysis, message: str) -> RolloutDecision:
        """Do what is declared for a deadline that comes without a verdict."""
        if analysis.on_inconclusive == "rollback":
            return self.finish(Verdict.ROLL_BACK, Reason.DEADLINE_ROLLBACK, message)
        if analysis.on_inconclusive == "promote":
            return self.finish(Verdict.PROMOTE, Reason.DEADLINE_PROMOTE, message)
        return self.hold(Reason.DEADLINE_HOLD, message)

    def _explained(self, reason: Reason, message: str, phase: RolloutPhase) -> RolloutStatus:
        judgement, split = self.observed.judgement, self.observed.split
        status = self.status
        changed = self.is_moved or reason.value != status.reason or phase != status.phase
        steps = tuple(
            step.with_(applied_at=split.applied_at)
            if step.id == split.steps.get(self.observed.uid)
            else step
            for step in status.steps
        )
        status = status.with_(
            phase=phase, steps=steps, started_at=status.started_at or self.now, reason=reason.value
        )
        if not changed and steps == self.status.steps:
            return status  # counts move every second; the stored status only with its reason
        status = status.with_(message=message)
        if judgement is not None:
            status = status.with_(
                metrics=judgement.metrics,
                slices=judgement.slices,
                bad_replica=judgement.bad_replica,
                compared=judgement.compared,
                different=judgement.different,
                examples=judgement.examples,
                candidate_requests=judgement.candidate_requests,
                failed_requests=judgement.failed_requests,
                saved_requests=judgement.saved_requests,
                requests_needed=judgement.requests_needed,
                judged_at=judgement.at,
            )
        return status
