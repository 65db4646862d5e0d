"""A notifier that only remembers: for tests of what sends notifications.

Implements `ports.notifier.Notifier`. It can be away, refuse, or hang.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from modelplane.decisions.notifications import Delivery
from modelplane.ports.notifier import Message
from modelplane.resources.notification import NotificationChannel


@dataclass
class FakeNotifier:
    """Receivers in memory.

    Attributes
    ----------
    sent
        What arrived: name of the channel and message, in order.
    trouble
        What becomes of every attempt while it is set, instead of arriving.
    attempts
        How often something was sent, arrived or not.
    """

    sent: list[tuple[str, Message]] = field(default_factory=list)
    trouble: Delivery | None = None
    attempts: int = 0

    async def send(self, channel: NotificationChannel, message: Message) -> Delivery:
        """Remember the message, or answer with the trouble there is."""
        self.attempts += 1
        if self.trouble is not None:
            return self.trouble
        self.sent.append((channel.metadata.name, message))
        return Delivery("delivered")

    async def close(self) -> None:
        """Nothing is kept open."""
