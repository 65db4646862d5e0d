"""PromQL over what modelplane measures: the expressions of a subset, and their values. Pure.

`promql_reading` makes the expressions, `adapters.metrics.querying` gives the points. Semantics are
Prometheus': rates are extrapolated as its `extrapolatedRate` does, ranges leave out their first
moment, operations drop the name. What the subset leaves out is listed in the guide on alerts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from modelplane.decisions.promql_functions import (
    AGGREGATIONS,
    OVER_TIME,
    apply_operator,
    is_comparison,
)

NAME = "__name__"
Labels = Mapping[str, str]
LabelTest = Callable[[Labels], bool]


@dataclass(frozen=True, slots=True)
class Number:
    value: float


@dataclass(frozen=True, slots=True)
class LabelMatch:
    """One condition on a label; ``holds`` is given its value, empty when it is absent."""

    label: str
    holds: Callable[[str], bool]
    equals: str | None = None


@dataclass(frozen=True, slots=True)
class Selector:
    """Series of one name; with ``range_s`` their points over that time."""

    name: str
    matches: tuple[LabelMatch, ...] = ()
    offset_s: float = 0.0
    range_s: float | None = None

    def test(self, labels: Labels) -> bool:
        """Whether a series with these labels is selected."""
        return all(match.holds(labels.get(match.label, "")) for match in self.matches)


@dataclass(frozen=True, slots=True)
class Negation:
    operand: Expression


@dataclass(frozen=True, slots=True)
class Matching:
    """Which labels pair two series: only these (``on``), or all but these."""

    is_on: bool = False
    labels: tuple[str, ...] = ()

    def signature(self, labels: Labels) -> frozenset[tuple[str, str]]:
        """Return what must be equal; labels that are empty do not count."""
        chosen = (
            ((name, value) for name, value in labels.items() if name in self.labels)
            if self.is_on
            else ((n, v) for n, v in labels.items() if n not in self.labels and n != NAME)
        )
        return frozenset((name, value) for name, value in chosen if value)

    def kept(self, labels: Labels) -> Labels:
        """Return the labels of a pair's result."""
        if self.is_on:
            return {name: value for name, value in labels.items() if name in self.labels}
        return {name: value for name, value in labels.items() if name not in self.labels}


@dataclass(frozen=True, slots=True)
class Binary:
    operator: str
    left: Expression
    right: Expression
    returns_bool: bool = False
    matching: Matching = Matching()


@dataclass(frozen=True, slots=True)
class Aggregation:
    """``by`` these labels; else ``without`` them."""

    function: str
    operand: Expression
    is_by: bool
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    function: str
    arguments: tuple[Expression, ...]


Expression = Number | Selector | Negation | Binary | Aggregation | Call


@dataclass(frozen=True, slots=True)
class Element:
    """One series of a result, now."""

    labels: Labels
    value: float


Value = float | Sequence[Element]


class EvaluationError(Exception):
    """The expression has no value: its series do not pair one to one."""


class PointSource(Protocol):
    """What is known of series; times are seconds since 1970."""

    def instant(self, name: str, test: LabelTest, at_s: float) -> Sequence[tuple[Labels, float]]:
        """Return the series that there are at a moment, without their name among the labels."""

    def window(
        self, name: str, test: LabelTest, since_s: float, until_s: float
    ) -> Sequence[tuple[Labels, Sequence[float], Sequence[float]]]:
        """Return labels, times and values of the points after `since_s` and up to `until_s`."""


def evaluate(expression: Expression, source: PointSource, at_s: float) -> Sequence[Element]:
    """Return the elements of an expression's value; a number is one without labels.

    Raises
    ------
    EvaluationError
        Series on the two sides of an operator do not pair one to one.
    """
    value = _Evaluation(source, at_s).value(expression)
    return [Element({}, value)] if isinstance(value, float) else value


def reach_s(expression: Expression) -> float:
    """Return how far back an expression looks, seconds."""
    match expression:
        case Selector():
            return expression.offset_s + (expression.range_s or 0.0)
        case Number():
            return 0.0
        case Negation() | Aggregation():
            return reach_s(expression.operand)
        case Binary():
            return max(reach_s(expression.left), reach_s(expression.right))
        case Call():
            return max((reach_s(argument) for argument in expression.arguments), default=0.0)


def without_name(labels: Labels) -> dict[str, str]:
    """Return the labels of a series that has lost its name."""
    return {name: value for name, value in labels.items() if name != NAME}


