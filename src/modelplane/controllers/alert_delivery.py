"""Tells an Alertmanager of the alerts that fire, again and again, and of their ends.

A reconciler of Alerts whose one key is all of them: what is due is posted together. That an
Alertmanager was told is stored after it was, so that a control plane that dies in between tells it
again; an end is told until it has arrived.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import structlog

from modelplane.controllers.loop import Fence
from modelplane.decisions.alert_delivery import Post, Told, decide_post, next_due
from modelplane.errors import Conflict
from modelplane.ports.alerting import AlertReceiver
from modelplane.ports.clock import Clock
from modelplane.ports.store import Store, Transaction
from modelplane.resources.alerting import Alert
from modelplane.resources.meta import Resource, ResourceKey, Subject

SUBJECT = Subject(name="system:alertmanager")
_ALL = ResourceKey("Alert", None, "*")
_log = structlog.get_logger(__name__)


class AlertDeliveryController:
    """Tells one Alertmanager.

    Parameters
    ----------
    store, fence, clock
        The ports.
    receiver
        Who is told.
    public_url
        Of the API as people reach it, for the links of alerts.
    """

    name = "alert-delivery"
    kinds: Sequence[type[Resource[Any, Any]]] = (Alert,)

    def __init__(
        self, store: Store, fence: Fence, clock: Clock, receiver: AlertReceiver, *, public_url: str
    ) -> None:
        self._store = store
        self._fence = fence
        self._clock = clock
        self._receiver = receiver
        self._url = public_url.rstrip("/")
        self._told: dict[str, Told] = {}

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """All alerts are looked at together."""
        yield _ALL

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Post what is due; return when to look again."""
        alerts, _ = await self._store.list(Alert)
        now = self._clock.now()
        _ = self._fence.lease  # nobody posts without it: another control plane would, too
        posts = [
            post
            for alert in alerts
            if (post := decide_post(alert, self._told.get(alert.key.name), now, url=self._url))
        ]
        if posts:
            await self._receiver.post([post.posted for post in posts])
        for post in posts:
            status = post.alert.status
            self._told[post.alert.key.name] = Told(status.phase, status.closing, now)
        known = {alert.key.name for alert in alerts}
        self._told = {name: told for name, told in self._told.items() if name in known}
        await self._record([post for post in posts if post.is_news], now)
        waits = [due for told in self._told.values() if (due := next_due(told, now)) is not None]
        return min(waits, default=None)

    async def _record(self, posts: Sequence[Post], now: datetime) -> None:
        for post in posts:
            status = post.alert.status
            transaction = Transaction(SUBJECT, f"told that it is {status.phase.lower()}")
            transaction.fence = self._fence.lease
            transaction.update(post.alert.with_status(posted=status.phase, posted_at=now), "tell")
            try:
                await self._store.commit(transaction)
            except Conflict:  # it changed meanwhile, and that change brings it back here
                _log.debug("alert.told_and_changed", alert=post.alert.metadata.name)
