"""`modelplane down`, and the end of `up`: everything stops, and nothing is left running.

Works from another shell, and also when the supervisor itself is dead and its children run.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelplane.errors import TransientError
from modelplane.ports.processes import Processes, ProcessSpec
from modelplane.supervisor.lock import find_holder, hold_lock

_POLL_S = 0.05
_SETTLE_S = 10.0


@dataclass(frozen=True, slots=True)
class Member:
    """One process that the supervisor keeps running.

    Attributes
    ----------
    spec
        How it is started.
    drain_s
        How long it may take to end after SIGTERM, seconds.
    """

    spec: ProcessSpec
    drain_s: float

    @property
    def name(self) -> str:
        """Its name in the keeper."""
        return self.spec.name


@dataclass(frozen=True, slots=True)
class Progress:
    """One thing that happened, for people: which process, and what."""

    process: str
    message: str


Tell = Callable[[Progress], None]
"""Takes progress as it happens."""


async def stop_members(
    members: Sequence[Member], processes: Processes, leftovers: Processes, tell: Tell
) -> None:
    """Stop the members, the last one first, and then what they themselves left behind.

    Parameters
    ----------
    members
        In the order of their start.
    processes
        Their keeper; what it recorded is adopted already.
    leftovers
        A keeper over the agent's records, not adopted yet. A healthy agent leaves none.
    tell
        Takes progress.
    """
    for member in reversed(members):
        process = processes.find(member.name)
        if process is not None:
            if process.exit is None:
                tell(Progress(member.name, "stopping"))
            await processes.stop(member.name, member.drain_s)
            tell(Progress(member.name, "stopped"))
    try:
        for process in await leftovers.adopt():
            if process.exit is None:
                tell(Progress(process.name, "was left behind, stopping"))
            await leftovers.stop(process.name, _SETTLE_S)
    finally:
        leftovers.close()


async def stop_all(
    lock: Path,
    members: Sequence[Member],
    processes: Processes,
    leftovers: Processes,
    *,
    tell: Tell,
) -> bool:
    """Stop a running modelplane, supervisor and all; return whether anything ran.

    Parameters
    ----------
    lock
        The supervisor's lock.
    members, processes, leftovers
        As for `stop_members`; nothing is adopted yet.
    tell
        Takes progress.

    Raises
    ------
    TransientError
        When something does not end.
    """
    found = await _stop_supervisor(lock, sum(m.drain_s for m in members) + _SETTLE_S, tell)
    if not lock.parent.is_dir():
        return found
    with hold_lock(lock):
        try:
            adopted = await processes.adopt()
            found = found or any(process.exit is None for process in adopted)
            await stop_members(members, processes, leftovers, tell)
        finally:
            processes.close()
    return found


async def _stop_supervisor(lock: Path, timeout_s: float, tell: Tell) -> bool:
    """End the lock's holder, by SIGKILL when it takes too long; return whether there was one."""
    pid = find_holder(lock)
    if pid is None:
        return False
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        # Asked again with the process held fast: the pid is the holder's and no other's.
        if find_holder(lock) != pid:
            return True
        tell(Progress("supervisor", f"stopping (pid {pid})"))
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        if not await _released(lock, pid, timeout_s):
            tell(Progress("supervisor", "does not end, killing it"))
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            if not await _released(lock, pid, _SETTLE_S):
                raise TransientError(f"the supervisor (pid {pid}) does not die")
    except ProcessLookupError:
        return True
    finally:
        os.close(descriptor)
    return True


async def _released(lock: Path, pid: int, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            while find_holder(lock) == pid:  # noqa: ASYNC110 - the kernel tells nobody
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        return False
    return True
