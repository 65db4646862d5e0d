"""Notifications: which channels want an event, and what becomes of one that did not arrive. Pure.

Called by `ports.outbox` (writing) and `controllers.notifications` (sending). An event is one
`Notification` for each channel that wants it, written with what it tells of; its name and id
follow from both, so that the same event is never written twice.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from modelplane.errors import Conflict
from modelplane.resources.approval import Approval
from modelplane.resources.meta import Metadata
from modelplane.resources.notification import (
    Event,
    EventType,
    Notification,
    NotificationChannel,
    NotificationSpec,
    NotificationStatus,
)

GIVE_UP_AFTER = timedelta(hours=24)
"""How long a receiver may be away before what is for it becomes a dead letter."""

MAX_REFUSALS = 5
"""How often a receiver may refuse a message (a 4xx, a wrong address) before it is dead."""

KEEP_DELIVERED = timedelta(days=7)
KEEP_DEAD = timedelta(days=90)
_LONGEST_WAIT_S = 900.0
_MAX_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one attempt.

    Attributes
    ----------
    outcome
        ``delivered``; ``unavailable`` when trying again may help; ``refused`` when that is
        unlikely: the receiver does not want it, or the channel is not set up.
    message
        Why it did not arrive, for people: never the answer's body, nor anything secret.
    """

    outcome: Literal["delivered", "unavailable", "refused"]
    message: str = ""


def wants(channel: NotificationChannel, event: Event) -> bool:
    """Whether `event` goes to `channel`: by its type, team and environment."""
    spec = channel.spec
    return (
        (not spec.events or event.type in spec.events)
        and (not spec.teams or event.team in spec.teams)
        and (not spec.environments or event.environment in spec.environments)
    )


def make_notification(channel: NotificationChannel, event: Event) -> Notification:
    """Return what tells `channel` of `event`; the same for the same two."""
    name = channel.metadata.name
    # The channel's uid: one that was deleted and declared again is another receiver.
    facts = json.dumps([name, channel.metadata.uid, event.to_dict()], sort_keys=True)
    digest = hashlib.sha256(facts.encode()).hexdigest()[:32]
    return Notification(
        metadata=Metadata(name=f"n-{digest}", labels={"channel": name, "event": event.type}),
        spec=NotificationSpec(channel=name, event=event, id=digest),
    )


def backoff_s(attempts: int) -> float:
    """Return how long to wait after the attempt number `attempts` (from 1), seconds.

    Examples
    --------
    >>> [backoff_s(n) for n in (1, 2, 5, 11, 200)]
    [1.0, 2.0, 16.0, 900.0, 900.0]
    """
    return float(min(_LONGEST_WAIT_S, 2.0 ** min(attempts - 1, 20)))


def decide_delivery(
    status: NotificationStatus, delivery: Delivery, now: datetime
) -> NotificationStatus:
    """Return the status after an attempt: delivered, to be tried again, or dead.

    Parameters
    ----------
    status
        Before the attempt.
    delivery
        What became of it.
    now
        When it was over.
    """
    attempts, since = status.attempts + 1, status.since or now
    after = NotificationStatus(attempts=attempts, since=since, message=delivery.message)
    if delivery.outcome == "delivered":
        return after.with_(phase="Delivered", delivered_at=now, message="")
    after = after.with_(message=after.message[:_MAX_MESSAGE])
    is_refused = delivery.outcome == "refused" and attempts >= MAX_REFUSALS
    if is_refused or now - since >= GIVE_UP_AFTER:
        return after.with_(phase="Dead")
    return after.with_(next_at=now + timedelta(seconds=backoff_s(attempts)))


def replay(notification: Notification) -> Notification:
    """Return a dead letter as one that is sent again from the start.

    Raises
    ------
    Conflict
        It is not dead.
    """
    if notification.status.phase != "Dead":
        phase = notification.status.phase
        raise Conflict(f"{notification.metadata.name} is {phase}; only dead ones are replayed")
    return notification.with_(status=NotificationStatus())


def kept_until(notification: Notification) -> datetime | None:
    """Return when a finished notification is removed; None while it is to be sent."""
    status, metadata = notification.status, notification.metadata
    if status.phase == "Delivered" and status.delivered_at is not None:
        return status.delivered_at + KEEP_DELIVERED
    if status.phase == "Dead" and metadata.updated_at is not None:
        return metadata.updated_at + KEEP_DEAD
    return None


def approval_event(approval: Approval, type: EventType, at: datetime) -> Event:
    """Return the event that something happened to an approval."""
    spec, status = approval.spec, approval.status
    data: dict[str, Any] = {
        "approval": approval.metadata.name,
        "promotion": spec.promotion,
        "policy": spec.policy,
        "model": spec.model,
        "version": spec.version,
        "revision": spec.revision_digest,
        "evidence": spec.evidence_digest,
        "author": spec.author,
        "requester": spec.requester,
        "approvers": spec.approvers.to_dict(),
        "quorum": spec.quorum,
        "expiresAt": spec.expires_at.isoformat(),
        "message": status.message,
        "answers": [answer.to_dict() for answer in status.decisions],
    }
    return Event(
        type=type,
        subject=str(approval.key),
        environment=approval.metadata.environment,
        team=spec.team,
        at=at,
        data=data,
    )


def trial_event(channel: NotificationChannel, subject: str, at: datetime) -> Event:
    """Return the event that tries out a channel."""
    data = {"message": f"{subject} tries out this channel", "channel": channel.metadata.name}
    return Event(type="channel.test", subject=str(channel.key), at=at, data=data)
