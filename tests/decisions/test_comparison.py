"""Answers find their partners whatever the order, are compared once, and wait within bounds."""

from __future__ import annotations

import doctest
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions import comparison
from modelplane.decisions.comparison import (
    MAX_WAITING,
    MAX_WAITING_VALUES,
    WAIT_S,
    Comparison,
    KeptAnswer,
    Pairs,
    compare_pair,
)
from modelplane.resources.telemetry import MAX_EXAMPLE_CHARS, MAX_EXAMPLES

TOLERANCE = 1e-6


def answered(name: str, *values: float | str | None, datatype: str = "FP64") -> KeptAnswer:
    output = {"name": "y", "datatype": datatype, "shape": [len(values)], "data": list(values)}
    return KeptAnswer(name, 200, {"model_version": "1.0.0", "outputs": [output]})


def differ(one: KeptAnswer, two: KeptAnswer) -> bool | None:
    found = compare_pair(one, two, tolerance=TOLERANCE)
    return None if found is None else found.different == 1


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(comparison).failed == 0


def test_numbers_within_the_tolerance_are_equal_and_text_is_equal_or_not() -> None:
    assert differ(answered("r", 1000.0), answered("r", 1000.0005)) is False
    assert differ(answered("r", 1000.0), answered("r", 1000.01)) is True
    assert differ(answered("r", None, 1.0), answered("r", None, 1.0)) is False
    assert differ(answered("r", None), answered("r", 0.0)) is True
    text = {"datatype": "BYTES"}
    assert differ(answered("r", "late", **text), answered("r", "late", **text)) is False
    assert differ(answered("r", "late", **text), answered("r", "Late", **text)) is True
    assert differ(answered("r", 1, datatype="INT64"), answered("r", 1.0)) is True
    assert differ(answered("r", 1.0), answered("r", 1.0, 1.0)) is True
    assert differ(answered("r", 10**400), answered("r", 1.0)) is True


def test_an_error_is_not_evidence_a_second_time_but_a_refusal_is_an_answer() -> None:
    good, failed, refused = answered("r", 1.0), KeptAnswer("r", 500), KeptAnswer("r", 400)
    assert differ(good, failed) is None
    assert differ(failed, good) is None
    assert differ(refused, refused) is False
    assert differ(good, refused) is True
    assert differ(refused, good) is True


def test_an_example_says_where_and_is_short() -> None:
    found = compare_pair(answered("r", 1.0, 2.0), answered("r", 1.0, 3.0), tolerance=0.0)
    assert found is not None
    assert found.examples == ("y[1]: 2.0 by stable, 3.0 by the shadow",)
    long = KeptAnswer("r", 200, {"outputs": [{"name": "n" * 900, "datatype": "B", "shape": [0]}]})
    shown = compare_pair(long, answered("r", 1.0), tolerance=0.0)
    assert shown is not None
    assert len(shown.examples[0]) <= MAX_EXAMPLE_CHARS


Event = tuple[str, int, bool]


@given(
    requests=st.lists(
        st.tuples(st.sampled_from(["default", "rule-1"]), st.booleans(), st.booleans()), max_size=40
    ),
    data=st.data(),
)
def test_each_pair_is_compared_once_in_whatever_order_answers_arrive(
    requests: list[tuple[str, bool, bool]], data: Any
) -> None:
    """`requests`: the rule of each, whether it is copied, whether the answers differ."""
    answers = []
    for number, (rule, is_copied, is_different) in enumerate(requests):
        name = f"{rule}/{number}"
        answers.append(("stable", answered(name, 1.0)))
        if is_copied:
            answers.append(("shadow", answered(name, 2.0 if is_different else 1.0)))
    pairs, total = Pairs(), dict[str, Comparison]()
    for side, answer in data.draw(st.permutations(answers)):
        for rule, found in pairs.add(side, [answer], tolerance=TOLERANCE, now_s=0.0).items():
            total[rule] = total.get(rule, Comparison()).plus(found)
    for rule in ("default", "rule-1"):
        copied = [different for of, is_copied, different in requests if of == rule and is_copied]
        found = total.get(rule, Comparison())
        assert (found.compared, found.different) == (len(copied), sum(copied))
        assert len(found.examples) == min(MAX_EXAMPLES, sum(copied))
    assert pairs.waiting == sum(not is_copied for _, is_copied, _ in requests)


def test_an_answer_waits_for_so_long_and_no_longer() -> None:
    pairs = Pairs()
    for number, late_s in enumerate((WAIT_S, WAIT_S + 0.001)):
        name = f"default/{number}"
        pairs.add("stable", [answered(name, 1.0)], tolerance=0.0, now_s=0.0)
        pairs.add("stable", [], tolerance=0.0, now_s=late_s)
        found = pairs.add("shadow", [answered(name, 1.0)], tolerance=0.0, now_s=late_s)
        assert bool(found) is (late_s <= WAIT_S)


def test_the_last_answer_of_several_tries_counts() -> None:
    pairs = Pairs()
    tries = [answered("default/1", 7.0), answered("default/1", 1.0)]
    pairs.add("stable", tries, tolerance=0.0, now_s=0.0)
    found = pairs.add("shadow", [answered("default/1", 1.0)], tolerance=0.0, now_s=0.0)
    assert found == {"default": Comparison(compared=1)}


def test_so_many_wait_and_no_more_and_the_newest_stay() -> None:
    pairs = Pairs()
    many = [answered(f"default/{number}", 1.0) for number in range(MAX_WAITING + 10)]
    pairs.add("stable", many, tolerance=0.0, now_s=0.0)
    assert pairs.waiting == MAX_WAITING
    large = KeptAnswer("default/large", 200, {"outputs": [{"name": "y", "data": [0.0] * 1000}]})
    pairs.add(
        "shadow",
        [KeptAnswer(f"default/l{n}", 200, large.answer) for n in range(1000)],
        tolerance=0.0,
        now_s=0.0,
    )
    assert pairs.waiting <= MAX_WAITING + math.ceil(MAX_WAITING_VALUES / 1000)
    newest = pairs.add("shadow", [many[-1]], tolerance=0.0, now_s=0.0)
    assert newest == {"default": Comparison(compared=1)}
    assert pairs.add("shadow", [many[0]], tolerance=0.0, now_s=0.0) == {}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param([[0.0] * 50_000], id="values in arrays in arrays"),
        pytest.param(["x" * 1_000_000], id="one long text"),
    ],
)
def test_what_waits_is_bounded_however_it_is_written(data: list[Any]) -> None:
    pairs = Pairs()
    answer = {"outputs": [{"name": "y", "data": data}]}
    many = [KeptAnswer(f"default/{number}", 200, answer) for number in range(100)]
    pairs.add("stable", many, tolerance=0.0, now_s=0.0)
    assert 0 < pairs.waiting <= MAX_WAITING_VALUES // 30_000


@given(answer=st.recursive(st.none() | st.integers() | st.text(max_size=3), lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["outputs", "name", "data", "shape"]), inner, max_size=3)
)))  # fmt: skip
def test_whatever_a_server_says_is_compared_without_an_error(answer: Any) -> None:
    document = {"outputs": answer}
    one, two = KeptAnswer("r", 200, document), answered("r", 1.0)
    assert one.values >= 1
    assert differ(one, one) is False
    assert differ(one, two) is True
