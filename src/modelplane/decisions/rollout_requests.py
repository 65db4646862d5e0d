"""What people may ask of a rollout: pause, resume, promote at once, roll back.

Called by the API. Pure: it changes the rollout's spec, which the rollout controller obeys.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from modelplane.errors import Conflict
from modelplane.resources.meta import Subject
from modelplane.resources.rollout import Rollout, RolloutRequest

RolloutVerb = Literal["pause", "resume", "promote", "rollback"]


def request_of_rollout(
    rollout: Rollout, verb: RolloutVerb, subject: Subject, reason: str, now: datetime
) -> Rollout:
    """Return `rollout` with the wish in its spec; equal to it when that was wished already.

    Raises
    ------
    Conflict
        It has finished, or the opposite was asked for before.
    """
    name = rollout.metadata.name
    if rollout.finished:
        deployment, environment = rollout.spec.deployment, rollout.metadata.environment
        hint = (
            f"go back with: modelplane rollout undo {deployment} -e {environment}"
            if verb == "rollback" and rollout.status.phase == "Promoted"
            else ""
        )
        raise Conflict(f"rollout {name} has finished: {rollout.status.phase}", hint=hint)
    if verb in {"pause", "resume"}:
        return rollout.with_spec(paused=verb == "pause")
    asked = rollout.spec.request
    action: Literal["promote", "rollback"] = "promote" if verb == "promote" else "rollback"
    if asked is not None and asked.action == action:
        return rollout
    if asked is not None and asked.action == "rollback":
        raise Conflict(f"rollout {name} is being rolled back, as {asked.subject} asked")
    request = RolloutRequest(action=action, subject=subject.name, reason=reason, at=now)
    return rollout.with_spec(request=request)
