"""Tensors keep their values on the way in and out, and say what is wrong with them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from modelplane_runtime.errors import ModelOutputError, RequestError
from modelplane_runtime.tensors import DTYPES, Array, datatype_of, decode, encode

SHAPES = st_np.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4)


def arrays() -> st.SearchStrategy[Array]:
    numbers = st.sampled_from([name for name in DTYPES if name != "BYTES"]).flatmap(
        lambda name: st_np.arrays(
            DTYPES[name],
            SHAPES,
            elements=st_np.from_dtype(DTYPES[name], allow_infinity=False),
        )
    )
    texts = st_np.arrays(np.dtype(object), SHAPES, elements=st.text(max_size=5))
    return numbers | texts


def same(left: Array, right: Array) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return bool(np.array_equal(left, right, equal_nan=left.dtype.kind == "f"))


@given(arrays())
def test_what_is_encoded_decodes_to_the_same_array(array: Array) -> None:
    tensor = json.loads(json.dumps(encode("x", array), allow_nan=False))

    assert same(decode("x", tensor["datatype"], tensor["shape"], tensor["data"]), array)


@given(arrays().filter(lambda array: array.dtype.kind != "f"))
def test_nested_and_flat_data_are_the_same_tensor(array: Array) -> None:
    datatype, shape = datatype_of(array.dtype), list(array.shape)

    nested = decode("x", datatype, shape, array.tolist())

    assert same(nested, decode("x", datatype, shape, array.reshape(-1).tolist()))


def test_null_is_nan_in_a_floating_point_tensor_only() -> None:
    array = decode("x", "FP32", [2], [None, 1])

    assert np.isnan(array[0])
    assert array[1] == 1
    for datatype in ("INT64", "UINT8", "BOOL", "BYTES"):
        with pytest.raises(RequestError, match=r'input "x".*null'):
            decode("x", datatype, [1], [None])


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "message"),
    [
        ("FP128", [1], [1.0], "datatype must be one of"),
        (None, [1], [1.0], "datatype must be one of"),
        ("FP64", None, [1.0], "shape must be a list"),
        ("FP64", [], [1.0], "shape must be a list"),
        ("FP64", [-1], [1.0], "shape must be a list"),
        ("FP64", [True], [1.0], "shape must be a list"),
        ("FP64", [2], [1.0], "needs 2 values, data has 1"),
        ("FP64", [0, 3], [], "holds no values"),
        ("FP64", [1], None, "data must be a list; got nothing"),
        ("FP64", [1], "1.0", "data must be a list; got str"),
        ("FP64", [2, 2], [[1.0, 2.0], [3.0]], "not nested as shape"),
        ("FP64", [2, 2], [[1.0, 2.0], 3.0], "not nested as shape"),
        ("FP64", [2], [[1.0, 2.0]], "not nested as shape"),
        ("FP64", [1], ["1.0"], "takes numbers.*holds a str"),
        ("FP64", [1], [True], "holds a bool"),
        ("FP64", [1], [10**400], "too large for FP64"),
        ("INT64", [1], [1.5], "takes whole numbers.*holds a float"),
        ("INT8", [2], [1, 300], "holds -128 to 127; data has 1 to 300"),
        ("UINT8", [1], [-1], "holds 0 to 255"),
        ("BOOL", [1], [1], "takes true or false"),
        ("BYTES", [1], [1], "takes strings"),
        ("BYTES", [1], [{"b": 1}], "holds a dict"),
    ],
)
def test_a_malformed_tensor_is_refused_by_name(
    datatype: object, shape: object, data: Any, message: str
) -> None:
    with pytest.raises(RequestError, match=f'(?s)input "delay".*{message}') as caught:
        decode("delay", datatype, shape, data)

    assert caught.value.status == 400


@pytest.mark.parametrize(
    "array",
    [
        np.array([np.inf]),
        np.array(["2024-01-01"], dtype="datetime64[D]"),
        np.array([1j]),
        np.array([b"\xff"], dtype=object),
        np.array([{}], dtype=object),
    ],
    ids=["infinite", "date", "complex", "binary", "object"],
)
def test_what_json_cannot_carry_is_not_sent(array: Array) -> None:
    with pytest.raises(ModelOutputError):
        encode("x", array)
