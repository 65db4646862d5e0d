"""The rollout decision: what happens to a candidate next, and why.

Called by `controllers.rollout` with everything observed; returns the new status. Pure and total:
the order of the checks is the order of the lines in `decide_rollout`, and missing data holds.

Always true: harm means weight 0; the weight grows only when the gateway has acknowledged the
present step and evidence gathered under it has arrived; so one batch never advances twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from modelplane.resources.environment import EnvironmentSpec
from modelplane.resources.model_deployment import (
    ModelDeployment,
    ModelDeploymentSpec,
    WarmRevision,
)
from modelplane.resources.replica import Replica
from modelplane.resources.rollout import (
    FINISHED_ROLLOUT,
    Judgement,
    Rollout,
    RolloutPhase,
    RolloutSpec,
    RolloutStatus,
    RolloutStep,
)
from modelplane.resources.strategy import AllAtOnceStrategy, CanaryStrategy, Strategy
from modelplane.resources.traffic_policy import TrafficPolicy

AUTO_STEPS_PCT = (1.0, 5.0, 25.0, 50.0)
"""Weights of `steps: auto`; at 50 % stable still gives the comparison."""

STALE_AFTER_S = 15.0
"""Evidence older than this, in seconds, does not let the weight grow."""

IDLE_BELOW_RPS = 1.0
"""With fewer requests a second the first step does not wait for stable's normal to be known: it
would wait for minutes, and hardly anybody meets the candidate."""

TICK_S = 1.0
"""How soon to look again when only time is missing, seconds at the least."""


class Verdict(StrEnum):
    """What the decision does."""

    HOLD = "hold"
    ADVANCE = "advance"
    PROMOTE = "promote"
    ROLL_BACK = "rollback"
    FAIL = "fail"
    SUPERSEDE = "supersede"


class Reason(StrEnum):
    """Why; part of the API."""

    FINISHED = "Finished"
    SUPERSEDED = "Superseded"
    ROLLBACK_REQUESTED = "RollbackRequested"
    HARM = "Harm"
    START_FAILED = "StartFailed"
    STARTING = "Starting"
    FIRST_DEPLOYMENT = "FirstDeployment"
    ALL_AT_ONCE = "AllAtOnce"
    PROMOTE_REQUESTED = "PromoteRequested"
    PAUSED = "Paused"
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
    """Everything a rollout decision depends on besides the rollout itself."""

    uid: str
    strategy: Strategy
    replicas_wanted: int
    replicas: tuple[Replica, ...]
    split: AppliedSplit
    judgement: Judgement | None


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


def policy_of(lane: str) -> str:
    """Return the name of the traffic policy that a lane `POLICY/VERSION` belongs to."""
    return lane.partition("/")[0]


def promoted(
    deployment: ModelDeployment, rollout: Rollout, status: RolloutStatus, *, now: datetime
) -> ModelDeployment:
    """Return the deployment after `rollout` was promoted with `status`.

    Its candidate is stable and declared; after a blue/green switch what was stable stays warm.
    """
    blue_green = status.strategy.blue_green if status.strategy is not None else None
    before, warm = rollout.spec.stable, None
    if blue_green is not None and before is not None and blue_green.keep_warm_s > 0:
        until = now + timedelta(seconds=blue_green.keep_warm_s)
        warm = WarmRevision(revision=before, until=until)
    serving = deployment.with_status(stable=rollout.spec.candidate, warm=warm)
    version = rollout.spec.candidate.version
    return serving.with_spec(version=version) if rollout.spec.lane else serving


def effective_strategy(
    deployment: ModelDeploymentSpec,
    environment: EnvironmentSpec,
    policy: TrafficPolicy | None = None,
) -> Strategy:
    """Return the strategy that holds: the policy's, the deployment's, the environment's, or the
    stage's."""
    if policy is not None:
        return policy.spec.traffic_rule
    if deployment.strategy is not None:
        return deployment.strategy
    if environment.strategy is not None:
        return environment.strategy
    if environment.stage == "production":
        return Strategy(canary=CanaryStrategy())
    return Strategy(all_at_once=AllAtOnceStrategy())


def ramp_steps(canary: CanaryStrategy) -> tuple[float, ...]:
    """Return the rising weights in percent; all below 100."""
    return AUTO_STEPS_PCT if canary.steps == "auto" else tuple(canary.steps)


