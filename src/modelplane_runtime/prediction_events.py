"""One answered request as two CloudEvents, without what is not to be kept.

Called by ``predictions``, in a thread. Pure. The events are those of KServe's logger: types
`REQUEST_TYPE` and `RESPONSE_TYPE`, one ``id`` for both (the request id), and as ``data`` the Open
Inference Protocol's documents. Data is built anew from what is understood (``id``, and of each
tensor its name, datatype, shape and data), so that nothing else a client sends is kept. A matrix
whose columns the model's signature names is written as these columns.

Attributes of both: ``inferenceservicename`` (the model's name here), ``modelversion``,
``component``; ``rule`` and ``mirrored`` (``"true"``) where they say something; ``truncated``
(``"true"``) where the data was too large to be kept. Of the response besides: ``rows``,
``latencyus``, and what labels and figures need, though the inputs are not kept:

- ``key``: what labels may name the request by; or ``keys``, a JSON list of texts (or null), one
  for each row, when an input of the model is the key;
- ``parts``: a JSON list of the parts that the request belongs to, ``["user.region=west"]``; or
  ``rowparts``, a JSON list of such lists, one for each row, when an input tells parts.

``namespace``, ``endpoint`` and ``source`` are whoever's who runs this server: the agent adds them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import is_
from typing import Any

from modelplane_runtime.signature import Signature, TensorSpec

REQUEST_TYPE = "org.kubeflow.serving.inference.request"
RESPONSE_TYPE = "org.kubeflow.serving.inference.response"

DROPPED_TYPE = "modelplane.predictions.dropped"
"""Of an event that tells how many rows, ``{"rows": 12}``, were lost on the way."""

MAX_BODY_BYTES = 256 * 1024
"""Longer bodies are logged without data."""

MAX_TEXT_CHARS = 200
"""Of a key or the value of a part; a longer one is none."""

_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_KNOWN = {"id", "inputs"}
_FIELDS = 4  # of a tensor: name, datatype, shape, data
_DEFAULT_RULE = "default"
_INPUT, _HEADER, _USER = "input.", "header.", "user."


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is kept of each prediction, as the deployment's ``predictions`` says.

    Attributes
    ----------
    sampling
        Share of the requests, percent.
    inputs
        Whether inputs are kept.
    redact
        Inputs and outputs that are not.
    join_key
        ``id``, ``header.NAME`` or ``input.NAME``.
    slices
        ``user.NAME`` (header ``x-user-NAME``) or ``input.NAME``.
    """

    sampling: float = 100.0
    inputs: bool = True
    redact: frozenset[str] = frozenset()
    join_key: str | None = None
    slices: tuple[str, ...] = ()

    @property
    def headers(self) -> tuple[str, ...]:
        """The request headers that the key and the parts are read from."""
        names = [_user_header(name) for name in self.slices if name.startswith(_USER)]
        if self.join_key and self.join_key.startswith(_HEADER):
            names.append(self.join_key.removeprefix(_HEADER))
        return tuple(names)

    def stricter(self, other: LogSettings) -> LogSettings:
        """Return these with what either of both keeps away."""
        return LogSettings(
            self.sampling,
            self.inputs and other.inputs,
            self.redact | other.redact,
            self.join_key,
            self.slices,
        )


def parse_settings(document: object) -> LogSettings:
    """Read the form that the deployment's ``predictions`` has in JSON.

    Raises
    ------
    ValueError
        It has another form.
    """
    if not isinstance(document, dict):
        raise ValueError("the settings of the prediction log must be an object")
    sampling = document.get("sampling", 100.0)
    inputs = document.get("inputs", True)
    join_key = document.get("joinKey")
    if type(sampling) not in (int, float) or not 0 <= sampling <= 100:
        raise ValueError(f"sampling is a percentage, got {sampling!r}")
    if type(inputs) is not bool:
        raise ValueError(f"inputs is true or false, got {inputs!r}")
    if join_key is not None and not isinstance(join_key, str):
        raise ValueError(f"joinKey is a text, got {join_key!r}")
    return LogSettings(
        float(sampling),
        inputs,
        frozenset(_texts(document, "redact")),
        join_key,
        tuple(_texts(document, "slices")),
    )


def _texts(document: Mapping[str, Any], name: str) -> list[str]:
    value = document.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{name} is a list of texts, got {value!r}")
    return value


