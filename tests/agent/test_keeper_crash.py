"""Children outlive a keeper that is killed, are taken back, and are never mistaken for others."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from modelplane.adapters.runtime import procfs
from modelplane.adapters.runtime.processes import LinuxProcesses
from modelplane.errors import TransientError
from modelplane.ports.processes import ProcessExit, ProcessSpec

ROOT = Path(__file__).resolve().parent.parent.parent
ENV = {"PATH": "/usr/bin:/bin"}

# A keeper in a process of its own: starts the given script, says so, and waits to be killed.
KEEPER = """
import asyncio, sys
from pathlib import Path
from modelplane.adapters.runtime.processes import LinuxProcesses
from modelplane.ports.processes import ProcessSpec

async def main(directory, command):
    keeper = LinuxProcesses(directory / "processes")
    process = await keeper.start(ProcessSpec(
        "child", command, {"PATH": "/usr/bin:/bin"}, directory, directory / "child.log"))
    print(process.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main(Path(sys.argv[1]), tuple(sys.argv[2:])))
"""

# Asks the kernel for SIGTERM when its parent dies, as Envoy does.
DIES_WITH_ITS_PARENT = """
import ctypes, time
ctypes.CDLL(None).prctl(1, 15)
print("asked", flush=True)
time.sleep(60)
"""


def child(directory: Path, script: str, **changes: object) -> ProcessSpec:
    values: dict[str, object] = {
        "name": "child",
        "command": ("/bin/sh", "-c", script),
        "env": ENV,
        "cwd": directory,
        "log_path": directory / "child.log",
    }
    return ProcessSpec(**{**values, **changes})  # type: ignore[arg-type]


def is_running(pid: int) -> bool:
    stat = procfs.read_stat(pid)
    return stat is not None and stat.state not in "ZX"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the machine tells nobody
            await asyncio.sleep(0.02)


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[LinuxProcesses]:
    made = LinuxProcesses(tmp_path / "processes")
    yield made
    made.close()
    last = LinuxProcesses(tmp_path / "processes")
    for process in await last.adopt():
        await last.stop(process.name, 0)
    last.close()


def start_and_kill_keeper(directory: Path, *command: str) -> int:
    """Let a keeper start a child, kill the keeper with SIGKILL, return the child's pid."""
    keeper = subprocess.Popen(
        [sys.executable, "-c", KEEPER, str(directory), *command],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert keeper.stdout is not None
    pid = int(keeper.stdout.readline())
    if "prctl" in command[-1]:
        log = directory / "child.log"
        while "asked" not in log.read_text():
            time.sleep(0.02)
    keeper.kill()
    keeper.communicate()
    return pid


def start_stranger() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"])


def run_keeper(script: str, directory: Path, *command: str) -> int:
    """Run a keeper in a process of its own and return its exit code."""
    return subprocess.run(
        [sys.executable, "-c", script, str(directory), *command],
        cwd=ROOT,
        timeout=20,
        check=False,
    ).returncode


async def test_a_killed_keeper_takes_nobody_with_it(tmp_path: Path, keeper: LinuxProcesses) -> None:
    pid = start_and_kill_keeper(tmp_path, "sleep", "60")
    assert is_running(pid)
    (adopted,) = await keeper.adopt()
    assert (adopted.pid, adopted.exit) == (pid, None)
    assert await keeper.stop("child", 5) == ProcessExit(-signal.SIGTERM)
    assert not is_running(pid)


async def test_not_even_one_that_would_die_with_its_parent(
    tmp_path: Path, keeper: LinuxProcesses
) -> None:
    pid = start_and_kill_keeper(tmp_path, sys.executable, "-c", DIES_WITH_ITS_PARENT)
    await asyncio.sleep(0.2)
    assert is_running(pid)
    (adopted,) = await keeper.adopt()
    assert adopted.exit is None


async def test_the_exit_code_is_known_though_no_keeper_ran(
    tmp_path: Path, keeper: LinuxProcesses
) -> None:
    pid = start_and_kill_keeper(tmp_path, "/bin/sh", "-c", "sleep 0.3; exit 9")
    await until(lambda: not is_running(pid))
    await until(lambda: bool(list((tmp_path / "processes").glob("*.exit"))))
    await asyncio.sleep(0.1)
    await keeper.adopt()
    assert await keeper.wait("child") == ProcessExit(9)


async def test_a_pid_that_is_used_again_is_not_ours(tmp_path: Path, keeper: LinuxProcesses) -> None:
    await keeper.start(child(tmp_path, "exit 0"))
    await keeper.wait("child")
    keeper.close()
    await asyncio.sleep(0.03)  # start times are told in hundredths of a second
    stranger = start_stranger()
    try:
        record_path = tmp_path / "processes" / "child.json"
        record = json.loads(record_path.read_text())
        record["pid"] = record["waiter_pid"] = stranger.pid
        record_path.write_text(json.dumps(record))
        (found,) = await keeper.adopt()
        assert found.exit is not None
        await keeper.stop("child", 0)
        assert stranger.poll() is None, "a stranger is left alone"
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("record", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1}'])
async def test_a_torn_record_is_no_record(
    tmp_path: Path, keeper: LinuxProcesses, record: str
) -> None:
    (tmp_path / "processes").mkdir()
    (tmp_path / "processes" / "child.json").write_text(record)
    assert await keeper.adopt() == []


async def test_another_boot_left_nothing_running(tmp_path: Path, keeper: LinuxProcesses) -> None:
    await keeper.start(child(tmp_path, "sleep 60"))
    record_path = tmp_path / "processes" / "child.json"
    before = record_path.read_text()
    other = LinuxProcesses(tmp_path / "processes")
    record_path.write_text(json.dumps({**json.loads(before), "boot_id": "another"}))
    (found,) = await other.adopt()
    assert found.exit == ProcessExit(None)
    other.close()
    record_path.write_text(before)


async def test_a_keeper_killed_before_it_recorded_leaves_nobody(tmp_path: Path) -> None:
    dies = "LinuxProcesses._write_record = lambda *_: os.kill(os.getpid(), 9)"
    script = KEEPER.replace("async def main", f"import os\n{dies}\nasync def main")
    assert await asyncio.to_thread(run_keeper, script, tmp_path, "touch", "ran") == -9
    mark = procfs.NONCE_VARIABLE.encode() + b"="

    def left() -> list[str]:
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                ours = mark in (path / "environ").read_bytes()
                if ours and os.readlink(path / "cwd") == str(tmp_path):
                    found.append(path.name)
            except OSError:
                continue
        return found

    await until(lambda: not left())
    assert not (tmp_path / "ran").exists(), "what was not recorded never ran"


async def test_one_that_ignores_sigterm_is_killed(tmp_path: Path, keeper: LinuxProcesses) -> None:
    script = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
    process = await keeper.start(child(tmp_path, script))
    await until(lambda: "ready" in keeper.log_tail("child"))
    assert await keeper.stop("child", 0.2) == ProcessExit(-signal.SIGKILL)
    assert not is_running(process.pid)


async def test_a_stopped_one_is_killed(tmp_path: Path, keeper: LinuxProcesses) -> None:
    process = await keeper.start(child(tmp_path, "exec sleep 60"))
    os.kill(process.pid, signal.SIGSTOP)
    await until(lambda: (stat := procfs.read_stat(process.pid)) is not None and stat.state == "T")
    assert await keeper.stop("child", 0.2) == ProcessExit(-signal.SIGKILL)


async def test_what_it_left_behind_ends_with_it(tmp_path: Path, keeper: LinuxProcesses) -> None:
    script = "setsid sleep 61 & echo $! > left; wait"
    await keeper.start(child(tmp_path, script))
    left = tmp_path / "left"
    await until(lambda: left.exists() and left.read_text().strip().isdigit())
    await keeper.stop("child", 5)
    await until(lambda: not is_running(int(left.read_text())))


async def test_a_descendant_outlives_a_killed_waiter_no_more_than_its_child(
    tmp_path: Path, keeper: LinuxProcesses
) -> None:
    process = await keeper.start(child(tmp_path, "exec sleep 60"))
    status = Path(f"/proc/{process.pid}/status").read_text()
    waiter = int(status.split("PPid:")[1].split()[0])
    os.kill(waiter, signal.SIGKILL)
    await keeper.wait("child")
    await until(lambda: not is_running(process.pid))


@pytest.mark.parametrize("milliseconds", range(10))
async def test_one_that_is_just_executing_a_program_does_not_escape(
    tmp_path: Path, keeper: LinuxProcesses, milliseconds: int
) -> None:
    again = tmp_path / "again"
    again.write_text('exec /bin/sh "$0"\n')
    process = await keeper.start(child(tmp_path, f"exec /bin/sh {again}"))
    status = Path(f"/proc/{process.pid}/status").read_text()
    await asyncio.sleep(milliseconds / 1000)
    os.kill(int(status.split("PPid:")[1].split()[0]), signal.SIGKILL)
    await keeper.wait("child")
    await until(lambda: not is_running(process.pid))


async def test_only_the_given_variables_are_passed_on(
    tmp_path: Path, keeper: LinuxProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELPLANE_SECRET", "do not tell")
    await keeper.start(child(tmp_path, "env", env={**ENV, "GIVEN": "yes"}))
    await keeper.wait("child")
    names = {line.partition("=")[0] for line in keeper.log_tail("child").splitlines()}
    assert "GIVEN" in names
    assert "MODELPLANE_SECRET" not in names


async def test_the_memory_limit_holds_and_reserved_addresses_are_free(
    tmp_path: Path, keeper: LinuxProcesses
) -> None:
    script = (
        "import mmap; r = mmap.mmap(-1, 1 << 30, prot=mmap.PROT_READ); print('reserved')\n"
        "try: b = bytearray(200 << 20)\n"
        "except MemoryError: print('refused')\n"
    )
    command = (sys.executable, "-c", script)
    await keeper.start(child(tmp_path, "", command=command, memory_bytes=100 << 20))
    assert await keeper.wait("child") == ProcessExit(0)
    assert keeper.log_tail("child").split() == ["reserved", "refused"]


async def test_the_log_is_the_last_starts_own_and_bounded(tmp_path: Path) -> None:
    keeper = LinuxProcesses(tmp_path / "processes", max_log_bytes=1000)
    log = tmp_path / "child.log"
    await keeper.start(child(tmp_path, "echo first"))
    await keeper.wait("child")
    await keeper.start(child(tmp_path, "echo second; echo third"))
    await keeper.wait("child")
    assert keeper.log_tail("child") == "second\nthird"
    assert keeper.log_tail("child", lines=1) == "third"
    assert log.read_text() == "first\nsecond\nthird\n"
    script = "for i in $(seq 300); do echo line $i; done; echo go; sleep 60"
    await keeper.start(child(tmp_path, script))
    await until(lambda: "go" in keeper.log_tail("child"))
    keeper.trim_logs()
    assert log.stat().st_size == 0
    assert "line 300" in (tmp_path / "child.log.1").read_text()
    await keeper.stop("child", 5)
    keeper.close()


async def test_a_program_that_is_not_there_is_an_exit(
    tmp_path: Path, keeper: LinuxProcesses
) -> None:
    await keeper.start(child(tmp_path, "", command=("nosuchprogram",)))
    assert await keeper.wait("child") == ProcessExit(127)
    assert "nosuchprogram" in keeper.log_tail("child")


async def test_a_directory_that_is_not_there_is_an_error(
    tmp_path: Path, keeper: LinuxProcesses
) -> None:
    with pytest.raises(TransientError, match="child"):
        await keeper.start(child(tmp_path, "exit 0", cwd=tmp_path / "nowhere"))
    assert keeper.find("child") is None
