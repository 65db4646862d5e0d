"""Changes by MLflow's clients: one at a time for each model, so that none of them collide.

Used by the handlers of this package. A training farm that registers versions of one model from
many machines would otherwise lose races that a client does not repeat.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from modelplane.api.access import Context
from modelplane.api.committing import commit
from modelplane.api.mlflow.finding import FoundBefore
from modelplane.api.mlflow.parameters import Values
from modelplane.api.mlflow.reading import Encoder
from modelplane.decisions.admission import Asked
from modelplane.decisions.aliases import Mover
from modelplane.decisions.registry_index import RegistryIndex
from modelplane.errors import TransientError
from modelplane.ports.store import AnyResource, Transaction
from modelplane.resources.meta import Subject

T = TypeVar("T")

_MAX_WAITING = 512
"""Changes of one model that may wait; more are refused and repeated by the client."""


class ModelLocks:
    """One lock for each model that is being changed."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, *names: str) -> AsyncIterator[None]:
        """Hold the locks of `names`.

        Raises
        ------
        TransientError
            Too many wait for one of them.
        """
        async with AsyncExitStack() as held:
            for name in sorted(set(names)):  # always in this order: no two wait for each other
                await held.enter_async_context(self._hold(name))
            yield

    @asynccontextmanager
    async def _hold(self, name: str) -> AsyncIterator[None]:
        lock, users = self._locks.get(name, (asyncio.Lock(), 0))
        if users > _MAX_WAITING:
            raise TransientError(f"{users} changes of model {name!r} are waiting")
        self._locks[name] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            users = self._locks[name][1] - 1
            if users:
                self._locks[name] = lock, users
            else:
                del self._locks[name]


@dataclass(frozen=True, slots=True)
class Call:
    """One request that was let in, and what serves it."""

    context: Context
    locks: ModelLocks
    encoder: Encoder
    found: FoundBefore
    subject: Subject
    values: Values
    request: Request

    @property
    def asked(self) -> Asked:
        """Who asks, and when."""
        return Asked(self.subject, self.context.dependencies.clock.now())

    def mover(self, reason: str = "") -> Mover:
        """Return who moves an alias, and when."""
        return Mover(self.subject.name, self.context.dependencies.clock.now(), reason)

    async def index(self) -> RegistryIndex:
        """Return the registry as it is; take what is needed before the next await."""
        return await self.context.catalog.current()

    async def change(
        self, names: Sequence[str], prepare: Callable[[Transaction], Awaitable[T]]
    ) -> tuple[T, Sequence[AnyResource]]:
        """Carry out a change of the models `names`.

        Parameters
        ----------
        names
            What it changes.
        prepare
            Reads, decides and fills the transaction; called again after a conflict.

        Returns
        -------
        tuple
            What `prepare` returned, and the resources as they were written.
        """

        async def attempt() -> tuple[Transaction, T]:
            transaction = Transaction(self.subject)
            return transaction, await prepare(transaction)

        async with self.locks.hold(*names):
            result, resources = await commit(self.context.store, attempt)
            self.context.catalog.absorb(resources)
            return result, resources


def written(resources: Sequence[Any], resource: T) -> T:
    """Return `resource` as it was written, or as it is when nothing changed."""
    key = resource.key  # type: ignore[attr-defined]
    return next((one for one in resources if one.key == key), resource)
