"""Two versions of a model, asked the same questions: each served as an agent would serve it.

Called by ``modelplane reproduce`` for the recorded artifact and for the new one. The servers end
with the call.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from modelplane.adapters.runtime.servers import RuntimeServers
from modelplane.ports.servers import PreparationFailed, Readiness, ServerCommand
from modelplane.resources.meta import Metadata
from modelplane.resources.model import ModelVersionSpec
from modelplane.resources.replica import Replica, ReplicaSpec
from modelplane.resources.revision import RuntimeSpec, make_revision

_NAME = "reproduction"
_PREDICT_TIMEOUT_S = 60.0
_READY_POLL_S = 0.1
_END_TIMEOUT_S = 10.0
_MAX_BODY_BYTES = 64 * 2**20
_TAIL_CHARS = 600

Answers = list[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server has its things: a folder with a short path that servers share, and a name."""

    root: Path
    name: str


async def ask_version(
    spec: ModelVersionSpec,
    artifact: Path,
    requests: Sequence[Mapping[str, Any]],
    place: Place,
    *,
    allow_pickle: bool,
    timeout_s: float,
) -> Answers | str:
    """Serve a version and return its answers, or why there are none.

    Parameters
    ----------
    spec
        The version: its format, requirements and signature.
    artifact
        The folder of its files.
    requests
        Open Inference Protocol requests, asked in this order.
    place
        For environments, the socket and the log.
    allow_pickle
        Whether artifacts may be loaded that run any code when they are; without, pickles are
        scanned first.
    timeout_s
        How long environment and start may take.
    """
    assert spec.artifact is not None
    runtime = RuntimeSpec(requirements=spec.requirements, start_timeout_s=timeout_s)
    replica = Replica(
        metadata=Metadata(name=_NAME, environment=_NAME),
        spec=ReplicaSpec(
            deployment=_NAME,
            revision=make_revision(spec.model, spec.version, spec.artifact, runtime),
            index=0,
            allow_pickle="always" if allow_pickle else "scanned",
            signature=spec.signature,
        ),
    )
    servers = RuntimeServers(place.root, reuse_interpreter=True, max_body_bytes=_MAX_BODY_BYTES)
    socket, log = place.root / f"{place.name}.sock", place.root / f"{place.name}.log"
    place.root.mkdir(exist_ok=True)
    prepared = await servers.prepare(replica, artifact, socket)
    if isinstance(prepared, PreparationFailed):
        return f"its environment cannot be built: {prepared.message} {_end(prepared.log_tail)}"
    process = await _start(prepared, artifact, log)
    if isinstance(process, str):
        return process
    try:
        async with asyncio.timeout(timeout_s):
            while await servers.ask_readiness(socket) is not Readiness.READY:
                if process.returncode is not None:
                    return f"its server ended ({process.returncode}): {_read_end(log)}"
                await asyncio.sleep(_READY_POLL_S)
        return await _ask(socket, requests)
    except TimeoutError:
        return f"its server was not ready within {timeout_s:g} s: {_read_end(log)}"
    finally:
        await _end_group(process)


async def _start(
    prepared: ServerCommand, artifact: Path, log: Path
) -> asyncio.subprocess.Process | str:
    with log.open("wb") as output:
        try:
            return await asyncio.create_subprocess_exec(
                *prepared.command,
                cwd=artifact,
                env=dict(prepared.env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except OSError as error:
            return f"its server cannot be started: {prepared.command[0]}: {error.strerror}"


async def _ask(socket: Path, requests: Sequence[Mapping[str, Any]]) -> Answers | str:
    answers: Answers = []
    transport = httpx.AsyncHTTPTransport(uds=str(socket), verify=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://model", timeout=_PREDICT_TIMEOUT_S, trust_env=False
    ) as client:
        for number, request in enumerate(requests, 1):
            try:
                reply = await client.post(f"/v2/models/{_NAME}/infer", json=dict(request))
                answer = reply.json() if reply.status_code == 200 else None
            except (httpx.HTTPError, ValueError) as error:
                return f"no answer to request {number}: {str(error) or type(error).__name__}"
            if not isinstance(answer, dict):
                status, text = reply.status_code, reply.text[:_TAIL_CHARS]
                return f"request {number} was answered {status}: {text}"
            answers.append(answer)
    return answers


async def _end_group(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _END_TIMEOUT_S)
    # What the server started has its group, and may have outlived it.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _read_end(log: Path) -> str:
    with contextlib.suppress(OSError):
        return _end(log.read_bytes()[-4 * _TAIL_CHARS :].decode(errors="replace"))
    return ""


def _end(text: str) -> str:
    return " ".join(text.split())[-_TAIL_CHARS:]
