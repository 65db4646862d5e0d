"""The rollout decision: what happens to a candidate next, and why.

Called by `controllers.rollout` with everything observed; returns the new status. Pure and total:
the order of the checks is the order of the lines in `decide_rollout`, and missing data holds. What
a strategy does when none of them decides is in a module of its own: `rollout_canary`,
`rollout_rolling`, `rollout_blue_green`, `rollout_shadow`, `rollout_ab`.

Always true: harm means weight 0; the weight grows only when the gateway has acknowledged the
present step; and where a strategy goes by evidence, only on evidence gathered under that step, so
that one batch never advances twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from modelplane.decisions.hooks import apply_hooks
from modelplane.decisions.rollout_ab import begin_ab, decide_ab
from modelplane.decisions.rollout_blue_green import decide_blue_green
from modelplane.decisions.rollout_canary import (
    AUTO_STEPS_PCT,
    IDLE_BELOW_RPS,
    begin_canary,
    decide_canary,
    ramp_steps,
)
from modelplane.decisions.rollout_moment import (
    STALE_AFTER_S,
    TICK_S,
    AppliedSplit,
    Moment,
    Reason,
    RolloutDecision,
    RolloutObservation,
    Verdict,
    end_without_deployment,
)
from modelplane.decisions.rollout_rolling import begin_rolling, decide_rolling
from modelplane.decisions.rollout_shadow import (
    answers_differ,
    begin_shadow,
    decide_shadow,
    describe_difference,
)
from modelplane.resources.environment import EnvironmentSpec
from modelplane.resources.meta import Condition, set_condition
from modelplane.resources.model_deployment import (
    ModelDeployment,
    ModelDeploymentSpec,
    WarmRevision,
)
from modelplane.resources.rollout import FINISHED_ROLLOUT, Rollout, RolloutSpec, RolloutStatus
from modelplane.resources.strategy import AllAtOnceStrategy, CanaryStrategy, Strategy
from modelplane.resources.traffic_policy import TrafficPolicy

DRIFTED = "Drifted"
"""Condition of a rollout that drift holds, where drift is to hold it."""

__all__ = [
    "AUTO_STEPS_PCT",
    "DRIFTED",
    "IDLE_BELOW_RPS",
    "STALE_AFTER_S",
    "TICK_S",
    "AppliedSplit",
    "Reason",
    "RolloutDecision",
    "RolloutObservation",
    "Verdict",
    "decide_rollout",
    "effective_strategy",
    "end_without_deployment",
    "policy_of",
    "promoted",
    "ramp_steps",
]


def policy_of(lane: str) -> str:
    """Return the name of the traffic policy that a lane `POLICY/VERSION` belongs to."""
    return lane.partition("/")[0]


def promoted(
    deployment: ModelDeployment,
    rollout: Rollout,
    status: RolloutStatus,
    others: Sequence[Rollout] = (),
    *,
    is_awaited: bool = False,
    now: datetime,
) -> ModelDeployment:
    """Return the deployment after `rollout` was promoted with `status`.

    Its candidate is stable and declared; after a blue/green switch what was stable stays warm.
    A rollout of a lane becomes the deployment's own latest one, unless one of `others` is that
    and has still to end. What is declared stays where it `is_awaited`: a promotion of the
    deployment's own is still on its way to it.
    """
    blue_green = status.strategy.blue_green if status.strategy is not None else None
    before, warm = rollout.spec.stable, None
    if blue_green is not None and before is not None and blue_green.keep_warm_s > 0:
        until = now + timedelta(seconds=blue_green.keep_warm_s)
        warm = WarmRevision(revision=before, until=until)
    serving = deployment.with_status(stable=rollout.spec.candidate, warm=warm)
    if not rollout.spec.lane:
        return serving
    if all(other.spec.lane or other.finished for other in others):
        serving = serving.with_status(rollout=rollout.metadata.name)
    if is_awaited:
        return serving
    return serving.with_spec(version=rollout.spec.candidate.version)


def effective_strategy(
    deployment: ModelDeploymentSpec,
    environment: EnvironmentSpec,
    policy: TrafficPolicy | None = None,
) -> Strategy:
    """Return the strategy that holds: the policy's, the deployment's, the environment's, or the
    stage's."""
    if policy is not None:
        return apply_hooks(policy.spec.traffic_rule, policy.spec.monitoring_hooks)
    if deployment.strategy is not None:
        return deployment.strategy
    if environment.strategy is not None:
        return environment.strategy
    if environment.stage == "production":
        return Strategy(canary=CanaryStrategy())
    return Strategy(all_at_once=AllAtOnceStrategy())


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
    moment = _start(spec, status, observed, now)
    ended = _decide_end(moment)
    if ended is not None:
        return ended
    strategy = observed.strategy
    if _has_failed_to_start(moment):
        return _fail(moment)
    if (limited := _keep_limit(moment)) is not None:
        return limited
    if status.reason == Reason.LIMITED:
        # Nobody met the candidate meanwhile perhaps: the ramp begins again at its first step.
        moment = moment.with_status(ramp_started_at=None, holdback_at=None)
        return _decide_before_traffic(moment)
    if status.phase in {"Pending", "Deploying"} and not status.ramp_started_at:
        return _decide_before_traffic(moment)
    if spec.request and spec.request.action == "promote":
        return _promote_when_whole(moment, Reason.PROMOTE_REQUESTED, _who(spec))
    if _meets_others(status, strategy):
        return _begin_again(moment)
    if spec.paused:
        return moment.hold(Reason.PAUSED, "paused by hand", phase="Paused")
    return _hold_while_drifted(moment, _decide_by_strategy(moment))


