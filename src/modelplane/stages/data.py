"""A table as inference requests, and the answers as arrays.

Called by the checks on data. What a model is asked is what its signature names: labels, ids and
columns to slice by stay behind. `load_table`, which reads the table, is `data_tables`'.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from modelplane.resources.gate_run import ServedModel
from modelplane.stages.data_files import first_line
from modelplane.stages.data_tables import (
    TARGETS,
    Array,
    Frame,
    listed,
    load_table,
    need_columns,
    plain_values,
)
from modelplane.stages.failures import CheckImpossible

__all__ = [
    "Asked",
    "choose_labels",
    "choose_probabilities",
    "load_table",
    "predict",
    "predict_outputs",
    "read_outputs",
    "requests_of",
]

DEFAULT_BATCH = 500
_CONCURRENCY = 2
_MAX_REQUEST_BYTES = 4 * 2**20
_SAMPLE_ROWS = 20


class Asked(Protocol):
    """What answers inference requests: `workspace.RunningModel`."""

    async def infer(self, request: Mapping[str, Any]) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input of a model; -1 in the shape is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...] = (-1,)
    required: bool = True


def requests_of(
    frame: Frame, served: ServedModel, *, batch: int, features: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """Yield Open Inference Protocol requests for the rows of a table, in their order.

    Parameters
    ----------
    frame
        The rows; columns that the signature does not name are left out.
    served
        The version, whose signature (or else input example) says what it takes.
    batch
        Rows of a request at the most; fewer where they are long.
    features
        Columns of a model that takes one matrix, in its order.

    Raises
    ------
    CheckImpossible
        A column is missing or does not fit, or the version does not say what it takes.
    """
    inputs = _inputs_of(frame, served, features)
    if len(frame) == 0:
        return
    few = np.linspace(0, len(frame) - 1, min(len(frame), _SAMPLE_ROWS)).astype(int)
    sample = [_tensor(tensor, values[few]) for tensor, values in inputs]
    row_bytes = len(json.dumps(sample)) / len(few)
    size = int(max(1, min(batch, _MAX_REQUEST_BYTES // row_bytes)))
    for start in range(0, len(frame), size):
        part = [_tensor(tensor, values[start : start + size]) for tensor, values in inputs]
        yield {"inputs": part}


def _inputs_of(
    frame: Frame, served: ServedModel, features: Sequence[str]
) -> list[tuple[Tensor, Array]]:
    """Return each input with its values for all rows."""
    tensors = _tensors_of(served, features)
    only = tensors[0] if len(tensors) == 1 else None
    if only is not None and len(only.shape) == 2 and only.name not in frame.columns:
        return [(only, _matrix(frame, only, features))]
    odd = [one.name for one in tensors if len(one.shape) > 2 or one.shape[1:] not in {(), (1,)}]
    if odd:
        raise CheckImpossible(
            f"the model takes {listed(odd)} as tensors that are no columns of a table: check it "
            "with a `command`"
        )
    need_columns(frame, [one.name for one in tensors if one.required])
    there = [one for one in tensors if one.name in frame.columns]
    return [(one, _column(frame[one.name], one)) for one in there]


def _tensors_of(served: ServedModel, features: Sequence[str]) -> list[Tensor]:
    """Return what the version says it takes."""
    declared = (served.signature or {}).get("inputs")
    if declared:
        return [_declared(one) for one in declared]
    example = (served.input_example or {}).get("inputs")
    if example:
        return [_declared({**one, "shape": [-1, *one.get("shape", [1])[1:]]}) for one in example]
    if features:
        return [Tensor("input", "FP64", (-1, len(features)))]
    raise CheckImpossible(
        "the version does not say what it takes: push it with a signature or an input example, or "
        "name the `features`"
    )


def _declared(one: Mapping[str, Any]) -> Tensor:
    try:
        shape = tuple(int(size) for size in one.get("shape") or [-1])
        required = one.get("required", True) is True
        return Tensor(str(one["name"]), str(one["datatype"]), shape, required)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckImpossible(f"the version's signature is malformed: {error!r}") from None


def _matrix(frame: Frame, tensor: Tensor, features: Sequence[str]) -> Array:
    width = tensor.shape[1]
    if features:
        need_columns(frame, features)
        names = list(features)
    else:
        numeric = pd.api.types.is_numeric_dtype
        names = [name for name in frame.columns if numeric(frame[name])]
        if width not in (-1, len(names)):
            names = [name for name in names if name not in TARGETS]
    if width not in (-1, len(names)):
        raise CheckImpossible(
            f"the model takes a matrix of {width} columns and the data has {len(names)} of "
            f"numbers ({listed(names)}): name them as `features`, in the model's order"
        )
    columns = [_column(frame[name], Tensor(name, tensor.datatype)) for name in names]
    return np.column_stack(columns)


def _column(series: Any, tensor: Tensor) -> Array:
    """Return a column's values, in the type that the model takes."""
    values = plain_values(series)
    kind = tensor.datatype
    if kind == "BYTES":
        return _texts(values, tensor)
    fault = None
    if values.dtype.kind == "O":
        shown = next((value for value in values if value is not None), "")
        fault = f"text such as {shown[:40]!r}"
    elif kind.startswith("FP"):
        if np.isinf(values.astype(np.float64)).any():
            fault = "infinite numbers, which JSON cannot carry"
        values = values.astype(np.float64)
    elif values.dtype.kind == "f" and np.isnan(values).any():
        fault = f"missing values (first in row {series.index[int(np.isnan(values).argmax())]})"
    elif values.dtype.kind == "f" and (values != np.floor(values)).any():
        fault = f"fractions such as {values[values != np.floor(values)][0]:g}"
    elif kind == "BOOL" and not np.isin(values, (0, 1)).all():
        fault = "numbers other than 0 and 1"
    else:
        values = values.astype(np.bool_ if kind == "BOOL" else np.int64)
    if fault:
        raise CheckImpossible(f"column `{tensor.name}` holds {fault}; the model takes {kind}")
    return values