@dataclass(frozen=True, slots=True)
class Exchange:
    """One answered request, as it went over the wire.

    Attributes
    ----------
    request_id
        As the client was told.
    body_id
        The ``id`` in the request's body, if there was one.
    at_s
        When it came, seconds since 1970.
    latency_s
        Until it was answered.
    request, response
        The bodies; None for one longer than `MAX_BODY_BYTES`.
    rows
        Rows that were predicted.
    rule
        The routing rule it came under.
    mirrored
        Whether it is a copy, whose answer nobody got.
    headers
        Values of `LogSettings.headers`, of those that were sent.
    settings
        In force when it was answered.
    """

    request_id: str
    body_id: str | None
    at_s: float
    latency_s: float
    request: bytes | None
    response: bytes | None
    rows: int
    rule: str
    mirrored: bool
    headers: Mapping[str, str]
    settings: LogSettings

    @property
    def size_bytes(self) -> int:
        """Bytes of both bodies."""
        return len(self.request or b"") + len(self.response or b"")


class EventWriter:
    """Writes the events of one model's answers.

    Parameters
    ----------
    model, version
        Names of the model and its version.
    signature
        The model's, which names the columns of a matrix.
    """

    def __init__(self, model: str, version: str, signature: Signature) -> None:
        attributes = {
            "specversion": "1.0",
            "source": "modelplane-runtime",
            "component": "predictor",
            "inferenceservicename": model,
            "modelversion": version,
            "datacontenttype": "application/json",
        }
        self._head = _to_bytes(attributes)[:-1]
        self._inputs = signature.inputs
        self._input_names = frozenset(spec.name for spec in signature.inputs)

    def write(self, exchange: Exchange) -> list[bytes]:
        """Return the request's event and the response's, JSON in UTF-8.

        What no UTF-8 can carry becomes a question mark, and a number too large to be one null.
        """
        common: dict[str, Any] = {"id": exchange.request_id}
        if exchange.rule and exchange.rule != _DEFAULT_RULE:
            common["rule"] = exchange.rule
        if exchange.mirrored:
            common["mirrored"] = "true"
        inputs, request_data = self._read_request(exchange)
        columns = {tensor["name"]: tensor for tensor in inputs}
        request = {**common, "type": REQUEST_TYPE, "time": _rfc3339(exchange.at_s)}
        response = {
            **common,
            "type": RESPONSE_TYPE,
            "time": _rfc3339(exchange.at_s + exchange.latency_s),
            "rows": exchange.rows,
            "latencyus": round(exchange.latency_s * 1e6),
            **_key(exchange, columns),
            **_parts(exchange, columns),
        }
        return [
            self._event(request, request_data),
            self._event(response, _response_data(exchange)),
        ]

    def _event(self, attributes: dict[str, Any], data: bytes | None) -> bytes:
        if data is None:
            attributes["truncated"] = "true"
            return b"%s,%s" % (self._head, _to_bytes(attributes)[1:])
        return b'%s,%s,"data":%s}' % (self._head, _to_bytes(attributes)[1:-1], data)

    def _read_request(self, exchange: Exchange) -> tuple[list[dict[str, Any]], bytes | None]:
        """Return the inputs that may be looked at, and the request's data."""
        body, settings = exchange.request, exchange.settings
        if body is None:
            return [], None
        document = _read(body)
        tensors = _tensors(document, "inputs")
        inputs = self._named(tensors, settings.redact)
        if not settings.inputs:
            return inputs, _data(document, "inputs", None)
        if not settings.redact and _is_plain(body) and _says_only(document, inputs):
            return inputs, body
        return inputs, _data(document, "inputs", inputs)

    def _named(
        self, tensors: list[dict[str, Any]], redact: Collection[str]
    ) -> list[dict[str, Any]]:
        """Return the inputs under the signature's names, without those to be left out.

        What a client calls a tensor counts too: under neither name may it be kept.
        """
        if len(tensors) == 1 and self._inputs and tensors[0]["name"] not in self._input_names:
            if tensors[0]["name"] in redact:
                return []
            tensors = _columns(tensors[0], self._inputs)
        return [tensor for tensor in tensors if tensor["name"] not in redact]


def _response_data(exchange: Exchange) -> bytes | None:
    body, redact = exchange.response, exchange.settings.redact
    if body is None or (not redact and _is_plain(body)):
        return body  # this server wrote it, and nothing in it is to be left out
    document = _read(body)
    outputs = [t for t in _tensors(document, "outputs") if t["name"] not in redact]
    return _data(document, "outputs", outputs)


