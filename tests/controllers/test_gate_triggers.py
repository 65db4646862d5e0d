"""Triggers on the real store: one run for each cause, in bounded numbers, whatever restarts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelplane.decisions.gate_triggers import MAX_UNFINISHED
from modelplane.resources.validation_pipeline import ValidationPipeline
from tests.controllers.gating import PASSED, Gates, open_gates

pytestmark = pytest.mark.slow

COMMAND = {"validate:command": {"run": ["true"]}}


@pytest.fixture
async def gates(tmp_path: Path) -> AsyncIterator[Gates]:
    async with open_gates(tmp_path) as opened:
        yield opened


async def told(gates: Gates) -> list[tuple[str, str, str]]:
    """What ran: trigger, version, phase."""
    runs = sorted(await gates.runs(), key=lambda run: run.metadata.resource_version)
    return [(r.spec.trigger, r.spec.candidate.revision.version, r.status.phase) for r in runs]


async def test_a_push_starts_one_run_and_old_versions_none(gates: Gates) -> None:
    await gates.push("1.0.0")
    gates.clock.step(60)
    await gates.apply("quality", COMMAND, triggers=["on_model_push"])
    await gates.settle()
    gates.clock.step(60)
    await gates.push("1.1.0")
    await gates.settle()
    gates.restart()
    await gates.settle()
    assert await told(gates) == [("push", "1.1.0", "Passed")]


async def test_a_push_while_nobody_looked_is_made_up_for(gates: Gates) -> None:
    await gates.apply("quality", COMMAND, triggers=["on_model_push"])
    await gates.settle()
    gates.clock.step(60)
    await gates.push("1.1.0")
    gates.clock.step(60)
    await gates.apply("quality", COMMAND, "latency", triggers=["on_model_push"])
    gates.restart()
    await gates.settle()
    assert await told(gates) == [("push", "1.1.0", "Passed")]


async def test_new_data_runs_the_champion_and_a_contract_the_newest_version_too(
    gates: Gates,
) -> None:
    await gates.push("1.0.0")
    await gates.push("1.1.0")
    await gates.serve("1.0.0")
    await gates.apply("quality", COMMAND, triggers=[{"on_dataset": "test"}, "on_contract"])
    await gates.settle()
    gates.clock.step(60)
    await gates.push_data("unnamed", "1")
    await gates.push_data("test", "1")
    await gates.settle()
    assert [(t, v) for t, v, _ in await told(gates)] == [("dataset", "1.0.0")]
    gates.clock.step(60)
    await gates.publish("shop", "7")
    await gates.settle()
    gates.restart()
    await gates.settle()
    ran = [(t, v) for t, v, _ in await told(gates)]
    assert sorted(ran[1:]) == [("contract", "1.0.0"), ("contract", "1.1.0")]


async def test_the_schedule_runs_champions_once_for_each_time_it_comes(gates: Gates) -> None:
    await gates.push("1.0.0")
    await gates.serve("1.0.0")
    pipeline = await gates.apply("nightly", COMMAND, triggers={"schedule": "0 3 * * *"})
    await gates.settle()
    wait_s = await gates.triggers.reconcile(pipeline.key)
    assert wait_s is not None
    assert 0 < wait_s <= 3600
    gates.clock.step(24 * 3600 * 3)
    await gates.settle()
    await gates.settle()
    gates.restart()
    await gates.settle()
    assert await told(gates) == [("schedule", "1.0.0", "Passed")]
    stored = await gates.real.get(ValidationPipeline, "nightly")
    assert f"{stored.status.since['schedule']:%d %H}" == "08 03"


async def test_many_causes_wait_for_each_other(gates: Gates) -> None:
    await gates.apply("quality", COMMAND, triggers=["on_model_push"])
    await gates.settle()
    gates.clock.step(60)
    gates.ending = lambda job: None
    for patch in range(MAX_UNFINISHED + 3):
        await gates.push(f"1.0.{patch}")
    await gates.settle()
    assert len(await gates.runs()) == MAX_UNFINISHED
    gates.ending = lambda job: PASSED
    await gates.settle()
    phases = {phase for _, _, phase in await told(gates)}
    assert (len(await gates.runs()), phases) == (MAX_UNFINISHED + 3, {"Passed"})
