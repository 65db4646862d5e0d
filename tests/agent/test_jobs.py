"""A job runs once, to its end, within its limits, whatever dies meanwhile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelplane.errors import Forbidden, TransientError
from modelplane.ports.processes import ProcessSpec
from modelplane.resources.job import Job, JobStatus
from modelplane.testing.processes import FakeProcesses
from tests.agent.world import World

pytestmark = pytest.mark.slow


def status(world: World, job: Job) -> JobStatus:
    return world.control_plane.read(job).status


def name_of(world: World) -> str:
    (spec,) = world.machine.started
    return spec.name


async def start(world: World, **spec: object) -> Job:
    job = world.put_job(**spec)  # type: ignore[arg-type]
    world.start_agent()
    await world.until(lambda: status(world, job).phase == "Running")
    return job


async def test_a_job_runs_and_succeeds(world: World) -> None:
    job = await start(world, env={"EPOCHS": "3"}, memory=10**9)
    (spec,) = world.machine.started
    assert (spec.command, spec.env["EPOCHS"], spec.memory_bytes) == (("train",), "3", 10**9)
    world.machine.logs[spec.name] = "done"
    world.machine.end(spec.name, 0)
    await world.until(lambda: status(world, job).phase == "Succeeded")
    found = status(world, job)
    assert (found.exit_code, found.attempt, found.log_tail) == (0, 1, "done")
    await world.until(lambda: world.machine.entries == {})
    assert len(world.machine.started) == 1


async def test_a_job_fails_with_its_exit_code(world: World) -> None:
    job = await start(world)
    world.machine.end(name_of(world), 3)
    await world.until(lambda: status(world, job).phase == "Failed")
    assert status(world, job).exit_code == 3
    assert "3" in status(world, job).message


async def test_a_job_ends_at_its_time_out(world: World) -> None:
    job = await start(world, timeout_s=30.0)
    await world.settle(25)
    assert status(world, job).phase == "Running"
    await world.until(lambda: status(world, job).phase == "Failed", within_s=10)
    assert "30s" in status(world, job).message
    assert world.running("job-") == []


async def test_a_job_ends_on_request(world: World) -> None:
    job = await start(world)
    world.control_plane.put(world.control_plane.read(job).with_spec(cancelled=True))
    world.machine.entries[name_of(world)].obeys_sigterm = False
    await world.until(lambda: status(world, job).phase == "Cancelled")
    assert world.running("job-") == []


async def test_a_job_cancelled_before_it_ran_never_runs(world: World) -> None:
    job = world.put_job(cancelled=True)
    world.start_agent()
    await world.until(lambda: status(world, job).phase == "Cancelled")
    assert world.machine.started == []


async def test_a_deleted_job_ends(world: World) -> None:
    job = await start(world)
    world.control_plane.remove(job)
    await world.until(lambda: world.running("job-") == [])


async def test_the_next_agent_takes_a_running_job_back(world: World) -> None:
    job = await start(world, timeout_s=60.0)
    await world.kill_agent()
    await world.settle(20)
    world.start_agent()
    await world.settle(5)
    assert status(world, job).phase == "Running"
    await world.until(lambda: status(world, job).phase == "Failed", within_s=40)
    assert "1m" in status(world, job).message, "the time-out counts from its start"
    assert len(world.machine.started) == 1


async def test_a_job_that_ended_while_no_agent_ran_is_not_run_again(world: World) -> None:
    job = await start(world)
    await world.kill_agent()
    world.machine.end(name_of(world), 0)
    world.start_agent()
    await world.until(lambda: status(world, job).phase == "Succeeded")
    assert len(world.machine.started) == 1


async def test_an_agent_killed_between_start_and_report_runs_nothing_twice(world: World) -> None:
    world.put_job()
    world.start_agent()
    await world.until(lambda: bool(world.machine.started))
    await world.kill_agent()
    world.start_agent()
    await world.settle(5)
    assert len(world.machine.started) == 1


async def test_a_job_whose_process_is_lost_fails(world: World) -> None:
    job = await start(world)
    await world.kill_agent()
    world.machine.entries.clear()
    world.start_agent()
    await world.until(lambda: status(world, job).phase == "Failed")
    assert len(world.machine.started) == 1
    assert "not run twice" in status(world, job).message


async def test_the_cache_alone_starts_no_job(world: World) -> None:
    world.machine.behave = lambda _: 0
    job = world.put_job()
    world.start_agent()
    await world.until(lambda: status(world, job).phase == "Succeeded")
    await world.kill_agent()
    # The journal as it was before the job had ended.
    journal = world.places.agent_dir / "cache.jsonl"
    lines = [line for line in journal.read_text().splitlines() if '"phase": "Pending"' in line]
    journal.write_text("\n".join(lines) + "\n")
    world.control_plane.set_away(True)
    world.start_agent()
    await world.settle(5)
    assert len(world.machine.started) == 1
    world.control_plane.set_away(False)
    await world.settle(10)
    assert len(world.machine.started) == 1


async def test_two_jobs_run_at_a_time(world: World) -> None:
    jobs = [world.put_job(name=f"job{number}") for number in range(3)]
    world.start_agent()
    await world.settle(3)
    assert len(world.running("job-")) == 2

    def ended(spec: ProcessSpec) -> None:
        world.machine.end(spec.name, 0)

    ended(world.machine.started[0])
    await world.until(lambda: len(world.machine.started) == 3)
    for spec in world.machine.started[1:]:
        ended(spec)
    await world.until(lambda: all(status(world, job).phase == "Succeeded" for job in jobs))


async def test_a_job_cancelled_while_it_waits_for_its_turn_does_not_wait(world: World) -> None:
    jobs = [world.put_job(name=f"job{number}") for number in range(3)]
    world.start_agent()
    await world.settle(3)
    (waiting,) = [job for job in jobs if status(world, job).phase == "Pending"]
    world.control_plane.put(world.control_plane.read(waiting).with_spec(cancelled=True))
    await world.until(lambda: status(world, waiting).phase == "Cancelled", within_s=5)
    assert len(world.machine.started) == 2


# What it is given and what it leaves ------------------------------------------------------------


def leave(spec: ProcessSpec, result: str | None = None, **output: str) -> None:
    """Do as a job does: write a result, and files of the output."""
    if result is not None:
        Path(spec.env["MODELPLANE_JOB_RESULT"]).write_text(result)
    for name, text in output.items():
        (Path(spec.env["MODELPLANE_JOB_OUTPUT"]) / name).write_text(text)


def job_folders(world: World) -> list[Path]:
    found = [world.places.agent_dir / "jobs", world.places.runtime_dir / "j"]
    return [folder for parent in found if parent.is_dir() for folder in parent.iterdir()]


async def test_a_job_finds_what_it_was_given(world: World) -> None:
    digest = world.artifact(b"weights").digest
    given = {"stage": "latency", "numbers": [1, 2.5, None]}
    await start(
        world,
        command=("{python}", "-m", "x", "{artifact:my-model}"),
        env={"MODEL": "{artifact:my-model}"},
        artifacts={"my-model": digest},
        input=given,
        disk=10**6,
    )
    (spec,) = world.machine.started
    folder = Path(spec.env["MODELPLANE_ARTIFACT_MY_MODEL"])
    assert (folder / "model.onnx").read_bytes() == b"weights"
    assert spec.command[1:] == ("-m", "x", str(folder))
    assert "python" in spec.command[0]
    assert spec.env["MODEL"] == str(folder)
    assert spec.env["OURS"] == "1", "it runs in the agent's interpreter"
    assert json.loads(Path(spec.env["MODELPLANE_JOB_INPUT"]).read_text()) == given
    assert Path(spec.env["TMPDIR"]).is_relative_to(spec.cwd), "temporary files count too"
    assert (spec.cwd.stat().st_mode & 0o777, list(spec.cwd.iterdir())) == (
        0o700,
        [Path(spec.env["TMPDIR"])],
    )
    assert spec.file_bytes is not None


async def test_a_job_of_people_is_given_no_more_than_its_own(world: World) -> None:
    await start(world)
    (spec,) = world.machine.started
    assert "OURS" not in spec.env
    assert "MODELPLANE_JOB_INPUT" not in spec.env


async def test_result_and_output_are_kept_and_the_files_go(world: World) -> None:
    job = await start(world, input={})
    (spec,) = world.machine.started
    leave(spec, '{"passed": true}', report="all is well")
    world.machine.end(spec.name, 0)
    await world.until(lambda: status(world, job).phase == "Succeeded")
    found = status(world, job)
    assert found.result == {"passed": True}
    assert found.output is not None
    assert world.control_plane.uploads[found.output] == {"report": b"all is well"}
    await world.until(lambda: job_folders(world) == [])


async def test_a_failed_job_keeps_its_result(world: World) -> None:
    job = await start(world, input={})
    (spec,) = world.machine.started
    leave(spec, '{"impossible": "no label"}')
    world.machine.end(spec.name, 65)
    await world.until(lambda: status(world, job).phase == "Failed")
    found = status(world, job)
    assert (found.reason, found.exit_code) == ("ExitCode", 65)
    assert (found.result, found.output) == ({"impossible": "no label"}, None)


async def test_a_job_is_concluded_only_once_its_output_is_stored(world: World) -> None:
    job = await start(world)
    (spec,) = world.machine.started
    leave(spec, report="x")
    world.control_plane.refuse_uploads = TransientError("the disk is full")
    world.machine.end(spec.name, 0)
    await world.settle(20)
    assert status(world, job).phase == "Running"
    world.control_plane.refuse_uploads = None
    await world.until(lambda: status(world, job).phase == "Succeeded")
    assert status(world, job).output in world.control_plane.uploads


async def test_a_job_that_waits_for_its_upload_holds_up_no_other(world: World) -> None:
    world.control_plane.refuse_uploads = TransientError("the disk is full")

    def behave(spec: ProcessSpec) -> int:
        leave(spec, report="x")
        return 0

    world.machine.behave = behave
    for number in range(4):
        world.put_job(name=f"job{number}")
    world.start_agent()
    await world.until(lambda: len(world.machine.started) == 4)


async def test_an_output_that_nobody_takes_is_said_and_the_job_ends(world: World) -> None:
    job = await start(world)
    (spec,) = world.machine.started
    leave(spec, report="x")
    world.control_plane.refuse_uploads = Forbidden("agents may not upload")
    world.machine.end(spec.name, 0)
    await world.until(lambda: status(world, job).phase == "Succeeded")
    assert status(world, job).output is None
    assert "agents may not upload" in status(world, job).message


# An agent that dies -----------------------------------------------------------------------------


async def test_what_a_job_left_while_no_agent_ran_is_not_lost(world: World) -> None:
    job = await start(world, input={})
    await world.kill_agent()
    (spec,) = world.machine.started
    leave(spec, '{"passed": true}', report="x")
    world.machine.end(spec.name, 0)
    world.start_agent()
    await world.until(lambda: status(world, job).phase == "Succeeded")
    assert status(world, job).result == {"passed": True}
    assert status(world, job).output in world.control_plane.uploads
    assert len(world.machine.started) == 1


async def test_an_agent_killed_before_its_report_arrived_reports_the_same_again(
    world: World,
) -> None:
    job = await start(world, input={})
    (spec,) = world.machine.started
    leave(spec, '{"passed": true}', report="x")
    world.control_plane.set_away(True)
    world.machine.end(spec.name, 0)
    await world.settle(5)
    await world.kill_agent()
    world.control_plane.set_away(False)
    world.start_agent()
    await world.until(lambda: status(world, job).phase == "Succeeded")
    found = status(world, job)
    assert (found.result, len(world.machine.started)) == ({"passed": True}, 1)
    assert found.output in world.control_plane.uploads


async def test_an_agent_killed_while_it_ends_a_job_still_says_why(world: World) -> None:
    job = await start(world, timeout_s=30.0)
    world.machine.logs[name_of(world)] = "still at it"
    world.control_plane.set_away(True)  # nothing that is said arrives
    await world.until(lambda: world.running("job-") == [])
    await world.kill_agent()
    journal = world.places.agent_dir / "cache.jsonl"
    lines = [line for line in journal.read_text().splitlines() if "TimedOut" not in line]
    journal.write_text("\n".join(lines) + "\n")
    world.control_plane.set_away(False)
    world.start_agent()
    await world.until(lambda: status(world, job).phase == "Failed")
    found = status(world, job)
    assert (found.reason, found.log_tail) == ("TimedOut", "still at it")


async def test_files_of_jobs_that_nobody_knows_any_more_go(world: World) -> None:
    job = await start(world)
    await world.kill_agent()
    world.control_plane.remove(job)
    world.start_agent()
    await world.until(lambda: world.running("job-") == [] and job_folders(world) == [])


async def test_the_files_of_a_deleted_job_go(world: World) -> None:
    job = await start(world)
    world.control_plane.remove(job)
    await world.until(lambda: world.running("job-") == [] and job_folders(world) == [])


async def test_a_job_made_anew_under_its_name_is_another(world: World) -> None:
    first = await start(world)
    world.control_plane.set_away(True)
    world.control_plane.remove(first)
    world.control_plane.expire_log()  # the agent sees only that there is one
    second = world.put_job()
    assert second.metadata.uid != first.metadata.uid
    world.control_plane.set_away(False)
    await world.until(lambda: len(world.machine.started) == 2)
    await world.until(lambda: status(world, second).phase == "Running")
    await world.until(lambda: len(world.running("job-")) == 1)
    await world.until(lambda: len(job_folders(world)) == 2, within_s=20)


async def test_a_deleted_job_tells_nothing_in_place_of_the_one_made_anew(world: World) -> None:
    first = await start(world)
    leave(world.machine.started[0], report="x")
    world.control_plane.refuse_uploads = TransientError("the disk is full")
    world.control_plane.refuse_statuses = TransientError("it is busy")
    world.control_plane.remove(first)
    world.control_plane.expire_log()
    second = world.put_job()
    await world.until(lambda: len(world.machine.started) == 2)
    # The first is over only now, when what is to be told of the second waits already.
    world.control_plane.refuse_uploads = None
    await world.until(lambda: bool(world.control_plane.uploads))
    await world.settle(1)
    world.control_plane.refuse_statuses = None
    await world.until(lambda: status(world, second).phase == "Running")


# What cannot be started -------------------------------------------------------------------------


async def test_a_job_whose_artifact_is_nowhere_is_not_started(world: World) -> None:
    job = world.put_job(artifacts={"model": "sha256:" + "0" * 64})
    world.start_agent()
    await world.until(lambda: status(world, job).phase == "Failed")
    assert (status(world, job).reason, world.machine.started) == ("NotStarted", [])


async def test_a_job_waits_for_an_artifact_that_cannot_be_had_now_but_not_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = world.put_job(artifacts={"model": world.artifact().digest})

    async def unreachable(digest: str, destination: Path) -> None:
        raise TransientError("the object store does not answer")

    monkeypatch.setattr(world.control_plane, "download_artifact", unreachable)
    world.start_agent()
    await world.settle(10)
    assert status(world, job).phase == "Pending"
    for _ in range(20):  # in large steps: it tries again every few seconds
        await world.clock.advance(40)
        await world.settle(0.1)
    assert status(world, job).phase == "Failed"
    assert status(world, job).reason == "NotStarted"
    assert "object store" in status(world, job).message


async def test_a_job_that_names_what_it_does_not_declare_is_not_started(world: World) -> None:
    job = world.put_job(command=("x", "{artifact:model}"))
    world.start_agent()
    await world.until(lambda: status(world, job).phase == "Failed")
    assert status(world, job).reason == "NotStarted"
    assert "model" in status(world, job).message


@pytest.mark.parametrize("fault", [ValueError("embedded null byte"), TransientError("too long")])
async def test_a_command_that_no_system_starts_is_told_and_does_not_hang(
    world: World, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    async def refuse(self: object, spec: ProcessSpec) -> None:
        raise fault

    monkeypatch.setattr(FakeProcesses, "start", refuse)
    job = world.put_job(command=("train", "a\0b"))
    world.start_agent()
    await world.settle(1)
    for _ in range(20):
        await world.clock.advance(40)
        await world.settle(0.1)
    assert (status(world, job).phase, status(world, job).reason) == ("Failed", "NotStarted")
    assert str(fault) in status(world, job).message


TRAINING = {"run": "fraud-1", "cause": {"cause": "dataset", "data": {"version": "5"}}}


async def test_a_training_gets_its_token_its_run_and_its_cause(world: World) -> None:
    job = await start(world, training=TRAINING, env={"MODELPLANE_TOKEN": "mine", "A": "1"})
    assert world.control_plane.trained == [("fraud-1", f"{job.metadata.environment}/train")]
    (spec,) = world.machine.started
    assert spec.env["MODELPLANE_TOKEN"] == "secret-of-fraud-1"
    assert spec.env["MODELPLANE_URL"] == "http://127.0.0.1:7080"
    assert (spec.env["MODELPLANE_TRAINING_RUN"], spec.env["A"]) == ("fraud-1", "1")
    assert json.loads(Path(spec.env["MODELPLANE_CAUSE"]).read_text()) == TRAINING["cause"]


async def test_a_training_whose_run_is_over_does_not_start(world: World) -> None:
    world.control_plane.ended_trainings.add("fraud-1")
    job = world.put_job(training=TRAINING)
    world.start_agent()
    await world.until(lambda: status(world, job).phase == "Failed")
    assert status(world, job).reason == "NotStarted"
    assert world.machine.started == []


async def test_what_a_job_says_of_its_progress_is_passed_on_and_garbage_is_not(
    world: World,
) -> None:
    job = await start(world)
    (spec,) = world.machine.started
    progress = Path(spec.env["MODELPLANE_JOB_PROGRESS"])
    progress.write_text('{"progress": 0.25, "message": "epoch 1"}')
    await world.until(lambda: status(world, job).progress == 0.25)
    for garbage in ('{"progress": 0.', "[]", '{"progress": true}', "9" * 10_000):
        progress.write_text(garbage)
        await world.settle(3)
        assert (status(world, job).progress, status(world, job).phase) == (0.25, "Running")
    progress.write_text('{"progress": 7}')
    await world.until(lambda: status(world, job).progress == 1.0)
    progress.write_text('{"progress": 0.9, "message": "the end"}')
    world.machine.end(spec.name, 0)
    await world.until(lambda: status(world, job).phase == "Succeeded")
    assert status(world, job).progress_message == "the end"


async def test_progress_that_changes_each_second_is_not_told_each_second(world: World) -> None:
    await start(world)
    (spec,) = world.machine.started
    before = len(world.control_plane.statuses)
    for number in range(60):
        progress = {"progress": number / 100}
        Path(spec.env["MODELPLANE_JOB_PROGRESS"]).write_text(json.dumps(progress))
        await world.settle(1)
    assert 5 <= len(world.control_plane.statuses) - before <= 8


async def test_trainings_and_other_jobs_do_not_wait_for_each_other(world: World) -> None:
    for number in range(3):
        world.put_job(f"stage-{number}")
        world.put_job(f"train-{number}", training={"run": f"fraud-{number}"})
    world.start_agent()
    await world.until(lambda: len(world.machine.started) >= 3)
    await world.settle(5)
    names = [spec.labels["job"].rpartition("/")[2] for spec in world.machine.started]
    assert sorted(name.partition("-")[0] for name in names) == ["stage", "stage", "train"]
