"""Tensors of the Open Inference Protocol to numpy and back.

Used by ``inference``. Knows nothing about models or HTTP, and does no I/O.
"""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelplane_runtime.errors import ModelOutputError, RequestError

Array = NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(object),
}
_DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}

# By numpy's kind: what a datatype's values are in JSON, as Python types and in words.
_JSON_TYPES: dict[str, frozenset[type]] = {
    "b": frozenset({bool}),
    "u": frozenset({int}),
    "i": frozenset({int}),
    "f": frozenset({float, int, type(None)}),
    "O": frozenset({str}),
}
_JSON_WORDS = {
    "b": "true or false",
    "u": "whole numbers",
    "i": "whole numbers",
    "f": "numbers (null for a missing value)",
    "O": "strings",
}


def datatype_of(dtype: np.dtype[Any]) -> str:
    """Name the protocol's datatype of a numpy dtype.

    Raises
    ------
    ModelOutputError
        The protocol has no such type (dates, complex numbers, records).
    """
    if dtype.kind in "OUS" or dtype.name.startswith("StringDType"):
        return "BYTES"
    native = dtype.newbyteorder("=")
    if native not in _DATATYPES:
        raise ModelOutputError(f"the protocol has no datatype for {dtype}")
    return _DATATYPES[native]


def decode(name: str, datatype: object, shape: object, data: object) -> Array:
    """Build the array of one input tensor.

    Parameters
    ----------
    name
        The input's name, for messages.
    datatype, shape, data
        As they stand in the request. `data` is nested by `shape` or flat in row-major order;
        null in a floating-point tensor is NaN.

    Returns
    -------
    ndarray of the given shape; BYTES gives an object array of str.

    Raises
    ------
    RequestError
        A part is malformed, or the parts do not agree.
    """
    if not isinstance(datatype, str) or datatype not in DTYPES:
        known = ", ".join(DTYPES)
        raise RequestError(f'input "{name}": datatype must be one of {known}; got {datatype!r}')
    dimensions = _check_shape(name, shape)
    values = _flatten(name, data, dimensions)
    expected = math.prod(dimensions)
    if len(values) != expected:
        raise RequestError(
            f'input "{name}": shape {list(dimensions)} needs {expected} values, '
            f"data has {len(values)}"
        )
    if not values:
        raise RequestError(f'input "{name}": shape {list(dimensions)} holds no values')
    return _build(name, datatype, values).reshape(dimensions)


def _check_shape(name: str, shape: object) -> tuple[int, ...]:
    valid = (
        isinstance(shape, list)
        and len(shape) > 0
        and all(type(size) is int and size >= 0 for size in shape)
    )
    if not valid:
        raise RequestError(
            f'input "{name}": shape must be a list of whole numbers such as [1, 4]; got {shape!r}'
        )
    assert isinstance(shape, list)
    return tuple(shape)


def _flatten(name: str, data: object, shape: tuple[int, ...]) -> list[Any]:
    if not isinstance(data, list):
        got = "nothing" if data is None else type(data).__name__
        raise RequestError(f'input "{name}": data must be a list; got {got}')
    if not data or not isinstance(data[0], list):
        return data
    level: list[Any] = [data]
    for size in shape:
        if not all(isinstance(part, list) and len(part) == size for part in level):
            raise RequestError(f'input "{name}": data is not nested as shape {list(shape)} says')
        level = list(chain.from_iterable(level))
    return level


def _build(name: str, datatype: str, values: list[Any]) -> Array:
    dtype = DTYPES[datatype]
    allowed = _JSON_TYPES[dtype.kind]
    if not allowed.issuperset(map(type, values)):
        wrong = next(value for value in values if type(value) not in allowed)
        shown = "null" if wrong is None else f"a {type(wrong).__name__}"
        raise RequestError(
            f'input "{name}": {datatype} takes {_JSON_WORDS[dtype.kind]}; data holds {shown}'
        )
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if min(values) < limits.min or max(values) > limits.max:
            raise RequestError(
                f'input "{name}": {datatype} holds {limits.min} to {limits.max}; '
                f"data has {min(values)} to {max(values)}"
            )
    try:
        return np.array(values, dtype=dtype)
    except OverflowError as error:
        raise RequestError(f'input "{name}": a number is too large for {datatype}') from error


def encode(name: str, array: Array) -> dict[str, Any]:
    """Write one output tensor, its data flat in row-major order; NaN becomes null.

    Raises
    ------
    ModelOutputError
        The protocol or JSON cannot carry the values (an infinite number, a date).
    """
    datatype = datatype_of(array.dtype)
    flat = array.reshape(-1)
    values: list[Any]
    if array.dtype.kind == "f":
        values = _encode_floats(name, flat)
    elif datatype == "BYTES":
        values = [_text_of(name, value) for value in flat.tolist()]
    else:
        values = flat.tolist()
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": values}


def _encode_floats(name: str, flat: Array) -> list[Any]:
    values: list[Any] = flat.tolist()
    finite = np.isfinite(flat)
    if finite.all():
        return values
    if np.isinf(flat).any():
        raise ModelOutputError(f'output "{name}" holds an infinite number, which JSON cannot carry')
    return [
        value if is_finite else None
        for value, is_finite in zip(values, finite.tolist(), strict=True)
    ]


def _text_of(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise ModelOutputError(f'output "{name}" holds bytes that are not UTF-8') from error
    if isinstance(value, (bool, int, float)) or value is None:
        return str(value)
    raise ModelOutputError(f'output "{name}" holds a {type(value).__name__}')
