"""Rolling: replica by replica. Each new one that is ready takes its share, then an old one goes.

Called by `decisions.rollout` from the first replica on, when there is no harm. Pure. Nothing waits
for evidence; harm, which is checked before, rolls back. Every decision is made from the counts as
they are, so that a change of the number of replicas in mid-roll only moves the target.

Always true: an old replica goes only after the gateway acknowledged the new one's share, so that
the sum of both never falls below the declared number by this.
"""

from __future__ import annotations

from modelplane.decisions.rollout_moment import Moment, Reason, RolloutDecision, Verdict
from modelplane.resources.strategy import RollingStrategy


def begin_rolling(moment: Moment) -> RolloutDecision:
    """Decide before the candidate has any traffic: one replica comes first."""
    moment = moment.with_status(candidate_replicas=1, stable_replicas=None)
    if moment.ready < 1:
        message = f"replica 1 of {moment.observed.replicas_wanted} starts"
        return moment.hold(Reason.STARTING, message, phase="Deploying")
    if moment.spec.paused:
        return moment.hold(Reason.PAUSED, "paused by hand", phase="Deploying")
    return _take_share(moment, 1)


def decide_rolling(moment: Moment, rolling: RollingStrategy) -> RolloutDecision:
    """Decide once the candidate has a share."""
    wanted = moment.observed.replicas_wanted
    count = min(moment.status.candidate_replicas or wanted, wanted)
    if (waiting := moment.hold_until_applied()) is not None:
        return waiting
    judgement = moment.observed.judgement
    if judgement is not None and judgement.bad_replica:
        message = f"replica {judgement.bad_replica} fails, the version does not: it is replaced"
        return moment.hold(Reason.BAD_REPLICA, message)
    if moment.ready < count:
        return moment.hold(Reason.STARTING, f"replica {count} of {wanted} starts")
    if moment.status.weight_pct != _share_pct(count, wanted):
        return _take_share(moment, count)
    moment = moment.with_status(stable_replicas=wanted - count)
    wait_s = rolling.interval_s - moment.applied_for_s
    if wait_s > 0:
        message = f"{count} of {wanted} replicas replaced"
        return moment.hold(Reason.REPLICA_BY_REPLICA, message, after_s=wait_s)
    moment = moment.with_status(candidate_replicas=count + 1)
    return moment.hold(Reason.STARTING, f"replica {count + 1} of {wanted} starts")


def _take_share(moment: Moment, count: int) -> RolloutDecision:
    """Give `count` ready replicas their share; all of them are the end."""
    wanted = moment.observed.replicas_wanted
    if count >= wanted:
        message = f"all {wanted} replicas are replaced" if wanted > 1 else "the replica is replaced"
        return moment.finish(Verdict.PROMOTE, Reason.ALL_REPLACED, message)
    message = f"{count} of {wanted} replicas are ready and take their share"
    return moment.with_status(candidate_replicas=count).advance(
        _share_pct(count, wanted), Reason.REPLICA_READY, message
    )


def _share_pct(count: int, wanted: int) -> float:
    return 100.0 * count / wanted
