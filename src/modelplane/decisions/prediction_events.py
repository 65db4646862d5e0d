"""Predictions from CloudEvents in KServe's logger format, from agents or from KServe itself. Pure.

Called by the API. A request and its response are two events of one id (types
``org.kubeflow.serving.inference.request`` and ``.response``); `make_predictions` makes rows of
both. Bodies are those of the Open Inference Protocol (``inputs``/``outputs``) or of KServe's first
protocol (``instances``/``predictions``). What else agents say is described in
`modelplane_runtime.prediction_events`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from modelplane.decisions.feedback import MAX_NAME_CHARS, MAX_TEXT_CHARS, read_moment
from modelplane.decisions.predictions import Place, Prediction, Value
from modelplane.errors import FieldError
from modelplane.resources.monitoring import Labels, PredictionLog

REQUEST_TYPE = "org.kubeflow.serving.inference.request"
RESPONSE_TYPE = "org.kubeflow.serving.inference.response"
DROPPED_TYPE = "modelplane.predictions.dropped"
MAX_ROWS = 100_000
"""Rows of one request; a batch with more is none that could be labelled."""

_TYPES = frozenset({REQUEST_TYPE, RESPONSE_TYPE, DROPPED_TYPE})
_DEFAULT_OUTPUT, _DEFAULT_SCORE = "predictions", "probabilities"
_INPUT = "input."
_MAX_LATENCY_US = 7 * 86_400 * 10**6
_SKEW = timedelta(minutes=1)
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PredictionEvent:
    """One event that is understood.

    Attributes
    ----------
    id, type
        Both halves of a request have the same id.
    environment, deployment
        KServe's ``namespace`` and ``inferenceservicename``.
    endpoint
        Short digest of the revision; of KServe, its component's name.
    version
        Empty when it is not said: KServe does not know versions.
    at
        When it happened; None: not said.
    data
        The body, or nothing.
    attributes
        Everything, as it came.
    """

    id: str
    type: str
    environment: str
    deployment: str
    endpoint: str
    version: str
    at: datetime | None
    data: Mapping[str, Any]
    attributes: Mapping[str, Any]

    @property
    def is_mirrored(self) -> bool:
        """Whether nobody got the answer."""
        return self.attributes.get("mirrored") in (True, "true")

    @property
    def pair_key(self) -> tuple[Any, ...]:
        """What both halves of one request have in common."""
        names = (self.environment, self.deployment, self.endpoint, self.version)
        return (*names, self.id, self.is_mirrored)

    @property
    def is_truncated(self) -> bool:
        """Whether its body was too long to be sent."""
        return self.attributes.get("truncated") in (True, "true")

    def count(self, name: str) -> int | None:
        """Return a whole number that it says: an attribute, or of a loss its data."""
        # What a model answers is not for this to read: its data may have any names.
        told = self.data if self.type == DROPPED_TYPE else {}
        value = self.attributes.get(name, told.get(name))
        if isinstance(value, str) and value.isdecimal():
            value = int(value[:18])
        return value if type(value) is int and 0 <= value < 2**53 else None


def read_event(item: object, path: str = "") -> PredictionEvent | FieldError:
    """Read a CloudEvent in its JSON form, or say what is wrong with it."""
    if not isinstance(item, Mapping):
        return FieldError(path, "must be an object")
    prefix = f"{path}." if path else ""
    for name in ("id", "type", "inferenceservicename"):
        value = item.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_CHARS:
            return FieldError(
                f"{prefix}{name}", f"must be text of 1 to {MAX_NAME_CHARS} characters"
            )
    for name in ("namespace", "endpoint", "modelversion", "rule"):
        value = item.get(name, "")
        if not isinstance(value, str) or len(value) > MAX_NAME_CHARS:
            return FieldError(f"{prefix}{name}", "must be text")
    if item["type"] not in _TYPES:
        return FieldError(f"{prefix}type", f"must be one of {', '.join(sorted(_TYPES))}")
    at = read_moment(item.get("time"))
    if at is None and item.get("time") is not None:
        return FieldError(f"{prefix}time", "must be a time such as 2026-01-05T09:00:00Z")
    data = item.get("data")
    return PredictionEvent(
        item["id"],
        item["type"],
        item.get("namespace", ""),
        item["inferenceservicename"],
        item.get("endpoint", ""),
        item.get("modelversion", ""),
        at,
        data if isinstance(data, Mapping) else {},
        item,
    )


def make_predictions(
    request: PredictionEvent | None,
    response: PredictionEvent,
    place: Place,
    *,
    log: PredictionLog,
    labels: Labels,
    now: datetime,
) -> list[Prediction]:
    """Return the rows of one answered request; those that `count_unkept` counts are not there.

    Parameters
    ----------
    request, response
        Its two events; the former may have been lost.
    place
        Who predicted.
    log, labels
        What the deployment keeps, and where the prediction is found in the answer.
    now
        For an event that does not say when.
    """
    if response.is_truncated:
        return []
    outputs = _columns(response.data, "outputs", "predictions")
    inputs = _columns(request.data, "inputs", "instances") if request else {}
    count = min(_count_rows(response, outputs, inputs), MAX_ROWS)
    redact = frozenset(log.redact)
    outputs = {n: c for n, c in outputs.items() if len(c) == count and n not in redact}
    inputs = {n: c for n, c in inputs.items() if len(c) == count and n not in redact}
    if redact and request and not response.version and _is_nameless(request.data):
        # Which column is to be left out cannot be told. Model servers of agents have done it.
        inputs = {}
    at, latency_s = _moment(request, response, now)
    keys = _keys(request, response, log, inputs, count)
    parts = _parts(response, log, inputs, count)
    inputs = inputs if log.inputs else {}
    chosen = _choose(outputs, labels.output, _DEFAULT_OUTPUT)
    scores = outputs.get(labels.score or _DEFAULT_SCORE)
    predicted = outputs.get(chosen, [None] * count) if chosen else [None] * count
    seen: Counter[str] = Counter()
    rows = []
    for row in range(count):
        key = keys[row]
        rows.append(
            Prediction(
                response.id,
                row,
                place,
                at,
                _scalar(predicted[row]),
                _score(scores[row]) if scores is not None else None,
                latency_s,
                key,
                seen[key],
                parts[row],
                {name: column[row] for name, column in inputs.items()},
                {name: column[row] for name, column in outputs.items()},
            )
        )
        seen[key] += 1
    return rows


def count_unkept(response: PredictionEvent) -> int:
    """Return how many rows of an answered request `make_predictions` leaves out.

    An answer that was too long to be sent holds no prediction.
    """
    said = response.count("rows")
    if response.is_truncated:
        return 1 if said is None else said
    if said is None:
        said = _count_rows(response, _columns(response.data, "outputs", "predictions"), {})
    return max(0, said - MAX_ROWS)


def _moment(
    request: PredictionEvent | None, response: PredictionEvent, now: datetime
) -> tuple[datetime, float | None]:
    """Return when the request came, and how long its answer took.

    A moment far ahead is now: what has it would outlive its retention.
    """
    latency_us = response.count("latencyus")
    latency_s = None if latency_us is None or latency_us > _MAX_LATENCY_US else latency_us / 1e6
    if request is not None and request.at is not None:
        if latency_s is None and response.at is not None:
            latency_s = max(0.0, (response.at - request.at).total_seconds())
        return (request.at if request.at < now + _SKEW else now), latency_s
    at = response.at if response.at is not None and response.at < now + _SKEW else now
    if latency_s is not None and at > _EARLIEST:
        at -= timedelta(seconds=latency_s)
    return at, latency_s


def _is_nameless(data: Mapping[str, Any]) -> bool:
    """Whether a request may hold several inputs under one name, or under none."""
    tensors, rows = data.get("inputs"), data.get("instances")
    if isinstance(tensors, list):
        shapes: list[Any] = [one.get("shape") for one in tensors if isinstance(one, Mapping)]
        return any(_is_shape(shape) and math.prod(shape[1:]) != 1 for shape in shapes)
    return isinstance(rows, list) and not all(isinstance(row, Mapping) for row in rows)


def _count_rows(
    response: PredictionEvent,
    outputs: Mapping[str, Sequence[Any]],
    inputs: Mapping[str, Sequence[Any]],
) -> int:
    """Return how many rows were predicted: as it is said, or as most columns have."""
    said = response.count("rows")
    if said is not None:
        return said
    lengths = Counter(len(column) for column in (outputs or inputs).values())
    return lengths.most_common(1)[0][0] if lengths else 1


def _columns(data: Mapping[str, Any], tensors: str, rows: str) -> dict[str, list[Any]]:
    """Return what a body holds, by name, a value for each row."""
    if isinstance(data.get(tensors), list):
        return _tensor_columns(data[tensors])
    if isinstance(data.get(rows), list):
        return _row_columns(data[rows], "predictions" if tensors == "outputs" else "input")
    return {}


def _tensor_columns(tensors: Sequence[Any]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for tensor in tensors:
        if not isinstance(tensor, Mapping):
            continue
        name, shape, data = tensor.get("name"), tensor.get("shape"), tensor.get("data")
        if not isinstance(name, str) or not isinstance(data, list) or not _is_shape(shape):
            continue
        assert isinstance(shape, list)
        flat = _flatten(data)
        count, width = shape[0], math.prod(shape[1:])
        if count * width != len(flat) or not width:
            continue
        if width == 1:
            columns[name] = flat
        else:
            columns[name] = [flat[start : start + width] for start in range(0, len(flat), width)]
    return columns


def _is_shape(shape: object) -> bool:
    return (
        isinstance(shape, list)
        and bool(shape)
        and all(type(size) is int and size >= 0 for size in shape)
    )


def _flatten(data: list[Any]) -> list[Any]:
    while data and isinstance(data[0], list):
        data = [value for part in data if isinstance(part, list) for value in part]
    return data


def _row_columns(rows: Sequence[Any], name: str) -> dict[str, list[Any]]:
    """Return the columns of rows that are maps, or lists of named position, or values."""
    if rows and all(isinstance(row, Mapping) for row in rows):
        names = dict.fromkeys(key for row in rows for key in row)
        return {str(key): [row.get(key) for row in rows] for key in names}
    if name == "input" and rows and all(isinstance(row, list) for row in rows):
        width = min(len(row) for row in rows)
        if width == max(len(row) for row in rows) and not any(
            isinstance(value, list | Mapping) for row in rows for value in row
        ):
            return {str(index): [row[index] for row in rows] for index in range(width)}
    return {name: list(rows)}


def _choose(outputs: Mapping[str, Sequence[Any]], wanted: str | None, default: str) -> str | None:
    """Return the output that is the prediction: the one that is named, or the only one."""
    if wanted is not None:
        return wanted if wanted in outputs else None
    if default in outputs:
        return default
    return next(iter(outputs)) if len(outputs) == 1 else None


def _scalar(value: object) -> Value:
    """Return a label or a number; a list of one is its element."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT_CHARS else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int) and abs(value) < 2**63 else None