def _hold_while_drifted(moment: Moment, decision: RolloutDecision) -> RolloutDecision:
    """Hold instead of what would give the candidate more, while its values drift.

    Drift alone is no fault of a version, so nothing is taken back for it.
    """
    before, after = moment.status, decision.status
    grows = (
        decision.verdict is Verdict.PROMOTE
        or after.weight_pct > before.weight_pct
        or (after.candidate_replicas or 0) > (before.candidate_replicas or 0)
    )
    if not moment.observed.drift or not grows:
        return decision
    return moment.hold(Reason.DRIFTED, moment.observed.drift)


def _decide_by_strategy(moment: Moment) -> RolloutDecision:
    strategy = moment.observed.strategy
    if strategy.canary is not None:
        return decide_canary(moment, strategy.canary)
    if strategy.rolling is not None:
        return decide_rolling(moment, strategy.rolling)
    if strategy.shadow is not None:
        return decide_shadow(moment, strategy.shadow)
    if strategy.ab is not None:
        return decide_ab(moment, strategy.ab)
    if (starting := _hold_until_whole(moment)) is not None:
        return starting
    if strategy.blue_green is not None:
        return decide_blue_green(moment, strategy.blue_green)
    message = "the strategy became all at once, and the candidate is ready"
    return moment.finish(Verdict.PROMOTE, Reason.ALL_AT_ONCE, message)


def _start(
    spec: RolloutSpec, status: RolloutStatus, observed: RolloutObservation, now: datetime
) -> Moment:
    """Return the moment; what only another strategy uses is put back, since it may be edited."""
    strategy = observed.strategy
    moment = Moment(spec, status.with_(strategy=strategy), observed, now)
    if strategy.rolling is None:
        moment = moment.with_status(candidate_replicas=None, stable_replicas=None)
    if strategy.shadow is None:
        moment = moment.with_status(mirror_pct=0.0)
    if strategy.canary is None:
        moment = moment.with_status(holdback_at=None)
    return _tell_drift(moment)


