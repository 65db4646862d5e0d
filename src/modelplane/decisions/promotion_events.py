"""What people are told of a promotion, and which runs its status names. Pure.

Called by `controllers.promotion` when it writes a decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from modelplane.decisions.rollout import policy_of
from modelplane.resources.model import Model
from modelplane.resources.notification import Event, EventType
from modelplane.resources.promotion import GateOutcome, Promotion, PromotionStatus

TEAM_LABEL = "team"
"""Label of a model: whose it is."""

_EVENTS: dict[str, EventType] = {
    "Refused": "promotion.refused",
    "Done": "promotion.done",
    "RolledBack": "promotion.rolled_back",
    "Failed": "promotion.failed",
}
"""Rejections and expiries are told as the approval's."""


def event_of(before: Promotion, after: Promotion, model: Model, now: datetime) -> Event | None:
    """Return the event that a change of status is; None when nobody needs to know.

    Parameters
    ----------
    before, after
        The promotion.
    model
        Its model; the label `TEAM_LABEL` says whom it concerns.
    now
        When it changed.
    """
    event = _EVENTS.get(after.status.phase)
    if event is None and before.status == PromotionStatus():
        event = "promotion.requested"
    if event is None or before.status.phase == after.status.phase != "Requested":
        return None
    spec, status = after.spec, after.status
    data = {
        "promotion": after.metadata.name,
        "deployment": spec.deployment,
        "model": spec.revision.model,
        "version": spec.revision.version,
        "revision": spec.revision.digest,
        "requester": spec.subject.name,
        "automatic": spec.automatic,
        "trafficPolicy": policy_of(spec.lane),
        "phase": status.phase,
        "reason": status.reason,
        "message": status.message,
        "rollout": status.rollout,
    }
    return Event(
        type=event,
        subject=str(after.key),
        environment=after.metadata.environment,
        team=model.metadata.labels.get(TEAM_LABEL, ""),
        at=now,
        data={name: value for name, value in data.items() if value not in (None, "")},
    )


def with_runs(status: PromotionStatus, names: Mapping[str, str]) -> PromotionStatus:
    """Return `status` naming the runs that are created with it, by pipeline."""
    if not names:
        return status
    gates = tuple(
        GateOutcome(pipeline=gate.pipeline, run=names[gate.pipeline], phase="Pending")
        if gate.pipeline in names
        else gate
        for gate in status.gates
    )
    return status.with_(gates=gates)
