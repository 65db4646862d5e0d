"""Jobs as real processes: those that hang, crash, print garbage, fill the disk, flood the log and
leave children are each ended and told, and nothing of them is left."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from modelplane.adapters.clock import SystemClock
from modelplane.adapters.runtime.processes import LinuxProcesses
from modelplane.adapters.runtime.servers import RuntimeServers
from modelplane.agent.artifacts import ArtifactCache
from modelplane.agent.jobs import Jobs
from modelplane.agent.node import AgentOptions, Node, Places
from modelplane.client.artifacts import digest_tree
from modelplane.resources.job import FINISHED_JOB, Job, JobSpec, JobStatus
from modelplane.resources.meta import Metadata, Part, Resource
from tests.agent.world import FakeControlPlane
from tests.stages.programs import task

pytestmark = pytest.mark.slow

MAX_LOG_BYTES = 200_000


@dataclass
class Machine:
    """An agent's jobs on the real machine."""

    node: Node
    jobs: Jobs
    control_plane: FakeControlPlane
    folder: Path

    async def run(self, script: str, **spec: object) -> JobStatus:
        """Run a Python script as a job to its end."""
        command = ("{python}", "-c", script)
        values = {"command": command, "timeout_s": 20.0, **spec}
        return await self.end_of(self.put(**values))

    def put(self, **spec: Any) -> Job:
        """Declare a job."""
        metadata = Metadata(name="job", environment="production")
        job = self.control_plane.put(Job(metadata=metadata, spec=JobSpec(**spec)))
        self.jobs.observe(job)
        return job

    async def end_of(self, job: Job) -> JobStatus:
        """See a job end, and have its files taken away."""
        async with asyncio.timeout(30):
            while self.control_plane.read(job).status.phase not in FINISHED_JOB:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        self.jobs.observe(self.control_plane.read(job))
        return self.control_plane.read(job).status

    async def left(self) -> list[Path]:
        """Return what is left of jobs, once there was time to clear up."""
        parents = (self.node.places.agent_dir / "jobs", self.node.places.runtime_dir / "j")
        found: list[Path] = []
        for _ in range(100):
            found = [p for parent in parents if parent.is_dir() for p in parent.iterdir()]
            if not found:
                break
            await asyncio.sleep(0.02)
        return found


@pytest.fixture
async def machine() -> AsyncIterator[Machine]:
    folder = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
    control_plane = FakeControlPlane()
    places = Places(folder / "agent", folder / "run", folder / "logs")
    node = Node(
        name="local",
        processes=LinuxProcesses(folder / "processes", max_log_bytes=MAX_LOG_BYTES),
        servers=RuntimeServers(places.agent_dir, reuse_interpreter=True, max_body_bytes=2**20),
        artifacts=ArtifactCache(places.agent_dir / "artifacts", control_plane),
        clock=SystemClock(),
        places=places,
        options=AgentOptions(),
        preparations=asyncio.Semaphore(1),
    )

    def report(resource: Resource[Any, Any], status: Part) -> None:
        control_plane.put(resource.with_(status=status))

    jobs = Jobs(node, control_plane, report)
    await jobs.synced()
    yield Machine(node, jobs, control_plane, folder)
    await jobs.stop_all()
    node.processes.close()
    shutil.rmtree(folder, ignore_errors=True)


async def test_a_job_reads_its_input_and_leaves_result_and_output(machine: Machine) -> None:
    status = await machine.run(
        "import json, os, pathlib\n"
        "given = json.loads(pathlib.Path(os.environ['MODELPLANE_JOB_INPUT']).read_text())\n"
        "pathlib.Path(os.environ['MODELPLANE_JOB_OUTPUT'], 'report').write_text('fine')\n"
        "pathlib.Path(os.environ['MODELPLANE_JOB_RESULT']).write_text(json.dumps(given))\n"
        "print('done')",
        input={"number": 1},
    )
    assert (status.phase, status.result, status.log_tail) == ("Succeeded", {"number": 1}, "done")
    assert machine.control_plane.uploads[status.output or ""] == {"report": b"fine"}
    assert await machine.left() == []


async def test_a_job_sees_no_variables_that_are_not_for_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_SECRET", "x")
    monkeypatch.setenv("MODELPLANE_TOKEN", "x")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:1/")
    script = "import os; print(sorted(n for n in os.environ if n[:2] in ('SO', 'MO', 'UV')))"
    ours = await machine.run(script)
    assert "SOME_SECRET" not in ours.log_tail
    assert "MODELPLANE_TOKEN" not in ours.log_tail
    assert "UV_DEFAULT_INDEX" in ours.log_tail, "it builds environments as its agent does"
    theirs = await machine.run("", command=(sys.executable, "-c", script))
    assert "UV_" not in theirs.log_tail


async def test_a_job_that_hangs_ends_at_its_time_out(machine: Machine) -> None:
    status = await machine.run("import time; print('asleep', flush=True); time.sleep(60)",
                               timeout_s=4.0)  # fmt: skip
    assert (status.phase, status.reason, status.log_tail) == ("Failed", "TimedOut", "asleep")
    assert await machine.left() == []


async def test_a_job_that_crashes_is_told_by_its_signal(machine: Machine) -> None:
    status = await machine.run("import os; os.kill(os.getpid(), 11)")
    assert (status.phase, status.reason, status.exit_code) == ("Failed", "Signal", -11)


