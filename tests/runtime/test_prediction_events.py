"""What the log of predictions tells of a request, and what it never tells."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane_runtime.prediction_events import LogSettings
from modelplane_runtime.predictions import PredictionLog
from modelplane_runtime.signature import Signature, TensorSpec

from .conftest import COLUMNS
from .logged import add, answer_of, matrix, page_of, writer

ALL = LogSettings()


@given(
    redact=st.sets(st.sampled_from([*COLUMNS, "input", "predictions", "probabilities"])),
    as_matrix=st.booleans(),
    secrets=st.lists(st.integers(10**8, 10**9).map(float), min_size=3, max_size=3, unique=True),
)
def test_what_is_redacted_is_in_no_page(
    redact: set[str], as_matrix: bool, secrets: list[float]
) -> None:
    columns = dict(zip(COLUMNS, secrets, strict=True))
    request = matrix([secrets])
    if not as_matrix:
        request = {
            "inputs": [
                {"name": name, "datatype": "FP64", "shape": [1], "data": [value]}
                for name, value in columns.items()
            ],
        }
    request |= {"parameters": {"note": secrets}, "surprise": secrets}
    outputs = {"predictions": 3.25e10, "probabilities": 4.75e10}
    response = {"outputs": [answer_of(v, name=n)["outputs"][0] for n, v in outputs.items()]}
    # The key and the parts are of an input, whose value must not come that way either.
    settings = LogSettings(
        redact=frozenset(redact), join_key="input.delay", slices=("input.wind", "input.delay")
    )
    log = PredictionLog(settings)
    add(log, request, response)
    text = asyncio.run(log.write_page("", writer())).decode()
    gone = redact | (set(COLUMNS) if as_matrix and "input" in redact else set())
    for name, value in {**columns, **outputs}.items():
        assert (f"{value:.0f}" in text) == (name not in gone), name


async def test_what_json_says_twice_is_kept_once() -> None:
    columns = b'{"name": "%s", "datatype": "FP64", "shape": [1], "data": [777], "data": [1]}'
    body = b'{"inputs": [{"name": "wind", "data": [888]}], "inputs": [%s, %s]}' % (
        columns % b"delay",
        columns % b"distance",
    )
    log = PredictionLog(LogSettings(redact=frozenset({"wind"})))
    add(log, body)
    text = await log.write_page("", writer())
    assert b'"data":[1]' in text
    assert b"777" not in text
    assert b"888" not in text
    assert b"wind" not in text


@pytest.mark.parametrize("redact", [frozenset(), frozenset({"wind"})])
async def test_a_number_that_is_too_large_to_be_one_is_told_as_missing(
    redact: frozenset[str],
) -> None:
    log = PredictionLog(LogSettings(redact=redact))
    add(log, json.dumps(matrix([[1.0, 2.0, 3.0]])).replace("1.0", "1e999").encode())
    request, _ = (await page_of(log))["events"]
    assert request["data"]["inputs"][0]["data"] == [None]


async def test_without_inputs_the_key_and_the_parts_still_come() -> None:
    log = PredictionLog(
        LogSettings(inputs=False, join_key="input.delay", slices=("user.plan_id", "input.wind"))
    )
    headers = {b"x-user-plan-id": b"gold", b"x-user-other": b"1"}
    add(log, matrix([[1.0, 2.0, 3.5], [4.0, 5.0, 6.5]]), answer_of(0, 1), rows=2, headers=headers)
    request, response = (await page_of(log))["events"]
    assert "inputs" not in request["data"]
    assert json.loads(response["keys"]) == ["1", "4"]
    assert json.loads(response["rowparts"]) == [
        ["user.plan_id=gold", "input.wind=3.5"],
        ["user.plan_id=gold", "input.wind=6.5"],
    ]


@pytest.mark.parametrize(
    ("join_key", "headers", "expected"),
    [
        ("id", {}, "body-7"),
        ("header.x-order-id", {b"x-order-id": b"o-1"}, "o-1"),
        ("header.x-order-id", {}, None),
        ("header.x-order-id", {b"x-order-id": b"o" * 201}, None),
        (None, {b"x-order-id": b"o-1"}, None),
    ],
)
async def test_a_request_is_named_by_its_join_key(
    join_key: str | None, headers: dict[bytes, bytes], expected: str | None
) -> None:
    log = PredictionLog(LogSettings(join_key=join_key, slices=("user.region",)))
    add(log, matrix([[1, 2, 3]]) | {"id": "body-7"}, headers={**headers, b"x-user-region": b"west"})
    _, response = (await page_of(log))["events"]
    assert response.get("key") == expected
    assert json.loads(response["parts"]) == ["user.region=west"]


async def test_a_matrix_is_told_as_the_columns_that_the_model_takes() -> None:
    log = PredictionLog(ALL)
    add(log, matrix([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), rows=2)
    request, _ = (await page_of(log))["events"]
    assert {t["name"]: t["data"] for t in request["data"]["inputs"]} == {
        "delay": [1.0, 4.0],
        "distance": [2.0, 5.0],
        "wind": [3.0, 6.0],
    }


async def test_a_tensor_of_any_name_is_told_under_the_models_own() -> None:
    signature = Signature((TensorSpec("input", "FP64", (-1, -1), any_name=True),))
    log = PredictionLog(ALL)
    add(log, matrix([[1.0, 2.0]], "whatever"))
    request, _ = (await page_of(log, signature=signature))["events"]
    assert [t["name"] for t in request["data"]["inputs"]] == ["input"]
    for name in ("whatever", "input"):
        log = PredictionLog(LogSettings(redact=frozenset({name})))
        add(log, matrix([[1.0, 2.0]], "whatever"))
        request, _ = (await page_of(log, signature=signature))["events"]
        assert request["data"] == {"inputs": []}


async def test_text_that_no_utf_8_can_carry_spoils_no_page() -> None:
    signature = Signature((TensorSpec("text", "BYTES", (-1,)),))
    log = PredictionLog(LogSettings(slices=("input.text",)))
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["\ud800", "naïve\n"]}
    add(log, {"inputs": [tensor]}, rows=2)
    request, response = (await page_of(log, signature=signature))["events"]
    assert request["data"]["inputs"][0]["data"] == ["?", "naïve\n"]
    assert json.loads(response["rowparts"])[1] == ["input.text=naïve\n"]


async def test_one_that_cannot_be_told_of_holds_up_none_behind_it() -> None:
    log = PredictionLog(ALL)
    add(log, b"not JSON at all", request_id="bad", rows=3)
    add(log, matrix([[1, 2, 3]]), request_id="good")
    page = await page_of(log)
    assert [event["id"] for event in page["events"]] == ["good", "good"]
    assert (page["dropped"], page["rows"]) == (3, 1)
    assert (await page_of(log, page["next"]))["dropped"] == 0, "told once"
