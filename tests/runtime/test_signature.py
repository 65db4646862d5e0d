"""A request is held against the signature: order, names, shapes, types."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane_runtime.errors import LoadError, RequestError
from modelplane_runtime.signature import (
    Signature,
    TensorSpec,
    fit,
    parse_mlflow_signature,
    parse_signature,
)
from modelplane_runtime.tensors import Array

SPECS = (
    TensorSpec("delay", "FP64", (-1,)),
    TensorSpec("stops", "INT32", (-1,)),
    TensorSpec("carrier", "BYTES", (-1,)),
)


def tensors(rows: int = 2) -> dict[str, Array]:
    return {
        "delay": np.zeros(rows),
        "stops": np.zeros(rows, dtype=np.int32),
        "carrier": np.full(rows, "AA", dtype=object),
    }


@given(st.permutations([spec.name for spec in SPECS]))
def test_inputs_come_in_any_order_and_leave_in_the_signatures(order: list[str]) -> None:
    given_tensors = tensors()

    fitted = fit({name: given_tensors[name] for name in order}, SPECS)

    assert list(fitted) == ["delay", "stops", "carrier"]


def test_a_column_may_be_a_matrix_of_width_one() -> None:
    fitted = fit({**tensors(), "delay": np.zeros((2, 1))}, SPECS)

    assert fitted["delay"].shape == (2,)


def test_numbers_are_converted_where_nothing_is_lost() -> None:
    sent = {**tensors(), "delay": np.array([1, 2]), "stops": np.array([3, 4], dtype=np.int64)}

    fitted = fit(sent, SPECS)

    assert fitted["delay"].dtype == np.float64
    assert fitted["stops"].dtype == np.int32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stops": np.array([1.5, 2.0])}, 'input "stops": expected datatype INT32, got FP64'),
        ({"stops": np.array([2**40, 0])}, 'input "stops": expected datatype INT32, got INT64'),
        ({"delay": np.array(["a", "b"], dtype=object)}, 'input "delay": expected datatype FP64'),
        ({"delay": np.array([True, False])}, 'input "delay": .* got BOOL'),
        ({"carrier": np.zeros(2)}, 'input "carrier": expected datatype BYTES, got FP64'),
        ({"delay": np.zeros((2, 2))}, r'input "delay": expected shape \[-1\].*got \[2, 2\]'),
        ({"delay": np.zeros(3)}, 'input "stops" has 2 rows, input "delay" has 3'),
        ({"dealy": np.zeros(2)}, 'unknown input "dealy"; did you mean "delay"'),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change: dict[str, Array], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        fit({**tensors(), **change}, SPECS)


def test_missing_inputs_are_all_named() -> None:
    with pytest.raises(RequestError, match='missing input "stops", "carrier"'):
        fit({"delay": np.zeros(1)}, SPECS)


def test_an_absent_optional_input_is_a_missing_value() -> None:
    specs = (SPECS[0], TensorSpec("wind", "FP32", (-1,), required=False))

    fitted = fit({"delay": np.zeros(3)}, specs)

    assert fitted["wind"].shape == (3,)
    assert np.isnan(fitted["wind"]).all()


def test_an_input_that_nobody_named_goes_by_any_name() -> None:
    spec = TensorSpec("input", "FP64", (-1, 2), any_name=True)

    assert list(fit({"input-0": np.zeros((1, 2))}, (spec,))) == ["input"]
    with pytest.raises(RequestError, match="expected shape"):
        fit({"input-0": np.zeros((1, 3))}, (spec,))


def test_a_signature_file_is_the_protocols_metadata() -> None:
    document = {"inputs": [spec.metadata() for spec in SPECS], "outputs": []}

    assert parse_signature(json.dumps(document)) == Signature(SPECS)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"inputs": []}',
        '{"inputs": ["delay"]}',
        '{"inputs": [{"name": "delay", "datatype": "float"}]}',
        '{"inputs": [{"name": "delay", "datatype": "FP64", "shape": 3}]}',
    ],
)
def test_a_malformed_signature_file_does_not_load(text: str) -> None:
    with pytest.raises(LoadError):
        parse_signature(text)


def test_mlflow_columns_and_tensors_are_read() -> None:
    columns = [
        {"type": "double", "name": "delay", "required": False},
        {"type": "long", "name": "stops", "required": True},
        {"type": "string", "name": "carrier", "required": True},
    ]
    tensor = [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 4]}}]

    from_columns = parse_mlflow_signature({"inputs": json.dumps(columns)})
    from_tensor = parse_mlflow_signature({"inputs": json.dumps(tensor), "outputs": None})

    assert from_columns is not None
    assert [spec.datatype for spec in from_columns.inputs] == ["FP64", "INT64", "BYTES"]
    assert [spec.required for spec in from_columns.inputs] == [False, True, True]
    assert from_tensor is not None
    assert from_tensor.is_matrix()
    assert from_tensor.inputs[0].any_name
    assert parse_mlflow_signature(None) is None
    with pytest.raises(LoadError, match="cannot be served"):
        parse_mlflow_signature({"inputs": json.dumps([{"type": "array", "name": "x"}])})