def _texts(values: Array, tensor: Tensor) -> Array:
    missing = pd.isna(values)
    if missing.any():
        raise CheckImpossible(
            f"column `{tensor.name}` has {int(missing.sum()):,} missing values; the model takes "
            "BYTES, which cannot be missing"
        )
    return np.array([str(value) for value in values.tolist()], dtype=object)


def _tensor(tensor: Tensor, values: Array) -> dict[str, Any]:
    rows = len(values)
    data = values.reshape(-1).tolist()
    if values.dtype.kind == "f":
        data = [None if math.isnan(value) else value for value in data]
    shape = [rows, *values.shape[1:]] if values.ndim > 1 else [rows, *tensor.shape[1:]]
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": shape, "data": data}


async def predict_outputs(
    model: Asked,
    frame: Frame,
    served: ServedModel,
    *,
    batch: int = DEFAULT_BATCH,
    features: Sequence[str] = (),
) -> dict[str, Array]:
    """Ask the model for all rows, two requests at a time, and return its outputs by name.

    Returns
    -------
    dict of arrays
        Each of shape ``(rows, …)``: float64, int64, bool, or objects that are text.

    Raises
    ------
    CheckImpossible
        A request cannot be made, the model refuses one, or answers for other rows.
    """
    answers: dict[int, dict[str, Array]] = {}
    requests = enumerate(requests_of(frame, served, batch=batch, features=features))

    async def ask() -> None:
        for number, request in requests:
            rows = int(request["inputs"][0]["shape"][0])
            answers[number] = read_outputs(await model.infer(request), rows)

    asking = [asyncio.ensure_future(ask()) for _ in range(_CONCURRENCY)]
    try:
        await asyncio.gather(*asking)
    finally:
        for one in asking:
            one.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    parts = [answers[number] for number in sorted(answers)]
    if not parts:
        raise CheckImpossible("there are no rows to ask the model for")
    if any(set(part) != set(parts[0]) for part in parts):
        raise CheckImpossible("the model answers with other outputs from one request to the next")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


