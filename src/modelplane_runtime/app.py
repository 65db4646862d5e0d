"""The HTTP surface: the Open Inference Protocol, ``/metrics``, and what was answered.

Called by uvicorn (``server``) and by tests. Routes, limits, headers and counting live here;
prediction does not.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

from modelplane_runtime import __version__
from modelplane_runtime.answers import ANSWERS_PATH, COMPARE_HEADER, AnswerLog, read_after
from modelplane_runtime.errors import RequestError
from modelplane_runtime.inference import Answer, Inference, dump_json, error_body
from modelplane_runtime.metrics import Metrics
from modelplane_runtime.models import Model
from modelplane_runtime.prediction_events import EventWriter, LogSettings
from modelplane_runtime.predictions import (
    MAX_QUESTION_BYTES,
    PREDICTIONS_PATH,
    PredictionLog,
    parse_question,
)
from modelplane_runtime.workers import PredictionWorkers, QueueFullError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

DEFAULT_MAX_BODY_BYTES = 8 * 1024 * 1024
DEFAULT_QUEUE_LIMIT_PER_WORKER = 256
_REQUEST_ID_MAX_LENGTH = 128


class Phase(Enum):
    """Where the server is in its life."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Identity:
    """Which version this process serves, and as which replica."""

    model: str
    version: str
    replica: str = ""


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    content_type: bytes = b"application/json"


@dataclass(frozen=True, slots=True)
class _Answered:
    """A reply, and of a request that reached the model what it was."""

    reply: _Reply
    body_id: str | None = None
    body: bytes = b""
    rows: int = 0


class _ClientGoneError(Exception):
    pass


