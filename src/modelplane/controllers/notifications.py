"""Sends what the outbox holds, until it arrives or is given up.

A notification is sent at least once: the attempt is recorded after it was made, so that one
during which the process died is made again, under the same id. Links that answer a request for
approval are made here, at sending, and are stored nowhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from modelplane.controllers.loop import Fence
from modelplane.decisions.approval_links import PATH, make_link, seal_link
from modelplane.decisions.notifications import Delivery, decide_delivery, kept_until
from modelplane.ports.clock import Clock
from modelplane.ports.notifier import Message, Notifier
from modelplane.ports.store import Store, Transaction
from modelplane.resources.approval import Approval
from modelplane.resources.meta import Resource, ResourceKey, Subject
from modelplane.resources.notification import Notification, NotificationChannel, ReceiverType

SUBJECT = Subject(name="system:notifications")
WORKERS = 8
"""How many notifications may be on their way at once."""

_AT_ONCE_PER_CHANNEL = 2
_BUSY_S = 1.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LinkMaker:
    """Makes the links that go into requests for approval.

    Attributes
    ----------
    public_url
        Where people reach the API; also the source of events.
    key
        Seals links; without one there are none.
    """

    public_url: str
    key: bytes = b""

    def make(self, approval: Approval, subject: str, notification_id: str) -> str | None:
        """Return the address that answers `approval` as `subject`; None without a key."""
        if not self.key:
            return None
        token = seal_link(make_link(approval, subject, notification_id), self.key)
        return f"{self.public_url.rstrip('/')}{PATH}/{token}"


class NotificationController:
    """Reconciles one Notification at a time: sends it when it is due, removes it when old."""

    name = "notifications"
    kinds: Sequence[type[Resource[Any, Any]]] = (Notification,)

    def __init__(
        self,
        store: Store,
        fence: Fence,
        clock: Clock,
        *,
        notifiers: Mapping[ReceiverType, Notifier],
        links: LinkMaker,
    ) -> None:
        self._store = store
        self._fence = fence
        self._clock = clock
        self._notifiers = notifiers
        self._links = links
        self._on_their_way: Counter[str] = Counter()

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """The notification itself."""
        yield resource.key

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Send a notification that is due, remove one that has been kept long enough."""
        notification = await self._store.find(Notification, key.name)
        if notification is None:
            return None
        now = self._clock.now()
        if notification.status.phase != "Pending":
            return await self._remove_when_old(notification, now)
        next_at = notification.status.next_at
        if next_at is not None and next_at > now:
            return (next_at - now).total_seconds()
        name = notification.spec.channel
        if self._on_their_way[name] >= _AT_ONCE_PER_CHANNEL:
            return _BUSY_S  # a receiver that hangs does not hold up the others
        self._on_their_way[name] += 1
        try:
            delivery = await self._send(notification)
        finally:
            self._on_their_way[name] -= 1
        await self._record(notification, delivery)
        return None  # the change that was recorded brings it back

    async def close(self) -> None:
        """Let go of the notifiers' connections."""
        for notifier in self._notifiers.values():
            await notifier.close()

    async def _send(self, notification: Notification) -> Delivery:
        # Nobody may send without the lease: another control plane would send it too.
        _ = self._fence.lease
        spec = notification.spec
        channel = await self._store.find(NotificationChannel, spec.channel)
        if channel is None:
            return Delivery("refused", f"there is no channel {spec.channel!r} any more")
        link = await self._link(notification, channel)
        message = Message(spec.id, spec.event, self._links.public_url, link)
        try:
            return await self._notifiers[channel.spec.receiver_type].send(channel, message)
        except Exception as error:
            # Its words may hold addresses or secrets; only its kind is said.
            _log.error("notification.broken", channel=spec.channel, kind=type(error).__name__)
            return Delivery("unavailable", f"the sender itself failed: {type(error).__name__}")

    async def _link(self, notification: Notification, channel: NotificationChannel) -> str | None:
        """Return the link for the channel's approver, while there is something to answer."""
        event, approver = notification.spec.event, channel.spec.approver
        if event.type != "approval.requested" or approver is None:
            return None
        name = str(event.data.get("approval", ""))
        approval = await self._store.find(Approval, name, event.environment)
        if approval is None or approval.status.phase != "Pending":
            return None
        return self._links.make(approval, approver, notification.spec.id)

    async def _record(self, notification: Notification, delivery: Delivery) -> None:
        status = decide_delivery(notification.status, delivery, self._clock.now())
        transaction = Transaction(SUBJECT, status.message, fence=self._fence.lease)
        action = {"Delivered": "deliver", "Dead": "give up"}.get(status.phase, "attempt")
        transaction.update(notification.with_(status=status), action)
        await self._store.commit(transaction)

    async def _remove_when_old(self, notification: Notification, now: datetime) -> float | None:
        until = kept_until(notification)
        if until is None:
            return None
        if until > now:
            return (until - now).total_seconds()
        transaction = Transaction(SUBJECT, "kept long enough", fence=self._fence.lease)
        transaction.delete(notification, "remove")
        await self._store.commit(transaction)
        return None
