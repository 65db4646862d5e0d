"""Runs one program for the command check: its files, its output, its end.

The program is anybody's: what it writes is bounded, and what it starts ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from modelplane.adapters.runtime.environments import child_environment
from modelplane.adapters.runtime.procfs import NONCE_VARIABLE
from modelplane.stages.failures import CheckImpossible

MAX_LOG_BYTES = 4 * 2**20
"""So much of the beginning, and so much of the end, of what a program writes is kept."""

_PIECE = 64 * 2**10
_END_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Program:
    """What is run.

    Attributes
    ----------
    command
        Program and arguments.
    env
        Its own variables, besides the few that every child has.
    cwd
        Where it works.
    log
        What it writes goes here, and into the log of the job.
    """

    command: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    log: Path

    async def run(self) -> int:
        """Run it to its end and return its exit code, or the negated number of a signal.

        Raises `CheckImpossible` when there is no such program.
        """
        env = child_environment(self.env) | {
            name: value for name, value in os.environ.items() if name in _HANDED_DOWN
        }
        env["PATH"] = f"{Path(sys.executable).parent}:{env.get('PATH', os.defpath)}"
        # A pipe of our own: asyncio would wait for its end before it says that a process ended,
        # and what a program leaves running may hold it open.
        ours, theirs = os.pipe()
        with os.fdopen(ours, "rb", buffering=0) as pipe:
            try:
                return await self._run(env, pipe, theirs)
            except (OSError, ValueError) as error:
                words = error.strerror if isinstance(error, OSError) else str(error)
                raise CheckImpossible(f"{self.command[0]} cannot be run: {words}") from error

    async def _run(self, env: Mapping[str, str], pipe: IO[bytes], theirs: int) -> int:
        try:
            process = await asyncio.create_subprocess_exec(
                *self.command,
                cwd=self.cwd,
                env=env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        reading = asyncio.create_task(_keep(pipe, self.log))
        try:
            code = await process.wait()
        finally:
            # What it left running has its group, and may hold its output open.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reading, _END_TIMEOUT_S)
        return code


# What the agent finds the processes of a job by, and where temporary files count.
_HANDED_DOWN = frozenset({NONCE_VARIABLE, "MODELPLANE_JOB_OUTPUT", "TMPDIR"})


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write small files into `folder`, by names that stay inside; raises `CheckImpossible`."""
    for name, text in files.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise CheckImpossible(f"the file {name!r} cannot be written: {error}") from error


@asynccontextmanager
async def forward(socket: Path) -> AsyncIterator[str]:
    """Give a Unix socket an address that any program can ask: ``http://127.0.0.1:PORT``."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(_PIECE):
                writer.write(piece)
                await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_unix_connection(str(socket))
        except OSError:
            writer.close()
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(pump(reader, there_writer))
                group.create_task(pump(there_reader, writer))
        finally:
            there_writer.close()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.close()


async def _keep(pipe: IO[bytes], log: Path) -> None:
    """Write the beginning and the end of what comes to a file, and all of it to our own output."""
    stream = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), pipe
    )
    first_left, left_out = MAX_LOG_BYTES, 0
    last: deque[bytes] = deque()
    last_bytes = 0
    with log.open("wb") as file:
        try:
            while piece := await stream.read(_PIECE):
                with contextlib.suppress(OSError):
                    sys.stdout.buffer.write(piece)
                    sys.stdout.buffer.flush()
                file.write(piece[:first_left])
                rest = piece[first_left:]
                first_left -= len(piece) - len(rest)
                if rest:
                    last.append(rest)
                    last_bytes += len(rest)
                while last_bytes > MAX_LOG_BYTES:
                    gone = len(last.popleft())
                    last_bytes -= gone
                    left_out += gone
        finally:
            transport.close()
            if left_out:
                file.write(f"\n... {left_out:,} bytes are left out ...\n".encode())
            file.writelines(last)