class RuntimeApp:
    """The ASGI application of one model version. Make it on the event loop's thread.

    Parameters
    ----------
    identity
        Model, version and replica.
    workers
        Prediction threads.
    queue_limit
        Requests that may wait for a thread; more are answered 503 with ``Retry-After``.
    max_body_bytes
        Longer bodies are answered 413.
    log_settings
        What is remembered of each prediction until somebody says otherwise; None: nothing.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        workers: int = 1,
        queue_limit: int | None = None,
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
        log_settings: LogSettings | None = None,
    ) -> None:
        limit = DEFAULT_QUEUE_LIMIT_PER_WORKER * workers if queue_limit is None else queue_limit
        self.identity = identity
        self.phase = Phase.LOADING
        self.open_requests = 0
        self.metrics = Metrics(
            {"model": identity.model, "version": identity.version, "replica": identity.replica}
        )
        self._answers = AnswerLog()
        self._predictions = PredictionLog(log_settings)
        self._workers: PredictionWorkers[Answer] = PredictionWorkers(workers, limit)
        self._max_body_bytes = max_body_bytes
        self._model: Model | None = None
        self._inference: Inference | None = None
        self._writer: EventWriter | None = None
        self._version_header = (b"x-modelplane-version", _header_value(identity.version))

    def serve(self, model: Model, load_s: float = 0.0) -> None:
        """Take requests from now on, unless the server drains already."""
        self._model = model
        self._inference = Inference(model, self.identity.model, self.identity.version)
        self._writer = EventWriter(self.identity.model, self.identity.version, model.signature)
        self.metrics.load_s = load_s
        if self.phase is Phase.LOADING:
            self.phase = Phase.READY

    def drain(self) -> None:
        """Turn readiness off; what still comes is served, and its connection closed."""
        self.phase = Phase.DRAINING

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        path, method = scope["path"], scope["method"]
        if path.startswith("/v2/models/") and path.endswith("/infer"):
            await self._infer(scope, receive, send)
        elif path == PREDICTIONS_PATH:
            await self._send(send, await self._predictions_page(scope, receive))
        elif method not in ("GET", "HEAD"):
            await self._send(send, _refusal(405, f"{path} takes GET", (b"allow", b"GET")))
        elif path == ANSWERS_PATH:
            page = self._answers.page(read_after(scope["query_string"]))
            await self._send(send, _Reply(200, page))
        else:
            await self._send(send, self._get(path), (self._version_header,))

    def _get(self, path: str) -> _Reply:
        if path == "/metrics":
            text = self.metrics.render(
                ready=self.phase is Phase.READY,
                waiting=self._workers.waiting,
                log_waiting=len(self._predictions),
                log_dropped=self._predictions.dropped,
            )
            return _Reply(200, text.encode(), content_type=b"text/plain; version=0.0.4")
        if path == "/v2/health/live":
            return _Reply(200, dump_json({"live": True}))
        if path == "/v2/health/ready":
            return self._readiness({})
        if path == "/v2":
            document = {"name": "modelplane-runtime", "version": __version__, "extensions": []}
            return _Reply(200, dump_json(document))
        if not path.startswith("/v2/models/"):
            return _refusal(404, f"there is nothing at {path}")
        try:
            rest = self._match_model(path)
        except RequestError as error:
            return _refusal(error.status, error.message)
        if rest == ("ready",):
            return self._readiness({"name": self.identity.model})
        if rest == ():
            return self._metadata()
        return _refusal(404, f"there is nothing at {path}")

    def _readiness(self, extra: dict[str, str]) -> _Reply:
        ready = self.phase is Phase.READY
        return _Reply(200 if ready else 503, dump_json({**extra, "ready": ready}))

    def _metadata(self) -> _Reply:
        if self._model is None:
            return _unavailable("the model is still loading")
        signature = self._model.signature
        document = {
            "name": self.identity.model,
            "versions": [self.identity.version],
            "platform": self._model.platform,
            "inputs": [spec.metadata() for spec in signature.inputs],
            "outputs": [spec.metadata() for spec in signature.outputs],
        }
        return _Reply(200, dump_json(document))

    def _match_model(self, path: str) -> tuple[str, ...]:
        """Return what follows the model (and version) in a path under ``/v2/models/``."""
        name, *rest = path.removeprefix("/v2/models/").split("/")
        if name != self.identity.model:
            raise RequestError(
                f'unknown model "{name}"; this server has "{self.identity.model}"', 404
            )
        if rest[:1] == ["versions"]:
            version = rest[1] if len(rest) > 1 else ""
            if version != self.identity.version:
                raise RequestError(
                    f'unknown version "{version}" of model "{name}"; '
                    f'this server has "{self.identity.version}"',
                    404,
                )
            rest = rest[2:]
        return tuple(rest)

    async def _infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers = dict(scope["headers"])
        request_id = _clean_request_id(headers.get(b"x-request-id"))
        self.open_requests += 1
        try:
            answered = await self._infer_reply(scope, headers, receive)
            reply = answered.reply
            name = (
                request_id
                or _clean_request_id((answered.body_id or "").encode("ascii", "replace"))
                or uuid.uuid4().hex.encode()
            )
            # Counted before it is sent: a client that has its answer finds it counted.
            self.metrics.requests[reply.status] += 1
            seconds = time.perf_counter() - started
            self.metrics.request_s.observe(seconds)
            compared_as = headers.get(COMPARE_HEADER)
            if compared_as is not None:
                self._answers.add(compared_as, reply.status, seconds, reply.body)
            if reply.status == 200:
                self._predictions.add(
                    headers,
                    answered.body,
                    reply.body,
                    request_id=name.decode(),
                    body_id=answered.body_id,
                    rows=answered.rows,
                    latency_s=seconds,
                )
            await self._send(send, reply, ((b"x-request-id", name), self._version_header))
        except _ClientGoneError:
            return
        finally:
            self.open_requests -= 1

    async def _infer_reply(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive
    ) -> _Answered:
        path = scope["path"]
        try:
            rest = self._match_model(path)
        except RequestError as error:
            return _Answered(_refusal(error.status, error.message))
        if rest != ("infer",):
            return _Answered(_refusal(404, f"there is nothing at {path}"))
        if scope["method"] != "POST":
            return _Answered(_refusal(405, f"{path} takes POST", (b"allow", b"POST")))
        if b"inference-header-content-length" in headers:
            return _Answered(_refusal(400, "binary tensor data is not supported; send JSON"))
        inference = self._inference
        if inference is None:
            return _Answered(_unavailable("the model is still loading"))
        if self._workers.is_full:  # before the body is read: a full server must cost little
            return _Answered(_unavailable("too many requests wait for this replica"))
        body = await self._read_body(headers, receive, self._max_body_bytes)
        if body is None:
            limit = f"the body is longer than {self._max_body_bytes} bytes"
            return _Answered(_refusal(413, limit, (b"connection", b"close")))
        try:
            answer = await self._workers.run(partial(inference.answer, body))
        except QueueFullError:
            return _Answered(_unavailable("too many requests wait for this replica"))
        self.metrics.rows += answer.rows
        if answer.predict_s is not None:
            self.metrics.predict_s.observe(answer.predict_s)
        reply = _Reply(answer.status, answer.body)
        return _Answered(reply, answer.request_id, body, answer.rows)

    async def _predictions_page(self, scope: Scope, receive: Receive) -> _Reply:
        if scope["method"] != "POST":
            return _refusal(405, f"{PREDICTIONS_PATH} takes POST", (b"allow", b"POST"))
        try:
            body = await self._read_body(dict(scope["headers"]), receive, MAX_QUESTION_BYTES)
            question = parse_question(body or b"")
        except _ClientGoneError:
            return _refusal(400, "the question ended early")
        except (ValueError, RecursionError) as error:
            return _refusal(400, f"not understood: {error}")
        if self._writer is None:
            return _unavailable("the model is still loading")
        self._predictions.configure(question.settings)
        return _Reply(200, await self._predictions.write_page(question.after, self._writer))

    @staticmethod
    async def _read_body(headers: dict[bytes, bytes], receive: Receive, limit: int) -> bytes | None:
        """Read the body; None if it is longer than allowed."""
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            return None
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientGoneError
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                return None
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _send(
        self, send: Send, reply: _Reply, extra: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        headers: Headers = [
            (b"content-type", reply.content_type),
            (b"content-length", str(len(reply.body)).encode()),
            *reply.headers,
            *extra,
        ]
        if self.phase is Phase.DRAINING:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})


def _refusal(status: int, message: str, *headers: tuple[bytes, bytes]) -> _Reply:
    return _Reply(status, error_body(message), headers)


def _unavailable(message: str) -> _Reply:
    return _refusal(503, message, (b"retry-after", b"1"))


def _header_value(text: str) -> bytes:
    return text.encode("ascii", "replace")


def _clean_request_id(value: bytes | None) -> bytes | None:
    """Return an id that is fit for a header, or None."""
    if not value or len(value) > _REQUEST_ID_MAX_LENGTH:
        return None
    return value if all(33 <= byte <= 126 for byte in value) else None