def decide_rollout(
    spec: RolloutSpec, status: RolloutStatus, observed: RolloutObservation, *, now: datetime
) -> RolloutDecision:
    """Decide what a rollout does next.

    Parameters
    ----------
    spec, status
        The rollout as stored.
    observed
        The world around it, read just before.
    now
        The time, UTC.

    Returns
    -------
    RolloutDecision
        With a reason and one sentence in the status, whatever the outcome.
    """
    if status.phase in FINISHED_ROLLOUT:
        return RolloutDecision(Verdict.HOLD, Reason.FINISHED, status, None)
    moment = _Moment(spec, status.with_(strategy=observed.strategy), observed, now)
    if spec.superseded_by:
        message = f"a newer promotion, {spec.superseded_by}, took over"
        return moment.finish(Verdict.SUPERSEDE, Reason.SUPERSEDED, message)
    if spec.request and spec.request.action == "rollback":
        return moment.finish(
            Verdict.ROLL_BACK, Reason.ROLLBACK_REQUESTED, _who(spec.request.subject, spec)
        )
    judgement = observed.judgement
    if judgement and judgement.harm:
        return moment.finish(Verdict.ROLL_BACK, Reason.HARM, judgement.sentence)
    if status.phase in {"Pending", "Deploying"} and not status.ramp_started_at:
        return _decide_before_traffic(moment)
    if spec.request and spec.request.action == "promote":
        return moment.finish(
            Verdict.PROMOTE, Reason.PROMOTE_REQUESTED, _who(spec.request.subject, spec)
        )
    if observed.strategy.canary is None:
        message = "the strategy became all at once, and the candidate is ready"
        return moment.finish(Verdict.PROMOTE, Reason.ALL_AT_ONCE, message)
    if spec.paused:
        return moment.hold(Reason.PAUSED, "paused by hand", phase="Paused")
    return _decide_ramp(moment, observed.strategy.canary)


def _who(subject: str, spec: RolloutSpec) -> str:
    reason = spec.request.reason if spec.request else ""
    return f"asked for by {subject}" + (f": {reason}" if reason else "")


def _decide_before_traffic(moment: _Moment) -> RolloutDecision:
    """Decide while the candidate's replicas start and stable's normal is being learned."""
    observed, spec = moment.observed, moment.spec
    failed = next((r for r in observed.replicas if r.status.phase == "Failed"), None)
    if failed is not None:
        status = failed.status
        tail = f"\n{status.log_tail}" if status.log_tail else ""
        message = f"replica {failed.metadata.name}: {status.reason}: {status.message}{tail}"
        return moment.finish(Verdict.FAIL, Reason.START_FAILED, message)
    ready = sum(replica.status.phase == "Ready" for replica in observed.replicas)
    if ready < observed.replicas_wanted:
        message = f"{ready} of {observed.replicas_wanted} replicas ready"
        return moment.hold(Reason.STARTING, message, phase="Deploying")
    if spec.stable is None:
        message = "first deployment: ready, and the smoke prediction did not fail"
        return moment.finish(Verdict.PROMOTE, Reason.FIRST_DEPLOYMENT, message)
    if observed.strategy.canary is None:
        message = "ready, and the smoke prediction did not fail"
        return moment.finish(Verdict.PROMOTE, Reason.ALL_AT_ONCE, message)
    if spec.request and spec.request.action == "promote":
        return moment.finish(
            Verdict.PROMOTE, Reason.PROMOTE_REQUESTED, _who(spec.request.subject, spec)
        )
    if spec.paused:
        return moment.hold(Reason.PAUSED, "paused by hand", phase="Deploying")
    judgement = observed.judgement
    has_traffic = judgement is not None and judgement.stable_rps >= IDLE_BELOW_RPS
    if has_traffic and judgement is not None and not judgement.warm:
        return moment.hold(
            Reason.WARMING_UP, "learning what is normal for stable", phase="Deploying"
        )
    first = ramp_steps(observed.strategy.canary)[0]
    return moment.advance(first, Reason.FIRST_STEP, f"ready: the first {first:g} % of traffic")


