"""A control plane that dies at any write of a poll, here or there, goes on and ends the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from modelplane.ports.store import AnyResource, Transaction
from modelplane.resources.model import AliasMove, Model
from tests.controllers.watching import Watch, open_watch


class Death(BaseException):
    """The process ends here."""


class Fate:
    """Ends the process before or after the n-th write, whether to the store or to the registry."""

    def __init__(self, watch: Watch, at: int, *, after: bool) -> None:
        self.left = at
        self.after = after
        self.died = False
        store: Any = watch.store
        registry: Any = watch.registry
        commit = store.commit
        set_alias, set_tag = registry.set_alias, registry.set_tag

        async def commit_or_die(transaction: Transaction) -> Sequence[AnyResource]:
            written: Sequence[AnyResource] = await self.write(lambda: commit(transaction))
            return written

        async def set_alias_or_die(*arguments: Any) -> None:
            await self.write(lambda: set_alias(*arguments))

        async def set_tag_or_die(*arguments: Any) -> None:
            await self.write(lambda: set_tag(*arguments))

        store.commit = commit_or_die
        registry.set_alias = set_alias_or_die
        registry.set_tag = set_tag_or_die

    async def write(self, effect: Any) -> Any:
        self.left -= 1
        if self.left != 0:
            return await effect()
        if self.after:
            await effect()
        self.died = True
        raise Death


@pytest.fixture
async def watch() -> AsyncIterator[Watch]:
    async with open_watch() as made:
        yield made


async def prepare(watch: Watch) -> None:
    """Versions to take over, follow and bury; aliases that moved there, here, and on both."""
    for _ in range(3):
        watch.registry.register("fraud")
    for alias in ("there", "here", "both"):
        watch.registry.move_alias("fraud", alias, 1)
    await watch.declare()
    await watch.settle()
    watch.registry.register("fraud")
    watch.registry.tag("fraud", 2, "k", "v")
    watch.registry.delete_version("fraud", 3)
    watch.registry.move_alias("fraud", "there", 2)
    await watch.move_here("fraud", "here", "2.0.0")
    watch.registry.move_alias("fraud", "both", 2)
    await watch.move_here("fraud", "both", None)


async def outcome(watch: Watch) -> Any:
    model = await watch.store.get(Model, "fraud")
    moves, _ = await watch.store.list(AliasMove)
    return {
        "living": await watch.living(),
        "here": model.status.aliases,
        "base": model.status.mirrored_aliases,
        "there": dict(watch.registry.aliases("fraud")),
        "moves": sorted(
            (m.spec.alias, str(m.spec.before), str(m.spec.after), m.spec.origin) for m in moves
        ),
        "names": [m.metadata.name for m in moves],
    }


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(1, 9))
async def test_death_at_any_write_loses_and_doubles_nothing(
    watch: Watch, at: int, after: bool
) -> None:
    await prepare(watch)
    fate = Fate(watch, at, after=after)
    for _ in range(5):
        try:
            await watch.poll()
        except (Death, BaseExceptionGroup):
            watch.restart()
    assert fate.died, "the poll makes fewer writes than this test thinks"
    await watch.settle()
    assert await outcome(watch) == {
        "living": ["fraud@1.0.0", "fraud@2.0.0", "fraud@4.0.0"],
        "here": {"there": "2.0.0", "here": "2.0.0"},
        "base": {"there": "2.0.0", "here": "2.0.0"},
        "there": {"there": 2, "here": 2},
        "moves": [
            ("both", "1.0.0", "None", "request"),
            ("both", "2.0.0", "None", "request"),
            ("both", "None", "1.0.0", "outside"),
            ("both", "None", "2.0.0", "outside"),
            ("here", "1.0.0", "2.0.0", "request"),
            ("here", "None", "1.0.0", "outside"),
            ("there", "1.0.0", "2.0.0", "outside"),
            ("there", "None", "1.0.0", "outside"),
        ],
        "names": [f"fraud@{number:08d}" for number in range(1, 9)],
    }
