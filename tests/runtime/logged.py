"""A log of predictions, filled and read by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import from_json

from modelplane.adapters.runtime.servers import _read_predictions
from modelplane_runtime.prediction_events import EventWriter
from modelplane_runtime.predictions import PredictionLog
from modelplane_runtime.signature import Signature, TensorSpec

from .conftest import COLUMNS

COLUMN_SIGNATURE = Signature(tuple(TensorSpec(name, "FP64", (-1,)) for name in COLUMNS))


def writer(signature: Signature = COLUMN_SIGNATURE) -> EventWriter:
    return EventWriter("flights", "1.2.0", signature)


def matrix(rows: Sequence[Sequence[float]], name: str = "input") -> dict[str, Any]:
    flat = [value for row in rows for value in row]
    shape = [len(rows), len(rows[0])]
    return {"inputs": [{"name": name, "datatype": "FP64", "shape": shape, "data": flat}]}


def answer_of(*values: float, name: str = "predictions") -> dict[str, Any]:
    output = {"name": name, "datatype": "FP64", "shape": [len(values)], "data": list(values)}
    return {"model_name": "flights", "model_version": "1.2.0", "outputs": [output]}


def add(
    log: PredictionLog,
    request: Mapping[str, Any] | bytes,
    response: Mapping[str, Any] | bytes | None = None,
    *,
    request_id: str = "a",
    rows: int = 1,
    headers: Mapping[bytes, bytes] | None = None,
) -> None:
    log.add(
        {b"x-modelplane-rule": b"default", **(headers or {})},
        request if isinstance(request, bytes) else json.dumps(request).encode(),
        response if isinstance(response, bytes) else json.dumps(response or answer_of(1)).encode(),
        request_id=request_id,
        body_id=request.get("id") if isinstance(request, Mapping) else None,
        rows=rows,
        latency_s=0.001,
    )


async def page_of(
    log: PredictionLog, after: str = "", signature: Signature = COLUMN_SIGNATURE
) -> dict[str, Any]:
    written = await log.write_page(after, writer(signature))
    assert _read_predictions(written) is not None, "the agent reads every page"
    page: dict[str, Any] = from_json(written)
    return page
