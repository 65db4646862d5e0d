"""The process keeper: children that outlive their parent, and are taken back by the next one.

Called by the agent for model servers, Envoy and jobs, and by the supervisor for its two
processes. A child is recorded before it runs, so that no crash leaves one that nobody knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run.

    Attributes
    ----------
    name
        Unique in the keeper; letters, digits, ``-``, ``_`` and ``.``, at most 150.
    command
        Program and arguments; never a shell line.
    env
        All of the child's environment variables; nothing is inherited.
    cwd
        Working directory; must exist.
    log_path
        Standard output and error are appended to it.
    memory_bytes
        Limit of the memory that the process may write to, or None.
    file_bytes
        Largest file that the process may write, its log included, or None.
    labels
        Facts for the next keeper, such as what the process was started for; no secrets.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    log_path: Path
    memory_bytes: int | None = None
    file_bytes: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProcessExit:
    """How a process ended.

    ``code`` is the exit code, the negated number of the signal that ended it, or None when
    nobody was there to see it (the machine went down, say).
    """

    code: int | None

    def __str__(self) -> str:
        if self.code is None:
            return "ended while nobody watched"
        return f"ended by signal {-self.code}" if self.code < 0 else f"exit code {self.code}"


@dataclass(frozen=True, slots=True)
class KeptProcess:
    """One process in the keeper's records.

    ``exit`` is None while it runs. ``labels`` are those of its `ProcessSpec`.
    """

    name: str
    pid: int
    started_at: datetime
    exit: ProcessExit | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


class Processes(Protocol):
    """A keeper of processes. Its records survive it; so do the processes."""

    async def adopt(self) -> Sequence[KeptProcess]:
        """Take back what earlier keepers recorded; called once, before anything else.

        A process that ended meanwhile is among them with its `exit`. Nothing is signalled
        unless it is certainly the recorded process, by pid, start time and boot.
        """

    async def start(self, spec: ProcessSpec) -> KeptProcess:
        """Start a process and return once it is recorded.

        An ended process of the same name is replaced. Raises `Conflict` when one runs,
        `NoSpace` on a full disk and `TransientError` when it cannot be started.
        """

    def find(self, name: str) -> KeptProcess | None:
        """Return the recorded process, running or ended, or None."""

    def list(self) -> Sequence[KeptProcess]:
        """Return all recorded processes, by name."""

    async def wait(self, name: str) -> ProcessExit:
        """Return how the process ends, once it has; raises `NotFound` for unknown names."""

    async def stop(self, name: str, drain_s: float) -> ProcessExit | None:
        """End the process and forget it; an unknown name changes nothing and gives None.

        SIGTERM first, SIGKILL after `drain_s` seconds; children it left behind end with it.
        """

    def forget(self, name: str) -> None:
        """Drop the record of an ended process; running and unknown ones are left alone."""

    def log_tail(self, name: str, lines: int = 40) -> str:
        """Return the last lines that a recorded process wrote; empty when there are none."""

    def trim_logs(self) -> None:
        """Bound the logs of running processes; to be called now and then."""

    def close(self) -> None:
        """Stop watching. The processes run on."""
