"""What modelplane answers itself is what Prometheus would answer; the rest it names.

Values are compared with a second, plain implementation that works on whole tables of points, as
a person would with pencil and paper.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelplane.decisions.promql import Element, EvaluationError, Labels, LabelTest, evaluate
from modelplane.decisions.promql_reading import NeedsPrometheus, read_promql
from modelplane.resources.promql import check_promql

NOW_S = 1_000.0
Point = tuple[float, float]
Key = tuple[tuple[str, str], ...]
A, B = "modelplane_requests_total", "modelplane_request_failures_total"


class Table:
    """Points by name and labels; one that is not in the newest second is gone."""

    def __init__(self, series: Mapping[str, Mapping[Key, Sequence[Point]]]) -> None:
        self.series = series

    def instant(self, name: str, test: LabelTest, at_s: float) -> Sequence[tuple[Labels, float]]:
        found = []
        for key, points in self.series.get(name, {}).items():
            values = [value for time_s, value in points if time_s == at_s]
            if values and test(dict(key)):
                found.append((dict(key), values[0]))
        return found

    def window(
        self, name: str, test: LabelTest, since_s: float, until_s: float
    ) -> Sequence[tuple[Labels, Sequence[float], Sequence[float]]]:
        found = []
        for key, points in self.series.get(name, {}).items():
            inside = [point for point in points if since_s < point[0] <= until_s]
            if inside and test(dict(key)):
                times_s, values = zip(*inside, strict=True)
                found.append((dict(key), times_s, values))
        return found


def ask(text: str, table: Table, at_s: float = NOW_S) -> dict[Key, float]:
    expression = read_promql(text)
    assert not isinstance(expression, NeedsPrometheus), expression.reason
    elements: Sequence[Element] = evaluate(expression, table, at_s)
    found = {tuple(sorted(element.labels.items())): element.value for element in elements}
    assert len(found) == len(elements), "no two elements have the same labels"
    return found


def now(values: Mapping[Key, float]) -> dict[Key, Sequence[Point]]:
    return {key: [(NOW_S, value)] for key, value in values.items()}


numbers = st.one_of(
    st.integers(-5, 5).map(float), st.floats(-1e6, 1e6), st.sampled_from([math.inf, -math.inf])
)
keys = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy")), max_size=3).map(
    lambda pairs: tuple(sorted(dict(pairs).items()))
)
vectors = st.dictionaries(keys, numbers, max_size=6)


def same(found: Mapping[Key, float], expected: Mapping[Key, float]) -> bool:
    return found.keys() == expected.keys() and all(
        found[key] == pytest.approx(expected[key], rel=1e-12, nan_ok=True) for key in expected
    )


def drop(key: Key, *names: str) -> Key:
    return tuple(pair for pair in key if pair[0] not in names)


def only(key: Key, *names: str) -> Key:
    return tuple(pair for pair in key if pair[0] in names)


@given(left=vectors, right=vectors)
def test_operators_pair_series_with_equal_labels(
    left: dict[Key, float], right: dict[Key, float]
) -> None:
    table = Table({A: now(left), B: now(right)})
    both = left.keys() & right.keys()
    assert same(ask(f"{A} - {B}", table), {key: left[key] - right[key] for key in both})
    greater = {key: float(left[key] > right[key]) for key in both}
    assert same(ask(f"{A} > bool {B}", table), greater)
    kept = {named(key, A): left[key] for key in both if greater[key]}
    assert same(ask(f"{A} > {B}", table), kept)


def named(key: Key, name: str) -> Key:
    return tuple(sorted((*key, ("__name__", name))))


@given(left=vectors, right=vectors)
def test_set_operators_go_by_the_labels_that_are_named(
    left: dict[Key, float], right: dict[Key, float]
) -> None:
    table = Table({A: now(left), B: now(right)})
    there = {only(key, "a") for key in right}
    inside = {named(key, A): value for key, value in left.items() if only(key, "a") in there}
    outside = {named(key, A): value for key, value in left.items() if only(key, "a") not in there}
    assert same(ask(f"{A} and on (a) {B}", table), inside)
    assert same(ask(f"{A} and ignoring (b, c) {B}", table), inside)
    assert same(ask(f"{A} unless on (a) {B}", table), outside)
    mine = {only(key, "a") for key in left}
    added = {named(key, B): value for key, value in right.items() if only(key, "a") not in mine}
    everything = {named(key, A): value for key, value in left.items()} | added
    assert same(ask(f"{A} or on (a) {B}", table), everything)


@given(values=vectors)
def test_aggregations_group_by_labels_or_without_them(values: dict[Key, float]) -> None:
    table = Table({A: now(values)})
    computed: dict[str, Callable[[Sequence[float]], float]] = {
        "sum": sum,
        "avg": lambda group: sum(group) / len(group),
        "min": min,
        "max": max,
        "count": len,
    }
    for name, compute in computed.items():
        for text, wanted in (("by (a)", only), ("without (a)", drop)):
            groups: dict[Key, list[float]] = {}
            for key, value in values.items():
                groups.setdefault(wanted(key, "a"), []).append(value)
            expected = {key: float(compute(group)) for key, group in groups.items()}
            found = ask(f"{name} {text} ({A})", table)
            assert found.keys() == expected.keys()
            for key, value in expected.items():
                assert found[key] == pytest.approx(value, rel=1e-9, abs=1e-6, nan_ok=True)


@given(values=vectors, bound=st.integers(-5, 5))
def test_a_number_compares_and_clamps_each_series(values: dict[Key, float], bound: int) -> None:
    table = Table({A: now(values)})
    assert same(
        ask(f"{A} >= {bound}", table),
        {named(key, A): value for key, value in values.items() if value >= bound},
    )
    assert same(
        ask(f"{bound} < {A}", table),
        {named(key, A): value for key, value in values.items() if bound < value},
    )
    assert same(
        ask(f"clamp_min({A}, {bound})", table),
        {key: max(value, bound) for key, value in values.items()},
    )
    assert same(ask(f"abs(-{A})", table), {key: abs(value) for key, value in values.items()})


counts = st.lists(st.integers(0, 9), min_size=0, max_size=30)


def rising(steps: Sequence[int]) -> list[Point]:
    """A counter, one point each second up to now; a 9 is a restart."""
    total, points = 0.0, []
    for index, step in enumerate(steps):
        total = 0.0 if step == 9 else total + step
        points.append((NOW_S - len(steps) + 1 + index, total))
    return points


def extrapolated(points: Sequence[Point], since_s: float, until_s: float) -> float | None:
    """Prometheus' extrapolatedRate, before it is divided by the range; written from its text."""
    inside = [point for point in points if since_s < point[0] <= until_s]
    if len(inside) < 2:
        return None
    increase = inside[-1][1] - inside[0][1]
    for (_, before), (_, after) in pairwise(inside):
        increase += before if after < before else 0
    sampled = inside[-1][0] - inside[0][0]
    average = sampled / (len(inside) - 1)
    to_start, to_end = inside[0][0] - since_s, until_s - inside[-1][0]
    if to_start >= average * 1.1:
        to_start = average / 2
    if increase > 0 and inside[0][1] >= 0:
        to_start = min(to_start, sampled * inside[0][1] / increase)
    if to_end >= average * 1.1:
        to_end = average / 2
    return increase * (sampled + to_start + to_end) / sampled


