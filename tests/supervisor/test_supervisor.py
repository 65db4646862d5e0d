"""`up` keeps two processes running, takes them back, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from modelplane.adapters.clock import SystemClock
from modelplane.errors import Conflict, TerminalError
from modelplane.ports.processes import ProcessSpec
from modelplane.supervisor.addresses import ListenAddress
from modelplane.supervisor.detaching import detach
from modelplane.supervisor.lock import find_holder, hold_lock
from modelplane.supervisor.stopping import stop_all
from modelplane.supervisor.supervisor import Supervisor, last_error
from tests.supervisor.stand_in import keeper, make_supervisor, members

ROOT = Path(__file__).resolve().parent.parent.parent


def events(directory: Path) -> list[tuple[str, str, int]]:
    """(process, what, pid) in the order they happened."""
    try:
        lines = (directory / "events").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [(name, what, int(pid)) for name, what, pid in (line.split() for line in lines)]


def started(directory: Path, name: str) -> list[int]:
    return [pid for who, what, pid in events(directory) if (who, what) == (name, "started")]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - files tell nobody
            await asyncio.sleep(0.02)


@pytest.fixture
async def directory(tmp_path: Path) -> AsyncIterator[Path]:
    """A state directory; what still runs on it at the end is stopped."""
    yield tmp_path
    with contextlib.suppress(Conflict):
        await stop_all(
            tmp_path / "up.lock",
            members(tmp_path),
            keeper(tmp_path),
            keeper(tmp_path, "agent"),
            tell=lambda _: None,
        )


def start_up(directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.supervisor.stand_in", str(directory)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


async def down(directory: Path) -> bool:
    return await stop_all(
        directory / "up.lock",
        members(directory),
        keeper(directory),
        keeper(directory, "agent"),
        tell=lambda _: None,
    )


async def both_run(directory: Path) -> None:
    await until(lambda: bool(started(directory, "agent") and started(directory, "control-plane")))


async def test_stopping_ends_the_agent_before_the_control_plane(directory: Path) -> None:
    up = start_up(directory)
    await both_run(directory)
    up.send_signal(signal.SIGINT)
    output, _ = await asyncio.to_thread(up.communicate, timeout=20)
    assert up.returncode == 0, output
    ended = [who for who, what, _ in events(directory) if what == "ended"]
    assert ended == ["agent", "control-plane"]
    assert not any(is_running(pid) for _, _, pid in events(directory))
    assert find_holder(directory / "up.lock") is None


@pytest.mark.parametrize("name", ["agent", "control-plane"])
async def test_either_process_is_restarted_when_it_dies(directory: Path, name: str) -> None:
    up = start_up(directory)
    await both_run(directory)
    os.kill(started(directory, name)[0], signal.SIGKILL)
    await until(lambda: len(started(directory, name)) == 2)
    up.terminate()
    output, _ = await asyncio.to_thread(up.communicate, timeout=20)
    assert "ended by signal 9" in output


async def test_after_kill_9_the_next_up_takes_both_back(directory: Path) -> None:
    first = start_up(directory)
    await both_run(directory)
    first.kill()
    await asyncio.to_thread(first.communicate)
    pids = {who: pid for who, _, pid in events(directory)}
    assert all(is_running(pid) for pid in pids.values()), "they do not need the supervisor"

    second = start_up(directory)
    assert second.stdout is not None
    lines = [await asyncio.to_thread(second.stdout.readline) for _ in range(2)]
    assert sorted(lines) == [
        f"agent: adopted (pid {pids['agent']})\n",
        f"control-plane: adopted (pid {pids['control-plane']})\n",
    ]
    os.kill(pids["agent"], signal.SIGKILL)
    await until(lambda: len(started(directory, "agent")) == 2)
    second.terminate()
    await asyncio.to_thread(second.communicate, timeout=20)
    assert not any(is_running(pid) for _, _, pid in events(directory))


async def test_a_second_up_is_refused_and_touches_nothing(directory: Path) -> None:
    first = start_up(directory)
    await both_run(directory)
    second = start_up(directory)
    output, _ = await asyncio.to_thread(second.communicate, timeout=20)
    assert second.returncode == Conflict.exit_code
    assert f"pid {first.pid}" in output
    assert "modelplane down" in output
    assert len(events(directory)) == 2
    first.terminate()
    await asyncio.to_thread(first.communicate, timeout=20)


async def test_down_stops_a_running_up(directory: Path) -> None:
    up = start_up(directory)
    await both_run(directory)
    assert await down(directory)
    await asyncio.to_thread(up.communicate, timeout=20)
    assert up.returncode == 0
    assert not any(is_running(pid) for _, _, pid in events(directory))
    assert not await down(directory), "there is nothing left to stop"


async def test_down_works_when_the_supervisor_is_dead(directory: Path) -> None:
    up = start_up(directory)
    await both_run(directory)
    up.kill()
    await asyncio.to_thread(up.communicate)
    assert await down(directory)
    assert not any(is_running(pid) for _, _, pid in events(directory))


async def test_what_a_killed_agent_left_is_stopped_too(directory: Path) -> None:
    agent_keeper = keeper(directory, "agent")
    envoy = await agent_keeper.start(
        ProcessSpec(
            name="gateway-staging",
            command=("sleep", "60"),
            env={"PATH": "/usr/bin:/bin"},
            cwd=directory,
            log_path=directory / "envoy.log",
        )
    )
    agent_keeper.close()
    await down(directory)
    assert not is_running(envoy.pid)


def _supervisor(directory: Path, addresses: list[ListenAddress]) -> Supervisor:
    return Supervisor(
        lock=directory / "up.lock",
        members=members(directory),
        processes=keeper(directory),
        leftovers=keeper(directory, "agent"),
        clock=SystemClock(),
        addresses=addresses,
        tell=lambda _: None,
    )


async def test_a_port_in_use_is_told_before_anything_starts(directory: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        address = ListenAddress("the API", "127.0.0.1", port, "--api-port", "control-plane")
        with pytest.raises(TerminalError) as caught:
            await _supervisor(directory, [address]).run(asyncio.Event())
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "--api-port" in str(caught.value)
    assert events(directory) == []


async def test_a_port_of_our_own_children_is_rightly_in_use(directory: Path) -> None:
    with socket.socket() as gateway:
        gateway.bind(("127.0.0.1", 0))
        gateway.listen()
        owner = keeper(directory, "agent")
        await owner.start(
            ProcessSpec(
                name="gateway-staging",
                command=("sleep", "60"),
                env={"PATH": "/usr/bin:/bin"},
                cwd=directory,
                log_path=directory / "envoy.log",
            )
        )
        owner.close()
        address = ListenAddress(
            "the gateway of staging",
            "127.0.0.1",
            gateway.getsockname()[1],
            "--staging-port",
            "gateway-staging",
        )
        stopping = asyncio.Event()
        running = asyncio.create_task(_supervisor(directory, [address]).run(stopping))
        await both_run(directory)
        stopping.set()
        await running


async def test_a_member_that_cannot_start_ends_everything(directory: Path) -> None:
    script = """
    echo "$1 started $$" >> "$2/events"
    if [ "$1" = agent ]; then
      echo '{"event": "cannot_start", "error": "the disk is gone", "hint": "find it"}'
      exit 78
    fi
    trap 'exit 0' TERM
    while :; do sleep 0.02; done
    """
    with pytest.raises(TerminalError, match="agent cannot start: the disk is gone") as caught:
        await make_supervisor(directory, script).run(asyncio.Event())
    assert caught.value.hint == "find it"
    assert not any(is_running(pid) for _, _, pid in events(directory))


async def test_detached_it_runs_on(directory: Path) -> None:
    async def healthy() -> bool:
        return len(events(directory)) == 2

    pid = await detach(
        [sys.executable, "-m", "tests.supervisor.stand_in", str(directory)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        log_path=directory / "logs" / "up.log",
        is_healthy=healthy,
    )
    assert find_holder(directory / "up.lock") == pid
    assert os.getsid(pid) == pid
    assert await down(directory)


async def test_detached_it_says_why_it_did_not_start(directory: Path) -> None:
    async def never() -> bool:
        return False

    with (
        hold_lock(directory / "up.lock"),
        pytest.raises(TerminalError, match="modelplane runs already"),
    ):
        await detach(
            [sys.executable, "-m", "tests.supervisor.stand_in", str(directory)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            log_path=directory / "logs" / "up.log",
            is_healthy=never,
        )


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ("", ("it wrote nothing", "")),
        ("Traceback\nValueError: no", ("ValueError: no", "")),
        ('{"error": "a", "hint": "b"}\n{"event": "end"}', ("a", "b")),
    ],
)
def test_the_last_error_of_a_log_is_found(log: str, error: tuple[str, str]) -> None:
    assert last_error(log) == error
