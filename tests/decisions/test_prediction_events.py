"""Events become rows, whatever they hold; halves find each other, whatever their order."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.agent.prediction_spool import Origin
from modelplane.agent.predictions import stamped
from modelplane.decisions.prediction_events import (
    MAX_ROWS,
    REQUEST_TYPE,
    RESPONSE_TYPE,
    PredictionEvent,
    count_unkept,
    make_predictions,
    read_event,
)
from modelplane.decisions.prediction_pairs import Pair, PairBuffer
from modelplane.decisions.predictions import Place, Prediction
from modelplane.errors import FieldError
from modelplane.resources.monitoring import Labels, PredictionLog
from modelplane_runtime.prediction_events import EventWriter, Exchange, LogSettings
from modelplane_runtime.signature import Signature

PLACE = Place("production", "fraud", "1.0.0")
NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


def event(type: str, data: Any, **attributes: Any) -> PredictionEvent:
    head = {"id": "r-1", "type": type, "inferenceservicename": "fraud", "data": data}
    found = read_event({**head, **attributes})
    assert isinstance(found, PredictionEvent)
    return found


def rows(
    request: Any, response: Any, log: PredictionLog | None = None, **attributes: Any
) -> list[Prediction]:
    labels = attributes.pop("labels", Labels())
    asked = event(REQUEST_TYPE, request) if request is not None else None
    answered = event(RESPONSE_TYPE, response, **attributes)
    return make_predictions(
        asked, answered, PLACE, log=log or PredictionLog(), labels=labels, now=NOW
    )


def tensor(name: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": "FP32", "data": data}


def test_tensors_are_parted_into_rows() -> None:
    request = {"inputs": [tensor("x", [2], [1, 2]), tensor("v", [2, 2], [1, 2, 3, 4])]}
    response = {"outputs": [tensor("predictions", [2, 1], [[0], [1]])]}
    first, second = rows(request, response)
    assert first.inputs == {"x": 1, "v": [1, 2]}
    assert (second.inputs, second.predicted, second.row) == ({"x": 2, "v": [3, 4]}, 1, 1)


@pytest.mark.parametrize(
    ("outputs", "labels", "predicted", "score"),
    [
        ([tensor("y", [1], ["cat"])], {}, "cat", None),
        ([tensor("y", [1], [3]), tensor("z", [1], [4])], {}, None, None),
        ([tensor("y", [1], [3]), tensor("z", [1], [4])], {"output": "z"}, 4, None),
        ([tensor("predictions", [1], [1]), tensor("probabilities", [1], [0.5])], {}, 1, 0.5),
        ([tensor("p", [1, 2], [0.25, 0.75])], {"score": "p"}, None, 0.75),
        ([tensor("p", [1, 3], [0.25, 0.25, 0.5])], {"score": "p"}, None, None),
        ([tensor("predictions", [1], [1]), tensor("probabilities", [1], [1.5])], {}, 1, None),
    ],
)
def test_the_prediction_is_the_output_that_is_named_or_the_only_one(
    outputs: Any, labels: dict[str, Any], predicted: Any, score: float | None
) -> None:
    (row,) = rows(None, {"outputs": outputs}, labels=Labels.model_validate(labels))
    assert (row.predicted, row.score) == (predicted, score)


def test_what_is_redacted_is_in_no_row() -> None:
    # Stored before it was refused: neither key nor slice may tell what is redacted.
    log = PredictionLog.model_construct(
        redact=("card", "z"), join_key="input.card", slices=("input.card",), inputs=True
    )
    request = {"instances": [{"card": "4711", "x": 1}]}
    (row,) = rows(request, {"predictions": [{"y": 1, "z": 2}]}, log)
    assert (row.inputs, row.outputs) == ({"x": 1}, {"y": 1})
    assert (row.key, row.parts) == ("", ())


@pytest.mark.parametrize("field", [{"joinKey": "input.card"}, {"slices": ["input.card"]}])
def test_a_key_or_slice_that_is_redacted_is_refused(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"'input.card', whose values redact keeps away"):
        PredictionLog.model_validate({"redact": ["card"], **field})


@pytest.mark.parametrize(
    "request_",
    [
        {"instances": [[4711, 1]]},
        {"instances": [4711]},
        {"inputs": [tensor("input-0", [1, 2], [4711, 1])]},
    ],
)
def test_of_columns_without_names_nothing_is_kept_while_one_is_redacted(request_: Any) -> None:
    response = {"outputs": [tensor("predictions", [1], [1])]}
    (row,) = rows(request_, response, PredictionLog(redact=("card",)))
    assert (row.inputs, row.predicted) == ({}, 1)
    (row,) = rows(request_, response)
    assert row.inputs
    (row,) = rows(request_, response, PredictionLog(redact=("card",)), modelversion="1.0.0")
    assert row.inputs or "instances" in request_, "a model server has left it out already"


def test_no_moment_is_to_come_and_no_latency_is_too_long() -> None:
    answer = {"outputs": [tensor("predictions", [1], [1])]}
    (row,) = rows(None, answer, time="9999-12-31T00:00:00Z")
    assert row.at == NOW
    (row,) = rows(None, answer, time="0001-01-01T00:00:00Z", latencyus=2**53 - 1)
    assert row.latency_s is None
    (row,) = rows(None, answer, time="0001-01-01T00:00:00Z", latencyus=10**9)
    assert row.at.year == 1


def test_what_a_model_answers_is_not_taken_for_a_count() -> None:
    assert len(rows(None, {"predictions": [1, 0], "rows": 99_999})) == 2


def test_without_inputs_key_and_parts_are_still_told() -> None:
    log = PredictionLog(inputs=False, join_key="input.order", slices=("input.country",))
    request = {"instances": [{"order": 7.0, "country": "de"}, {"order": 7, "country": "at"}]}
    found = rows(request, {"predictions": [0, 1]}, log)
    assert [(row.key, row.key_row, row.parts, row.inputs) for row in found] == [
        ("7", 0, ("input.country=de",), {}),
        ("7", 1, ("input.country=at",), {}),
    ]


def test_what_the_model_server_says_of_keys_and_parts_stands() -> None:
    response = {"outputs": [tensor("y", [2], [0, 1])]}
    found = rows(None, response, keys='["a", null]', rowparts='[["u=1"], []]', latencyus="1500")
    assert [(row.key, row.parts, row.latency_s) for row in found] == [
        ("a", ("u=1",), 0.0015),
        ("", (), 0.0015),
    ]


def test_what_the_model_server_writes_and_the_agent_stamps_is_understood() -> None:
    settings = LogSettings(
        redact=frozenset({"card"}), join_key="input.order", slices=("input.country",)
    )
    inputs = [
        tensor("order", [2], [7, 8]),
        tensor("country", [2], ["de", "at"]),
        tensor("card", [2], ["1", "2"]),
    ]
    outputs = [
        tensor("predictions", [2], [0, 1]),
        tensor("probabilities", [2, 2], [0.9, 0.1, 0.2, 0.8]),
    ]
    exchange = Exchange(
        request_id="r-1",
        body_id=None,
        at_s=1_767_603_600.25,
        latency_s=0.0015,
        request=json.dumps({"inputs": inputs}).encode(),
        response=json.dumps({"outputs": outputs}).encode(),
        rows=2,
        rule="west",
        mirrored=True,
        headers={},
        settings=settings,
    )
    origin = Origin("production", "fraud", "1.0.0", "aaaa", "r-0")
    written = EventWriter("fraud", "1.0.0", Signature((), ())).write(exchange)
    halves = [read_event(stamped(json.loads(half), origin)) for half in written]
    events = [half for half in halves if isinstance(half, PredictionEvent)]
    ((request, response),) = PairBuffer().put(events, 0.0).pairs
    assert (response.environment, response.deployment) == ("production", "fraud")
    assert (response.is_mirrored, response.attributes["rule"]) == (True, "west")
    log = PredictionLog(redact=("card",))
    found = make_predictions(request, response, PLACE, log=log, labels=Labels(), now=NOW)
    assert [(row.key, row.parts, row.inputs, row.predicted, row.score) for row in found] == [
        ("7", ("input.country=de",), {"order": 7, "country": "de"}, 0, 0.1),
        ("8", ("input.country=at",), {"order": 8, "country": "at"}, 1, 0.8),
    ]
    assert found[0].latency_s == 0.0015
    assert found[0].at == datetime(2026, 1, 5, 9, 0, 0, 250_000, tzinfo=UTC)


def test_rows_that_hold_no_prediction_are_counted_and_not_kept() -> None:
    assert rows(None, {}, rows=300_000, truncated="true") == []
    assert count_unkept(event(RESPONSE_TYPE, {}, rows=300_000, truncated="true")) == 300_000
    assert count_unkept(event(RESPONSE_TYPE, {}, truncated="true")) == 1
    assert count_unkept(event(RESPONSE_TYPE, {"predictions": [0] * (MAX_ROWS + 7)})) == 7
    assert count_unkept(event(RESPONSE_TYPE, {"predictions": [0]})) == 0


def test_without_an_input_that_was_too_large_the_prediction_is_kept() -> None:
    asked = event(REQUEST_TYPE, {}, truncated="true")
    answered = event(RESPONSE_TYPE, {"outputs": [tensor("y", [1], [3])]}, rows=1)
    log = PredictionLog()
    (row,) = make_predictions(asked, answered, PLACE, log=log, labels=Labels(), now=NOW)
    assert (row.inputs, row.predicted) == ({}, 3)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "inputs",
                    "outputs",
                    "instances",
                    "predictions",
                    "name",
                    "shape",
                    "data",
                    "id",
                    "x",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@given(
    JSON, JSON, st.dictionaries(st.sampled_from(["rows", "keys", "key", "parts", "rowparts"]), JSON)
)
def test_no_body_is_too_odd(request: Any, response: Any, attributes: dict[str, Any]) -> None:
    if not isinstance(attributes.get("rows"), int) or attributes["rows"] < 0:
        attributes.pop("rows", None)
    found = rows(request, response, **attributes)
    assert [row.row for row in found] == list(range(len(found)))
    for row in found:
        assert row.score is None or 0 <= row.score <= 1
        assert not isinstance(row.predicted, float) or math.isfinite(row.predicted)
        assert all(isinstance(part, str) for part in row.parts)


@given(JSON)
def test_whatever_comes_is_an_event_or_a_fault(item: Any) -> None:
    assert isinstance(read_event(item), PredictionEvent | FieldError)


@given(st.permutations([(n, kind) for n in range(4) for kind in (REQUEST_TYPE, RESPONSE_TYPE)]))
def test_halves_find_each_other_in_any_order(order: list[tuple[int, str]]) -> None:
    buffer = PairBuffer()
    pairs: list[Pair] = []
    for number, kind in order:
        half = event(kind, {}, id=f"r-{number}")
        pairs += buffer.put([half, half], 0.0).pairs  # what comes twice changes nothing
        buffer.put([], 0.0)
    complete = {request.id for request, response in pairs if request and request.id == response.id}
    assert complete == {f"r-{number}" for number in range(4)}


def test_a_half_that_stays_alone_is_given_up() -> None:
    buffer = PairBuffer(max_halves=2, max_age_s=30)
    buffer.put([event(REQUEST_TYPE, {}, id="a"), event(RESPONSE_TYPE, {}, id="b")], 0.0)
    early = buffer.put([event(REQUEST_TYPE, {}, id="c")], 10.0)
    assert ([lost.id for lost in early.lost], early.pairs) == (["a"], [])
    late = buffer.put([], 30.0)
    assert [(request, response.id) for request, response in late.pairs] == [(None, "b")]
    assert len(buffer) == 1


def test_halves_that_wait_are_bounded_in_bytes() -> None:
    buffer = PairBuffer(max_bytes=100)
    early = [event(REQUEST_TYPE, {}, id="a"), event(REQUEST_TYPE, {}, id="b")]
    assert buffer.put(early, 0.0, size_bytes=100).lost == []
    full = buffer.put([event(REQUEST_TYPE, {}, id="c")], 1.0, size_bytes=50)
    assert [lost.id for lost in full.lost] == ["a"]
    for name in ("b", "c"):
        assert len(buffer.put([event(RESPONSE_TYPE, {}, id=name)], 2.0, size_bytes=50).pairs) == 1
    assert buffer.put(early, 3.0, size_bytes=100).lost == [], "what left makes room"


def test_a_request_and_its_copy_are_two() -> None:
    buffer = PairBuffer()
    buffer.put([event(REQUEST_TYPE, {})], 0.0)
    assert buffer.put([event(RESPONSE_TYPE, {}, mirrored="true")], 0.0).pairs == []
    assert len(buffer) == 2
