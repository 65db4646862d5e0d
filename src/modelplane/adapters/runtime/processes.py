"""`ports.processes` on Linux: records on disk, pidfds, sessions, and a memory limit.

Built by wiring for the agent and for the supervisor, each with a directory of its own. Children
run in sessions of their own and know nothing of their keeper, so a killed keeper takes nobody
with it; the next one finds them by their records. Never decides what should run.

Each child has a parent of its own, a small shell that waits for it and writes down its exit code,
so that it is known even when no keeper ran. The shell is needed for another reason, too: Envoy
asks the kernel for SIGTERM when its parent dies, and the keeper's death must not be that. The
child itself waits for one line from the keeper, who sends it once the record is written; a keeper
that dies before leaves a child that meets the end of its input and exits.

The memory limit is RLIMIT_DATA: it counts what a process may write to. RLIMIT_AS counts reserved
addresses too, of which numerical libraries take several times what they use (534 MB for an
interpreter with numpy, scikit-learn and onnxruntime that holds 189 MB; its data segment is
252 MB), and control groups need rights that an ordinary user does not have.

Records are not flushed to the disk: what they describe does not survive the machine either.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import re
import secrets
import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelplane.adapters.runtime import procfs
from modelplane.errors import Conflict, NoSpace, NotFound, TransientError
from modelplane.ports.processes import KeptProcess, ProcessExit, ProcessSpec

MAX_LOG_BYTES = 10 * 1024 * 1024
_KILL_WAIT_S = 10.0
_TAIL_BYTES = 32 * 1024
_COPY_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][-A-Za-z0-9_.]{0,149}")
_SHELL = "/bin/sh"
_SHELL_BLOCK_BYTES = 512
_NEVER_STARTED = 125
_START_TIMEOUT_S = 10.0
_LAUNCH = f"""
exec 3<&0
(
  read -r _ <&3 || exit {_NEVER_STARTED}
  [ "$1" = 0 ] || ulimit -d "$1" || exit {_NEVER_STARTED}
  [ "$3" = 0 ] || ulimit -f "$3" || exit {_NEVER_STARTED}
  shift 3
  exec "$@" 3<&- </dev/null
) &
trap '' TERM INT HUP
echo "$!" >&3
exec 3<&- </dev/null
wait "$!"
code=$?
echo "$code" >"$2"
exit "$code"
"""


@dataclass(slots=True)
class _Entry:
    """A record and, while the process runs, what watches it.

    The waiter is the shell that is the process's parent.
    """

    process: KeptProcess
    start_ticks: int
    waiter_pid: int
    waiter_start_ticks: int
    nonce: str
    log_path: Path
    log_offset: int
    child: subprocess.Popen[bytes] | None = None
    pidfd: int = -1
    waiter_pidfd: int = -1
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class LinuxProcesses:
    """Implements `ports.processes.Processes`.

    Parameters
    ----------
    directory
        Where the records lie; made with the first. One keeper at a time.
    max_log_bytes
        A log that is longer is moved to ``.1``; the one before it is lost.
    """

    def __init__(self, directory: Path, *, max_log_bytes: int = MAX_LOG_BYTES) -> None:
        self._directory = directory
        self._max_log_bytes = max_log_bytes
        self._entries: dict[str, _Entry] = {}
        self._starting: set[str] = set()
        self._boot_id = procfs.boot_id()

    async def adopt(self) -> Sequence[KeptProcess]:
        """Take back the recorded processes, running or ended."""
        for path in sorted(self._directory.glob("*.json")):
            if path.stem not in self._entries:
                entry = self._read_record(path)
                if entry is None:
                    path.unlink(missing_ok=True)
                    continue
                self._entries[path.stem] = entry
                if entry.process.exit is None:
                    self._watch(entry)
        return self.list()

    async def start(self, spec: ProcessSpec) -> KeptProcess:
        """Start a process; see the port."""
        if not _NAME.fullmatch(spec.name):
            raise ValueError(f"not a process name: {spec.name!r}")
        before = self._entries.get(spec.name)
        if spec.name in self._starting or (before is not None and before.process.exit is None):
            raise Conflict(f"process {spec.name} runs already")
        self._starting.add(spec.name)
        try:
            entry = await self._start(spec)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(f"process {spec.name} is not started: the disk is full") from error
            raise TransientError(f"process {spec.name} is not started: {error}") from error
        finally:
            self._starting.discard(spec.name)
        self._entries[spec.name] = entry
        self._watch(entry)
        return entry.process

    def find(self, name: str) -> KeptProcess | None:
        """Return the recorded process, or None."""
        entry = self._entries.get(name)
        return entry.process if entry else None

    def list(self) -> Sequence[KeptProcess]:
        """Return all recorded processes, by name."""
        return [self._entries[name].process for name in sorted(self._entries)]

    async def wait(self, name: str) -> ProcessExit:
        """Return how the process ends, once it has."""
        entry = self._entries.get(name)
        if entry is None:
            raise NotFound(f"no process is recorded as {name}")
        await entry.ended.wait()
        return entry.process.exit or ProcessExit(None)

    async def stop(self, name: str, drain_s: float) -> ProcessExit | None:
        """End the process and forget it; see the port."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        if entry.process.exit is None:
            self._signal(entry, signal.SIGTERM)
            try:
                async with asyncio.timeout(max(0.0, drain_s)):
                    await entry.ended.wait()
            except TimeoutError:
                self._signal(entry, signal.SIGKILL)
                procfs.kill_marked(entry.nonce)
                await self._wait_killed(entry)
        self.forget(name)
        return entry.process.exit

    def forget(self, name: str) -> None:
        """Drop the record of an ended process."""
        entry = self._entries.get(name)
        if entry is not None and entry.process.exit is not None:
            del self._entries[name]
            self._record_path(name).unlink(missing_ok=True)
            self._exit_path(name).unlink(missing_ok=True)

    def log_tail(self, name: str, lines: int = 40) -> str:
        """Return the last lines that the process wrote since it started."""
        entry = self._entries.get(name)
        if entry is None:
            return ""
        try:
            with entry.log_path.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                start = entry.log_offset if entry.log_offset <= end else 0
                log.seek(max(start, end - _TAIL_BYTES))
                content = log.read()
        except OSError:
            return ""
        content = self._moved_aside(entry, _TAIL_BYTES - len(content)) + content
        return "\n".join(content.decode(errors="replace").splitlines()[-lines:])

    def trim_logs(self) -> None:
        """Move the logs that have grown too long aside; what is written meanwhile may be lost."""
        for entry in self._entries.values():
            with contextlib.suppress(OSError):
                if entry.log_path.stat().st_size > self._max_log_bytes:
                    self._move_end_aside(entry.log_path)

    @staticmethod
    def _moved_aside(entry: _Entry, size_bytes: int) -> bytes:
        """Return the end of what the process wrote and `trim_logs` moved aside, if it did."""
        if size_bytes <= 0:
            return b""
        try:
            with _rotated(entry.log_path).open("rb") as log:
                if os.fstat(log.fileno()).st_mtime < entry.process.started_at.timestamp():
                    return b""  # of a process before it
                log.seek(max(0, log.seek(0, os.SEEK_END) - size_bytes))
                return log.read()
        except OSError:
            return b""

    def _move_end_aside(self, log_path: Path) -> None:
        """Empty a log and keep its end beside it; of a flood the rest is not worth the disk.

        Its process may write its last words meanwhile: so it is read until nothing more comes, and
        emptied in the same moment. A process that writes faster than that loses a little.
        """
        most = 2 * self._max_log_bytes
        with (
            log_path.open("r+b", buffering=0) as log,
            _rotated(log_path).open("wb", buffering=0) as kept,
        ):
            log.seek(-self._max_log_bytes, os.SEEK_END)
            while kept.tell() < most and (read := log.read(_COPY_BYTES)):
                kept.write(read)
            log.truncate(0)

    def close(self) -> None:
        """Stop watching; the processes run on."""
        for entry in self._entries.values():
            self._unwatch(entry)
            if entry.child is not None and entry.child.returncode is None:
                # It runs on by intention: without this, Popen warns that it was left behind.
                entry.child.returncode = 0
        self._entries.clear()

    # Starting -------------------------------------------------------------------------------

    async def _start(self, spec: ProcessSpec) -> _Entry:
        """Start the shell and its child, record them, and let the child go on."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        nonce = secrets.token_hex(16)
        self._exit_path(spec.name).unlink(missing_ok=True)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            waiter, log_offset = self._launch(spec, nonce, theirs)
            theirs.close()
            ours.setblocking(False)
            try:
                entry = await self._identify(spec, waiter, ours)
                entry.nonce, entry.log_offset, entry.child = nonce, log_offset, waiter
                self._write_record(entry)
                ours.send(b"go\n")
            except BaseException:
                self._record_path(spec.name).unlink(missing_ok=True)
                procfs.kill_marked(nonce)
                waiter.kill()
                waiter.wait()
                raise
        return entry

    def _launch(
        self, spec: ProcessSpec, nonce: str, line: socket.socket
    ) -> tuple[subprocess.Popen[bytes], int]:
        """Start the shell; return it and where in the log its child begins."""
        spec.log_path.parent.mkdir(parents=True, exist_ok=True)
        if spec.log_path.exists() and spec.log_path.stat().st_size > self._max_log_bytes:
            spec.log_path.replace(_rotated(spec.log_path))
        limit_kib = str((spec.memory_bytes or 0) // 1024)
        exit_file = str(self._exit_path(spec.name).absolute())
        limit_blocks = str((spec.file_bytes or 0) // _SHELL_BLOCK_BYTES)
        arguments = [limit_kib, exit_file, limit_blocks, *spec.command]
        with spec.log_path.open("ab") as log:
            waiter = subprocess.Popen(
                [_SHELL, "-c", _LAUNCH, "launch", *arguments],
                stdin=line.fileno(),
                stdout=log,
                stderr=log,
                cwd=spec.cwd,
                env={**spec.env, procfs.NONCE_VARIABLE: nonce},
                start_new_session=True,
            )
            return waiter, log.tell()

    @staticmethod
    async def _identify(
        spec: ProcessSpec, waiter: subprocess.Popen[bytes], line: socket.socket
    ) -> _Entry:
        """Learn the child's pid from its parent, and when both were started."""
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                told = await asyncio.get_running_loop().sock_recv(line, 32)
            pid = int(told)
        except (TimeoutError, ValueError) as error:
            raise TransientError(f"process {spec.name} was not started in time") from error
        child_stat, waiter_stat = procfs.read_stat(pid), procfs.read_stat(waiter.pid)
        if child_stat is None or waiter_stat is None:
            raise TransientError(f"process {spec.name} was killed while it started")
        return _Entry(
            KeptProcess(spec.name, pid, datetime.now(UTC), labels=dict(spec.labels)),
            start_ticks=child_stat.start_ticks,
            waiter_pid=waiter.pid,
            waiter_start_ticks=waiter_stat.start_ticks,
            nonce="",
            log_path=spec.log_path,
            log_offset=0,
        )

    # Records --------------------------------------------------------------------------------

    def _record_path(self, name: str) -> Path:
        return self._directory / f"{name}.json"

    def _exit_path(self, name: str) -> Path:
        return self._directory / f"{name}.exit"

    def _write_record(self, entry: _Entry) -> None:
        record = {
            "pid": entry.process.pid,
            "start_ticks": entry.start_ticks,
            "waiter_pid": entry.waiter_pid,
            "waiter_start_ticks": entry.waiter_start_ticks,
            "boot_id": self._boot_id,
            "nonce": entry.nonce,
            "started_at": entry.process.started_at.isoformat(),
            "log_path": str(entry.log_path),
            "log_offset": entry.log_offset,
            "labels": dict(entry.process.labels),
        }
        path = self._record_path(entry.process.name)
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(record))
        scratch.replace(path)

    def _read_record(self, path: Path) -> _Entry | None:
        """Return the entry of a record; None when the record is no record."""
        try:
            record: dict[str, Any] = json.loads(path.read_text())
            process = KeptProcess(
                name=path.stem,
                pid=int(record["pid"]),
                started_at=datetime.fromisoformat(record["started_at"]),
                labels=dict(record["labels"]),
            )
            entry = _Entry(
                process,
                start_ticks=int(record["start_ticks"]),
                waiter_pid=int(record["waiter_pid"]),
                waiter_start_ticks=int(record["waiter_start_ticks"]),
                nonce=str(record["nonce"]),
                log_path=Path(record["log_path"]),
                log_offset=int(record["log_offset"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if record.get("boot_id") != self._boot_id:
            self._note_exit(entry, ProcessExit(None))
            return entry
        entry.waiter_pidfd = procfs.open_pidfd(entry.waiter_pid, entry.waiter_start_ticks)
        if entry.waiter_pidfd < 0:
            entry.pidfd = procfs.open_pidfd(process.pid, entry.start_ticks)
            self._signal(entry, signal.SIGKILL)
            self._unwatch(entry)
            procfs.kill_marked(entry.nonce)
            self._note_exit(entry, self._kept_exit(entry))
        return entry

    # Watching and ending --------------------------------------------------------------------

    def _watch(self, entry: _Entry) -> None:
        if entry.waiter_pidfd < 0:
            entry.waiter_pidfd = os.pidfd_open(entry.waiter_pid)
        entry.pidfd = procfs.open_pidfd(entry.process.pid, entry.start_ticks)
        asyncio.get_running_loop().add_reader(entry.waiter_pidfd, self._ended, entry)

    @staticmethod
    def _unwatch(entry: _Entry) -> None:
        if entry.waiter_pidfd >= 0:
            with contextlib.suppress(RuntimeError):  # the loop is gone already
                asyncio.get_running_loop().remove_reader(entry.waiter_pidfd)
            os.close(entry.waiter_pidfd)
            entry.waiter_pidfd = -1
        if entry.pidfd >= 0:
            os.close(entry.pidfd)
            entry.pidfd = -1

    def _ended(self, entry: _Entry) -> None:
        # By its descriptor first: just while it executes its program it carries no mark.
        self._signal(entry, signal.SIGKILL)
        self._unwatch(entry)
        procfs.kill_marked(entry.nonce)
        if entry.child is not None:
            code = entry.child.wait()
            self._note_exit(entry, ProcessExit(_signal_of(code)))
        else:
            self._note_exit(entry, self._kept_exit(entry))

    def _kept_exit(self, entry: _Entry) -> ProcessExit:
        try:
            return ProcessExit(_signal_of(int(self._exit_path(entry.process.name).read_text())))
        except (OSError, ValueError):
            return ProcessExit(None)

    @staticmethod
    def _note_exit(entry: _Entry, how: ProcessExit) -> None:
        entry.process = replace(entry.process, exit=how)
        entry.ended.set()

    @staticmethod
    def _signal(entry: _Entry, number: signal.Signals) -> None:
        if entry.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(entry.pidfd, number)

    @staticmethod
    async def _wait_killed(entry: _Entry) -> None:
        try:
            async with asyncio.timeout(_KILL_WAIT_S):
                await entry.ended.wait()
        except TimeoutError as error:
            raise TransientError(
                f"process {entry.process.name} (pid {entry.process.pid}) does not die",
                hint="it waits in the kernel, perhaps for a disk or a network file system",
            ) from error


def _rotated(log: Path) -> Path:
    return log.with_name(f"{log.name}.1")


def _signal_of(shell_code: int) -> int:
    """Return an exit code as Python says it, from how a shell says it: signals are negative."""
    return 128 - shell_code if shell_code > 128 else shell_code
