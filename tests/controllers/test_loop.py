"""The loop: what changes is reconciled, one key never twice at once, failures later again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.controllers.loop import ControllerLoop, Fence
from modelplane.errors import TransientError
from modelplane.ports.store import Transaction
from modelplane.resources.meta import Metadata, Resource, ResourceKey, Subject
from modelplane.resources.model import Model
from modelplane.testing.clock import ManualClock

ANA = Subject(name="ana", groups=("admin",))


class Slow:
    """Works on a key until it is let go; remembers who was worked on, and when."""

    name = "slow"
    kinds: Sequence[type[Resource[Any, Any]]] = (Model,)

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.working: list[str] = []
        self.let_go: dict[str, asyncio.Event] = {}
        self.failing: set[str] = set()

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        yield resource.key

    async def reconcile(self, key: ResourceKey) -> float | None:
        self.begun.append(key.name)
        self.working.append(key.name)
        try:
            await self.let_go.setdefault(key.name, asyncio.Event()).wait()
        finally:
            self.working.remove(key.name)
        if key.name in self.failing:
            self.failing.remove(key.name)
            raise TransientError("not now")
        return None

    def finish(self, name: str) -> None:
        """Let whoever works on `name` go, once."""
        self.let_go.pop(name).set()


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nobody signals
            await asyncio.sleep(0.005)


async def put(store: SqliteStore, *names: str, description: str = "") -> None:
    transaction = Transaction(ANA)
    for name in names:
        model = await store.find(Model, name) or Model(metadata=Metadata(name=name))
        transaction.put(model.with_spec(description=description), "test")
    await store.commit(transaction)


@asynccontextmanager
async def running(
    tmp_path: Path, workers: Mapping[str, int]
) -> AsyncIterator[tuple[Slow, SqliteStore]]:
    """Run the loop over one slow reconciler."""
    store = SqliteStore(
        tmp_path / "s.db", clock=ManualClock(), new_uid=lambda: "u", audit_dir=tmp_path / "audit"
    )
    await store.open()
    slow = Slow()
    loop = ControllerLoop(
        store, [slow], fence=Fence(), holder="me", clock=ManualClock(), workers=workers
    )
    task = asyncio.create_task(loop.run())
    try:
        yield slow, store
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.close()


async def test_a_reconciler_works_on_one_key_at_a_time(tmp_path: Path) -> None:
    async with running(tmp_path, {}) as (slow, store):
        await put(store, "a", "b")
        await until(lambda: slow.working == ["a"])
        await asyncio.sleep(0.05)
        assert slow.begun == ["a"]
        slow.finish("a")
        await until(lambda: slow.working == ["b"])
        slow.finish("b")


async def test_with_more_workers_a_slow_key_holds_up_no_other(tmp_path: Path) -> None:
    async with running(tmp_path, {"slow": 2}) as (slow, store):
        await put(store, "a", "b", "c")
        await until(lambda: slow.working == ["a", "b"])
        await asyncio.sleep(0.05)
        assert slow.begun == ["a", "b"]  # as many as there are workers
        slow.finish("b")
        await until(lambda: slow.working == ["a", "c"])


@pytest.mark.parametrize("workers", [1, 3])
async def test_what_changes_during_the_work_is_worked_on_again_but_not_twice_at_once(
    tmp_path: Path, workers: int
) -> None:
    async with running(tmp_path, {"slow": workers}) as (slow, store):
        await put(store, "a")
        await until(lambda: slow.working == ["a"])
        for description in ("one", "two", "three"):
            await put(store, "a", description=description)
        await asyncio.sleep(0.05)
        assert slow.begun == ["a"]
        slow.finish("a")
        await until(lambda: slow.begun == ["a", "a"])
        slow.finish("a")
        await until(lambda: not slow.working)
        await asyncio.sleep(0.05)
        assert slow.begun == ["a", "a"]  # the three changes together are one


async def test_what_failed_is_tried_again(tmp_path: Path) -> None:
    async with running(tmp_path, {"slow": 2}) as (slow, store):
        slow.failing.add("a")
        await put(store, "a", "b")
        await until(lambda: slow.working == ["a", "b"])
        slow.finish("a")
        await until(lambda: slow.begun == ["a", "b", "a"])
        slow.finish("a")
        slow.finish("b")
