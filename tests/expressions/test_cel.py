"""Conditions in CEL: what may be written, what it means, and that every error means no."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.expressions.cel import (
    MAX_LENGTH,
    Condition,
    NameType,
    Value,
    compile_condition,
    describe_values,
    evaluate,
    identifier,
    names_in,
)

NAMES: Mapping[str, NameType] = {
    "metrics.accuracy": "number",
    "metrics.rows": "number",
    "stages.quality.passed": "truth",
    "version.model": "text",
    "version.number": "number",
    "version.tags": "texts",
    "version.metrics": "numbers",
}
VALUES: Mapping[str, Value] = {
    "metrics.accuracy": 0.93,
    "metrics.rows": 1000,
    "stages.quality.passed": True,
    "version.model": "fraud",
    "version.number": 3,
    "version.tags": {"risk": "low"},
    "version.metrics": {"accuracy": 0.99},
}


def compiled(expression: str) -> Condition:
    found = compile_condition(expression, NAMES)
    assert isinstance(found, Condition), found
    return found


def holds(expression: str, values: Mapping[str, Value] = VALUES) -> bool:
    return evaluate(compiled(expression), values).holds


def faults(expression: str) -> list[str]:
    found = compile_condition(expression, NAMES)
    assert not isinstance(found, Condition)
    return [str(fault) for fault in found]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("metrics.accuracy >= 0.92", True),
        ("metrics.accuracy >= 0.94", False),
        ("metrics . accuracy >= 0.92", True),
        ("stages.quality.passed && !(version.model == 'other')", True),
        ("version.model in ['fraud', 'risk']", True),
        ("version.tags['risk'] == 'low'", True),
        ("version.tags.risk == 'low'", True),
        ("'tier' in version.tags", False),
        ("version.metrics.accuracy > metrics.accuracy", True),
        ("version.model.startsWith('fr') && size(version.tags) == 1", True),
        ("metrics.accuracy > 0.9 ? true : false", True),
        ("metrics.rows >= 100 // at least a hundred\n && true", True),
    ],
)
def test_what_conditions_mean(expression: str, expected: bool) -> None:
    assert holds(expression) is expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("metrics.accuracy < 1", True),
        ("1 > metrics.accuracy", True),
        ("-1 < metrics.accuracy", True),
        ("metrics.rows + 1 > 1000", True),
        ("version.number in [1, 2, 3]", True),
        ("version.number == 3 && size(version.model) == 5", True),
        ("version.model == '1' || version.number > 2", True),
    ],
)
def test_whole_numbers_may_stand_where_a_number_is_needed(expression: str, expected: bool) -> None:
    assert holds(expression) is expected


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("metrics.acuracy >= 0.9", "line 1, column 1: unknown name 'metrics.acuracy'; did you"),
        ("true &&\n   metrics.recall > 1", "line 2, column 4: unknown name 'metrics.recall'"),
        ("1 < metrics.accuracy && 2 < 3 && nope", "line 1, column 34: unknown name 'nope'"),
        ("metrics", "unknown name 'metrics'"),
        ("metrics['accuracy'] > 0.1", "unknown name 'metrics'"),
        ("metrics.accuracy", "is a number, not true or false"),
        ("version.model", "is text, not true or false"),
        ("dyn(true)", "not true or false"),
        ("metrics.accuracy == 'high'", "column 18: '==' does not go with a number and text"),
        ("metrics.accuracy >=", "line 1, column 20: Syntax error"),
        ("", "Syntax error"),
        ("has(version.tags.risk)", "line 1, column 1: has() is not offered"),
        ("true && has (metrics.accuracy)", "line 1, column 9: has()"),
        ("now() > timestamp('2026-01-01T00:00:00Z')", "unknown name 'now'"),
        ("true" + " " * MAX_LENGTH, f"{MAX_LENGTH} is the most"),
        ("(" * 900 + "true" + ")" * 900, "recursion"),
    ],
)  # fmt: skip
def test_what_may_not_be_written_and_where_it_stands(expression: str, words: str) -> None:
    assert any(words in fault for fault in faults(expression)), faults(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "version.tags['team'] == 'risk'",
        "version.metrics['recall'] > 0.1",
        "metrics.accuracy / 0.0 == metrics.rows / 0.0 && version.tags['x'] == 'y'",
        "[1, 2, 3].all(a, [1, 2].all(b, version.tags[string(a + b)] == 'x'))",
        "[" + ",".join("1" * 450) + "].all(x, [" + ",".join("1" * 450) + "].all(y, x == y))",
        "version.model.matches('(')",
    ],
)
def test_what_cannot_be_evaluated_is_not_true(expression: str) -> None:
    verdict = evaluate(compiled(expression), VALUES)
    assert not verdict.holds
    assert verdict.reason


def test_a_missing_value_is_not_true_unless_it_does_not_matter() -> None:
    without = {name: value for name, value in VALUES.items() if name != "metrics.accuracy"}
    assert not holds("metrics.accuracy > 0.1", without)
    assert not holds("!(metrics.accuracy > 0.1)", without)
    assert holds("version.model == 'fraud' || metrics.accuracy > 0.1", without)
    condition = compiled("metrics.accuracy > 0.1")
    assert describe_values(condition, without) == "metrics.accuracy is not known"


def test_the_values_that_decided_are_told() -> None:
    condition = compiled("metrics.accuracy >= 0.92 && version.tags['risk'] == 'low'")
    told = describe_values(condition, VALUES)
    assert told == "metrics.accuracy is 0.93, version.tags is {risk: low}"


def test_the_same_text_means_something_else_among_other_names() -> None:
    assert isinstance(compile_condition("a.b", {"a.b": "truth"}), Condition)
    assert not isinstance(compile_condition("a.b", {"a.b": "number"}), Condition)
    assert not isinstance(compile_condition("a.b", {}), Condition)


@given(st.text(max_size=60))
def test_any_text_is_refused_or_decides_and_never_raises(text: str) -> None:
    found = compile_condition(text, NAMES)
    if isinstance(found, Condition):
        assert evaluate(found, VALUES).holds in {True, False}
    else:
        assert found
        assert all(fault.message and fault.line >= 1 and fault.column >= 1 for fault in found)


_OPERANDS = st.sampled_from(
    ["metrics.accuracy", "metrics.rows", "1", "0.5", "2", "version.number", "(1 + 1)", "-3"]
)
_COMPARISONS = st.builds(
    lambda left, operator, right: f"{left} {operator} {right}",
    _OPERANDS, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), _OPERANDS,
)  # fmt: skip


@given(st.lists(_COMPARISONS, min_size=1, max_size=4), st.sampled_from([" && ", " || "]))
def test_comparisons_mean_what_arithmetic_says(parts: list[str], joint: str) -> None:
    expression = joint.join(parts)
    found = compile_condition(expression, NAMES)
    if not isinstance(found, Condition):
        return  # a mixture of whole and other numbers that only the writer can tell apart
    text = expression.replace("&&", "and").replace("||", "or")
    for name, value in VALUES.items():
        if isinstance(value, int | float):
            text = text.replace(name, repr(float(value)))
    assert evaluate(found, VALUES).holds is eval(text)


@given(st.text(min_size=1, max_size=20))
def test_every_name_becomes_one_that_can_be_used(name: str) -> None:
    cleaned = f"x.{identifier(name)}"
    assert isinstance(compile_condition(cleaned, {cleaned: "truth"}), Condition)
    assert names_in(cleaned) == {cleaned}