def _says_only(document: Mapping[str, Any], inputs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a request holds these very inputs and nothing else that is not kept."""
    asked: Sequence[Mapping[str, Any]] = document["inputs"]
    return set(document) <= _KNOWN and len(inputs) == len(asked) and all(map(is_, inputs, asked))


def _is_plain(body: bytes) -> bool:
    """Whether JSON that Python has read is JSON to every reader, as it is.

    Escapes may stand for halves of characters, and Python reads UTF-16, which holds zeros.
    """
    return body.isascii() and b"\\u" not in body and b"\0" not in body


def _to_bytes(document: Mapping[str, Any]) -> bytes:
    try:
        text = _ENCODER.encode(document)
    except ValueError:
        text = _ENCODER.encode(_finite(document))
    return text.encode("utf-8", "replace")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read(body: bytes) -> dict[str, Any]:
    """Return the document of a body that the server understood, or wrote."""
    document: dict[str, Any] = json.loads(body)
    return document


def _tensors(document: Mapping[str, Any], side: str) -> list[dict[str, Any]]:
    """Return the tensors of a document, flat: the very ones where they are so already."""
    return [
        item if len(item) == _FIELDS and not _is_nested(item["data"]) else _tensor(item)
        for item in document[side]
    ]


def _tensor(item: Mapping[str, Any]) -> dict[str, Any]:
    data = item["data"]
    return {
        "name": item["name"],
        "datatype": item["datatype"],
        "shape": item["shape"],
        "data": _flat(data) if _is_nested(data) else data,
    }


def _is_nested(data: Any) -> bool:
    return bool(data) and isinstance(data[0], list)


def _flat(data: Any) -> list[Any]:
    while data and isinstance(data[0], list):
        data = [value for part in data for value in part]
    return list(data)


def _columns(tensor: dict[str, Any], inputs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    """Return a tensor that the signature does not name as what the model took it for."""
    if len(inputs) == 1 and inputs[0].any_name:
        return [{**tensor, "name": inputs[0].name}]
    width = math.prod(tensor["shape"][1:])
    if len(tensor["shape"]) != 2 or width != len(inputs):
        return [tensor]
    rows = tensor["shape"][0]
    return [
        {
            "name": spec.name,
            "datatype": tensor["datatype"],
            "shape": [rows],
            "data": tensor["data"][index::width],
        }
        for index, spec in enumerate(inputs)
    ]


def _data(
    document: Mapping[str, Any], side: str, tensors: Sequence[Mapping[str, Any]] | None
) -> bytes:
    data: dict[str, Any] = {}
    if document.get("id") is not None:
        data["id"] = document["id"]
    if tensors is not None:
        data[side] = tensors
    return _to_bytes(data)


def _key(exchange: Exchange, columns: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    name = exchange.settings.join_key
    if name is None:
        return {}
    if name.startswith(_INPUT):
        keys = _by_row(columns.get(name.removeprefix(_INPUT)), exchange.rows)
        return {"keys": _compact(keys)} if any(key is not None for key in keys) else {}
    value = exchange.body_id if name == "id" else None
    if name.startswith(_HEADER):
        value = exchange.headers.get(name.removeprefix(_HEADER))
    key = _text(value)
    return {"key": key} if key else {}


def _parts(exchange: Exchange, columns: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    whole: list[str] = []
    by_row: list[list[str]] = [[] for _ in range(exchange.rows)]
    for name in exchange.settings.slices:
        if name.startswith(_USER):
            value = _text(exchange.headers.get(_user_header(name)))
            whole += [f"{name}={value}"] if value else []
            continue
        values = _by_row(columns.get(name.removeprefix(_INPUT)), exchange.rows)
        for parts, value in zip(by_row, values, strict=True):
            if value is not None:
                parts.append(f"{name}={value}")
    if any(by_row):
        return {"rowparts": _compact([[*whole, *parts] for parts in by_row])}
    return {"parts": _compact(whole)} if whole else {}


def _by_row(column: Mapping[str, Any] | None, rows: int) -> list[str | None]:
    """Return a column's values as texts, one a row; of what is no column nothing."""
    if column is None or len(column["data"]) != rows:
        return [None] * rows
    return [_text(value) for value in column["data"]]


def _text(value: object) -> str | None:
    """Return the text of a scalar; a whole number has the same one, however it was sent."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value)
    return text if 0 < len(text) <= MAX_TEXT_CHARS else None


def _user_header(name: str) -> str:
    return f"x-user-{name.removeprefix(_USER).replace('_', '-')}"


def _compact(value: object) -> str:
    return _ENCODER.encode(value)


def _rfc3339(seconds: float) -> str:
    """Return a moment as RFC 3339, to the microsecond.

    Examples
    --------
    >>> _rfc3339(0.25)
    '1970-01-01T00:00:00.250000Z'
    """
    at = datetime.fromtimestamp(seconds, UTC)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")
