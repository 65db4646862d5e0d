"""The shadow: the candidate gets copies of requests; its answers are compared and thrown away.

Called by `decisions.rollout` once all replicas are ready. Pure. The weight is 0 all the time, so
nobody is answered by the candidate; a step is a share of requests that is copied. It is judged by
errors and latency as a canary is, and by how many of its answers differ from stable's.
"""

from __future__ import annotations

from modelplane.decisions.rollout_moment import Moment, Reason, RolloutDecision, Verdict
from modelplane.resources.rollout import Judgement
from modelplane.resources.strategy import ShadowStrategy


def answers_differ(shadow: ShadowStrategy | None, judgement: Judgement | None) -> bool:
    """Whether more answers differ than may, beyond doubt: the bound holds at every look."""
    if shadow is None or judgement is None or judgement.different_lower is None:
        return False
    return judgement.different_lower * 100 > shadow.max_different


def begin_shadow(moment: Moment, shadow: ShadowStrategy) -> RolloutDecision:
    """Begin to copy; stable's normal can be learned meanwhile, since nobody is at risk."""
    return _copy(moment, shadow, Reason.FIRST_STEP)


def decide_shadow(moment: Moment, shadow: ShadowStrategy) -> RolloutDecision:
    """Decide while requests are copied to the candidate."""
    status, judgement = moment.status, moment.observed.judgement
    if moment.is_past(shadow.deadline_s) and not _is_good(moment, shadow):
        message = "the deadline came without a verdict" + _compared(judgement, shadow)
        return moment.decide_at_deadline(shadow.analysis, message)
    if status.weight_pct > 0 or status.mirror_pct != shadow.percentage:
        return _copy(moment, shadow, Reason.STRATEGY_CHANGED)
    if (waiting := moment.hold_until_applied()) is not None:
        return waiting
    nobody = "no request has been copied to the candidate yet"
    unknown = moment.hold_until_known(nobody)
    if unknown is not None or judgement is None:
        return unknown or moment.hold(Reason.WAITING_FOR_TRAFFIC, nobody)
    left_s = shadow.duration_s - moment.running_for_s
    if left_s > 0:
        message = f"{judgement.sentence}{_compared(judgement, shadow)}"
        return moment.hold(Reason.COMPARING, message, after_s=left_s)
    if judgement.compared < shadow.min_compared:
        return moment.hold(Reason.NEEDS_COMPARISONS, _missing(judgement, shadow))
    if _share_pct(judgement) > shadow.max_different:
        message = f"too many answers differ so far{_compared(judgement, shadow)}"
        return moment.hold(Reason.NEEDS_COMPARISONS, message)
    if not judgement.passes:
        return moment.hold_for_evidence(judgement)
    message = f"{judgement.sentence}{_compared(judgement, shadow)}"
    if shadow.then == "hold":
        return moment.hold(Reason.COMPARED, f"{message}; promote it by hand, or take it back")
    return moment.finish(Verdict.PROMOTE, Reason.COMPARED, message)


def describe_difference(judgement: Judgement, shadow: ShadowStrategy) -> str:
    """Return the sentence for answers that differ beyond doubt."""
    lower_pct = (judgement.different_lower or 0.0) * 100
    return (
        f"{judgement.different:,} of {judgement.compared:,} answers differ from stable's: at least "
        f"{lower_pct:.3g} %, and {shadow.max_different:g} % may"
    )


def _copy(moment: Moment, shadow: ShadowStrategy, reason: Reason) -> RolloutDecision:
    whose = "those the predicate holds for" if shadow.predicate else "all requests"
    message = f"copies of {shadow.percentage:g} % of {whose} go to the candidate"
    return moment.with_status(mirror_pct=shadow.percentage).advance(0.0, reason, message)


def _is_good(moment: Moment, shadow: ShadowStrategy) -> bool:
    judgement = moment.observed.judgement
    return (
        judgement is not None
        and moment.passes
        and judgement.compared >= shadow.min_compared
        and _share_pct(judgement) <= shadow.max_different
    )


def _share_pct(judgement: Judgement) -> float:
    return 100.0 * judgement.different / judgement.compared if judgement.compared else 0.0


def _missing(judgement: Judgement, shadow: ShadowStrategy) -> str:
    if not judgement.compared:
        return (
            f"no answer could be compared, and {shadow.min_compared:,} have to be; with model "
            "servers whose answers cannot be compared write minCompared: 0"
        )
    return f"{judgement.compared:,} of {shadow.min_compared:,} answers compared"


def _compared(judgement: Judgement | None, shadow: ShadowStrategy) -> str:
    if judgement is None or not judgement.compared:
        return "; no answer could be compared yet" if shadow.min_compared else ""
    return f"; {judgement.different:,} of {judgement.compared:,} answers differ from stable's"
