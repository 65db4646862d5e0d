"""The process keeper's promises, held by the real one and by the fake."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from modelplane.adapters.runtime.processes import LinuxProcesses
from modelplane.errors import Conflict, NotFound
from modelplane.ports.processes import Processes, ProcessExit, ProcessSpec
from modelplane.testing.processes import FakeMachine, FakeProcesses

MakeKeeper = Callable[[], Processes]


def spec(name: str, script: str, **changes: object) -> ProcessSpec:
    """A process that runs a shell script: `exit N` and `sleep N` mean the same to the fake."""
    values: dict[str, object] = {
        "name": name,
        "command": ("/bin/sh", "-c", script),
        "env": {"PATH": os.environ["PATH"]},
        "cwd": Path("/"),
        "log_path": Path(tempfile.gettempdir()) / "unused.log",
    }
    return ProcessSpec(**{**values, **changes})  # type: ignore[arg-type]


def behave(spec: ProcessSpec) -> int | None:
    word, _, number = spec.command[-1].partition(" ")
    return int(number) if word == "exit" else None


@pytest.fixture(params=["linux", "fake"])
async def keepers(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakeKeeper]:
    """Makes keepers of one machine; whatever still runs at the end is ended."""
    machine = FakeMachine(behave=behave)
    made: list[Processes] = []

    def make() -> Processes:
        if request.param == "fake":
            made.append(FakeProcesses(machine))
        else:
            made.append(LinuxProcesses(tmp_path / "processes"))
        return made[-1]

    yield make
    for keeper in made:
        keeper.close()
    last = make()
    for process in await last.adopt():
        await last.stop(process.name, 0)
    last.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "child.log"


async def test_a_started_process_is_known_until_it_is_stopped(
    keepers: MakeKeeper, log: Path
) -> None:
    keeper = keepers()
    started = await keeper.start(spec("a", "sleep 60", log_path=log, labels={"for": "test"}))
    assert keeper.find("a") == started
    assert [p.name for p in keeper.list()] == ["a"]
    assert started.labels == {"for": "test"}
    assert started.exit is None
    await keeper.stop("a", 5)
    assert keeper.find("a") is None
    assert await keeper.stop("a", 5) is None


@pytest.mark.parametrize("code", [0, 3])
async def test_the_exit_code_is_told(keepers: MakeKeeper, log: Path, code: int) -> None:
    keeper = keepers()
    await keeper.start(spec("a", f"exit {code}", log_path=log))
    assert await keeper.wait("a") == ProcessExit(code)
    found = keeper.find("a")
    assert found is not None
    assert found.exit == ProcessExit(code)


async def test_a_running_name_is_taken_an_ended_one_is_free(keepers: MakeKeeper, log: Path) -> None:
    keeper = keepers()
    await keeper.start(spec("a", "sleep 60", log_path=log))
    with pytest.raises(Conflict):
        await keeper.start(spec("a", "exit 0", log_path=log))
    keeper.forget("a")
    assert keeper.find("a") is not None, "a running process is not forgotten"
    await keeper.stop("a", 5)
    await keeper.start(spec("a", "exit 1", log_path=log))
    await keeper.wait("a")
    await keeper.start(spec("a", "exit 2", log_path=log))
    assert await keeper.wait("a") == ProcessExit(2)


async def test_waiting_for_an_unknown_process_is_an_error(keepers: MakeKeeper) -> None:
    with pytest.raises(NotFound):
        await keepers().wait("nobody")


async def test_the_next_keeper_takes_back_what_runs(keepers: MakeKeeper, log: Path) -> None:
    first = keepers()
    started = await first.start(spec("a", "sleep 60", log_path=log, labels={"k": "v"}))
    first.close()
    second = keepers()
    assert second.find("a") is None, "nothing is known before it is adopted"
    (adopted,) = await second.adopt()
    assert (adopted.pid, adopted.labels, adopted.exit) == (started.pid, {"k": "v"}, None)
    waiting = asyncio.create_task(second.wait("a"))
    await asyncio.sleep(0)
    await second.stop("a", 5)
    await waiting
    assert second.list() == []


async def test_an_exit_code_outlives_the_keeper(keepers: MakeKeeper, log: Path) -> None:
    first = keepers()
    await first.start(spec("job", "exit 7", log_path=log))
    await first.wait("job")
    first.close()
    second = keepers()
    (ended,) = await second.adopt()
    assert ended.exit == ProcessExit(7)
    second.forget("job")
    assert second.find("job") is None
