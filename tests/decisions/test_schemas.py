"""Signatures compared: what a new version may change without breaking who uses the model."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.pacts import read_pact
from modelplane.decisions.schemas import (
    DATATYPES,
    Signature,
    Tensor,
    check_use,
    compare_answer,
    compare_served,
    compare_signatures,
    read_signature,
)
from modelplane.errors import InvalidResource

_WIDER = {
    "UINT8": "INT16", "INT8": "FP16", "UINT16": "INT32", "INT16": "FP32", "UINT32": "INT64",
    "INT32": "FP64", "FP16": "FP32", "BF16": "FP32", "FP32": "FP64",
}  # fmt: skip


def signature(inputs: list[Tensor], outputs: list[Tensor] | None = None) -> Signature:
    return Signature(tuple(inputs), tuple(outputs or []))


shapes = st.lists(st.sampled_from([-1, 1, 2, 3]), min_size=1, max_size=3).map(tuple)
tensors = st.builds(
    Tensor,
    name=st.sampled_from(["a", "b", "c", "été"]),
    datatype=st.sampled_from(sorted(DATATYPES)),
    shape=shapes,
    required=st.booleans(),
)
sides = st.lists(tensors, min_size=1, max_size=4, unique_by=lambda tensor: tensor.name)
signatures = st.builds(signature, sides, sides)


def paths(before: Signature, after: Signature) -> list[str]:
    return [found.path for found in compare_signatures(before, after)]


@given(signatures)
def test_a_signature_never_breaks_its_own_users(given_: Signature) -> None:
    assert compare_signatures(given_, given_) == ()


@given(signatures, st.randoms())
def test_the_order_of_tensors_does_not_matter(given_: Signature, random: Any) -> None:
    inputs, outputs = list(given_.inputs), list(given_.outputs)
    random.shuffle(inputs)
    random.shuffle(outputs)
    assert compare_signatures(given_, signature(inputs, outputs)) == ()


def near(data: Any, given_: Signature) -> Signature:
    """A signature that differs a little, for better or worse."""

    def changed(tensor: Tensor) -> Tensor:
        shape = tuple(data.draw(st.sampled_from([size, -1, 1])) for size in tensor.shape)
        types = [tensor.datatype, _WIDER.get(tensor.datatype, tensor.datatype), "FP64"]
        required = data.draw(st.booleans())
        return Tensor(tensor.name, data.draw(st.sampled_from(types)), shape, required)

    return signature([changed(t) for t in given_.inputs], [changed(t) for t in given_.outputs])


@given(signatures, st.data())
def test_two_steps_that_break_nobody_are_one_that_breaks_nobody(a: Signature, data: Any) -> None:
    b = near(data, a)
    c = near(data, b)
    if not compare_signatures(a, b) and not compare_signatures(b, c):
        assert compare_signatures(a, c) == ()


@given(signatures, st.data())
def test_inputs_may_widen(given_: Signature, data: Any) -> None:
    widened = []
    for tensor in given_.inputs:
        shape = tuple(data.draw(st.sampled_from([size, -1])) for size in tensor.shape)
        datatype = data.draw(
            st.sampled_from([tensor.datatype, _WIDER.get(tensor.datatype, tensor.datatype)])
        )
        required = tensor.required and data.draw(st.booleans())
        widened.append(Tensor(tensor.name, datatype, shape, required))
    more = [Tensor("new", "FP64", required=False)]
    after = signature([*widened, *more], [*given_.outputs, Tensor("more", "FP64")])
    assert compare_signatures(given_, after) == ()


@given(signatures, st.data())
def test_a_removed_output_is_a_break(given_: Signature, data: Any) -> None:
    gone = data.draw(st.sampled_from(given_.outputs))
    left = [tensor for tensor in given_.outputs if tensor is not gone]
    assert paths(given_, signature(list(given_.inputs), left)) == [f"outputs.{gone.name}"]


@given(signatures)
def test_a_new_required_input_is_a_break(given_: Signature) -> None:
    after = signature([*given_.inputs, Tensor("new", "FP64")], list(given_.outputs))
    assert paths(given_, after) == ["inputs.new"]


@pytest.mark.parametrize(
    ("was", "now", "breaks"),
    [
        (Tensor("x", "FP64"), Tensor("x", "FP32"), True),
        (Tensor("x", "FP32"), Tensor("x", "FP64"), False),
        (Tensor("x", "INT64"), Tensor("x", "FP64"), True),  # not exact above 2**53
        (Tensor("x", "INT32"), Tensor("x", "FP64"), False),
        (Tensor("x", "INT8"), Tensor("x", "UINT64"), True),  # no sign
        (Tensor("x", "UINT8"), Tensor("x", "INT16"), False),
        (Tensor("x", "FP64"), Tensor("x", "INT64"), True),
        (Tensor("x", "BOOL"), Tensor("x", "UINT8"), True),
        (Tensor("x", "BYTES"), Tensor("x", "FP64"), True),
        (Tensor("x", "BF16"), Tensor("x", "FP16"), True),  # another range
        (Tensor("x", "FP64"), Tensor("x", ""), False),
        (Tensor("x", "FP64", (-1,)), Tensor("x", "FP64", (1,)), True),
        (Tensor("x", "FP64", (1,)), Tensor("x", "FP64", (-1,)), False),
        (Tensor("x", "FP64", (-1, 3)), Tensor("x", "FP64", (-1, 4)), True),
        (Tensor("x", "FP64", (-1,)), Tensor("x", "FP64", (-1, 1)), False),
        (Tensor("x", "FP64", (-1, 1)), Tensor("x", "FP64", (-1,)), False),
        (Tensor("x", "FP64", (-1, 2)), Tensor("x", "FP64", (-1,)), True),
        (Tensor("x", "FP64", required=False), Tensor("x", "FP64"), True),
    ],
)
def test_an_input_must_take_what_it_took(was: Tensor, now: Tensor, breaks: bool) -> None:
    assert bool(compare_signatures(signature([was]), signature([now]))) is breaks


@pytest.mark.parametrize(
    ("was", "now", "breaks"),
    [
        (Tensor("y", "FP64"), Tensor("y", "FP32"), True),
        (Tensor("y", "FP32"), Tensor("y", "FP64"), True),
        (Tensor("y", ""), Tensor("y", "FP64"), False),
        (Tensor("y", "FP64", (-1, -1)), Tensor("y", "FP64", (-1, 3)), False),
        (Tensor("y", "FP64", (-1, 3)), Tensor("y", "FP64", (-1, -1)), True),
        (Tensor("y", "FP64", (-1,)), Tensor("y", "FP64", (-1, 1)), True),
    ],
)
def test_an_output_must_be_what_was_read(was: Tensor, now: Tensor, breaks: bool) -> None:
    x = [Tensor("x", "FP64")]
    assert bool(compare_signatures(signature(x, [was]), signature(x, [now]))) is breaks


def test_a_server_that_does_not_know_its_outputs_says_nothing_of_them() -> None:
    declared = signature([Tensor("x", "FP64")], [Tensor("y", "FP64")])
    assert compare_served(declared, signature([Tensor("x", "FP64")])) == ()
    other = signature([Tensor("x", "FP64")], [Tensor("z", "FP64")])
    assert [found.path for found in compare_served(declared, other)] == ["outputs.y"]


def test_an_answer_is_held_to_the_declared_outputs() -> None:
    declared = signature([Tensor("x", "FP64")], [Tensor("y", "FP64", (-1, 2))])
    good = {"outputs": [{"name": "y", "datatype": "FP64", "shape": [5, 2], "data": []}]}
    assert compare_answer(declared, good) == ()
    for bad in ({}, {"outputs": None}, {"outputs": [{"name": "y", "datatype": "FP64"}]}):
        assert [found.path for found in compare_answer(declared, bad)] == ["outputs.y"]


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": {"x": "FP64"}}, "inputs"),
        ({"inputs": ["x"]}, "inputs[0]"),
        ({"inputs": [{"name": 3}]}, "inputs[0]"),
        ({"inputs": [{"name": "x", "datatype": "double"}]}, "inputs[0]"),
        ({"inputs": [{"name": "x", "shape": ["n"]}]}, "inputs[0]"),
        ({"inputs": [{"name": "x", "shape": [True]}]}, "inputs[0]"),
        ({"inputs": [{"name": "x", "shape": [-2]}]}, "inputs[0]"),
        ({"inputs": [{"name": "x"}, {"name": "x"}]}, "inputs[1].name"),
        ({"inputs": [{"name": "x"}], "outputs": [None]}, "outputs[0]"),
    ],
)
def test_what_is_no_signature_is_told_with_its_path(data: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        read_signature(data)
    assert [fault.path for fault in caught.value.fields] == [path]


def test_a_signature_is_read_with_what_it_leaves_open() -> None:
    read = read_signature({"inputs": [{"name": "x"}], "outputs": None})
    assert read == signature([Tensor("x", "", (-1,))])


MODEL = signature(
    [Tensor("amount", "FP64"), Tensor("note", "BYTES", required=False)], [Tensor("score", "FP64")]
)


def use(sent: Any, read: Any, **changes: Any) -> list[str]:
    item: dict[str, Any] = {
        "description": "a payment",
        "request": {"method": "POST", "path": "/v2/models/fraud/infer", "body": sent},
        "response": {"status": 200, "body": read},
    }
    item["request"] |= changes.get("request", {})
    item["response"] |= changes.get("response", {})
    pact = {
        "consumer": {"name": "shop"},
        "provider": {"name": "fraud"},
        "metadata": {"pactSpecification": {"version": "3.0.0"}},
        "interactions": [item],
    }
    return [f"{b.path} {b.message}" for b in check_use(read_pact(pact).interactions[0], MODEL)]


def amount(datatype: str = "FP64", name: str = "amount", **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": name, "datatype": datatype, "shape": [1], **more}]}


def test_a_consumer_uses_what_it_sends_and_reads() -> None:
    assert use(amount(), {"outputs": [{"name": "score", "datatype": "FP64"}]}) == []
    assert use(amount("INT64"), {}) == []  # whole numbers fit
    assert use(amount("BYTES"), {}) == ["inputs.amount is sent as BYTES, must be FP64"]
    assert use(amount(name="amounts"), {}) == [
        "inputs.amounts is sent and not accepted; there are: amount, note",
        "inputs.amount is required and not sent",
    ]
    assert use(amount(shape=[1, 2]), {}) == [
        "inputs.amount is sent of shape [1, 2], must be of shape [-1]"
    ]
    assert use(amount(), {"outputs": [{"name": "risk"}]}) == [
        "outputs.risk is read and not given; there are: score"
    ]
    assert use(amount(), {"outputs": [{"name": "score", "datatype": "INT64"}]}) == [
        "outputs.score is read as INT64, is FP64"
    ]


@pytest.mark.parametrize(
    ("path", "rule", "is_held"),
    [
        ("$.outputs[0].datatype", {"match": "type"}, False),
        ("$['outputs'][0]['datatype']", {"match": "regex", "regex": "FP.*"}, False),
        ("$.outputs[*]", {"match": "type"}, False),
        ("$", {"match": "type"}, False),
        ("$.outputs[1].datatype", {"match": "type"}, True),
        ("$.outputs[0].datatype", {"match": "equality"}, True),
        ("$.outputs[0].datatype.x", {"match": "type"}, True),
        ("$.outputs[0].data", {"match": "type"}, True),
    ],
)
def test_matching_rules_leave_a_datatype_open(path: str, rule: Any, is_held: bool) -> None:
    rules = {"matchingRules": {"body": {path: {"matchers": [rule]}}}}
    found = use(amount(), {"outputs": [{"name": "score", "datatype": "INT64"}]}, response=rules)
    assert bool(found) is is_held
    older = {"matchingRules": {path.replace("$", "$.body", 1): rule}}
    assert found == use(
        amount(), {"outputs": [{"name": "score", "datatype": "INT64"}]}, response=older
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"response": {"status": 400}},
        {"request": {"method": "GET"}},
        {"request": {"path": "/v2/models/fraud/ready"}},
        {"request": {"path": "/v2/health/ready"}},
    ],
)
def test_what_expects_no_prediction_uses_nothing(changes: dict[str, Any]) -> None:
    assert use(amount("BYTES", "other"), {"outputs": [{"name": "risk"}]}, **changes) == []


@pytest.mark.parametrize("body", [None, "text", [], {"inputs": "x"}, {"inputs": []}, {"other": 1}])
def test_bodies_that_are_no_inference_are_passed_over(body: Any) -> None:
    found = use(body, body)
    assert found in ([], ["inputs.amount is required and not sent"])
