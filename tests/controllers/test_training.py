"""Trainings on the real store: each ends for a reason that is told, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from modelplane.decisions.training_names import token_name
from modelplane.decisions.training_runs import ServiceAnswer
from modelplane.errors import Conflict
from modelplane.ports.store import Transaction
from modelplane.resources.alerting import Alert, AlertSpec, AlertStatus
from modelplane.resources.dataset import DatasetVersion
from modelplane.resources.job import Job
from modelplane.resources.meta import Metadata
from modelplane.resources.training import (
    TrainingRun,
)
from tests.controllers.training import (
    ANA,
    COMMAND,
    PLACE,
    SERVICE,
    Crash,
    CrashingStore,
    Plane,
    open_training,
)

pytestmark = pytest.mark.slow


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    async with open_training(tmp_path) as opened:
        yield opened


async def test_new_data_trains_a_version_that_is_linked_to_the_run(plane: Plane) -> None:
    await plane.declare(on={"dataset": ["payments"]})
    await plane.push_data(1)
    run = await plane.run()
    assert (run.status.phase, run.spec.cause) == ("Running", "dataset")
    job = await plane.job()
    assert job.spec.command == ("train", "--all")
    assert job.spec.training is not None
    assert job.spec.training.cause["data"]["version"] == "1"
    await plane.report(phase="Running", progress=0.5, progress_message="epoch 2")
    assert (await plane.run()).status.progress == 0.5
    await plane.give_token()
    await plane.push("1.1.0")
    await plane.report(phase="Succeeded", exit_code=0)
    run = await plane.run()
    assert (run.status.phase, run.status.versions) == ("Succeeded", ("fraud@1.1.0",))
    assert run.status.progress == 1.0
    assert await plane.tokens() == []


@pytest.mark.parametrize(
    ("job", "reason", "words"),
    [
        ({"phase": "Succeeded"}, "RegisteredNothing", "no version"),
        ({"phase": "Failed", "reason": "ExitCode", "message": "exit code 3"}, "Failed", "3"),
        ({"phase": "Failed", "exit_code": 127, "message": "127"}, "Failed", "not found"),
        ({"phase": "Failed", "reason": "TimedOut", "message": "1h"}, "TimedOut", "1h"),
        ({"phase": "Failed", "reason": "NotStarted", "message": "no train"}, "Failed", "no train"),
    ],
)
async def test_a_training_that_comes_to_nothing_says_why(
    plane: Plane, job: dict[str, Any], reason: str, words: str
) -> None:
    await plane.declare()
    await plane.start()
    await plane.give_token()
    await plane.report(log_tail="the last words", **job)
    status = (await plane.run()).status
    assert (status.phase, status.reason) == ("Failed", reason)
    assert words in status.message
    assert status.log_tail == "the last words"
    assert await plane.tokens() == []


async def test_mlflow_that_is_not_there_is_told_in_words(plane: Plane) -> None:
    project = {"mlflow": {"uri": "/projects/fraud", "parameters": {"epochs": "3"}}}
    await plane.declare(run=project)
    await plane.start()
    command = (await plane.job()).spec.command
    assert command[:5] == ("{python}", "-m", "mlflow", "run", "/projects/fraud")
    assert command[-2:] == ("-P", "epochs=3")
    tail = "python3: No module named mlflow"
    await plane.report(phase="Failed", reason="ExitCode", message="code 1", log_tail=tail)
    assert "pip install mlflow" in (await plane.run()).status.message


async def test_a_cancelled_run_ends_its_job_and_then_itself(plane: Plane) -> None:
    await plane.declare()
    await plane.start()
    await plane.report(phase="Running", started_at=plane.clock.now())
    await plane.write((await plane.run()).with_spec(cancelled=True))
    await plane.settle()
    assert (await plane.job()).spec.cancelled
    assert (await plane.run()).status.phase == "Running", "as long as its process"
    await plane.report(phase="Cancelled")
    assert (await plane.run()).status.phase == "Cancelled"
    assert (await plane.real.list(Job))[0] == []


async def test_two_triggers_of_one_model_train_one_after_the_other(plane: Plane) -> None:
    await plane.declare(on={"dataset": ["payments"]})
    await plane.declare("nightly", on={"dataset": ["payments"]})
    await plane.push_data(1)
    assert [run.status.phase for run in await plane.all_runs()] == ["Running"]
    (first,) = await plane.all_runs()
    with pytest.raises(Conflict, match=first.metadata.name):
        await plane.start("nightly" if first.spec.trigger == "fraud" else "fraud")
    await plane.push("1.1.0", first.metadata.name)
    await plane.report(first.metadata.name, phase="Succeeded")
    phases = sorted(run.status.phase for run in await plane.all_runs())
    assert phases == ["Running", "Succeeded"]


async def test_runs_that_began_at_once_wait_for_each_other(plane: Plane) -> None:
    await plane.declare()
    first = await plane.start()
    second = TrainingRun(
        metadata=Metadata(name="nightly-1", labels={"model": "fraud"}),
        spec=first.spec.with_(trigger="nightly"),
    )
    await plane.write(second)
    await plane.settle()
    waiting = await plane.run("nightly-1")
    assert waiting.status.phase == "Pending"
    assert "fraud-1" in waiting.status.message
    await plane.report(phase="Failed", reason="ExitCode")
    assert (await plane.run("nightly-1")).status.phase == "Running"


async def test_a_trigger_does_not_train_on_what_its_own_run_registered(plane: Plane) -> None:
    await plane.declare(on={"dataset": ["payments"]})
    await plane.push_data(1)
    await plane.push_data(2, author=token_name("fraud-1"))
    await plane.push("1.1.0")
    await plane.report(phase="Succeeded")
    assert len(await plane.all_runs()) == 1


async def test_an_alert_that_fires_trains(plane: Plane) -> None:
    await plane.declare(on={"alerts": ['alertname="Drift"']})
    alert = Alert(
        metadata=Metadata(name="drift-1"),
        spec=AlertSpec(alert="Drift", source="modelplane", fingerprint="ab"),
        status=AlertStatus(phase="Firing", episode=1),
    )
    await plane.write(alert)
    await plane.settle()
    assert (await plane.run()).spec.data["alert"] == "drift-1"
    await plane.push("1.1.0")
    await plane.report(phase="Succeeded")
    for by in ("quiet", ""):  # a silence comes and goes
        alert = await plane.real.get(Alert, "drift-1")
        await plane.write(alert.with_status(silenced_by=by))
        await plane.settle()
    assert len(await plane.all_runs()) == 1, "once for each time that it began"
    await plane.write((await plane.real.get(Alert, "drift-1")).with_status(episode=2))
    await plane.settle()
    assert len(await plane.all_runs()) == 2


async def test_a_run_that_is_deleted_leaves_neither_job_nor_token(plane: Plane) -> None:
    await plane.declare()
    run = await plane.start()
    await plane.give_token()
    transaction = Transaction(ANA)
    transaction.delete(run)
    await plane.real.commit(transaction)
    for key in plane.runs.keys(run):
        await plane.runs.reconcile(key)
    assert (await plane.job()).spec.cancelled
    assert await plane.tokens() == []


# -- crashes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("way", [COMMAND, SERVICE])
async def test_a_crash_at_any_commit_loses_no_cause_and_trains_once(
    plane: Plane, way: Any, *, after: bool
) -> None:
    await plane.declare(run=way, on={"dataset": ["payments"]})
    plane.service.answers = [ServiceAnswer("running", location=PLACE)] * 3
    await plane.push_data(1)
    await _let_end(plane, "fraud-1", way, "Failed")
    last = 1
    for at in range(1, 8):
        plane.clock.step(60)
        plane.restart(CrashingStore(plane.real, at, after=after))
        plane.service.answers = [ServiceAnswer("running", location=PLACE)] * 3
        last += 1
        try:
            await plane.push_data(last)
        except Crash:
            plane.restart()
            await plane.settle()
        runs = await plane.all_runs()
        assert len(runs) == last, f"one run for each cause, crash at commit {at}"
        name = f"fraud-{last}"
        started = [told for told in plane.service.told if told.startswith("start")]
        uid = (await plane.run(name)).metadata.uid
        assert way is COMMAND or f"start {uid}" in started
        await _let_end(plane, name, way, "Succeeded")
        assert [run.status.phase for run in await plane.all_runs()].count("Running") == 0


async def _let_end(plane: Plane, name: str, way: Any, phase: str) -> None:
    plane.restart()
    await plane.push(f"1.{name.rpartition('-')[2]}.0", name if phase == "Succeeded" else None)
    if way is COMMAND:
        await plane.report(name, phase=phase, reason="" if phase == "Succeeded" else "ExitCode")
        assert not (await plane.real.list(Job))[0], "it goes with its run"
        return
    outcome = "done" if phase == "Succeeded" else "failed"
    plane.service.answers = [ServiceAnswer(outcome)]  # type: ignore[arg-type]
    plane.clock.step(60)
    await plane.settle()
    assert (await plane.run(name)).finished


async def test_what_a_seed_of_crashes_leaves_is_whole(plane: Plane) -> None:
    dice = random.Random(7)
    await plane.declare(on={"dataset": ["payments"]})
    for number in range(1, 16):
        plane.restart(CrashingStore(plane.real, dice.randint(1, 5), after=dice.random() < 0.5))
        try:
            await plane.push_data(number)
            await plane.report(f"fraud-{number}", phase="Succeeded")
        except Crash:
            plane.restart()
            await plane.settle()
            if not (await plane.run(f"fraud-{number}")).finished:
                await plane.report(f"fraud-{number}", phase="Succeeded")
    assert [run.status.reason for run in await plane.all_runs()] == ["RegisteredNothing"] * 15


# -- watched data -------------------------------------------------------------------------------


async def test_watched_data_is_registered_and_trained_on_when_it_has_settled(
    plane: Plane,
) -> None:
    uri = "/data/payments.csv"
    plane.places.data[uri] = "old"
    await plane.declare(on={"data": [{"uri": uri, "every": "10s", "dataset": "payments"}]})

    async def look(*, times: int = 2) -> list[str]:
        for _ in range(times):
            await plane.clock.advance(10)
            for _ in range(20):
                await asyncio.sleep(0)
        await plane.settle()
        return [run.spec.data.get("digest", "") for run in await plane.all_runs()]

    assert await look() == []
    plane.places.data[uri] = "half"
    assert await look(times=1) == []
    plane.places.data[uri] = "whole"
    assert await look(times=1) == [], "it was different at each look"
    assert await look() == ["sha256:whole"]
    plane.restart()
    assert await look(times=4) == ["sha256:whole"], "a restart is no news"
    stored = await plane.real.get(DatasetVersion, "payments@2")
    assert stored.spec.uri == uri
    assert (await plane.run()).spec.data["version"] == "2"