def _decide_ramp(moment: _Moment, canary: CanaryStrategy) -> RolloutDecision:
    """Decide while the candidate has traffic. No harm, not paused, not finished."""
    observed, status, now = moment.observed, moment.status, moment.now
    judgement = observed.judgement
    started = status.ramp_started_at or now
    deadline = (status.started_at or started) + timedelta(seconds=canary.deadline_s)
    past_deadline = now >= deadline
    applied = observed.split.steps.get(observed.uid) == status.step_id
    passes = judgement is not None and judgement.passes and judgement.step_id == status.step_id
    if past_deadline and not passes:
        return _decide_at_deadline(moment, canary)
    ceiling = ramp_steps(canary)[-1]
    if status.weight_pct > ceiling:
        message = f"the strategy now ends at {ceiling:g} %"
        return moment.advance(ceiling, Reason.STRATEGY_CHANGED, message)
    if not applied:
        if observed.split.refusal:
            return moment.hold(Reason.GATEWAY_REFUSED, observed.split.refusal)
        return moment.hold(Reason.NOT_APPLIED, "waiting for the gateway to apply the weight")
    if judgement is None or judgement.step_id != status.step_id:
        message = f"no request has met the candidate at {status.weight_pct:g} % yet"
        return moment.hold(Reason.WAITING_FOR_TRAFFIC, message + _needs(judgement))
    if (now - judgement.at).total_seconds() > STALE_AFTER_S:
        return moment.hold(Reason.STALE, f"no counts since {judgement.at:%H:%M:%S} UTC")
    if judgement.bad_replica:
        message = f"replica {judgement.bad_replica} fails, the version does not: it is replaced"
        return moment.hold(Reason.BAD_REPLICA, message)
    since = observed.split.applied_at or status.steps[-1].started_at
    wait_s = canary.analysis.interval_s - (now - since).total_seconds()
    allowed_pct = 100.0 if judgement.passes else judgement.allowed_weight_pct
    target = _next_weight(canary, status.weight_pct, allowed_pct)
    if target is not None:
        if wait_s > 0:
            return moment.hold(Reason.INTERVAL, judgement.sentence, after_s=wait_s)
        return moment.advance(target, Reason.WITHIN_BUDGET, judgement.sentence)
    if not judgement.passes:
        if judgement.unavailable:
            names = ", ".join(judgement.unavailable)
            return moment.hold(Reason.METRIC_UNAVAILABLE, f"{names} cannot be measured yet")
        return moment.hold(Reason.NEEDS_EVIDENCE, judgement.sentence)
    bake_s = canary.min_bake_s - (now - started).total_seconds()
    if max(bake_s, wait_s) > 0:
        message = f"within all margins; {max(bake_s, wait_s):.0f} s of the bake time remain"
        return moment.hold(Reason.BAKING, message, after_s=max(bake_s, wait_s))
    return moment.finish(Verdict.PROMOTE, Reason.WITHIN_MARGINS, judgement.sentence)


def _decide_at_deadline(moment: _Moment, canary: CanaryStrategy) -> RolloutDecision:
    choice = canary.analysis.on_inconclusive
    message = "the deadline came without a verdict" + _needs(moment.observed.judgement)
    if choice == "rollback":
        return moment.finish(Verdict.ROLL_BACK, Reason.DEADLINE_ROLLBACK, message)
    if choice == "promote":
        return moment.finish(Verdict.PROMOTE, Reason.DEADLINE_PROMOTE, message)
    return moment.hold(Reason.DEADLINE_HOLD, message)


def _next_weight(canary: CanaryStrategy, weight_pct: float, allowed_pct: float) -> float | None:
    """Return the next weight, or None when no step is left or the budget allows none.

    Declared steps are taken one by one; `auto` takes the highest that the budget allows.
    """
    higher = [step for step in ramp_steps(canary) if step > weight_pct]
    if canary.steps == "auto":
        higher = [step for step in higher if step <= allowed_pct][-1:]
        return higher[0] if higher else None
    return higher[0] if higher and higher[0] <= allowed_pct else None


def _needs(judgement: Judgement | None) -> str:
    if judgement is None or judgement.requests_needed is None:
        return ""
    return f"; needs {judgement.requests_needed:,} more requests to the candidate"


@dataclass(frozen=True, slots=True)
class _Moment:
    """One decision's inputs, with the three ways to end it."""

    spec: RolloutSpec
    status: RolloutStatus
    observed: RolloutObservation
    now: datetime

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
        return RolloutDecision(Verdict.HOLD, reason, status, max(after_s, 0.05))

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
        phases: dict[Verdict, RolloutPhase] = {
            Verdict.PROMOTE: "Promoted",
            Verdict.ROLL_BACK: "RolledBack",
            Verdict.FAIL: "Failed",
            Verdict.SUPERSEDE: "Superseded",
        }
        status = self._explained(reason, message, phases[verdict])
        status = status.with_(
            weight_pct=100.0 if verdict is Verdict.PROMOTE else 0.0, finished_at=self.now
        )
        return RolloutDecision(verdict, reason, status, None)

    def _explained(self, reason: Reason, message: str, phase: RolloutPhase) -> RolloutStatus:
        judgement, split = self.observed.judgement, self.observed.split
        status = self.status
        changed = reason.value != status.reason or phase != status.phase
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
                bad_replica=judgement.bad_replica,
                candidate_requests=judgement.candidate_requests,
                failed_requests=judgement.failed_requests,
                saved_requests=judgement.saved_requests,
                requests_needed=judgement.requests_needed,
                judged_at=judgement.at,
            )
        return status
