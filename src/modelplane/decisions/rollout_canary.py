"""The canary: traffic moves to the candidate in steps, as fast as the evidence allows.

Called by `decisions.rollout` once all replicas are ready, when there is no harm and nobody asked
for anything else. Pure. The order of the checks is the order of the lines. With a predicate the
weights are shares of those it holds for; the steps are the same.
"""

from __future__ import annotations

from modelplane.decisions.rollout_moment import Moment, Reason, RolloutDecision, Verdict
from modelplane.resources.strategy import CanaryStrategy

AUTO_STEPS_PCT = (1.0, 5.0, 25.0, 50.0)
"""Weights of `steps: auto`; at 50 % stable still gives the comparison."""

IDLE_BELOW_RPS = 1.0
"""With fewer requests a second the first step does not wait for stable's normal to be known: it
would wait for minutes, and hardly anybody meets the candidate."""


def ramp_steps(canary: CanaryStrategy) -> tuple[float, ...]:
    """Return the rising weights in percent; all below 100."""
    return AUTO_STEPS_PCT if canary.steps == "auto" else tuple(canary.steps)


def begin_canary(moment: Moment, canary: CanaryStrategy) -> RolloutDecision:
    """Decide on the first step: it waits until stable's normal is known, if there is traffic."""
    judgement = moment.observed.judgement
    has_traffic = judgement is not None and judgement.stable_rps >= IDLE_BELOW_RPS
    if has_traffic and judgement is not None and not judgement.warm:
        message = "learning what is normal for stable"
        return moment.hold(Reason.WARMING_UP, message, phase="Deploying")
    first = min(ramp_steps(canary)[0], moment.label_cap_pct)
    whose = "those the predicate holds for" if canary.predicate else "traffic"
    return moment.advance(first, Reason.FIRST_STEP, f"ready: the first {first:g} % of {whose}")


def decide_canary(moment: Moment, canary: CanaryStrategy) -> RolloutDecision:
    """Decide while the candidate has traffic."""
    status = moment.status
    if status.holdback_at is not None:
        return _decide_holdback(moment, canary)
    if moment.is_past(canary.deadline_s) and not moment.passes:
        message = "the deadline came without a verdict" + moment.needs
        return moment.decide_at_deadline(canary.analysis, message)
    steps = ramp_steps(canary)
    if status.weight_pct > steps[-1]:
        message = f"the strategy now ends at {steps[-1]:g} %"
        return moment.advance(steps[-1], Reason.STRATEGY_CHANGED, message)
    if (waiting := moment.hold_until_applied()) is not None:
        return waiting
    if status.weight_pct == 0:
        first = min(steps[0], moment.label_cap_pct)
        message = f"the strategy is a canary now: the first {first:g} %"
        return moment.advance(first, Reason.STRATEGY_CHANGED, message)
    nobody = f"no request has met the candidate at {status.weight_pct:g} % yet"
    judgement = moment.observed.judgement
    unknown = moment.hold_until_known(nobody)
    if unknown is not None or judgement is None:
        return unknown or moment.hold(Reason.WAITING_FOR_TRAFFIC, nobody)
    wait_s = canary.analysis.interval_s - moment.applied_for_s
    allowed_pct = 100.0
    if not judgement.passes:
        allowed_pct = min(judgement.allowed_weight_pct, moment.label_cap_pct)
    target = _next_weight(canary, status.weight_pct, allowed_pct)
    if target is not None:
        if wait_s > 0:
            return moment.hold(Reason.INTERVAL, judgement.sentence, after_s=wait_s)
        return moment.advance(target, Reason.WITHIN_BUDGET, judgement.sentence)
    if not judgement.passes:
        return moment.hold_for_evidence(judgement)
    bake_s = max(canary.min_bake_s - moment.running_for_s, wait_s)
    if bake_s > 0:
        message = f"within all margins; {bake_s:.0f} s of the bake time remain"
        return moment.hold(Reason.BAKING, message, after_s=bake_s)
    if canary.holdback is None:
        return moment.finish(Verdict.PROMOTE, Reason.WITHIN_MARGINS, judgement.sentence)
    share = canary.holdback.percentage
    return moment.with_status(holdback_at=moment.now).advance(
        100.0 - share,
        Reason.HOLDBACK,
        f"{judgement.sentence}; {share:g} % stay on stable for a while",
    )


def _decide_holdback(moment: Moment, canary: CanaryStrategy) -> RolloutDecision:
    """Decide after the verdict, while some users stay on stable: only time is missing.

    Where a metric needs labels it lasts until those of the verdict's day have come at least; harm
    that they show takes everything back before this is asked.
    """
    holdback, began = canary.holdback, moment.status.holdback_at
    if holdback is None or began is None:
        message = "the verdict was good, and the strategy holds nobody back any more"
        return moment.finish(Verdict.PROMOTE, Reason.HOLDBACK_OVER, message)
    if (waiting := moment.hold_until_applied()) is not None:
        return waiting
    if moment.status.weight_pct != 100.0 - holdback.percentage:
        message = f"the strategy now holds {holdback.percentage:g} % back"
        return moment.advance(100.0 - holdback.percentage, Reason.STRATEGY_CHANGED, message)
    labels = moment.observed.labels
    least_s = max(holdback.for_s, labels.horizon_s if labels is not None else 0.0)
    left_s = least_s - (moment.now - began).total_seconds()
    if left_s > 0:
        message = f"the verdict was good; {holdback.percentage:g} % stay on stable for a while"
        return moment.hold(Reason.HOLDBACK, message, after_s=left_s)
    message = "the verdict was good, and nothing spoke against it during the holdback"
    return moment.finish(Verdict.PROMOTE, Reason.HOLDBACK_OVER, message)


def _next_weight(canary: CanaryStrategy, weight_pct: float, allowed_pct: float) -> float | None:
    """Return the next weight, or None when no step is left or the budget allows none.

    Declared steps are taken one by one; `auto` takes the highest that the budget allows.
    """
    higher = [step for step in ramp_steps(canary) if step > weight_pct]
    if canary.steps == "auto":
        higher = [step for step in higher if step <= allowed_pct][-1:]
        return higher[0] if higher else None
    return higher[0] if higher and higher[0] <= allowed_pct else None
