"""Keeps the silences here and in an Alertmanager the same.

A reconciler of Silences whose one key is all of them: both sides are read, compared
(`decisions.silence_delivery`) and brought together, at each change here and every few seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import structlog

from modelplane.controllers.loop import Fence
from modelplane.decisions.silence_delivery import (
    END_ANNOTATION,
    Action,
    End,
    Take,
    Tell,
    decide_silences,
    mark,
)
from modelplane.errors import Conflict, NotFound, TerminalError
from modelplane.ports.alerting import AlertReceiver
from modelplane.ports.clock import Clock
from modelplane.ports.store import Store, Transaction
from modelplane.resources.alerting import Silence
from modelplane.resources.meta import Resource, ResourceKey, Subject

SUBJECT = Subject(name="system:alertmanager")
EVERY_S = 10.0
START = ResourceKey("Silence", None, "*")
"""Wake this key once: an Alertmanager may have silences before there is any here."""

_MAX_DELETED = 1000
_log = structlog.get_logger(__name__)


class SilenceDeliveryController:
    """Keeps both sides the same.

    Parameters
    ----------
    store, fence, clock
        The ports.
    receiver
        The Alertmanager.
    instance
        Which modelplane this is among those that share it: 12 hexadecimal digits.
    """

    name = "silence-delivery"
    kinds: Sequence[type[Resource[Any, Any]]] = (Silence,)

    def __init__(
        self, store: Store, fence: Fence, clock: Clock, receiver: AlertReceiver, *, instance: str
    ) -> None:
        self._store = store
        self._fence = fence
        self._clock = clock
        self._receiver = receiver
        self._instance = instance
        self._seen: dict[str, str] = {}

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """All silences are looked at together."""
        if isinstance(resource, Silence) and END_ANNOTATION in resource.metadata.annotations:
            if len(self._seen) >= _MAX_DELETED:
                self._seen.pop(next(iter(self._seen)))
            self._seen[resource.metadata.name] = resource.status.alertmanager_id
        yield START

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Bring both sides together; return when to look again."""
        there = await self._receiver.silences()
        here, _ = await self._store.list(Silence)
        _ = self._fence.lease
        names = {silence.metadata.name for silence in here}
        deleted = {there_id for name, there_id in self._seen.items() if name not in names}
        actions = decide_silences(
            here, there, instance=self._instance, deleted=deleted, now=self._clock.now()
        )
        for action in actions:
            await self._do(action)
        return EVERY_S

    async def _do(self, action: Action) -> None:
        match action:
            case End(id):
                await self._receiver.expire_silence(id)
            case Tell(silence, id):
                await self._tell(silence, id)
            case Take(silence):
                transaction = Transaction(SUBJECT, "it was made or changed in Alertmanager")
                transaction.put(silence, "take")
                await self._commit(transaction)

    async def _tell(self, silence: Silence, id: str) -> None:
        spec, is_taken = silence.spec, END_ANNOTATION in silence.metadata.annotations
        try:
            made = await self._receiver.silence(
                spec.matchers,
                starts_at=spec.starts_at or silence.metadata.created_at or self._clock.now(),
                ends_at=spec.ends_at,
                created_by=spec.created_by if is_taken else mark(silence, self._instance),
                comment=spec.comment,
                id=id,
            )
            told = silence.with_status(alertmanager_id=made, message="")
        except TerminalError as error:
            told = silence.with_status(message=error.message)
        if is_taken:
            annotations = {**silence.metadata.annotations, END_ANNOTATION: spec.ends_at.isoformat()}
            told = told.with_(metadata=silence.metadata.with_(annotations=annotations))
        transaction = Transaction(SUBJECT, "Alertmanager was told")
        transaction.update(told, "tell")
        await self._commit(transaction)

    async def _commit(self, transaction: Transaction) -> None:
        transaction.fence = self._fence.lease
        try:
            await self._store.commit(transaction)
        except (Conflict, NotFound):  # it changed meanwhile; the next look sees both as they are
            _log.debug("silence.changed_meanwhile")
