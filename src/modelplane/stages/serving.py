"""One model server for a check: started as replicas are, asked, and ended.

Used by `workspace.Workspace.serve`. Runs a version's own environment and the real server on a
Unix socket; whatever happens to the check, the server ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from modelplane.adapters.runtime.procfs import NONCE_VARIABLE
from modelplane.adapters.runtime.servers import RuntimeServers
from modelplane.ports.servers import PreparationFailed, Readiness, ServerCommand
from modelplane.resources.gate_run import ServedModel
from modelplane.resources.meta import Metadata
from modelplane.resources.replica import Replica, ReplicaSpec
from modelplane.stages.failures import CheckImpossible, InfrastructureFailed

_INFER_TIMEOUT_S = 60.0
_READY_POLL_S = 0.02
_END_TIMEOUT_S = 10.0
_TAIL_CHARS = 1000
_MAX_LOG_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class RunningModel:
    """A model server that is ready.

    Attributes
    ----------
    name
        The model's name in the server's addresses.
    socket
        Where it listens.
    pid
        Of its first process.
    cold_start_s
        From the start of the process to its readiness, seconds.
    """

    name: str
    socket: Path
    pid: int
    cold_start_s: float
    _http: httpx.AsyncClient = field(repr=False)

    @property
    def infer_path(self) -> str:
        """The path of inference requests."""
        return f"/v2/models/{self.name}/infer"

    async def infer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send one Open Inference Protocol request and return the answer.

        Raises
        ------
        CheckImpossible
            The model refuses it, fails, or does not answer; with its words.
        """
        try:
            reply = await self._http.post(self.infer_path, json=dict(request))
            answer = reply.json() if reply.status_code == 200 else None
        except (httpx.HTTPError, ValueError) as error:
            raise CheckImpossible(
                f"{self.name} gives no answer: {str(error) or type(error).__name__}"
            ) from error
        if not isinstance(answer, dict):
            words = " ".join(reply.text.split())[:_TAIL_CHARS]
            raise CheckImpossible(f"{self.name} answers {reply.status_code}: {words}")
        return answer

    def peak_memory_bytes(self) -> int:
        """Return the most memory that its living processes each held, summed.

        The sum of their high-water marks (VmHWM), which need not have been at one time: pages
        that they share count for each.
        """
        return sum(_high_water_bytes(process) for process in _tree(self.pid))


@dataclass(frozen=True, slots=True)
class Server:
    """What a server is started with.

    Attributes
    ----------
    servers
        Builds environments and commands.
    replica
        The version, as an agent would have it.
    artifact
        The folder of its files.
    work_dir
        Its working directory.
    socket, log
        Where it listens and what it writes.
    """

    servers: RuntimeServers
    replica: Replica
    artifact: Path
    work_dir: Path
    socket: Path
    log: Path

    @property
    def name(self) -> str:
        """The model's name."""
        return self.replica.spec.deployment

    @asynccontextmanager
    async def run(self) -> AsyncIterator[RunningModel]:
        """Build the environment, start the server, wait until it is ready, and end it.

        Raises
        ------
        CheckImpossible
            The environment cannot be built, the server does not start, or the version refuses
            its own input example.
        InfrastructureFailed
            The package index does not answer, or the machine ended the server.
        """
        prepared = await self.servers.prepare(self.replica, self.artifact, self.socket)
        if isinstance(prepared, PreparationFailed):
            message = f"the environment of {self.name} cannot be built: {prepared.message}"
            words = f"{message} {_end(prepared.log_tail)}".strip()
            raise InfrastructureFailed(words) if prepared.transient else CheckImpossible(words)
        started_s = time.monotonic()
        process = await self._start(prepared)
        try:
            await self._wait_until_ready(process)
            cold_start_s = time.monotonic() - started_s
            await self._smoke()
            transport = httpx.AsyncHTTPTransport(uds=str(self.socket), verify=False)
            async with httpx.AsyncClient(
                transport=transport,
                base_url="http://model-server",
                timeout=_INFER_TIMEOUT_S,
                trust_env=False,
            ) as http:
                yield RunningModel(self.name, self.socket, process.pid, cold_start_s, http)
        finally:
            await _end_group(process)
            _trim(self.log)
            self.socket.unlink(missing_ok=True)

    async def _start(self, prepared: ServerCommand) -> asyncio.subprocess.Process:
        env = dict(prepared.env)
        if NONCE_VARIABLE in os.environ:
            # What the agent finds the processes of a job by, should this one be killed.
            env[NONCE_VARIABLE] = os.environ[NONCE_VARIABLE]
        with self.log.open("wb") as output:
            try:
                return await asyncio.create_subprocess_exec(
                    *prepared.command,
                    cwd=self.work_dir,
                    env=env,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            except OSError as error:
                raise CheckImpossible(
                    f"the server of {self.name} cannot be started: "
                    f"{prepared.command[0]}: {error.strerror}"
                ) from error

    async def _wait_until_ready(self, process: asyncio.subprocess.Process) -> None:
        limit_s = self.replica.spec.revision.runtime.start_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                while await self.servers.ask_readiness(self.socket) is not Readiness.READY:
                    if process.returncode is not None:
                        raise self._explain_exit(process.returncode)
                    await asyncio.sleep(_READY_POLL_S)
        except TimeoutError:
            raise CheckImpossible(
                f"the server of {self.name} was not ready within {limit_s:g} s: "
                f"{_read_end(self.log)}"
            ) from None

    def _explain_exit(self, code: int) -> Exception:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        words = f"the server of {self.name} ended ({how}) before it was ready: "
        words += _read_end(self.log)
        # SIGKILL comes from the machine when it has no memory left, not from the server.
        return InfrastructureFailed(words) if code == -signal.SIGKILL else CheckImpossible(words)

    async def _smoke(self) -> None:
        example = self.replica.spec.input_example
        if example is None:
            return
        prediction = await self.servers.predict(self.socket, self.replica, example)
        if not prediction.succeeded:
            raise CheckImpossible(f"{self.name}, its own input example: {prediction.message}")


def replica_of(served: ServedModel, name: str) -> Replica:
    """Return the replica that an agent would run for a version."""
    return Replica(
        metadata=Metadata(name=name, environment="stage"),
        spec=ReplicaSpec(
            deployment=name,
            revision=served.revision,
            index=0,
            allow_pickle="scanned",
            signature=served.signature,
            input_example=served.input_example,
        ),
    )


async def _end_group(process: asyncio.subprocess.Process) -> None:
    """End a process and what it started."""
    started = _tree(process.pid)
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _END_TIMEOUT_S)
    # What the server started has its group, and may have outlived it.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    for child in started[1:]:
        with contextlib.suppress(psutil.Error):
            child.kill()
    await asyncio.to_thread(psutil.wait_procs, started[1:], _END_TIMEOUT_S)


def _tree(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants; empty when it is gone."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _high_water_bytes(process: psutil.Process) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _read_end(log: Path) -> str:
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4 * _TAIL_CHARS))
        return _end(file.read().decode(errors="replace"))
    return ""


def _end(text: str) -> str:
    return " ".join(text.split())[-_TAIL_CHARS:]


def _trim(log: Path) -> None:
    """Keep the end of a long log: it goes into the evidence."""
    with contextlib.suppress(OSError), log.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        if end > _MAX_LOG_BYTES:
            file.seek(end - _MAX_LOG_BYTES)
            kept = file.read()
            file.seek(0)
            file.write(kept)
            file.truncate()
