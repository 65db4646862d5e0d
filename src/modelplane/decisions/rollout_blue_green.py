"""Blue/green: a whole second set of replicas, and all traffic at once; the old set stays warm.

Called by `decisions.rollout` once all replicas are ready. Pure. What stays warm, and for how long,
is written with the promotion (`decisions.rollout.promoted`).
"""

from __future__ import annotations

from modelplane.decisions.rollout_moment import Moment, Reason, RolloutDecision, Verdict
from modelplane.resources.strategy import BlueGreenStrategy


def decide_blue_green(moment: Moment, blue_green: BlueGreenStrategy) -> RolloutDecision:
    """Decide when to switch: after the preview, which counts from the readiness of all."""
    moment = moment.with_status(ready_at=moment.status.ready_at or moment.now)
    ready_at = moment.status.ready_at or moment.now
    left_s = blue_green.preview_s - (moment.now - ready_at).total_seconds()
    if left_s > 0:
        message = "ready; testers may look at it until the switch"
        phase = moment.status.phase
        return moment.hold(
            Reason.PREVIEW,
            message,
            phase="Ramping" if phase in {"Ramping", "Paused"} else "Deploying",
            after_s=left_s,
        )
    message = "all replicas are ready: all traffic switched to them"
    return moment.finish(Verdict.PROMOTE, Reason.SWITCHED, message)
