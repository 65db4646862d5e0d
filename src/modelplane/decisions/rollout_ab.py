"""A/B/n: fixed shares between live versions, compared until the time is over.

Called by `decisions.rollout` once all replicas are ready. Pure. A test never takes over by itself:
it ends as Concluded with a verdict, and whoever wants the version promotes it by the usual road.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from modelplane.decisions.analysis_inputs import LABEL_METRICS
from modelplane.decisions.rollout_moment import Moment, Reason, RolloutDecision, Verdict
from modelplane.resources.revision import Revision
from modelplane.resources.rollout import AbVerdict, Judgement, Rollout, RolloutSpec
from modelplane.resources.strategy import AbStrategy, Arm
from modelplane.resources.versions import parse_version


def find_arm(ab: AbStrategy, spec: RolloutSpec) -> Arm | None:
    """Return the arm that a rollout is, or None when the test has none of its version any more.

    A lane ends in the version; an arm may name it by its number or in a short form.
    """
    version = spec.candidate.version
    named = {version, spec.lane.partition("/")[2]}
    for arm in ab.arms:
        if arm.version in named:
            return arm
    return next((arm for arm in ab.arms if _is_short_for(arm.version, version)), None)


def begin_ab(moment: Moment, ab: AbStrategy) -> RolloutDecision:
    """Give the version its share."""
    arm = find_arm(ab, moment.spec)
    if arm is None:
        return _end_without_arm(moment)
    message = f"ready: {arm.percentage:g} % of the users until the test ends"
    return moment.advance(arm.percentage, Reason.FIRST_STEP, message)


def decide_ab(moment: Moment, ab: AbStrategy) -> RolloutDecision:
    """Decide while the version has its share."""
    arm, judgement = find_arm(ab, moment.spec), moment.observed.judgement
    if arm is None:
        return _end_without_arm(moment)
    left_s = ab.duration_s - moment.running_for_s
    if left_s <= 0:
        verdict = "pass" if moment.passes else "undecided"
        said = _describe(judgement) if judgement is not None else "no request met the version"
        message = f"the test is over, {verdict}: {said}"
        return moment.with_status(verdict=verdict).finish(
            Verdict.CONCLUDE, Reason.TEST_OVER, message
        )
    if (waiting := moment.hold_until_applied()) is not None:
        return waiting
    if moment.status.weight_pct != arm.percentage:
        message = f"the test now gives it {arm.percentage:g} %"
        return moment.advance(arm.percentage, Reason.STRATEGY_CHANGED, message)
    unknown = moment.hold_until_known("no request has met the version yet")
    if unknown is not None or judgement is None:
        return unknown or moment.hold(Reason.WAITING_FOR_TRAFFIC, "no request has met it yet")
    return moment.hold(Reason.COMPARING, judgement.sentence, after_s=left_s)


def _describe(judgement: Judgement) -> str:
    """The judgement, and by how much the version is better or worse by labels and rewards."""
    told = [m.sentence for m in judgement.metrics if m.name in LABEL_METRICS and judgement.passes]
    return "; ".join([judgement.sentence, *told])


def last_verdict(
    rollouts: Iterable[Rollout], revision: Revision, until: datetime | None = None
) -> AbVerdict:
    """Return what the version's last A/B test concluded, in whichever environment; else empty.

    Parameters
    ----------
    rollouts
        All there are.
    revision
        Of the version; its runtime does not matter.
    until
        What ended later does not count; None: everything counts.
    """
    wanted = revision.model, revision.version
    last: AbVerdict = ""
    last_at: datetime | None = None
    for rollout in rollouts:
        candidate, status = rollout.spec.candidate, rollout.status
        ended_at = status.finished_at
        if not status.verdict or ended_at is None or (until is not None and ended_at > until):
            continue
        is_later = last_at is None or ended_at > last_at
        if (candidate.model, candidate.version) == wanted and is_later:
            last, last_at = status.verdict, ended_at
    return last


def _end_without_arm(moment: Moment) -> RolloutDecision:
    message = f"the test has no arm for {moment.spec.candidate.version} any more"
    return moment.with_status(verdict="undecided").finish(
        Verdict.CONCLUDE, Reason.ARM_REMOVED, message
    )


def _is_short_for(written: str, version: str) -> bool:
    if written.isdecimal():
        return False
    try:
        return parse_version(written) == version
    except ValueError:
        return False