@settings(max_examples=200)
@given(steps=counts, range_s=st.integers(1, 40), offset_s=st.integers(0, 10))
def test_rates_are_extrapolated_as_prometheus_does(
    steps: list[int], range_s: int, offset_s: int
) -> None:
    points = rising(steps)
    table = Table({A: {(): points}})
    until_s = NOW_S - offset_s
    expected = extrapolated(points, until_s - range_s, until_s)
    offset = f" offset {offset_s}s" if offset_s else ""
    increase = ask(f"increase({A}[{range_s}s]{offset})", table)
    rate = ask(f"rate({A}[{range_s}s]{offset})", table)
    if expected is None:
        assert increase == {}
        assert rate == {}
    else:
        assert increase == {(): pytest.approx(expected)}
        assert rate == {(): pytest.approx(expected / range_s)}


@given(values=st.lists(st.integers(-9, 9), min_size=1, max_size=20), range_s=st.integers(1, 30))
def test_functions_over_time_see_the_points_of_the_range(values: list[int], range_s: int) -> None:
    points = [(NOW_S - len(values) + 1 + i, float(value)) for i, value in enumerate(values)]
    inside = [float(value) for time_s, value in points if time_s > NOW_S - range_s]
    table = Table({A: {(): points}})
    for name, value in {
        "avg": sum(inside) / len(inside),
        "min": min(inside),
        "max": max(inside),
        "sum": sum(inside),
        "count": len(inside),
    }.items():
        assert ask(f"{name}_over_time({A}[{range_s}s])", table) == {(): pytest.approx(value)}


