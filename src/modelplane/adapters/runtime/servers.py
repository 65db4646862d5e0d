"""Model servers behind `ports.servers`: which command serves a format, and how to ask a server.

Built by wiring, used by the agent. Starts nothing: the process keeper does.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from pydantic_core import from_json

from modelplane.adapters.runtime.environments import (
    EnvironmentFailed,
    EnvironmentSpec,
    build,
    child_environment,
    is_transient,
)
from modelplane.adapters.runtime.exposition import failed_scrape, read_exposition
from modelplane.decisions.comparison import KeptAnswer
from modelplane.ports.servers import (
    AnswerPage,
    Prediction,
    PredictionPage,
    PreparationFailed,
    Readiness,
    Scrape,
    ServerCommand,
)
from modelplane.resources.monitoring import PredictionLog
from modelplane.resources.replica import Replica
from modelplane_runtime.answers import ANSWERS_PATH
from modelplane_runtime.predictions import PREDICTIONS_PATH

_READY_TIMEOUT_S = 1.0
_PREDICT_TIMEOUT_S = 30.0
_SCRAPE_TIMEOUT_S = 2.0
_SCRAPE_BYTES = 2**20
_SCRAPE_HEADERS = {"accept": "text/plain; version=0.0.4", "accept-encoding": "identity"}
_ANSWERS_TIMEOUT_S = 2.0
_ANSWERS_BYTES = 4 * 2**20
_PREDICTIONS_TIMEOUT_S = 5.0
_PREDICTIONS_BYTES = 8 * 2**20
_MESSAGE_CHARS = 500
# What package installers, object stores and proxies are configured by.
_TOOLS = (
    "UV_", "PIP_", "AWS_", "GOOGLE_", "AZURE_", "FSSPEC_", "SSL_CERT_", "XDG_CACHE_HOME",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
)  # fmt: skip


class RuntimeServers:
    """Runs versions on `modelplane_runtime`, or on a command of their own.

    Parameters
    ----------
    root
        The agent's directory for environments and signatures.
    reuse_interpreter
        Run versions without requirements of their own in the present interpreter when it has
        the packages their format needs.
    max_body_bytes
        Largest inference request.
    """

    def __init__(self, root: Path, *, reuse_interpreter: bool, max_body_bytes: int) -> None:
        self._root = root
        self._reuse_interpreter = reuse_interpreter
        self._max_body_bytes = max_body_bytes

    async def prepare(
        self, replica: Replica, artifact: Path, socket: Path
    ) -> ServerCommand | PreparationFailed:
        """Build the environment and return the server's command."""
        revision = replica.spec.revision
        own = revision.runtime.requirements
        environment = await build(
            EnvironmentSpec(revision.artifact.format, own),
            self._root,
            timeout_s=max(60.0, revision.runtime.start_timeout_s),
            use_current=self._reuse_interpreter and own is None,
        )
        if isinstance(environment, EnvironmentFailed):
            return PreparationFailed(
                environment.message, environment.log_tail, is_transient(environment)
            )
        env = child_environment(revision.runtime.env)
        if revision.artifact.format == "command":
            env["PATH"] = f"{environment.python.parent}:{env.get('PATH', '')}"
            places = {"socket": str(socket), "artifact": str(artifact)}
            command = tuple(_fill(part, places) for part in revision.artifact.command)
            return ServerCommand(command, env)
        cpu = revision.runtime.resources.cpu
        threads = max(1, math.floor(cpu)) if cpu else 1
        if "OMP_NUM_THREADS" not in revision.runtime.env:
            env["OMP_NUM_THREADS"] = str(threads)
        command = (
            str(environment.python), "-m", "modelplane_runtime",
            "--uds", str(socket),
            "--model-name", replica.spec.deployment,
            "--model-version", revision.version,
            "--format", revision.artifact.format,
            "--artifact", str(_model_path(revision.artifact.format, artifact)),
            "--replica", replica.metadata.name,
            "--max-body-bytes", str(self._max_body_bytes),
            *self._signature_option(replica),
            *_log_option(replica),
            "--allow-pickle", replica.spec.allow_pickle,
        )  # fmt: skip
        return ServerCommand(command, env)

    def _signature_option(self, replica: Replica) -> list[str]:
        if replica.spec.signature is None:
            return []
        directory = self._root / "signatures"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = directory / f"{replica.spec.revision.digest}.json"
        temporary = file.with_suffix(f".{replica.spec.index}.{os.getpid()}.new")
        temporary.write_text(json.dumps(replica.spec.signature))
        temporary.rename(file)
        return ["--signature", str(file)]

    async def ask_readiness(self, socket: Path) -> Readiness:
        """Ask for readiness; by the status code, as the protocol's peers do."""
        try:
            async with _client(socket, _READY_TIMEOUT_S) as client:
                response = await client.get("/v2/health/ready")
        except (httpx.HTTPError, OSError, TimeoutError):
            return Readiness.NO_ANSWER
        return Readiness.READY if response.status_code == 200 else Readiness.NOT_READY

    async def predict(
        self, socket: Path, replica: Replica, request: Mapping[str, Any]
    ) -> Prediction:
        """Send one inference request and say whether it was answered."""
        name = replica.spec.deployment
        try:
            async with (
                asyncio.timeout(_PREDICT_TIMEOUT_S),
                _client(socket, _PREDICT_TIMEOUT_S) as client,
            ):
                response = await client.post(f"/v2/models/{name}/infer", json=dict(request))
        except (httpx.HTTPError, OSError, TimeoutError) as error:
            return Prediction(False, f"no answer to the smoke prediction: {error or 'time-out'}")
        if response.status_code == 200:
            return Prediction(True)
        text = response.text[:_MESSAGE_CHARS]
        return Prediction(False, f"the smoke prediction got {response.status_code}: {text}")

    async def scrape(self, socket: Path, path: str) -> Scrape:
        """Get the server's metrics in Prometheus' text format; at most 1 MiB in two seconds."""
        body = bytearray()
        try:
            async with (
                asyncio.timeout(_SCRAPE_TIMEOUT_S),
                _client(socket, _SCRAPE_TIMEOUT_S) as client,
                client.stream("GET", path, headers=_SCRAPE_HEADERS) as response,
            ):
                if response.status_code != 200:
                    return failed_scrape(f"GET {path} was answered {response.status_code}")
                async for piece in response.aiter_raw():
                    body += piece
                    if len(body) > _SCRAPE_BYTES:
                        return failed_scrape(f"GET {path} was answered more than 1 MiB")
        except (httpx.TimeoutException, TimeoutError):
            return failed_scrape(f"GET {path}: no answer within {_SCRAPE_TIMEOUT_S:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return failed_scrape(f"GET {path}: {str(error) or type(error).__name__}")
        # Not on the event loop: a megabyte of text takes the parser a second.
        return await asyncio.to_thread(read_exposition, body.decode(errors="replace"))

    async def read_answers(self, socket: Path, after: int) -> AnswerPage | None:
        """Get the answers that `modelplane_runtime` kept to be compared; see the port."""
        try:
            async with (
                asyncio.timeout(_ANSWERS_TIMEOUT_S),
                _client(socket, _ANSWERS_TIMEOUT_S) as client,
                client.stream("GET", f"{ANSWERS_PATH}?after={after}") as response,
            ):
                body = await _bounded(response, _ANSWERS_BYTES)
        except (httpx.HTTPError, OSError, TimeoutError):
            return None
        # Not on the event loop: a megabyte takes the parser tens of milliseconds.
        return await asyncio.to_thread(_read_page, body) if body is not None else None

    async def read_predictions(
        self, socket: Path, after: str, log: PredictionLog | None
    ) -> PredictionPage | None:
        """Fetch what `modelplane_runtime` remembered; see the port."""
        question = {"after": after, "log": log.to_dict() if log is not None else None}
        try:
            async with (
                asyncio.timeout(_PREDICTIONS_TIMEOUT_S),
                _client(socket, _PREDICTIONS_TIMEOUT_S) as client,
                client.stream("POST", PREDICTIONS_PATH, json=question) as response,
            ):
                body = await _bounded(response, _PREDICTIONS_BYTES)
        except (httpx.HTTPError, OSError, TimeoutError):
            return None
        return await asyncio.to_thread(_read_predictions, body) if body is not None else None

    def job_environment(self, env: Mapping[str, str], *, ours: bool = False) -> dict[str, str]:
        """Return the variables of a job; see the port."""
        child = child_environment(env)
        if not ours:
            return child
        inherited = {n: v for n, v in os.environ.items() if n.upper().startswith(_TOOLS)}
        return {
            **inherited,
            **child,
            "MODELPLANE_ENVIRONMENTS": str(self._root),
            "MODELPLANE_REUSE_INTERPRETER": str(self._reuse_interpreter).lower(),
        }


async def _bounded(response: httpx.Response, limit: int) -> bytes | None:
    """Return the body of a good answer; None for any other, and for one longer than `limit`."""
    if response.status_code != 200:
        return None
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > limit:
            return None
    return bytes(body)


def _read_predictions(body: bytes) -> PredictionPage | None:
    """Return the page in what a server said; None when that is no page."""
    try:
        document = from_json(body)
        return PredictionPage(
            tuple(event for event in document["events"] if isinstance(event, dict)),
            max(0, int(document["rows"])),
            max(0, int(document["dropped"])),
            str(document["next"]),
            bool(document["more"]),
        )
    except (ValueError, TypeError, KeyError):
        return None


def _log_option(replica: Replica) -> list[str]:
    log = replica.spec.predictions
    return ["--log-predictions", json.dumps(log.to_dict())] if log is not None else []


def _read_page(body: bytes) -> AnswerPage | None:
    """Return the page in what a server said; None when that is no page."""
    try:
        document = json.loads(body)
        answers = tuple(
            KeptAnswer(str(one["name"]), int(one["status"]), one["answer"])
            for one in document["answers"]
            if one["answer"] is None or isinstance(one["answer"], dict)
        )
        return AnswerPage(answers, int(document["next"]), bool(document["more"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _client(socket: Path, timeout_s: float) -> httpx.AsyncClient:
    # Plain HTTP on a Unix socket: a TLS context for each question would cost 34 ms.
    transport = httpx.AsyncHTTPTransport(uds=str(socket), verify=False)
    return httpx.AsyncClient(
        transport=transport, base_url="http://model-server", timeout=timeout_s, trust_env=False
    )


def _fill(part: str, places: Mapping[str, str]) -> str:
    for name, value in places.items():
        part = part.replace("{" + name + "}", value)
    return part


def _model_path(format: str, artifact: Path) -> Path:
    """Return the file to load: artifacts of one file are that file, MLflow's are the folder."""
    if format == "mlflow" or not artifact.is_dir():
        return artifact
    files = [path for path in artifact.rglob("*") if path.is_file()]
    return files[0] if len(files) == 1 else artifact