def _tell_drift(moment: Moment) -> Moment:
    """Record that drift was seen, and that it is over; what never was is not told."""
    drift, conditions = moment.observed.drift, moment.status.conditions
    before = next((c for c in conditions if c.type == DRIFTED), None)
    if not drift and (before is None or before.status == "False"):
        return moment
    condition = Condition(
        type=DRIFTED,
        status="True" if drift else "False",
        reason="Drifted" if drift else "Stable",
        message=drift or "its values are as in the reference again",
    )
    if before is not None and (before.status, before.message) == (
        condition.status,
        condition.message,
    ):
        return moment
    return moment.with_status(conditions=set_condition(conditions, condition, moment.now))


def _decide_end(moment: Moment) -> RolloutDecision | None:
    """Decide whether the rollout is over whatever its strategy says; None when it is not."""
    spec, observed = moment.spec, moment.observed
    if observed.stable_changed:
        message = "another version became stable, and what it was compared with is gone"
        return moment.finish(Verdict.SUPERSEDE, Reason.SUPERSEDED, message)
    if spec.request and spec.request.action == "rollback":
        # A policy that ends takes its rollouts back itself: that says nothing of the version.
        if spec.lane and spec.request.subject.startswith("system:"):
            return moment.finish(Verdict.ROLL_BACK, Reason.POLICY_GONE, spec.request.reason)
        return moment.finish(Verdict.ROLL_BACK, Reason.ROLLBACK_REQUESTED, _who(spec))
    judgement, strategy = observed.judgement, observed.strategy
    if judgement and judgement.harm:
        if strategy.ab is not None:
            moment = moment.with_status(verdict="harm")
        if moment.status.holdback_at is not None:
            message = f"the verdict was good and is taken back: {judgement.sentence}"
            return moment.finish(Verdict.ROLL_BACK, Reason.CLAWED_BACK, message)
        return moment.finish(Verdict.ROLL_BACK, Reason.HARM, judgement.sentence)
    if judgement and strategy.shadow and answers_differ(strategy.shadow, judgement):
        message = describe_difference(judgement, strategy.shadow)
        return moment.finish(Verdict.ROLL_BACK, Reason.ANSWERS_DIFFER, message)
    if observed.policy_gone:
        message = "its traffic policy was deleted"
        return moment.finish(Verdict.ROLL_BACK, Reason.POLICY_GONE, message)
    if spec.superseded_by:
        message = f"a newer promotion, {spec.superseded_by}, took over"
        if moment.status.holdback_at is not None:
            message = f"the verdict was good; {message}"
            return moment.finish(Verdict.PROMOTE, Reason.HOLDBACK_OVER, message)
        return moment.finish(Verdict.SUPERSEDE, Reason.SUPERSEDED, message)
    return None


def _decide_before_traffic(moment: Moment) -> RolloutDecision:
    """Decide while the candidate's replicas start and stable's normal is being learned."""
    observed, spec = moment.observed, moment.spec
    strategy = observed.strategy
    by_hand = spec.request is not None and spec.request.action == "promote"
    at_once = spec.stable is None or by_hand or observed.restores_warm
    if strategy.rolling is not None and not at_once:
        return begin_rolling(moment)
    moment = moment.with_status(candidate_replicas=None)
    if (starting := _hold_until_whole(moment)) is not None:
        return starting
    if spec.stable is None:
        message = "first deployment: ready, and the smoke prediction did not fail"
        return moment.finish(Verdict.PROMOTE, Reason.FIRST_DEPLOYMENT, message)
    if spec.paused and not by_hand:
        return moment.hold(Reason.PAUSED, "paused by hand", phase="Deploying")
    if observed.restores_warm:
        message = "what served before is still warm: all traffic switched back to it"
        return moment.finish(Verdict.PROMOTE, Reason.STILL_WARM, message)
    if strategy.all_at_once is not None:
        message = "ready, and the smoke prediction did not fail"
        return moment.finish(Verdict.PROMOTE, Reason.ALL_AT_ONCE, message)
    if by_hand:
        return moment.finish(Verdict.PROMOTE, Reason.PROMOTE_REQUESTED, _who(spec))
    if strategy.blue_green is not None:
        return decide_blue_green(moment, strategy.blue_green)
    if strategy.shadow is not None:
        return begin_shadow(moment, strategy.shadow)
    if strategy.ab is not None:
        return begin_ab(moment, strategy.ab)
    return begin_canary(moment, strategy.canary or CanaryStrategy())