async def test_a_job_that_leaves_garbage_fails(machine: Machine) -> None:
    script = "import os; open(os.environ['MODELPLANE_JOB_RESULT'], 'wb').write(os.urandom(100))"
    status = await machine.run(script, input={})
    assert (status.phase, status.reason) == ("Failed", "InvalidResult")
    assert "not JSON" in status.message


@pytest.mark.parametrize(
    "place", [".", "os.environ['MODELPLANE_JOB_OUTPUT']", "os.environ['TMPDIR']"]
)
async def test_a_job_that_fills_the_disk_is_ended(machine: Machine, place: str) -> None:
    place = repr(place) if place == "." else place
    script = (
        "import os, time\n"
        f"os.chdir({place})\n"
        "for number in range(200):\n"
        "    open(f'{number}', 'wb').write(b'x' * 100_000)\n"
        "    time.sleep(0.05)\n"
    )
    status = await machine.run(script, disk=1_000_000)
    assert (status.phase, status.reason) == ("Failed", "OutOfDisk")
    assert await machine.left() == []


async def test_one_file_that_grows_faster_than_anybody_looks_meets_its_end(
    machine: Machine,
) -> None:
    script = "import os; os.posix_fallocate(os.open('x', os.O_CREAT | os.O_WRONLY), 0, 10**11)"
    status = await machine.run(script, disk=1_000_000)
    assert status.phase == "Failed"
    assert shutil.disk_usage(machine.folder).free > 0


async def test_a_flood_does_not_fill_the_disk(machine: Machine) -> None:
    script = (
        "import time, sys\n"
        "until, written = time.monotonic() + 5.5, 0\n"
        "while time.monotonic() < until:\n"
        "    written += sys.stdout.write('x' * 9_999 + '\\n')\n"
        "    time.sleep(0.005)\n"
        "print(f'{written} is the end')"
    )
    status = await machine.run(script)
    written, end = status.log_tail.splitlines()[-1].split(maxsplit=1)
    assert (status.phase, end) == ("Succeeded", "is the end")
    logs = list((machine.folder / "logs").rglob("job.log*"))
    # What is written between two looks, a second apart, may stand beside what was kept.
    assert sum(log.stat().st_size for log in logs) < int(written) / 2


@pytest.mark.parametrize("ending", ["", "import time; time.sleep(60)"])
async def test_what_a_job_starts_ends_with_it(machine: Machine, ending: str) -> None:
    script = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
        " start_new_session=True)\n"
        "grandchild = os.fork()\n"
        "if grandchild == 0:\n"
        "    os.setsid()\n"
        "    import time; time.sleep(60)\n"
        "print(child.pid, grandchild, flush=True)\n"
        f"{ending}"
    )
    status = await machine.run(script, timeout_s=5.0)
    pids = [int(pid) for pid in status.log_tail.split()]
    assert len(pids) == 2
    assert status.phase == ("Failed" if ending else "Succeeded")
    for _ in range(50):
        alive = [pid for pid in pids if _runs(pid)]
        if not alive:
            break
        await asyncio.sleep(0.05)
    assert alive == []


@pytest.mark.parametrize("obeys", [True, False], ids=["SIGTERM", "SIGKILL"])
async def test_a_cancelled_stage_leaves_no_server_and_no_program(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, obeys: bool
) -> None:
    if not obeys:  # no time to end anything by itself
        monkeypatch.setattr("modelplane.agent.job_runner.STOP_S", 0.0)
    files = machine.folder / "files"
    files.mkdir()
    (files / "model.bin").write_text("weights")
    digest = digest_tree(files).digest
    machine.control_plane.artifacts[digest] = b""
    monkeypatch.setattr(machine.control_plane, "download_artifact", _copy(files))
    check = {"run": ["sleep", "3600.25"], "serve": True}
    job = machine.put(
        command=("{python}", "-m", "modelplane.stages"),
        artifacts={"candidate": digest},
        input=task(of={"command": check}).to_dict(),
        timeout_s=60.0,
    )
    started: list[psutil.Process] = []
    async with asyncio.timeout(55):
        while not any("3600.25" in _words(process) for process in started):
            await asyncio.sleep(0.05)
            kept = machine.node.processes.list()
            pids = [process.pid for process in kept if _runs(process.pid)]
            started = [c for pid in pids for c in psutil.Process(pid).children(recursive=True)]
    assert any("oip_model.py" in _words(process) for process in started)
    machine.jobs.observe(machine.control_plane.put(job.with_spec(cancelled=True)))
    status = await machine.end_of(job)
    assert status.phase == "Cancelled"
    for _ in range(100):
        if not any(_runs(process.pid) for process in started):
            break
        await asyncio.sleep(0.05)
    assert [_words(process) for process in started if _runs(process.pid)] == []
    assert await machine.left() == []


async def test_a_job_ends_at_its_limit_of_memory(machine: Machine) -> None:
    status = await machine.run("x = bytearray(500_000_000)", memory=200_000_000)
    assert (status.phase, status.reason) == ("Failed", "ExitCode")
    assert "MemoryError" in status.log_tail


def _copy(files: Path) -> Callable[[str, Path], Awaitable[None]]:
    async def download(digest: str, destination: Path) -> None:
        shutil.copytree(files, destination)

    return download


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
