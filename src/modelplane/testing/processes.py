"""A process keeper in memory: implements `ports.processes.Processes`, starts nothing.

For tests of what keeps processes. A test ends processes with `FakeMachine.end`, and makes a new
keeper of the same machine to play a restart of the keeper.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from modelplane.errors import Conflict, NotFound
from modelplane.ports.processes import KeptProcess, ProcessExit, ProcessSpec


def run_forever(spec: ProcessSpec) -> int | None:
    """Let no process end by itself."""
    return None


@dataclass(slots=True)
class _Entry:
    process: KeptProcess
    spec: ProcessSpec
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    obeys_sigterm: bool = True


@dataclass(slots=True)
class FakeMachine:
    """What outlives a keeper: the processes, and what was ever started.

    Attributes
    ----------
    behave
        Says with which exit code a started process ends at once; None: it runs.
    started
        The specs of all starts, in order.
    logs
        What processes wrote, by name; a test fills it.
    signals
        (name, signal name) in the order sent.
    now
        The clock of the machine.
    """

    behave: Callable[[ProcessSpec], int | None] = run_forever
    started: list[ProcessSpec] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    signals: list[tuple[str, str]] = field(default_factory=list)
    entries: dict[str, _Entry] = field(default_factory=dict)
    last_pid: int = 1000
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))

    def end(self, name: str, code: int) -> None:
        """End a running process with `code` (a negated signal number if it was killed)."""
        entry = self.entries[name]
        entry.process = replace(entry.process, exit=ProcessExit(code))
        entry.ended.set()


class FakeProcesses:
    """Implements `ports.processes.Processes` on a `FakeMachine`."""

    def __init__(self, machine: FakeMachine | None = None) -> None:
        self.machine = machine or FakeMachine()
        self._known: set[str] = set()

    async def adopt(self) -> Sequence[KeptProcess]:
        """Take back what earlier keepers of the machine started."""
        self._known |= set(self.machine.entries)
        return self.list()

    async def start(self, spec: ProcessSpec) -> KeptProcess:
        """Note a process as running, or as ended when the machine says so."""
        before = self._entry(spec.name)
        if before is not None and before.process.exit is None:
            raise Conflict(f"process {spec.name} runs already (pid {before.process.pid})")
        self.machine.started.append(spec)
        self.machine.last_pid += 1
        process = KeptProcess(
            spec.name, self.machine.last_pid, self.machine.now(), labels=dict(spec.labels)
        )
        self.machine.entries[spec.name] = _Entry(process, spec)
        self._known.add(spec.name)
        code = self.machine.behave(spec)
        if code is not None:
            self.machine.end(spec.name, code)
        return process

    def find(self, name: str) -> KeptProcess | None:
        """Return the recorded process, or None."""
        entry = self._entry(name)
        return entry.process if entry else None

    def list(self) -> Sequence[KeptProcess]:
        """Return all recorded processes, by name."""
        return [self.machine.entries[name].process for name in sorted(self._known)]

    async def wait(self, name: str) -> ProcessExit:
        """Return how the process ends, once a test has ended it."""
        entry = self._entry(name)
        if entry is None:
            raise NotFound(f"no process is recorded as {name}")
        await entry.ended.wait()
        return entry.process.exit or ProcessExit(None)

    async def stop(self, name: str, drain_s: float) -> ProcessExit | None:
        """End the process at once and forget it."""
        entry = self._entry(name)
        if entry is None:
            return None
        if entry.process.exit is None:
            self.machine.signals.append((name, "SIGTERM"))
            if entry.obeys_sigterm:
                self.machine.end(name, 0)
            else:
                self.machine.signals.append((name, "SIGKILL"))
                self.machine.end(name, -9)
        self.forget(name)
        return entry.process.exit

    def forget(self, name: str) -> None:
        """Drop the record of an ended process."""
        entry = self._entry(name)
        if entry is not None and entry.process.exit is not None:
            del self.machine.entries[name]
            self._known.discard(name)

    def log_tail(self, name: str, lines: int = 40) -> str:
        """Return the last of the lines that the test gave the process."""
        if self._entry(name) is None:
            return ""
        return "\n".join(self.machine.logs.get(name, "").splitlines()[-lines:])

    def trim_logs(self) -> None:
        """Do nothing: logs are what the test gave."""

    def close(self) -> None:
        """Forget the processes, which run on."""
        self._known.clear()

    def _entry(self, name: str) -> _Entry | None:
        return self.machine.entries.get(name) if name in self._known else None
