"""A job runs once, to its end, within its limits, whatever dies meanwhile."""

from __future__ import annotations

from modelplane.ports.processes import ProcessSpec
from modelplane.resources.job import Job, JobStatus
from tests.agent.world import World


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
