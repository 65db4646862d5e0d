"""Begins runs of playbooks about alerts that fire, and says why others do not begin.

Decides nothing itself (`decisions.playbook_starts`). Looks at all alerts together, since limits
hold over all playbooks: whatever changes leads to the one key it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from modelplane.controllers.loop import Fence
from modelplane.decisions.playbook_runs import surplus
from modelplane.decisions.playbook_starts import decide_starts
from modelplane.ports.clock import Clock
from modelplane.ports.outbox import add_notifications
from modelplane.ports.store import Store, Transaction
from modelplane.resources.alerting import Alert, Silence
from modelplane.resources.meta import Resource, ResourceKey, Subject
from modelplane.resources.playbook import Playbook, PlaybookRun

SUBJECT = Subject(name="system:playbooks")
ALL = ResourceKey("Playbook", None, "")


class PlaybookStartController:
    """Reconciles all alerts with all playbooks.

    Parameters
    ----------
    store, fence, clock
        The ports.
    budget_per_hour
        How many runs may begin in an hour, those of all playbooks together.
    """

    name = "playbook-starts"
    kinds: Sequence[type[Resource[Any, Any]]] = (
        Alert, Silence, Playbook, PlaybookRun,
    )  # fmt: skip

    def __init__(self, store: Store, fence: Fence, clock: Clock, *, budget_per_hour: int) -> None:
        self._store = store
        self._fence = fence
        self._clock = clock
        self._budget_per_hour = budget_per_hour

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """The one key."""
        yield ALL

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Begin the next run, if any may begin."""
        playbooks, _ = await self._store.list(Playbook)
        if not playbooks:
            return None
        alerts, _ = await self._store.list(Alert)
        runs, _ = await self._store.list(PlaybookRun)
        silences, _ = await self._store.list(Silence)
        now = self._clock.now()
        starts = decide_starts(
            alerts,
            playbooks,
            runs,
            silences=silences,
            budget_per_hour=self._budget_per_hour,
            now=now,
        )
        transaction = Transaction(SUBJECT, fence=self._fence.lease)
        for playbook in starts.playbooks:
            transaction.update(playbook, "playbook.held")
        if starts.begin is not None:
            begin = starts.begin
            transaction.reason = f"alert {begin.alert.metadata.name} fires"
            transaction.create(begin.run, "playbook.begin")
            transaction.update(begin.playbook, "playbook.begin")
            transaction.update(begin.alert, "playbook.begin")
            for old in surplus(begin.playbook.metadata.name, runs, alerts, now):
                transaction.delete(old, "playbook.forget")
        for event in starts.events:
            await add_notifications(self._store, transaction, event)
        if transaction:
            await self._store.commit(transaction)
        if starts.begin is not None:
            return 0.0
        if starts.look_at is None:
            return None
        return max(0.05, (starts.look_at - now).total_seconds())
