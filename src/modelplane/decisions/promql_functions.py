"""The arithmetic of PromQL: operators, aggregations, and functions over ranges. Pure.

Called by `promql`. Where a number is not defined the result is NaN or infinite, as in Prometheus.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}


def _divide(left: float, right: float) -> float:
    if right:
        return left / right
    if left == 0 or math.isnan(left) or math.isnan(right):
        return math.nan
    return math.copysign(math.inf, left) * math.copysign(1.0, right)


def _remainder(left: float, right: float) -> float:
    return math.nan if right == 0 or math.isinf(left) else math.fmod(left, right)


def _power(left: float, right: float) -> float:
    try:
        return math.pow(left, right)
    except OverflowError:
        return -math.inf if left < 0 and right % 2 == 1 else math.inf
    except ValueError:
        return math.inf if left == 0 else math.nan


_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _divide,
    "%": _remainder,
    "^": _power,
}
OPERATORS = frozenset({*_COMPARISONS, *_ARITHMETIC, "and", "or", "unless"})


def is_comparison(sign: str) -> bool:
    """Whether an operator compares."""
    return sign in _COMPARISONS


def apply_operator(sign: str, left: float, right: float) -> float | None:
    """Return the value of an operator on two numbers, 0 or 1 for a comparison.

    None for those that know only series.

    Examples
    --------
    >>> apply_operator(">", 2, 1), apply_operator("/", 1, 0)
    (1.0, inf)
    """
    if sign in _COMPARISONS:
        return float(_COMPARISONS[sign](left, right))
    compute = _ARITHMETIC.get(sign)
    return None if compute is None else compute(left, right)


def _extreme(choose: Callable[[Sequence[float]], float]) -> Callable[[Sequence[float]], float]:
    def compute(values: Sequence[float]) -> float:
        known = [value for value in values if not math.isnan(value)]
        return choose(known) if known else math.nan

    return compute


def _sum(values: Sequence[float]) -> float:
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):  # infinities of both signs
        return sum(values)


def _mean(values: Sequence[float]) -> float:
    return _sum(values) / len(values)


AGGREGATIONS: Mapping[str, Callable[[Sequence[float]], float]] = MappingProxyType(
    {
        "sum": _sum,
        "avg": _mean,
        "min": _extreme(min),
        "max": _extreme(max),
        "count": lambda values: float(len(values)),
    }
)
"""Of the values of one group, of which there is one at least."""

OverTime = Callable[[Sequence[float], Sequence[float], float, float], float | None]


def extrapolate(
    times_s: Sequence[float],
    values: Sequence[float],
    since_s: float,
    until_s: float,
    *,
    counts: bool,
) -> float | None:
    """Return how much a series changed over a range, as Prometheus estimates it.

    The change between the first and the last point, stretched to the ends of the range: to an end
    that is further away than 1.1 times the mean distance of the points only by half of that
    distance, and never so far back that a counter would have been below zero. This is
    `extrapolatedRate` of Prometheus' promql/functions.go.

    Parameters
    ----------
    times_s, values
        The points, oldest first; of fewer than two nothing can be said.
    since_s, until_s
        The range.
    counts
        Whether the series is a counter: where it falls, it began again at zero.
    """
    if len(values) < 2 or times_s[-1] <= times_s[0]:
        return None
    change = values[-1] - values[0]
    if counts:
        change += sum(before for before, after in pairwise(values) if after < before)
    length_s = times_s[-1] - times_s[0]
    mean_s = length_s / (len(values) - 1)
    before_s, after_s = times_s[0] - since_s, until_s - times_s[-1]
    if before_s >= 1.1 * mean_s:
        before_s = mean_s / 2
    if counts and change > 0 and values[0] >= 0:
        before_s = min(before_s, length_s * values[0] / change)
    if after_s >= 1.1 * mean_s:
        after_s = mean_s / 2
    return change * ((length_s + before_s + after_s) / length_s)


def _increase(t: Sequence[float], v: Sequence[float], since: float, until: float) -> float | None:
    return extrapolate(t, v, since, until, counts=True)


def _rate(t: Sequence[float], v: Sequence[float], since: float, until: float) -> float | None:
    change = extrapolate(t, v, since, until, counts=True)
    return None if change is None else change / (until - since)


def _delta(t: Sequence[float], v: Sequence[float], since: float, until: float) -> float | None:
    return extrapolate(t, v, since, until, counts=False)


def _over(compute: Callable[[Sequence[float]], float]) -> OverTime:
    return lambda times, values, since, until: compute(values) if values else None


OVER_TIME: Mapping[str, OverTime] = MappingProxyType(
    {
        "rate": _rate,
        "increase": _increase,
        "delta": _delta,
        **{f"{name}_over_time": _over(compute) for name, compute in AGGREGATIONS.items()},
    }
)
"""Functions of the points of a range: times, values, and the range's two ends, seconds."""
