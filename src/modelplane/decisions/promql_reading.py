"""PromQL as text becomes an expression that modelplane evaluates itself, or why it cannot. Pure.

Called by `adapters.metrics.querying` and `alert_rules`. The grammar is `resources.promql`'s; here
it is decided what of it modelplane answers: the series of its own catalogue and those that its own
rules record, over as much time as it remembers. Everything else needs a Prometheus.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

from modelplane.decisions.promql import (
    Aggregation,
    Binary,
    Call,
    Expression,
    LabelMatch,
    Matching,
    Negation,
    Number,
    Selector,
    reach_s,
)
from modelplane.decisions.promql_functions import AGGREGATIONS, OPERATORS, OVER_TIME
from modelplane.decisions.series import BY_NAME
from modelplane.resources.label_patterns import matches_whole
from modelplane.resources.promql import parse_promql
from modelplane.resources.quantities import format_duration

REMEMBERED_S = 3600.0
"""How far back modelplane itself remembers series, seconds."""

_FUNCTIONS = frozenset({*OVER_TIME, "absent", "abs", "clamp_min", "clamp_max"})


@dataclass(frozen=True, slots=True)
class NeedsPrometheus:
    """An expression that modelplane does not evaluate, and why, for people."""

    reason: str


class _Unsupported(Exception):
    """Found on the way down; becomes `NeedsPrometheus`."""


def read_promql(text: str, recorded: Collection[str] = ()) -> Expression | NeedsPrometheus:
    """Return the expression that `text` is.

    Parameters
    ----------
    text
        PromQL.
    recorded
        Names of series that rules record, besides those of the catalogue.

    Raises
    ------
    ValueError
        It is not PromQL; says where.
    """
    parsed = parse_promql(text)
    try:
        expression = _Reader(recorded).read(parsed)
    except _Unsupported as reason:
        return NeedsPrometheus(str(reason))
    if isinstance(expression, Selector) and expression.range_s is not None:
        raise ValueError("not PromQL: a range of points is no result; use a function of it")
    if reach_s(expression) > REMEMBERED_S:
        back = format_duration(reach_s(expression))
        return NeedsPrometheus(f"it reaches {back} back, modelplane remembers an hour")
    return expression


class _Reader:
    def __init__(self, recorded: Collection[str]) -> None:
        self._recorded = recorded

    def read(self, node: Any) -> Expression:
        kind = type(node).__name__
        if kind == "NumberLiteral":
            return Number(float(node.val))
        if kind == "ParenExpr":
            return self.read(node.expr)
        if kind == "UnaryExpr":
            return Negation(self.read(node.expr))
        if kind == "VectorSelector":
            return self._selector(node)
        if kind == "MatrixSelector":
            range_s = node.range.total_seconds()
            if range_s <= 0:
                raise ValueError("not PromQL: a range is longer than nothing")
            return self._selector(node.vector_selector, range_s)
        if kind == "BinaryExpr":
            return self._binary(node)
        if kind == "AggregateExpr":
            return self._aggregation(node)
        if kind == "Call":
            return self._call(node)
        words = {"SubqueryExpr": "subqueries", "StringLiteral": "texts"}
        raise _Unsupported(f"modelplane does not evaluate {words.get(kind, kind)}")

    def _selector(self, node: Any, range_s: float | None = None) -> Selector:
        if node.at is not None:
            raise _Unsupported("modelplane does not evaluate the modifier @")
        if node.matchers.or_matchers:
            raise _Unsupported("modelplane does not evaluate `or` between matchers")
        matches = [_match(matcher) for matcher in node.matchers.matchers]
        name = node.name or next((m.equals for m in matches if m.label == "__name__"), None)
        if not name:
            raise _Unsupported("modelplane evaluates series by their whole name only")
        if name not in BY_NAME and name not in self._recorded:
            raise _Unsupported(f"modelplane does not measure {name}")
        offset_s = node.offset.total_seconds() if node.offset else 0.0
        if offset_s < 0:
            raise _Unsupported("modelplane does not look into the future")
        others = tuple(match for match in matches if match.label != "__name__")
        return Selector(name, others, offset_s, range_s)

    def _binary(self, node: Any) -> Binary:
        sign, modifier = str(node.op), node.modifier
        if sign not in OPERATORS:
            raise _Unsupported(f"modelplane does not evaluate {sign}")
        left, right = self.read(node.lhs), self.read(node.rhs)
        if modifier is None:
            return Binary(sign, left, right)
        if str(modifier.card).rpartition(".")[2] in {"ManyToOne", "OneToMany"}:
            raise _Unsupported("modelplane does not evaluate group_left and group_right")
        matching = Matching()
        if modifier.matching is not None:
            is_on = str(modifier.matching.type).endswith("Include")
            matching = Matching(is_on, tuple(modifier.matching.labels))
        return Binary(sign, left, right, bool(modifier.return_bool), matching)

    def _aggregation(self, node: Any) -> Aggregation:
        function, modifier = str(node.op), node.modifier
        if function not in AGGREGATIONS:
            raise _Unsupported(f"modelplane does not evaluate {function}")
        operand = self.read(node.expr)
        if modifier is None:
            return Aggregation(function, operand, is_by=True)
        is_by = str(modifier.type).endswith("By")
        return Aggregation(function, operand, is_by, tuple(modifier.labels))

    def _call(self, node: Any) -> Call:
        function = node.func.name
        if function not in _FUNCTIONS:
            raise _Unsupported(f"modelplane does not evaluate {function}()")
        arguments = tuple(self.read(argument) for argument in node.args)
        if function in OVER_TIME and not isinstance(arguments[0], Selector):
            raise _Unsupported(f"modelplane evaluates {function}() of series only")
        return Call(function, arguments)


def _match(matcher: Any) -> LabelMatch:
    kind, value = str(matcher.op).rpartition(".")[2], str(matcher.value)
    if kind == "Equal":
        return LabelMatch(matcher.name, partial(operator.eq, value), equals=value)
    if kind == "NotEqual":
        return LabelMatch(matcher.name, partial(operator.ne, value))
    matches_whole(value, "")  # what RE2 does not take is told now, and not at each evaluation
    holds: Callable[[str], bool] = partial(matches_whole, value)
    if kind == "Re":
        return LabelMatch(matcher.name, holds)
    return LabelMatch(matcher.name, lambda text: not holds(text))
