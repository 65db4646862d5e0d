"""Training services, and agents that are away: each run ends, and its end is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelplane.decisions.training_runs import ServiceAnswer
from modelplane.resources.job import Job
from modelplane.resources.training import (
    TrainingRun,
)
from tests.controllers.training import (
    PLACE,
    SERVICE,
    Plane,
    open_training,
)

pytestmark = pytest.mark.slow


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    async with open_training(tmp_path) as opened:
        yield opened


async def test_a_run_whose_agent_is_away_is_cancelled_and_its_job_never_starts(
    plane: Plane,
) -> None:
    await plane.declare()
    await plane.write((await plane.start()).with_spec(cancelled=True))
    await plane.settle()
    assert (await plane.run()).status.phase == "Cancelled"
    assert (await plane.job()).spec.cancelled
    await plane.report(phase="Cancelled")  # the agent is back
    assert (await plane.real.list(Job))[0] == []


async def test_a_run_whose_agent_went_away_for_good_does_not_block_its_model_for_ever(
    plane: Plane,
) -> None:
    await plane.declare(timeout="1h")
    await plane.start()
    await plane.report(phase="Running", started_at=plane.clock.now())
    plane.clock.step(3700)
    await plane.settle()
    assert (await plane.run()).status.phase == "Running", "its agent may be restarting"
    plane.clock.step(600)
    await plane.settle()
    status = (await plane.run()).status
    assert (status.phase, status.reason) == ("Failed", "TimedOut")
    assert (await plane.job()).spec.cancelled
    assert (await plane.start()).status.phase == "Running"


async def test_old_runs_that_registered_nothing_are_not_kept_for_ever(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelplane.decisions.training.KEPT_RUNS", 2)
    await plane.declare()
    for number in range(1, 7):
        run = await plane.start()
        versions = ("fraud@1",) if number == 1 else ()
        await plane.write(run.with_status(phase="Failed", versions=versions))
        await plane.settle()
    assert len(await plane.all_runs()) == 6, "the budget counts those of the last day"
    plane.clock.step(25 * 3600)
    await plane.settle()
    names = [run.metadata.name for run in await plane.all_runs()]
    assert names == ["fraud-1", "fraud-5", "fraud-6"], "lineage leads to the first"


async def test_a_service_is_told_once_then_asked_not_too_often_until_it_is_done(
    plane: Plane,
) -> None:
    await plane.declare(run=SERVICE)
    plane.service.answers = [
        ServiceAnswer("running", location=PLACE),
        ServiceAnswer("running", progress=0.5),
        ServiceAnswer("done", version="1.1.0"),
    ]
    run = await plane.start()
    assert run.status.location == PLACE
    assert plane.service.told == [f"start {run.metadata.uid}"]
    plane.clock.step(10)
    await plane.settle()
    assert (await plane.run()).status.progress == 0.5
    await plane.push("1.1.0", run=None)
    plane.clock.step(10)
    await plane.settle()
    assert plane.service.told[1:] == [f"ask {PLACE}"] * 2
    status = (await plane.run()).status
    assert (status.phase, status.versions) == ("Succeeded", ("fraud@1.1.0",))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ServiceAnswer("refused", "it answered 401"), "Refused"),
        (ServiceAnswer("failed", "it answered 500"), "Failed"),
        (ServiceAnswer("done", version="9.9.9"), "RegisteredNothing"),
    ],
)
async def test_a_service_that_refuses_fails_or_registers_nothing(
    plane: Plane, answer: ServiceAnswer, reason: str
) -> None:
    await plane.declare(run=SERVICE)
    plane.service.answers = [answer]
    run = await plane.start()
    assert (run.status.phase, run.status.reason) == ("Failed", reason)


async def test_a_version_that_was_there_before_the_run_is_none_of_it(plane: Plane) -> None:
    await plane.push("1.0.0", run=None)
    plane.clock.step(60)
    await plane.declare(run=SERVICE)
    plane.service.answers = [ServiceAnswer("done", version="1.0.0")]
    run = await plane.start()
    assert (run.status.phase, run.status.reason) == ("Failed", "RegisteredNothing")


async def test_a_service_that_is_cancelled_while_it_is_started_is_told(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plane.declare(run=SERVICE)
    start = plane.service.start

    async def cancel_meanwhile(run: TrainingRun) -> ServiceAnswer:
        await plane.write((await plane.run()).with_spec(cancelled=True))
        return await start(run)

    monkeypatch.setattr(plane.service, "start", cancel_meanwhile)
    plane.service.answers = [ServiceAnswer("running", location=PLACE)]
    run = await plane.start()
    assert run.status.phase == "Cancelled"
    assert plane.service.told[-1] == f"cancel {PLACE}"


async def test_a_service_that_nobody_reaches_is_tried_until_the_time_is_up(plane: Plane) -> None:
    await plane.declare(run=SERVICE, timeout="30s")
    plane.service.answers = [ServiceAnswer("unavailable", "no connection")] * 9
    await plane.start()
    for _ in range(3):
        plane.clock.step(10)
        await plane.settle()
    status = (await plane.run()).status
    assert (status.phase, status.reason) == ("Failed", "Unreachable")
    assert len(plane.service.told) == 3


async def test_a_service_that_hangs_is_given_up_and_told_so(plane: Plane) -> None:
    await plane.declare(run=SERVICE, timeout="30s")
    plane.service.answers = [ServiceAnswer("running", location=PLACE)] * 9
    await plane.start()
    for _ in range(3):
        plane.clock.step(10)
        await plane.settle()
    assert (await plane.run()).status.reason == "TimedOut"
    assert plane.service.told[-1] == f"cancel {PLACE}"
