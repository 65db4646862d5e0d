"""What a model takes and gives: read from a file, and checked against a request's tensors.

Used by the models and by ``app`` (metadata). Pure: a signature file's bytes come in from the
caller.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np

from modelplane_runtime.errors import LoadError, RequestError
from modelplane_runtime.tensors import DTYPES, Array, datatype_of

ANY_SIZE = -1

# MLflow's column types, as far as a JSON tensor can carry them.
_MLFLOW_DATATYPES = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
    "datetime": "BYTES",
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output.

    Parameters
    ----------
    name
        The tensor's name.
    datatype
        One of `tensors.DTYPES`.
    shape
        Sizes; `ANY_SIZE` (-1) where any is good. A column is ``(-1,)``.
    required
        Whether it must be sent; an absent optional input is NaN (FP*) or None (BYTES).
    checks_datatype
        False where the model does not tell its types: then any datatype fits.
    any_name
        True where nobody named the one input: then a single tensor of any name is taken for it.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    required: bool = True
    checks_datatype: bool = True
    any_name: bool = False

    def metadata(self) -> dict[str, Any]:
        """Return the protocol's metadata of this tensor."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True, slots=True)
class Signature:
    """All inputs and outputs; no outputs means that they are not known before a prediction."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...] = ()

    def is_matrix(self) -> bool:
        """Tell whether the input is one tensor of rank two or more, not a set of columns."""
        return len(self.inputs) == 1 and len(self.inputs[0].shape) > 1


def parse_signature(text: str | bytes) -> Signature:
    """Read a signature file: the ``inputs`` and ``outputs`` of the protocol's model metadata.

    Raises
    ------
    LoadError
        It is not JSON, or a tensor's description is malformed.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise LoadError(f"the signature file is not JSON: {error}") from error
    if not isinstance(document, dict) or not document.get("inputs"):
        raise LoadError('the signature file must be an object with "inputs" and maybe "outputs"')
    return Signature(
        inputs=tuple(_parse_spec("inputs", item) for item in document["inputs"]),
        outputs=tuple(_parse_spec("outputs", item) for item in document.get("outputs", [])),
    )


def _parse_spec(side: str, item: object) -> TensorSpec:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise LoadError(f"the signature's {side} must each be an object with a name; got {item!r}")
    name, datatype, shape = item["name"], item.get("datatype"), item.get("shape", [ANY_SIZE])
    if datatype not in DTYPES:
        raise LoadError(f'the signature\'s {side} "{name}" has unknown datatype {datatype!r}')
    if not isinstance(shape, list) or not all(type(size) is int for size in shape) or not shape:
        raise LoadError(f'the signature\'s {side} "{name}" has a malformed shape {shape!r}')
    return TensorSpec(name, datatype, tuple(shape), required=item.get("required", True) is True)


def parse_mlflow_signature(document: Mapping[str, Any] | None) -> Signature | None:
    """Read the ``signature`` block of an MLmodel file; None if there is none for the inputs.

    Raises
    ------
    LoadError
        It has a type that no JSON tensor can carry.
    """
    if not document or not document.get("inputs"):
        return None
    inputs = _parse_mlflow_side(document["inputs"], "input")
    outputs = _parse_mlflow_side(document.get("outputs") or "[]", "predictions")
    return Signature(inputs, outputs) if inputs else None


def _parse_mlflow_side(text: str, nameless: str) -> tuple[TensorSpec, ...]:
    items = json.loads(text)
    return tuple(_parse_mlflow_item(item, nameless) for item in items)


def _parse_mlflow_item(item: Mapping[str, Any], nameless: str) -> TensorSpec:
    name = str(item.get("name", nameless))
    required = item.get("required", True) is True
    if item.get("type") == "tensor":
        tensor = item["tensor-spec"]
        kind = str(tensor["dtype"])
        datatype = "BYTES" if kind in ("str", "object") else datatype_of(np.dtype(kind))
        shape = tuple(tensor["shape"])
        return TensorSpec(name, datatype, shape, required, any_name="name" not in item)
    kind = str(item.get("type"))
    if kind not in _MLFLOW_DATATYPES:
        raise LoadError(f'the MLflow signature\'s "{name}" has type {kind}, which cannot be served')
    return TensorSpec(name, _MLFLOW_DATATYPES[kind], (ANY_SIZE,), required)


