"""Tells people of alerts, from wherever they come, and keeps silences.

Decides nothing itself (`decisions.alert_notices`). What an alert's status says that people were
told, and the notifications, are one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from modelplane.controllers.loop import Fence
from modelplane.decisions.alert_notices import (
    decide_notice,
    kept_until,
    next_turn_s,
    silence_status,
)
from modelplane.ports.clock import Clock
from modelplane.ports.outbox import add_notifications
from modelplane.ports.store import Store, Transaction
from modelplane.resources.alerting import Alert, Silence
from modelplane.resources.meta import Resource, ResourceKey, Subject

SUBJECT = Subject(name="system:alerts")


class AlertNoticeController:
    """Reconciles one alert, or one silence with all alerts that are not over."""

    name = "alert-notices"
    kinds: Sequence[type[Resource[Any, Any]]] = (Alert, Silence)

    def __init__(self, store: Store, fence: Fence, clock: Clock) -> None:
        self._store = store
        self._fence = fence
        self._clock = clock

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """The alert or silence itself."""
        yield resource.key

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Bring one alert or one silence up to date."""
        if key.kind == Silence.__name__:
            return await self._reconcile_silence(key)
        alert = await self._store.find(Alert, key.name)
        if alert is not None:
            silences, _ = await self._store.list(Silence)
            await self._tell(alert, silences)
        return None

    async def _reconcile_silence(self, key: ResourceKey) -> float | None:
        now = self._clock.now()
        silence = await self._store.find(Silence, key.name)
        until = kept_until(silence) if silence is not None else None
        if silence is not None and until is not None and until <= now:
            transaction = Transaction(SUBJECT, "kept long enough", fence=self._fence.lease)
            transaction.delete(silence, "remove")
            await self._store.commit(transaction)
            return None
        if silence is not None:
            status = silence_status(silence, now)
            if status != silence.status:
                transaction = Transaction(SUBJECT, fence=self._fence.lease)
                action = f"silence.{status.phase.lower()}"
                transaction.update(silence.with_(status=status), action)
                await self._store.commit(transaction)
        silences, _ = await self._store.list(Silence)
        alerts, _ = await self._store.list(Alert)
        for alert in alerts:
            if alert.status.phase != "Resolved":
                await self._tell(alert, silences)
        return next_turn_s(silence, now) if silence is not None else None

    async def _tell(self, alert: Alert, silences: Sequence[Silence]) -> None:
        status, events = decide_notice(alert, silences, self._clock.now())
        if status == alert.status:
            return
        transaction = Transaction(SUBJECT, fence=self._fence.lease)
        transaction.update(alert.with_(status=status), "alert.told" if events else "alert.silence")
        for event in events:
            await add_notifications(self._store, transaction, event)
        await self._store.commit(transaction)
