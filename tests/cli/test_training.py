"""``training`` on the command line, against the real API."""

from __future__ import annotations

import json
from typing import Any

from modelplane.ports.store import Transaction
from modelplane.resources.training import TrainingRun
from tests.api.test_training import TRIGGER
from tests.api.world import SYSTEM, World
from tests.cli.test_lineage import Run, run, world

__all__ = ["run", "world"]


async def ok(run: Run, *words: str) -> str:
    result = await run(*words)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


async def begin(world: World, run: Run) -> None:
    await world.ok("PUT", "/training-triggers/retrain", {"spec": TRIGGER})
    assert await ok(run, "training", "start", "retrain", "--reason", "May") == "retrain-1\n"


async def end(world: World, **status: Any) -> None:
    transaction = Transaction(SYSTEM)
    before = await world.store.get(TrainingRun, "retrain-1")
    transaction.update(before.with_status(**status))
    await world.store.commit(transaction)


async def test_a_training_from_its_start_to_its_version(world: World, run: Run) -> None:
    assert "no triggers" in (await run("training", "list")).stderr
    await begin(world, run)
    (line,) = (await ok(run, "training", "list")).splitlines()[1:]
    assert line.split()[:5] == ["retrain", "fraud", "hand", "1", "retrain-1"]
    await end(world, phase="Running", progress=0.5, progress_message="epoch 2")
    shown = await ok(run, "training", "show", "retrain-1")
    assert "retrain-1 trains fraud: Running  50 %  epoch 2" in shown
    assert "because of hand: May" in shown
    await end(world, phase="Succeeded", versions=("fraud@1.1.0",), message="registered it")
    assert "registered fraud@1.1.0" in await ok(run, "training", "show", "retrain-1")
    trigger = await ok(run, "training", "show", "retrain")
    assert "retrain trains fraud, on hand" in trigger
    assert "retrain-1" in trigger
    (listed,) = json.loads(await ok(run, "training", "list", "retrain", "-o", "json"))
    assert listed["status"]["versions"] == ["fraud@1.1.0"]


async def test_one_that_is_under_way_is_named_and_can_be_cancelled(world: World, run: Run) -> None:
    await begin(world, run)
    again = await run("training", "start", "retrain")
    assert again.exit_code != 0
    assert "retrain-1 is under way" in again.stderr
    assert "being cancelled" in await ok(run, "training", "cancel", "retrain-1")


async def test_what_is_not_there_is_told(world: World, run: Run) -> None:
    await begin(world, run)
    for words, says in (
        (("start", "retrian"), "did you mean 'retrain'"),
        (("show", "retrain-9"), "does not exist"),
        (("logs", "retrain-1"), "no log here"),
        (("list", "retrian"), "does not exist"),
    ):
        result = await run("training", *words)
        assert result.exit_code != 0
        assert says in result.stderr
