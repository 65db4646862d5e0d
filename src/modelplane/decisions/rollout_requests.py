"""What people may ask of a rollout: pause, resume, promote at once, roll back; and of which.

Called by the API. Pure: it changes the rollout's spec, which the rollout controller obeys.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from modelplane.errors import Conflict, FieldError, InvalidResource, NotFound
from modelplane.resources.meta import Subject
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.rollout import Rollout, RolloutRequest

RolloutVerb = Literal["pause", "resume", "promote", "rollback"]


def choose_rollout(
    deployment: ModelDeployment,
    rollouts: Sequence[Rollout],
    *,
    name: str | None = None,
    version: str | None = None,
) -> Rollout:
    """Return the rollout of a deployment that a person means.

    Parameters
    ----------
    deployment
        As stored.
    rollouts
        All of it.
    name, version
        The rollout, or the version that it brings; neither: the one that runs, or else the
        deployment's latest.

    Raises
    ------
    InvalidResource
        Several run, and none was named.
    NotFound
        There is none like that.
    Conflict
        The deployment has had no rollout.
    """
    what, place = deployment.metadata.name, deployment.metadata.environment
    ordered = sorted(rollouts, key=lambda rollout: rollout.spec.ordinal)
    if name is not None or version is not None:
        meant = [r for r in ordered if name is None or r.metadata.name == name]
        meant = [r for r in meant if version is None or r.spec.candidate.version == version]
        if not meant:
            wanted = " ".join(part for part in (name, version) if part)
            known = ", ".join(describe_rollout(r) for r in ordered[-5:]) or "none"
            raise NotFound(
                f"{what} has no rollout {wanted[:80]!r} in {place}", hint=f"the latest are: {known}"
            )
        return next((r for r in reversed(meant) if not r.finished), meant[-1])
    running = [rollout for rollout in ordered if not rollout.finished]
    if len(running) > 1:
        names = ", ".join(describe_rollout(rollout) for rollout in running)
        raise InvalidResource(
            f"{len(running)} rollouts of {what} run in {place}; say which",
            [FieldError("version", f"name one of: {names}")],
        )
    latest = [r for r in ordered if r.metadata.name == deployment.status.rollout]
    if not (running or latest):
        raise Conflict(f"{what} has had no rollout in {place}")
    return (running or latest)[0]


def describe_rollout(rollout: Rollout) -> str:
    """Return a rollout's name with the version that it brings, for messages."""
    return f"{rollout.metadata.name} ({rollout.spec.candidate.version})"


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