async def predict(
    model: Asked, frame: Frame, served: ServedModel, batch: int = DEFAULT_BATCH
) -> Array:
    """Return one prediction for each row, as `choose_labels` finds it in the outputs."""
    return choose_labels(await predict_outputs(model, frame, served, batch=batch))


def read_outputs(answer: Mapping[str, Any], rows: int) -> dict[str, Array]:
    """Return the outputs of one answer as arrays; raises `CheckImpossible` when malformed."""
    outputs = {}
    try:
        for one in answer["outputs"]:
            shape = tuple(int(size) for size in one["shape"])
            kind = str(one["datatype"])
            outputs[str(one["name"])] = _array(kind, one["data"]).reshape(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckImpossible(f"the model's answer is malformed: {first_line(error)}") from None
    wrong = [name for name, values in outputs.items() if values.shape[:1] != (rows,)]
    if wrong or not outputs:
        raise CheckImpossible(
            f"the model was asked for {rows} rows and answers with {listed(wrong) or 'nothing'} "
            "of another length"
        )
    return outputs


def _array(kind: str, data: Any) -> Array:
    if kind == "BYTES":
        return np.array(np.asarray(data, dtype=object).reshape(-1).tolist(), dtype=object)
    if kind == "BOOL":
        return np.asarray(data, dtype=np.bool_)
    return np.asarray(data, dtype=np.float64 if kind.startswith("FP") else np.int64)


def choose_labels(outputs: Mapping[str, Array], wanted: str | None = None) -> Array:
    """Return the output with one value for each row, shape ``(rows,)``.

    The one that is `wanted`, or ``predictions``, or the only one of that shape. Where there is
    only one of k numbers for each row, these are scores of classes 0 to k - 1: the greatest wins.

    Raises
    ------
    CheckImpossible
        None or several could be meant.
    """
    fitting = {name: _flat(values) for name, values in outputs.items() if _is_flat(values)}
    name = wanted or ("predictions" if "predictions" in outputs else None)
    if name is not None and name not in outputs:
        raise CheckImpossible(f"the model has no output `{name}`; it has {listed(outputs)}")
    if name in fitting:
        return fitting[name]
    scores = [name] if name else list(outputs)
    if len(scores) == 1 and outputs[scores[0]].ndim == 2 and outputs[scores[0]].dtype.kind == "f":
        return np.asarray(outputs[scores[0]].argmax(axis=1))
    if len(fitting) == 1 and name is None:
        return next(iter(fitting.values()))
    raise CheckImpossible(
        f"which output is judged? The model has {listed(outputs)}; name one with one value for "
        "each row as `output`"
    )


def choose_probabilities(outputs: Mapping[str, Array], wanted: str | None = None) -> Array:
    """Return probabilities (or scores), shape ``(rows, classes)``, or ``(rows,)`` of one class.

    The output that is `wanted`, or ``probabilities``, or the only one of real numbers.

    Raises
    ------
    CheckImpossible
        None or several could be meant.
    """
    name = wanted or ("probabilities" if "probabilities" in outputs else None)
    real = [name] if name else [one for one, values in outputs.items() if values.dtype.kind == "f"]
    if len(real) != 1 or real[0] not in outputs or outputs[real[0]].ndim > 2:
        raise CheckImpossible(
            f"the metric takes probabilities, and the model's outputs are {listed(outputs)}: "
            "name one as `output`, or choose another metric"
        )
    values = outputs[real[0]]
    return _flat(values) if _is_flat(values) else values


def _is_flat(values: Array) -> bool:
    return values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1)


def _flat(values: Array) -> Array:
    return values.reshape(-1)
