"""Pipelines on the real store: runs to their end, the cache, crashes, and two control planes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from modelplane.controllers.loop import Fence
from modelplane.errors import Conflict
from modelplane.ports.gate_runs import find_run
from modelplane.ports.store import AnyResource, Transaction
from modelplane.resources.job import Job
from modelplane.resources.notification import Notification, NotificationChannel
from tests.controllers.gating import ANA, FAILED, LOST, PASSED, Gates, open_gates

pytestmark = pytest.mark.slow

COMMAND = {"validate:command": {"run": ["true"]}}
SUITE: dict[str, Any] = {
    "validate:command": {"run": ["test", "{cases}"], "cases": ["a", "b", "c"]},
    "name": "suite",
    "shards": 3,
}


@pytest.fixture
async def gates(tmp_path: Path) -> AsyncIterator[Gates]:
    async with open_gates(tmp_path) as opened:
        yield opened


async def test_a_run_passes_its_stages_and_keeps_what_they_found(gates: Gates) -> None:
    await gates.apply("quality", COMMAND, "latency", SUITE, "approve:security_scan")
    await gates.push("1.0.0")
    await gates.start("quality", "1.0.0", reason="to see")
    await gates.settle()
    run = await gates.run("quality-1")
    assert (run.status.phase, run.status.message) == ("Passed", "4 of 4 stages passed")
    assert run.status.environment == "staging"
    assert gates.ran[-1] == "security_scan"
    assert gates.ran.count("suite") == 3
    results = {r.metadata.name: r for r in await gates.results()}
    assert set(results) == {stage.result for stage in run.status.stages}
    assert {r.spec.stage for r in results.values()} == {
        "command", "latency", "suite", "security_scan"
    }  # fmt: skip
    assert not await gates.all(Job), "nothing is left of the jobs"


async def test_a_second_run_reuses_everything_and_a_change_only_what_it_did_not_touch(
    gates: Gates,
) -> None:
    await gates.push_data("test", "1")
    await gates.apply("quality", COMMAND, {"accuracy": {"dataset": "test"}})
    await gates.push("1.0.0")
    await gates.start("quality", "1.0.0")
    await gates.settle()
    await gates.start("quality", "1.0.0")
    await gates.settle()
    assert all(stage.cached for stage in (await gates.run("quality-2")).status.stages)
    await gates.push_data("test", "2")
    gates.ran.clear()
    await gates.start("quality", "1.0.0")
    await gates.settle()
    assert gates.ran == ["accuracy"]
    gates.ran.clear()
    await gates.push("1.1.0")
    await gates.start("quality", "1.1.0")
    await gates.settle()
    assert sorted(gates.ran) == ["accuracy", "command"]
    gates.ran.clear()
    await gates.start("quality", "1.1.0", no_cache=True)
    await gates.settle()
    assert sorted(gates.ran) == ["accuracy", "command"]
    assert len(await gates.results()) == 7


async def test_another_lock_invalidates_every_result(gates: Gates) -> None:
    await gates.apply("quality", COMMAND)
    await gates.push("1.0.0")
    await gates.start("quality", "1.0.0")
    await gates.settle()
    gates.place = type(gates.place)(code="code", environment="another lock")
    gates.restart()
    await gates.start("quality", "1.0.0")
    await gates.settle()
    assert gates.ran == ["command", "command"]


async def test_data_that_is_not_there_is_an_error_that_says_what_to_do(gates: Gates) -> None:
    await gates.apply("quality", {"accuracy": {"dataset": "nothing"}})
    await gates.push("1.0.0")
    await gates.start("quality", "1.0.0")
    await gates.settle()
    run = await gates.run("quality-1")
    assert run.status.phase == "Errored"
    assert "modelplane dataset push" in run.status.message
    assert not gates.ran


async def test_infrastructure_is_tried_again_after_a_pause(gates: Gates) -> None:
    await gates.apply("quality", {**COMMAND, "retries": 2})
    await gates.push("1.0.0")
    await gates.start("quality", "1.0.0")
    gates.ending = lambda job: LOST
    await gates.settle()
    assert gates.ran == ["command"]
    gates.clock.step(5)
    gates.ending = lambda job: PASSED
    await gates.settle()
    assert (await gates.run("quality-1")).status.phase == "Passed"
    assert gates.ran == ["command"] * 2


async def test_the_end_of_a_run_is_told_to_channels_of_the_team(gates: Gates) -> None:
    channel = {
        "kind": "NotificationChannel",
        "metadata": {"name": "risk"},
        "spec": {"webhook": {"url": "http://127.0.0.1:9/"}, "teams": ["risk"]},
    }
    await gates.write(NotificationChannel.model_validate(channel))
    await gates.apply("quality", COMMAND)
    await gates.push("1.0.0")
    await gates.start("quality", "1.0.0")
    gates.ending = lambda job: FAILED
    await gates.settle()
    (told,) = await gates.all(Notification)
    assert told.spec.event.type == "gate.failed"
    assert told.spec.event.data["message"] == "0 of 1 stages passed; command failed: worse"


async def test_a_cancelled_run_ends_its_jobs(gates: Gates) -> None:
    await gates.apply("quality", COMMAND)
    await gates.push("1.0.0")
    await gates.start("quality", "1.0.0")
    gates.ending = lambda job: None
    await gates.settle()
    await gates.write((await gates.run("quality-1")).with_spec(cancelled=True))
    await gates.settle()
    assert (await gates.run("quality-1")).status.phase == "Cancelled"
    assert not await gates.all(Job)


async def test_the_jobs_of_a_deleted_run_end(gates: Gates) -> None:
    await gates.apply("quality", COMMAND)
    await gates.push("1.0.0")
    await gates.start("quality", "1.0.0")
    gates.ending = lambda job: None
    await gates.settle()
    transaction = Transaction(ANA)
    transaction.delete(await gates.run("quality-1"))
    await gates.real.commit(transaction)
    await gates.settle()
    assert not await gates.all(Job)


async def test_a_run_is_found_for_the_pipeline_as_it_is_now(gates: Gates) -> None:
    pipeline = await gates.apply("quality", COMMAND)
    await gates.push("1.0.0")
    run = await gates.start("quality", "1.0.0")
    revision = run.spec.candidate.revision
    found = await find_run(gates.real, pipeline, revision)
    assert found is not None
    assert found.metadata.name == "quality-1"
    changed = await gates.apply("quality", COMMAND, "latency")
    assert await find_run(gates.real, changed, revision) is None
    assert (await gates.start("quality", "1.0.0")).metadata.name == "quality-2"
    await gates.write((await gates.run("quality-2")).with_spec(cancelled=True))
    assert await find_run(gates.real, changed, revision) is None


# -- crashes --------------------------------------------------------------------------------


class _Crash(Exception):
    """The control plane dies here."""


class _CrashingStore:
    """The store, dying before or after its nth commit."""

    def __init__(self, gates: Gates, at: int, *, after: bool) -> None:
        self._gates = gates
        self._at = at
        self._after = after
        self.commits = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._gates.real, name)

    async def commit(self, transaction: Transaction) -> Any:
        self.commits += 1
        dies = self.commits == self._at
        if dies and not self._after:
            raise _Crash
        written: list[AnyResource] = list(await self._gates.real.commit(transaction))
        if dies:
            raise _Crash
        return written


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 9))
async def test_a_crash_before_or_after_any_commit_loses_and_doubles_nothing(
    gates: Gates, at: int, after: bool
) -> None:
    store = _CrashingStore(gates, at, after=after)
    gates.store = store
    gates.restart()
    lost: list[str] = []

    def ending(job: Job) -> Any:
        if job.metadata.labels["stage"] == "command" and not lost:
            lost.append(job.metadata.name)
            return LOST
        return PASSED

    gates.ending = ending
    await gates.apply(
        "quality", {**COMMAND, "retries": 1}, SUITE, {"latency": None, "role": "approve"},
        triggers=["on_model_push"],
    )  # fmt: skip
    await gates.push("1.0.0")
    for _ in range(6):
        try:
            await gates.settle()
            gates.clock.step(10)
        except _Crash:
            gates.restart()
    (run,) = await gates.runs()
    assert store.commits >= at
    assert run.status.phase == "Passed"
    assert sorted(gates.ran) == ["command", "command", "latency", "suite", "suite", "suite"]
    assert len(await gates.results()) == 3
    assert not await gates.all(Job)


async def test_a_control_plane_that_lost_its_lease_writes_nothing(gates: Gates) -> None:
    await gates.apply("quality", COMMAND)
    await gates.push("1.0.0")
    run = await gates.start("quality", "1.0.0")
    stale = Fence()
    stale.set(gates.fence.lease)
    other = type(gates.gates)(gates.real, stale, gates.clock, gates.place)
    gates.clock.step(2_000_000)
    await gates.take_lease("two")
    with pytest.raises(Conflict):
        await other.reconcile(run.key)
    assert (await gates.run("quality-1")).status.phase == "Pending"
    await gates.settle()
    assert (await gates.run("quality-1")).status.phase == "Passed"
    assert gates.ran == ["command"]
