"""What a rollout's strategy adds to its view: who may meet the candidate, and until when. Pure.

Called by `rollout_view`; returns plain lines of text.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from modelplane.cli import words
from modelplane.decisions.rollout import policy_of
from modelplane.resources.model_deployment import WarmRevision
from modelplane.resources.rollout import Rollout


def describe_strategy(rollout: Rollout) -> str:
    """Return the strategy, whose it is, and for whom; empty for a canary for everybody."""
    declared = rollout.status.strategy
    if declared is None:
        return ""
    policy = policy_of(rollout.spec.lane)
    if declared.canary is not None and not (policy or declared.predicate):
        return ""
    parts: list[str] = [declared.type]
    if policy:
        parts.append(f"traffic policy {policy}")
    if declared.predicate:
        parts.append(f"for {declared.predicate}")
    return ", ".join(parts)


def describe_details(rollout: Rollout, now: datetime) -> Iterator[str]:
    """Yield what only some strategies have: counts of replicas and answers, and times to come."""
    status, declared = rollout.status, rollout.status.strategy
    if status.compared:
        share = 100 * status.different / status.compared
        yield f"{status.compared:,} answers compared, {status.different:,} differ ({share:.3g} %)"
        yield from (f"  {example}" for example in status.examples)
    if status.candidate_replicas is not None:
        counts = f"{status.candidate_replicas} of the candidate"
        if status.stable_replicas is not None:
            counts += f", {status.stable_replicas} of stable"
        yield f"replicas: {counts}"
    if rollout.finished or declared is None:
        return
    canary, blue_green, ab = declared.canary, declared.blue_green, declared.ab
    if canary is not None and canary.holdback is not None and status.holdback_at is not None:
        until = status.holdback_at + timedelta(seconds=canary.holdback.for_s)
        yield f"holdback until {words.moment(until, now)}"
    if blue_green is not None and status.ready_at is not None:
        switch_at = status.ready_at + timedelta(seconds=blue_green.preview_s)
        yield f"switches at {words.moment(switch_at, now)}"
    if ab is not None and status.ramp_started_at is not None:
        until = status.ramp_started_at + timedelta(seconds=ab.duration_s)
        yield f"the test ends at {words.moment(until, now)}"


def describe_warm(rollout: Rollout, warm: WarmRevision | None, now: datetime) -> str:
    """Return until when one can go back at once, after the switch that the rollout was."""
    stable = rollout.spec.stable
    if rollout.status.phase != "Promoted" or warm is None or stable is None:
        return ""
    if warm.until <= now or warm.revision.digest != stable.digest:
        return ""
    place = rollout.metadata.environment
    return (
        f"{stable.version} stays warm until {words.moment(warm.until, now)}; back at once with: "
        f"modelplane rollout undo {rollout.spec.deployment} -e {place}"
    )