def _keep_limit(moment: Moment) -> RolloutDecision | None:
    """Keep the weight at what a playbook allows; None without a limit.

    Who asks for the promotion by hand has decided about that too.
    """
    limit, request = moment.spec.limit, moment.spec.request
    if limit is None or (request is not None and request.action == "promote"):
        return None
    message = f"playbook run {limit.run} allows {limit.weight_pct:g} % at the most"
    if moment.status.weight_pct > limit.weight_pct:
        return moment.advance(limit.weight_pct, Reason.LIMITED, message)
    has_traffic = moment.status.ramp_started_at is not None
    return moment.hold(Reason.LIMITED, message, phase="Ramping" if has_traffic else "Deploying")


def _hold_until_whole(moment: Moment) -> RolloutDecision | None:
    """Hold while not all replicas that the deployment declares are ready; None once they are."""
    wanted = moment.observed.replicas_wanted
    if moment.ready >= wanted:
        return None
    message = f"{moment.ready} of {wanted} replicas ready"
    has_traffic = moment.status.ramp_started_at is not None
    return moment.with_status(ready_at=None).hold(
        Reason.STARTING, message, phase="Ramping" if has_traffic else "Deploying"
    )


def _meets_others(status: RolloutStatus, strategy: Strategy) -> bool:
    """Whether the predicate was edited while it has traffic: other users meet the candidate."""
    has_predicate = strategy.canary or strategy.shadow or strategy.ab
    before = status.strategy.predicate if status.strategy is not None else strategy.predicate
    return has_predicate is not None and before != strategy.predicate


def _begin_again(moment: Moment) -> RolloutDecision:
    """Begin anew among other users: what is known was learned from those before.

    The analysis forgets that too, as soon as it reads the new predicate.
    """
    strategy, weight_pct = moment.observed.strategy, moment.status.weight_pct
    if strategy.canary is not None:
        weight_pct = min(weight_pct, ramp_steps(strategy.canary)[0])
    elif strategy.shadow is not None:
        weight_pct = 0.0
    message = "the predicate changed, so other users meet it: the evidence begins anew"
    moment = moment.with_status(ramp_started_at=None, holdback_at=None)
    return moment.advance(weight_pct, Reason.STRATEGY_CHANGED, message)


def _promote_when_whole(moment: Moment, reason: Reason, message: str) -> RolloutDecision:
    """Promote at once; while rolling, when the replicas that are still missing are ready."""
    if moment.observed.strategy.rolling is not None:
        moment = moment.with_status(candidate_replicas=None)
        if (starting := _hold_until_whole(moment)) is not None:
            return starting
    return moment.finish(Verdict.PROMOTE, reason, message)


def _has_failed_to_start(moment: Moment) -> bool:
    """Whether a replica failed that was never ready: before traffic, or while rolling."""
    starts = moment.status.ramp_started_at is None or moment.observed.strategy.rolling is not None
    return starts and any(r.status.phase == "Failed" for r in moment.observed.replicas)


def _fail(moment: Moment) -> RolloutDecision:
    failed = next(r for r in moment.observed.replicas if r.status.phase == "Failed")
    status = failed.status
    tail = f"\n{status.log_tail}" if status.log_tail else ""
    message = f"replica {failed.metadata.name}: {status.reason}: {status.message}{tail}"
    return moment.finish(Verdict.FAIL, Reason.START_FAILED, message)


def _who(spec: RolloutSpec) -> str:
    if spec.request is None:
        return ""
    reason = spec.request.reason
    return f"asked for by {spec.request.subject}" + (f": {reason}" if reason else "")
