"""The loop that turns changes in the store into calls of reconcilers.

Run by the control plane. Holds the lease that fences every reconciler's commit, so that two
control planes never both act. Knows nothing of any kind's meaning.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from modelplane.errors import Conflict, ModelplaneError
from modelplane.ports.clock import Clock
from modelplane.ports.store import Lease, Store
from modelplane.resources.meta import Resource, ResourceKey

_log = structlog.get_logger(__name__)

LEASE_NAME = "controllers"
LEASE_TTL_S = 10.0
_RETRY_FIRST_S = 0.05
_RETRY_LAST_S = 15.0


class Reconciler(Protocol):
    """Brings one aspect of the world to what is declared."""

    @property
    def name(self) -> str:
        """Its name in logs."""

    @property
    def kinds(self) -> Sequence[type[Resource[Any, Any]]]:
        """The kinds whose changes concern it."""

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """Return what to reconcile because `resource` changed or was deleted."""

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Reconcile one key; return after how many seconds to look again, or None."""


@dataclass(slots=True)
class _Queue:
    """Keys waiting for one reconciler: each at most once, some only later.

    A key that is being reconciled waits until that is over, when it is added meanwhile.
    """

    ready: dict[ResourceKey, None] = field(default_factory=dict)
    working: set[ResourceKey] = field(default_factory=set)
    later: dict[ResourceKey, asyncio.TimerHandle] = field(default_factory=dict)
    failures: dict[ResourceKey, int] = field(default_factory=dict)
    wakeup: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, key: ResourceKey) -> None:
        timer = self.later.pop(key, None)
        if timer is not None:
            timer.cancel()
        self.ready[key] = None
        self.wakeup.set()

    def add_after(self, key: ResourceKey, seconds: float) -> None:
        if key in self.ready:
            return
        timer = self.later.pop(key, None)
        if timer is not None:
            timer.cancel()
        loop = asyncio.get_running_loop()
        self.later[key] = loop.call_later(seconds, self.add, key)

    async def take(self) -> ResourceKey:
        """Wait for a key that nobody works on; `done` gives it back."""
        while True:
            key = next((key for key in self.ready if key not in self.working), None)
            if key is not None:
                del self.ready[key]
                self.working.add(key)
                return key
            self.wakeup.clear()
            await self.wakeup.wait()

    def done(self, key: ResourceKey) -> None:
        """Take that the work on `key` is over."""
        self.working.discard(key)
        self.wakeup.set()


class Fence:
    """The present lease; reconcilers take it into each transaction."""

    def __init__(self) -> None:
        self._lease: Lease | None = None
        self.held = asyncio.Event()

    @property
    def lease(self) -> Lease:
        """The lease; raises `Conflict` when it is not held."""
        if self._lease is None:
            raise Conflict("another control plane holds the controllers' lease")
        return self._lease

    def set(self, lease: Lease | None) -> None:
        """Take note of a claim, a renewal, or a loss (None)."""
        self._lease = lease
        if lease is None:
            self.held.clear()
        else:
            self.held.set()


class ControllerLoop:
    """Runs reconcilers over one store until cancelled.

    Parameters
    ----------
    store, clock
        The ports.
    reconcilers
        What is run.
    fence
        Told of the lease.
    holder
        Who this process is, for the lease.
    workers
        How many keys a reconciler may work on at once, by its name; the others on one. It never
        works twice on one key at once.
    """

    def __init__(
        self,
        store: Store,
        reconcilers: Sequence[Reconciler],
        *,
        fence: Fence,
        holder: str,
        clock: Clock,
        workers: Mapping[str, int] = {},
    ) -> None:
        self._store = store
        self._reconcilers = reconcilers
        self._fence = fence
        self._holder = holder
        self._clock = clock
        self._workers = workers
        self._queues = {reconciler.name: _Queue() for reconciler in reconcilers}

    def wake(self, reconciler: str, key: ResourceKey) -> None:
        """Reconcile `key` soon, whatever it waits for."""
        self._queues[reconciler].add(key)

    async def run(self) -> None:
        """Hold the lease, follow the change log and reconcile, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._hold_lease(), name="lease")
            group.create_task(self._follow(), name="follow")
            for reconciler in self._reconcilers:
                for _ in range(self._workers.get(reconciler.name, 1)):
                    group.create_task(self._work(reconciler), name=reconciler.name)

    async def _hold_lease(self) -> None:
        lease: Lease | None = None
        while True:
            try:
                if lease is not None:
                    lease = await self._store.renew(lease, LEASE_TTL_S)
                if lease is None:
                    lease = await self._store.claim(LEASE_NAME, self._holder, LEASE_TTL_S)
                self._fence.set(lease)
            except ModelplaneError as error:
                _log.warning("lease.failed", error=str(error))
            await self._clock.sleep(LEASE_TTL_S / 4 if lease else 1.0)

    async def _follow(self) -> None:
        """Queue everything there is, then everything that changes."""
        kinds = tuple({kind for reconciler in self._reconcilers for kind in reconciler.kinds})
        while True:
            try:
                since = await self._queue_all(kinds)
                async for change in self._store.watch(since, kinds):
                    self._dispatch(change.resource)
            except ModelplaneError as error:
                _log.warning("follow.failed", error=str(error))
                await self._clock.sleep(1.0)

    async def _queue_all(self, kinds: Sequence[type[Resource[Any, Any]]]) -> int:
        oldest: int | None = None
        for kind in kinds:
            resources, version = await self._store.list(kind)
            oldest = version if oldest is None else min(oldest, version)
            for resource in resources:
                self._dispatch(resource)
        return oldest or 0

    def _dispatch(self, resource: Resource[Any, Any]) -> None:
        for reconciler in self._reconcilers:
            if isinstance(resource, tuple(reconciler.kinds)):
                for key in reconciler.keys(resource):
                    self._queues[reconciler.name].add(key)

    async def _work(self, reconciler: Reconciler) -> None:
        queue = self._queues[reconciler.name]
        while True:
            key = await queue.take()
            try:
                await self._fence.held.wait()
                after_s = await reconciler.reconcile(key)
                queue.failures.pop(key, None)
            except Exception as error:
                after_s = self._back_off(reconciler.name, queue, key, error)
            finally:
                queue.done(key)
            if after_s is not None:
                queue.add_after(key, after_s)

    def _back_off(self, name: str, queue: _Queue, key: ResourceKey, error: Exception) -> float:
        """Return when to try again; a lost race is ordinary, anything else is logged."""
        count = queue.failures.get(key, 0)
        queue.failures[key] = count + 1
        if not isinstance(error, Conflict):
            expected = isinstance(error, ModelplaneError)
            _log.error(
                "reconcile.failed",
                reconciler=name,
                key=str(key),
                error=str(error),
                exc_info=None if expected else error,
            )
        return min(_RETRY_LAST_S, _RETRY_FIRST_S * 2.0 ** min(count, 10))
