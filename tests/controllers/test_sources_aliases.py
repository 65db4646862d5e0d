"""Aliases of a watched registry: what moves on one side moves on the other, and is recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from modelplane.decisions.aliases import Mover, report_serving
from modelplane.ports.registries import (
    SourceRefused,
)
from modelplane.ports.store import Transaction
from modelplane.resources.model import Model, Serving
from tests.controllers.watching import ANA, Watch, open_watch


@pytest.fixture
async def watch() -> AsyncIterator[Watch]:
    async with open_watch() as made:
        yield made


async def test_an_alias_moved_there_by_hand_is_recorded_as_such(watch: Watch) -> None:
    watch.registry.register("fraud")
    watch.registry.register("fraud")
    watch.registry.move_alias("fraud", "champion", 1)
    await watch.declare()
    await watch.settle()
    watch.registry.move_alias("fraud", "champion", 2)
    await watch.settle()
    watch.registry.move_alias("fraud", "champion", None)
    await watch.settle()
    assert await watch.aliases() == {}
    assert await watch.moves() == [
        ("champion", None, "1.0.0", "outside", "mlflow"),
        ("champion", "1.0.0", "2.0.0", "outside", "mlflow"),
        ("champion", "2.0.0", None, "outside", "mlflow"),
    ]


async def test_an_alias_moved_here_is_written_there(watch: Watch) -> None:
    watch.registry.register("fraud")
    watch.registry.register("fraud")
    watch.registry.move_alias("fraud", "old", 1)
    await watch.declare()
    await watch.settle()
    await watch.move_here("fraud", "champion", "2.0.0")
    await watch.move_here("fraud", "old", None)
    await watch.settle()
    assert watch.registry.aliases("fraud") == {"champion": 2}
    # Written once: a move there right after is not taken for a conflict.
    watch.registry.move_alias("fraud", "champion", 1)
    await watch.settle()
    assert await watch.aliases() == {"champion": "1.0.0"}
    assert (await watch.condition("AliasesInSync")).reason == "Same"


async def test_nothing_is_written_there_without_leave(watch: Watch) -> None:
    watch.registry.register("fraud")
    await watch.declare(writeBack=False)
    await watch.settle()
    await watch.move_here("fraud", "champion", "1.0.0")
    await watch.settle()
    assert watch.registry.aliases("fraud") == {}
    assert await watch.aliases() == {"champion": "1.0.0"}


async def test_where_both_moved_ours_wins_and_both_are_recorded(watch: Watch) -> None:
    for _ in range(3):
        watch.registry.register("fraud")
    watch.registry.move_alias("fraud", "champion", 1)
    await watch.declare()
    await watch.settle()
    await watch.move_here("fraud", "champion", "2.0.0")
    watch.registry.move_alias("fraud", "champion", 3)
    await watch.settle()
    assert await watch.aliases() == {"champion": "2.0.0"}
    assert watch.registry.aliases("fraud") == {"champion": 2}
    assert [move[:4] for move in await watch.moves()] == [
        ("champion", None, "1.0.0", "outside"),
        ("champion", "1.0.0", "2.0.0", "request"),
        ("champion", "2.0.0", "3.0.0", "outside"),
        ("champion", "3.0.0", "2.0.0", "request"),
    ]
    condition = await watch.condition("AliasesInSync")
    assert condition.reason == "BothMoved"
    assert "champion of fraud" in condition.message


async def test_an_alias_that_may_not_be_written_is_told(watch: Watch) -> None:
    watch.registry.register("fraud")
    await watch.declare()
    await watch.settle()
    await watch.move_here("fraud", "champion", "1.0.0")

    async def refuse(model: str, alias: str, number: int) -> None:
        raise SourceRefused("Forbidden", "mlflow answered 403")

    watch.registry.set_alias = refuse  # type: ignore[method-assign]
    await watch.poll()
    condition = await watch.condition("AliasesInSync")
    assert (condition.status, condition.reason) == ("False", "NotWritten")
    assert "403" in condition.message
    del watch.registry.set_alias
    await watch.settle()
    assert watch.registry.aliases("fraud") == {"champion": 1}
    assert (await watch.condition("AliasesInSync")).status == "True"


async def test_what_serves_where_stands_there_in_tags(watch: Watch) -> None:
    watch.registry.register("fraud")
    watch.registry.register("fraud")
    await watch.declare()
    await watch.settle()

    async def serve(champion: str, challenger: str | None, promotion: str) -> None:
        serving = Serving(
            environment="production", deployment="fraud", champion=champion, challenger=challenger
        )
        mover = Mover("ana", watch.clock.now(), "", "rollout", promotion)
        moved = report_serving(await watch.store.get(Model, "fraud"), serving, mover)
        transaction = Transaction(ANA)
        for changed in moved.written:
            transaction.put(changed, "serving")
        await watch.store.commit(transaction)
        await watch.settle()

    await serve("1.0.0", "2.0.0", "fraud-1")
    assert watch.registry.tags("fraud", 2) == {"modelplane.environment.production": "challenger"}
    await serve("2.0.0", None, "fraud-2")
    tags = watch.registry.tags("fraud", 2)
    assert tags == {
        "modelplane.environment.production": "champion",
        "modelplane.promotion": "production/fraud-2",
        "modelplane.evidence": "http://127.0.0.1:7080/api/v1/promotions/fraud-2"
        "?environment=production",
    }
    assert "modelplane.environment.production" not in watch.registry.tags("fraud", 1)
    assert (await watch.versions())["fraud@2.0.0"].status.tags == {}