def fit(tensors: Mapping[str, Array], specs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    """Check a request's tensors against a signature and bring them into its order and types.

    A column may come as ``[n]`` or ``[n, 1]``; whole numbers fit a floating-point input, and the
    width of a number is converted where the value fits.

    Returns
    -------
    dict of arrays by input name, in the order of `specs`; all of one length.

    Raises
    ------
    RequestError
        An input is missing, unknown, or of the wrong shape or datatype.
    """
    if len(specs) == 1 and specs[0].any_name and len(tensors) == 1:
        tensors = {specs[0].name: next(iter(tensors.values()))}
    names = [spec.name for spec in specs]
    if unknown := [name for name in tensors if name not in names]:
        raise RequestError(_unknown_input(unknown[0], names))
    missing = [spec.name for spec in specs if spec.required and spec.name not in tensors]
    if missing:
        listed = ", ".join(f'"{name}"' for name in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise RequestError(f"missing input {listed}{more}; the model takes {_listed(names)}")
    fitted = {
        spec.name: fit_datatype(_fit_shape(tensors[spec.name], spec), spec)
        for spec in specs
        if spec.name in tensors
    }
    _check_lengths(fitted, specs)
    if len(fitted) == len(specs):
        return fitted
    length = len(next(iter(fitted.values()))) if fitted else 1
    return {
        spec.name: fitted[spec.name] if spec.name in fitted else _absent(spec, length)
        for spec in specs
    }


def _unknown_input(name: str, names: list[str]) -> str:
    close = get_close_matches(name, names, n=1)
    hint = f'; did you mean "{close[0]}"?' if close else f"; the model takes {_listed(names)}"
    return f'unknown input "{name}"{hint}'


def _listed(names: list[str]) -> str:
    shown = ", ".join(f'"{name}"' for name in names[:20])
    return shown + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _fit_shape(array: Array, spec: TensorSpec) -> Array:
    expected = spec.shape
    if len(expected) == 1 and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    elif len(expected) == 2 and expected[1] in (1, ANY_SIZE) and array.ndim == 1:
        array = array[:, np.newaxis]
    fits = array.ndim == len(expected) and all(
        want in (ANY_SIZE, size) for want, size in zip(expected, array.shape, strict=True)
    )
    if not fits:
        raise RequestError(
            f'input "{spec.name}": expected shape {list(expected)} (-1 is any size), '
            f"got {list(array.shape)}"
        )
    return array


def fit_datatype(array: Array, spec: TensorSpec) -> Array:
    """Bring an array to a spec's datatype where no meaning is lost.

    Raises
    ------
    RequestError
        The kinds differ (a string for a number, a fraction for a whole number), or a value is
        out of range.
    """
    wanted = DTYPES[spec.datatype]
    if not spec.checks_datatype or array.dtype == wanted:
        return array
    have, want = array.dtype.kind, wanted.kind
    if want == "f" and have in "fiu":
        return array.astype(wanted)
    if want in "iu" and have in "iu":
        limits = np.iinfo(wanted)
        low, high = int(array.min()), int(array.max())
        if limits.min <= low and high <= limits.max:
            return array.astype(wanted)
    raise RequestError(
        f'input "{spec.name}": expected datatype {spec.datatype}, got {datatype_of(array.dtype)}'
    )


def _check_lengths(fitted: Mapping[str, Array], specs: tuple[TensorSpec, ...]) -> None:
    lengths = {
        spec.name: len(fitted[spec.name])
        for spec in specs
        if spec.name in fitted and spec.shape[0] == ANY_SIZE
    }
    if len(set(lengths.values())) > 1:
        (first, size), (other, other_size) = _first_two_different(lengths)
        raise RequestError(
            f'input "{other}" has {other_size} rows, input "{first}" has {size}: '
            "all inputs need the same number"
        )


def _first_two_different(lengths: Mapping[str, int]) -> tuple[tuple[str, int], tuple[str, int]]:
    items = list(lengths.items())
    return items[0], next(item for item in items if item[1] != items[0][1])


def _absent(spec: TensorSpec, length: int) -> Array:
    if DTYPES[spec.datatype].kind == "f":
        return np.full(length, np.nan, dtype=DTYPES[spec.datatype])
    return np.full(length, None, dtype=object)
