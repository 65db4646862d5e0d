"""Notifiers: how a message reaches people and programs outside.

Implemented by `adapters.notify` (webhook, Slack, e-mail) and `testing.notifier`; used by
`controllers.notifications`. An implementation keeps the channel's time-out on all it does, reads
little of what it is answered, and lets neither a secret nor an answer into what it returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from modelplane.decisions.notifications import Delivery
from modelplane.resources.notification import Event, NotificationChannel


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent.

    Attributes
    ----------
    id
        The same each time it is sent, so that receivers can tell repetitions.
    event
        What happened.
    source
        Which modelplane says so: its public address.
    link
        The one-time link that answers a request for approval, where the channel gets one. It is
        as good as a password: it goes into the message and nowhere else.
    """

    id: str
    event: Event
    source: str
    link: str | None = None


class Notifier(Protocol):
    """Sends messages to channels of one type."""

    async def send(self, channel: NotificationChannel, message: Message) -> Delivery:
        """Send once, and say what became of it; expected failures are not raised."""

    async def close(self) -> None:
        """Let go of connections."""