@dataclass(frozen=True, slots=True)
class _Evaluation:
    source: PointSource
    at_s: float

    def value(self, expression: Expression) -> Value:
        match expression:
            case Number():
                return expression.value
            case Selector():
                return self._select(expression)
            case Negation():
                return self._negate(expression)
            case Binary():
                return self._combine(expression)
            case Aggregation():
                return self._aggregate(expression)
            case Call():
                return self._call(expression)

    def _elements(self, expression: Expression) -> Sequence[Element]:
        value = self.value(expression)
        if isinstance(value, float):
            raise EvaluationError("a number stands where series are needed")
        return value

    def _select(self, selector: Selector) -> Sequence[Element]:
        found = self.source.instant(selector.name, selector.test, self.at_s - selector.offset_s)
        return [Element({**labels, NAME: selector.name}, value) for labels, value in found]

    def _negate(self, negation: Negation) -> Value:
        value = self.value(negation.operand)
        if isinstance(value, float):
            return -value
        return [Element(without_name(element.labels), -element.value) for element in value]

    def _combine(self, binary: Binary) -> Value:
        left, right = self.value(binary.left), self.value(binary.right)
        if isinstance(left, float) and isinstance(right, float):
            result = apply_operator(binary.operator, left, right)
            return result if result is not None else math.nan
        if isinstance(left, float):
            assert not isinstance(right, float)
            return _with_number(binary, right, lambda value: (left, value))
        if isinstance(right, float):
            return _with_number(binary, left, lambda value: (value, right))
        if binary.operator in {"and", "or", "unless"}:
            return _set_operation(binary, left, right)
        return _pairs(binary, left, right)

    def _aggregate(self, aggregation: Aggregation) -> Sequence[Element]:
        groups: dict[frozenset[tuple[str, str]], list[float]] = {}
        matching = Matching(aggregation.is_by, aggregation.labels)
        for element in self._elements(aggregation.operand):
            groups.setdefault(matching.signature(element.labels), []).append(element.value)
        compute = AGGREGATIONS[aggregation.function]
        return [Element(dict(group), compute(values)) for group, values in groups.items()]

    def _call(self, call: Call) -> Value:
        first = call.arguments[0]
        if call.function in OVER_TIME:
            assert isinstance(first, Selector)
            return self._over_time(call.function, first)
        if call.function == "absent":
            return self._absent(first)
        elements = self._elements(first)
        compute: Callable[[float], float] = abs
        if call.function != "abs":
            bound = self.value(call.arguments[1])
            assert isinstance(bound, float)
            compute = _clamp(call.function, bound)
        return _distinct(
            [Element(without_name(element.labels), compute(element.value)) for element in elements]
        )

    def _over_time(self, function: str, selector: Selector) -> Sequence[Element]:
        assert selector.range_s is not None
        until_s = self.at_s - selector.offset_s
        since_s = until_s - selector.range_s
        elements = []
        for labels, times_s, values in self.source.window(
            selector.name, selector.test, since_s, until_s
        ):
            value = OVER_TIME[function](times_s, values, since_s, until_s)
            if value is not None:
                elements.append(Element(labels, value))
        return elements

    def _absent(self, operand: Expression) -> Sequence[Element]:
        if self._elements(operand):
            return []
        labels: dict[str, str] = {}
        if isinstance(operand, Selector):
            named = [match.label for match in operand.matches]
            labels = {
                match.label: match.equals
                for match in operand.matches
                if match.equals and named.count(match.label) == 1
            }
        return [Element(labels, 1.0)]


def _with_number(
    binary: Binary, elements: Sequence[Element], sides: Callable[[float], tuple[float, float]]
) -> Sequence[Element]:
    """Combine each element with a number; a comparison keeps those for which it holds."""
    found = []
    keeps = is_comparison(binary.operator) and not binary.returns_bool
    for element in elements:
        value = apply_operator(binary.operator, *sides(element.value))
        assert value is not None
        if not keeps:
            found.append(Element(without_name(element.labels), value))
        elif value:
            found.append(element)
    return found if keeps else _distinct(found)


def _set_operation(
    binary: Binary, left: Sequence[Element], right: Sequence[Element]
) -> Sequence[Element]:
    signature = binary.matching.signature
    if binary.operator == "or":
        known = {signature(element.labels) for element in left}
        return [*left, *(element for element in right if signature(element.labels) not in known)]
    others = {signature(element.labels) for element in right}
    wanted = binary.operator == "and"
    return [element for element in left if (signature(element.labels) in others) == wanted]


def _pairs(binary: Binary, left: Sequence[Element], right: Sequence[Element]) -> Sequence[Element]:
    """Combine elements one to one."""
    others: dict[frozenset[tuple[str, str]], Element] = {}
    for element in right:
        key = binary.matching.signature(element.labels)
        if key in others:
            raise EvaluationError(f"several series on the right of {binary.operator} pair with one")
        others[key] = element
    found, seen = [], set()
    keeps = is_comparison(binary.operator) and not binary.returns_bool
    for element in left:
        key = binary.matching.signature(element.labels)
        other = others.get(key)
        if other is None:
            continue
        value = apply_operator(binary.operator, element.value, other.value)
        assert value is not None
        if keeps and not value:
            continue
        if key in seen:
            raise EvaluationError(f"several series on the left of {binary.operator} pair with one")
        seen.add(key)
        labels = binary.matching.kept(element.labels)
        found.append(
            Element(labels, element.value) if keeps else Element(without_name(labels), value)
        )
    return found


def _clamp(function: str, bound: float) -> Callable[[float], float]:
    def clamp(value: float) -> float:
        if math.isnan(value) or math.isnan(bound):
            return math.nan
        return max(value, bound) if function == "clamp_min" else min(value, bound)

    return clamp


def _distinct(elements: Sequence[Element]) -> Sequence[Element]:
    seen = {frozenset(element.labels.items()) for element in elements}
    if len(seen) < len(elements):
        raise EvaluationError("series differ in nothing but their name, which is dropped")
    return elements
