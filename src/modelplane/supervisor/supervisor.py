"""`modelplane up`: starts the two processes, or takes them back, and restarts what dies.

Run by the CLI in the foreground. Either process may die alone; killed itself, it leaves both
running, and the next `up` takes them back. Asked to stop it stops the agent, which drains gateways
and model servers, and then the control plane.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Sequence
from pathlib import Path

from modelplane.decisions.restarts import (
    RestartHistory,
    RestartPolicy,
    StartAfter,
    decide_restart,
    record_exit,
)
from modelplane.errors import ModelplaneError, TerminalError
from modelplane.ports.clock import Clock
from modelplane.ports.processes import KeptProcess, Processes, ProcessExit
from modelplane.supervisor.addresses import ListenAddress, check_addresses
from modelplane.supervisor.lock import hold_lock
from modelplane.supervisor.stopping import Member, Progress, Tell, stop_members

EXIT_CANNOT_START = 78
"""A member's exit code when starting it again cannot help."""

RESTARTS = RestartPolicy(first_delay_s=0.05, max_delay_s=10.0)
_TRIM_S = 10.0


class Supervisor:
    """Keeps the members running.

    Parameters
    ----------
    lock
        File of the lock that makes it the only one on its state directory.
    members
        What to run, in the order of starting.
    processes
        The keeper of the members.
    leftovers
        A keeper over the agent's records, for what a killed agent left running.
    clock
        Time.
    addresses
        What the members listen on, checked before the first start.
    tell
        Takes progress.
    """

    def __init__(
        self,
        *,
        lock: Path,
        members: Sequence[Member],
        processes: Processes,
        leftovers: Processes,
        clock: Clock,
        addresses: Sequence[ListenAddress] = (),
        tell: Tell,
    ) -> None:
        self._lock = lock
        self._members = tuple(members)
        self._processes = processes
        self._leftovers = leftovers
        self._clock = clock
        self._addresses = tuple(addresses)
        self._tell = tell

    async def run(self, stopping: asyncio.Event) -> None:
        """Run the members until `stopping` is set, then stop them all.

        Raises
        ------
        Conflict
            Another supervisor runs; nothing was touched.
        TerminalError
            A port is in use, or a member says that it cannot start. What this call started, and
            what it took back, is stopped.
        """
        with hold_lock(self._lock):
            try:
                await self._processes.adopt()
                await self._check_addresses()
                try:
                    await self._keep_running(stopping)
                finally:
                    await stop_members(self._members, self._processes, self._leftovers, self._tell)
            finally:
                self._processes.close()

    async def _check_addresses(self) -> None:
        running = {process.name for process in self._processes.list() if process.exit is None}
        if len(running) == len(self._members):
            return
        try:
            kept = await self._leftovers.adopt()
            running |= {process.name for process in kept if process.exit is None}
        finally:
            self._leftovers.close()
        check_addresses(self._addresses, running)

    async def _keep_running(self, stopping: asyncio.Event) -> None:
        tasks = [asyncio.create_task(self._keep(member)) for member in self._members]
        tasks.append(asyncio.create_task(self._trim_logs()))
        stopped = asyncio.create_task(stopping.wait())
        try:
            done, _ = await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stopped, *tasks):
                task.cancel()
            await asyncio.gather(stopped, *tasks, return_exceptions=True)
        for task in done - {stopped}:
            task.result()

    async def _keep(self, member: Member) -> None:
        """Keep one member running; raises `TerminalError` when it cannot start."""
        history = RestartHistory(was_ready=True)
        while True:
            started_at_s = self._clock.monotonic_s()
            try:
                process = self._processes.find(member.name)
                if process is None or process.exit is not None:
                    process = await self._processes.start(member.spec)
                    self._tell(Progress(member.name, f"started (pid {process.pid})"))
                else:
                    self._tell(Progress(member.name, f"adopted (pid {process.pid})"))
                how = await self._processes.wait(member.name)
                self._judge(member, process, how)
            except TerminalError:
                raise
            except ModelplaneError as error:
                self._tell(Progress(member.name, f"not started: {error}"))
            now_s = self._clock.monotonic_s()
            history = record_exit(history, RESTARTS, started_at_s=started_at_s, ended_at_s=now_s)
            wait = decide_restart(history, RESTARTS, now_s=now_s)
            await self._clock.sleep(wait.delay_s if isinstance(wait, StartAfter) else 0.0)

    def _judge(self, member: Member, process: KeptProcess, how: ProcessExit) -> None:
        if how.code != EXIT_CANNOT_START:
            self._tell(Progress(member.name, f"ended (pid {process.pid}, {how}), restarting"))
            return
        message, hint = last_error(self._processes.log_tail(member.name))
        raise TerminalError(f"{member.name} cannot start: {message}", hint=hint)

    async def _trim_logs(self) -> None:
        while True:
            await self._clock.sleep(_TRIM_S)
            self._processes.trim_logs()


async def run_until_signal(supervisor: Supervisor) -> None:
    """Run `supervisor` until SIGINT, SIGTERM or SIGHUP."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stopping.set)
    await supervisor.run(stopping)


def last_error(log_tail: str) -> tuple[str, str]:
    """Return message and hint of the last error in a log of JSON lines.

    A line that is no JSON speaks for itself.
    """
    lines = [line.strip() for line in log_tail.splitlines() if line.strip()]
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("error"):
            return str(record["error"]), str(record.get("hint", ""))
    return (lines[-1] if lines else "it wrote nothing"), ""
