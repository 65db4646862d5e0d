"""One inference request from bytes to bytes: parse, check, predict, encode.

Called by ``app`` in a prediction thread, so that neither a large body nor the model holds up the
event loop. Knows nothing about sockets or queues.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from modelplane_runtime.errors import ModelOutputError, RequestError
from modelplane_runtime.models import Model
from modelplane_runtime.tensors import Array, decode, encode

logger = logging.getLogger(__name__)

_TRACEBACK_INTERVAL_S = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send back.

    Parameters
    ----------
    status
        HTTP status: 200, 400 or 500.
    body
        JSON.
    request_id
        The ``id`` of the request, if it had one.
    rows
        Rows predicted; 0 on failure.
    predict_s
        Seconds inside the model; None if it was not asked.
    """

    status: int
    body: bytes
    request_id: str | None = None
    rows: int = 0
    predict_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Request:
    id: str | None
    tensors: Mapping[str, Array]
    outputs: tuple[str, ...]


class Inference:
    """Answers inference requests with one model.

    Parameters
    ----------
    model
        The loaded model.
    name, version
        As they stand in answers.
    """

    def __init__(self, model: Model, name: str, version: str) -> None:
        self._model = model
        self._name = name
        self._version = version
        self._output_names = frozenset(spec.name for spec in model.signature.outputs)
        self._traced_at: dict[str, float] = {}

    def answer(self, body: bytes) -> Answer:
        """Answer one request; never raises.

        400 is a request that does not fit the signature; 500 is anything the model does.
        """
        request_id: str | None = None
        try:
            document = _parse_json(body)
            request_id = _request_id(document)
            request = _parse_request(document, request_id)
            self._check_outputs(request.outputs)
            prepared = self._model.prepare(request.tensors)
        except RequestError as error:
            return Answer(error.status, error_body(error.message), request_id)
        except Exception as error:  # nothing in a request may end the server
            return self._failure(error, request_id, None)
        return self._predict(request, prepared)

    def _predict(self, request: _Request, prepared: Any) -> Answer:
        started = time.perf_counter()
        predict_s: float | None = None
        try:
            outputs = self._model.predict(prepared, request.outputs)
            predict_s = time.perf_counter() - started
            body = self._encode(request, outputs)
        except RequestError as error:
            return Answer(error.status, error_body(error.message), request.id, 0, predict_s)
        except (Exception, SystemExit) as error:  # a model may raise anything, or call exit()
            predict_s = predict_s or time.perf_counter() - started
            return self._failure(error, request.id, predict_s)
        rows = len(next(iter(request.tensors.values())))
        return Answer(200, body, request.id, rows, predict_s)

    def _check_outputs(self, wanted: Collection[str]) -> None:
        # A model that does not tell its outputs is checked after it has answered.
        if self._output_names:
            _refuse_unknown(wanted, self._output_names)

    def _encode(self, request: _Request, outputs: Mapping[str, Array]) -> bytes:
        _refuse_unknown(request.outputs, outputs)
        names = request.outputs or tuple(outputs)
        document: dict[str, Any] = {"model_name": self._name, "model_version": self._version}
        if request.id is not None:
            document["id"] = request.id
        document["outputs"] = [encode(name, outputs[name]) for name in names]
        return dump_json(document)

    def _failure(
        self, error: BaseException, request_id: str | None, predict_s: float | None
    ) -> Answer:
        kind = type(error).__name__
        self._log_failure(kind, error)
        if isinstance(error, ModelOutputError):
            message = f"the model's answer cannot be sent: {error}"
        else:
            message = f"the model failed: {kind}: {_first_line(error)}"
        return Answer(500, error_body(message), request_id, 0, predict_s)

    def _log_failure(self, kind: str, error: BaseException) -> None:
        # A model that fails every request would fill the disk with the same trace.
        now = time.monotonic()
        if now - self._traced_at.get(kind, -_TRACEBACK_INTERVAL_S) < _TRACEBACK_INTERVAL_S:
            return
        self._traced_at[kind] = now
        trace = "".join(traceback.format_exception(error))
        logger.error(
            "the model failed (this kind is logged once in %d s):\n%s",
            _TRACEBACK_INTERVAL_S,
            trace,
        )


def _refuse_unknown(wanted: Collection[str], known: Collection[str]) -> None:
    for name in wanted:
        if name not in known:
            listed = ", ".join(f'"{output}"' for output in sorted(known))
            raise RequestError(f'unknown output "{name}"; the model gives {listed}')


def _first_line(error: BaseException, limit: int = 300) -> str:
    text = str(error).strip().split("\n", 1)[0]
    return text[:limit]


def dump_json(document: Mapping[str, Any]) -> bytes:
    """Write JSON without spaces."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def error_body(message: str) -> bytes:
    """Write the protocol's error answer."""
    return dump_json({"error": message})


def _refuse_constant(text: str) -> NoReturn:
    raise RequestError(f"{text} is not JSON: send null for a missing number")


def _parse_json(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {_first_line(error)}") from error
    if not isinstance(document, dict):
        raise RequestError('the body must be a JSON object with "inputs"')
    return document


def _request_id(document: Mapping[str, Any]) -> str | None:
    value = document.get("id")
    if value is not None and not isinstance(value, str):
        raise RequestError(f'"id" must be a string; got a {type(value).__name__}')
    return value


def _parse_request(document: Mapping[str, Any], request_id: str | None) -> _Request:
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise RequestError('"inputs" must be a list with at least one tensor')
    tensors: dict[str, Array] = {}
    for position, item in enumerate(inputs):
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str):
            raise RequestError(f"inputs[{position}] must be an object with a name")
        if name in tensors:
            raise RequestError(f'input "{name}" stands twice in the request')
        if "data" not in item and "binary_data_size" in (item.get("parameters") or {}):
            raise RequestError(f'input "{name}": binary tensor data is not supported; send "data"')
        tensors[name] = decode(name, item.get("datatype"), item.get("shape"), item.get("data"))
    return _Request(request_id, tensors, _parse_outputs(document.get("outputs")))


def _parse_outputs(outputs: object) -> tuple[str, ...]:
    if outputs is None:
        return ()
    if not isinstance(outputs, list):
        raise RequestError('"outputs" must be a list of objects with a name')
    names = []
    for position, item in enumerate(outputs):
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str):
            raise RequestError(f"outputs[{position}] must be an object with a name")
        names.append(name)
    return tuple(dict.fromkeys(names))