def test_absent_says_what_was_asked_for() -> None:
    table = Table({A: now({(("version", "1"),): 1.0})})
    assert ask(f'absent({A}{{version="1"}})', table) == {}
    assert ask(f'absent({A}{{version="2",environment=~"p.*"}})', table) == {(("version", "2"),): 1}
    assert ask(f"absent({B} > 3)", table) == {(): 1}


def test_matchers_select_by_whole_values_and_absent_labels_are_empty() -> None:
    keys: dict[Key, float] = {(("a", "west"),): 1.0, (("a", "westend"),): 2.0, (): 3.0}
    table = Table({A: now(keys)})

    def values(matcher: str) -> list[float]:
        return sorted(ask(f"{A}{{{matcher}}}", table).values())

    assert values('a=~"west|east"') == [1.0]
    assert values('a!~"west.*"') == [3.0]
    assert values('a=""') == [3.0]
    assert values('a!="west"') == [2.0, 3.0]


def test_a_slow_regular_expression_holds_nobody_up() -> None:
    table = Table({A: now({(("a", "a" * 5_000),): 1.0})})
    assert ask(f'{A}{{a=~"(a+)+b"}}', table) == {}


def test_series_that_do_not_pair_one_to_one_have_no_value() -> None:
    table = Table({
        A: now({(("a", "x"), ("b", "x")): 1.0, (("a", "x"), ("b", "y")): 2.0}),
        B: now({(("a", "x"),): 1.0}),
    })  # fmt: skip
    for text in (f"{A} / on (a) {B}", f"{B} / on (a) {A}"):
        expression = read_promql(text)
        assert not isinstance(expression, NeedsPrometheus)
        with pytest.raises(EvaluationError, match="pair with one"):
            evaluate(expression, table, NOW_S)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 / 0", math.inf), ("-1 / 0", -math.inf), ("0 / 0", math.nan), ("5 % 0", math.nan),
        ("2 ^ 10", 1024.0), ("2 > bool 1", 1.0), ("-(3 - 5)", 2.0), ("-7 % 5", -2.0),
    ],
)  # fmt: skip
def test_numbers_follow_the_rules_of_prometheus(text: str, value: float) -> None:
    assert ask(text, Table({})) == {(): pytest.approx(value, nan_ok=True)}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("up == 0", "does not measure up"),
        (f"topk(3, {A})", "topk"),
        (f"histogram_quantile(0.9, {A})", r"histogram_quantile\(\)"),
        (f"rate({A}[2h])", "2h back"),
        (f"avg_over_time({A}[50m] offset 20m)", "1h10m back"),
        (f"max_over_time({A}[5m:1m])", "subqueries|series only"),
        (f"{A} * on (a) group_left (b) {B}", "group_left"),
        (f"{A} @ 100", "@"),
        (f"{A} offset -5m", "future"),
        ('{environment="production"}', "whole name"),
    ],
)
def test_what_needs_a_prometheus_is_named(text: str, why: str) -> None:
    read = read_promql(text)
    assert isinstance(read, NeedsPrometheus)
    assert re.search(why, read.reason)


def test_series_that_rules_record_can_be_asked_for() -> None:
    assert isinstance(read_promql("job:errors:ratio"), NeedsPrometheus)
    assert not isinstance(read_promql("job:errors:ratio", {"job:errors:ratio"}), NeedsPrometheus)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("sum(foo) > > 3", "line 1, column 12"),
        ("foo bar", "line 1, column 5"),
        ("sum(foo", "line 1, column 8"),
        ("foo{a=b}", "line 1, column 7"),
        ("rate(foo)", "line 1, column 9"),
        ("sum by (x) (foo)\n  > 3 and\n  clamp_min(x, 1, 2)", "line 3, column 17"),
        ("", "line 1, column 1"),
    ],
)
def test_a_fault_is_told_with_its_place(text: str, place: str) -> None:
    with pytest.raises(ValueError, match=f"not PromQL: {place}: "):
        check_promql(text)


@pytest.mark.parametrize(
    "text", ["(" * 5_000 + "a", "-" * 5_000 + "a", "a^" * 4_000 + "a", "sum(" * 2_000, "a" * 20_000]
)
def test_what_no_parser_could_bear_is_refused_before_it(text: str) -> None:
    with pytest.raises(ValueError, match="not PromQL"):
        check_promql(text)


@given(text=st.text(alphabet='ab(){}[]"=~!<>+-*/^%,5ms by on sum', max_size=40))
def test_any_text_is_an_expression_or_a_fault_with_a_place(text: str) -> None:
    said = ""
    try:
        read_promql(text, {"a", "b"})
    except ValueError as error:
        said = str(error)
    assert said == "" or said.startswith(("not PromQL", "bad regular expression"))