def _score(value: object) -> float | None:
    """Return the probability of the positive label; of two labels it is the second."""
    if isinstance(value, list):
        value = value[-1] if 1 <= len(value) <= 2 else None
    if type(value) not in (int, float):
        return None
    assert isinstance(value, int | float)
    return float(value) if 0 <= value <= 1 else None


def _keys(
    request: PredictionEvent | None,
    response: PredictionEvent,
    log: PredictionLog,
    inputs: Mapping[str, Sequence[Any]],
    count: int,
) -> list[str]:
    """Return what labels may name each row by, as the model server says, or KServe's bodies."""
    told = _json_list(response.attributes.get("keys"))
    if told is not None and len(told) == count:
        return [key if isinstance(key, str) else "" for key in told]
    key = response.attributes.get("key")
    if isinstance(key, str) and len(key) <= MAX_NAME_CHARS:
        return [key] * count
    name = log.join_key or ""
    if name.startswith(_INPUT) and (column := inputs.get(name.removeprefix(_INPUT))):
        return [_text(value) for value in column]
    body = (request.data if request else {}).get("id") if name == "id" else None
    return [_text(body)] * count


def _parts(
    response: PredictionEvent,
    log: PredictionLog,
    inputs: Mapping[str, Sequence[Any]],
    count: int,
) -> list[tuple[str, ...]]:
    told = _json_list(response.attributes.get("rowparts"))
    if told is not None and len(told) == count:
        return [_texts(parts) for parts in told]
    whole = _json_list(response.attributes.get("parts"))
    if whole is not None:
        return [_texts(whole)] * count
    columns = {
        n: inputs[n.removeprefix(_INPUT)] for n in log.slices if n.removeprefix(_INPUT) in inputs
    }
    return [
        tuple(f"{name}={text}" for name, column in columns.items() if (text := _text(column[row])))
        for row in range(count)
    ]


def _texts(parts: object) -> tuple[str, ...]:
    if not isinstance(parts, list):
        return ()
    return tuple(part for part in parts if isinstance(part, str) and "\n" not in part)


def _json_list(value: object) -> list[Any] | None:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return value if isinstance(value, list) else None


def _text(value: object) -> str:
    """Return the text of a scalar, "" of anything else; 3.0 is 3."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value) if isinstance(value, str | int | float) else ""
    return text if len(text) <= MAX_NAME_CHARS and "\n" not in text else ""
