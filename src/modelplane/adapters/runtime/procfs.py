"""What Linux says of processes: who they are, and signals that reach nobody else.

Called by the process keeper. A pid alone names nobody, since pids are used again: a process is
known by pid and start time within one boot, or by a random mark in its environment variables,
which its descendants inherit.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

NONCE_VARIABLE = "MODELPLANE_PROCESS"
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """State letter and start time (clock ticks since boot) of a process."""

    state: str
    start_ticks: int


def boot_id() -> str:
    """Return what names this boot of the machine."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def read_stat(pid: int) -> ProcessStat | None:
    """Return the state of a process, or None when there is none."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The program's name is in parentheses and may itself hold any of them.
    fields = text.rpartition(")")[2].split()
    return ProcessStat(state=fields[0], start_ticks=int(fields[19]))


def open_pidfd(pid: int, start_ticks: int) -> int:
    """Return a descriptor of exactly the process that started then, or -1 when it is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return -1
    # The descriptor was there first: if the start time still fits, it is that process's.
    stat = read_stat(pid)
    if stat is None or stat.start_ticks != start_ticks or stat.state in "ZX":
        os.close(descriptor)
        return -1
    return descriptor


def signal_marked(nonce: str, number: signal.Signals) -> int:
    """Signal every process that carries `nonce`; return how many there were."""
    mark = f"{NONCE_VARIABLE}={nonce}".encode()
    count = 0
    for entry in os.scandir(_PROC):
        if not entry.name.isdigit() or not _carries(entry.name, mark):
            continue
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(int(entry.name))
            try:
                if _carries(entry.name, mark):
                    signal.pidfd_send_signal(descriptor, number)
                    count += 1
            finally:
                os.close(descriptor)
    return count


def kill_marked(nonce: str) -> None:
    """Kill every process that carries `nonce`, also those born meanwhile."""
    for _ in range(10):
        if not signal_marked(nonce, signal.SIGKILL):
            return


def _carries(pid: str, mark: bytes) -> bool:
    try:
        return mark in (_PROC / pid / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
