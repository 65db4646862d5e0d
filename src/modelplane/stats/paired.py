"""Differences between two models judged on the same rows, with intervals.

Called by the checks of validation stages. Rows that both models get right (or wrong) say nothing
about the difference, so a paired interval is much narrower than two intervals side by side.
Numbers in, numbers out: random draws come from the seed that the caller gives, so that the same
data gives the same interval.

Three ways, by what is known of the metric:

- a share of rows (accuracy): the score interval, `proportions_interval`;
- a mean over rows, or its root (absolute and squared errors): a BCa bootstrap whose jackknife has
  a closed form, `means_interval`;
- anything else: the percentile bootstrap over rows, `bootstrap_interval`, or over the cells of a
  table of counts, `counts_interval`, which is the same at a fraction of the cost.

All intervals are two-sided: a bound alone is exceeded with a chance of (1 - confidence) / 2.

References
----------
Tango, "Equivalence test and confidence interval for the difference in proportions for the
paired-sample design", Statistics in Medicine 17 (1998). Efron, "Better bootstrap confidence
intervals", Journal of the American Statistical Association 82 (1987). Efron and Tibshirani, "An
Introduction to the Bootstrap" (1993), chapters 13 and 14. Fagerland, Lydersen and Laake,
"Recommended tests and confidence intervals for paired binomial proportions", Statistics in
Medicine 33 (2014), where Tango's interval is compared with others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]

_NORMAL = NormalDist()
_BISECTIONS = 60
_DRAWS_AT_ONCE = 4_000_000
_LEAST_DEFINED = 0.5
"""Share of resamples on which a metric must be defined for an interval to mean anything."""


class Interval(NamedTuple):
    """A difference, candidate minus champion, and the bounds of its interval."""

    difference: float
    lower: float
    upper: float


def proportions_interval(
    only_candidate: int, only_champion: int, rows: int, *, confidence: float = 0.95
) -> Interval:
    """Interval of the difference of two shares of the same rows: Tango's score interval.

    Holds all differences ``d`` with ``|T(d)| <= z``, where ``T(d) = (b - c - n d) / sqrt(n (2 q +
    d (1 - d)))`` and ``q`` is the likeliest share of rows that only the champion has, given ``d``
    (Tango 1998, equations 4 and 5). Good where differing rows are few, and never empty or outside
    [-1, 1].

    Parameters
    ----------
    only_candidate, only_champion
        Rows ``b`` that only the candidate, and ``c`` that only the champion, has right.
    rows
        All rows ``n``, at least 1.
    confidence
        In (0, 1).

    Raises
    ------
    ValueError
        The counts do not fit together.

    Examples
    --------
    Complete response of 161 patients before and after therapy, 6 before only, 16 after only, as
    in Fagerland, Lydersen and Laake:

    >>> [round(bound, 4) for bound in proportions_interval(6, 16, 161)]
    [-0.0621, -0.124, -0.0054]
    """
    b, c, n = only_candidate, only_champion, rows
    if n < 1 or min(b, c) < 0 or b + c > n:
        raise ValueError(f"{b} and {c} rows of {n} cannot differ")
    z = _NORMAL.inv_cdf(0.5 + confidence / 2)
    estimate = (b - c) / n

    def statistic(difference: float) -> float:
        spread = difference * (1 - difference)
        linear = (2 * n - b + c) * difference - b - c
        share = (math.sqrt(max(0.0, linear * linear + 8 * n * c * spread)) - linear) / (4 * n)
        variance = n * (2 * share + spread)
        distance = b - c - n * difference
        return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)

    lower = _fall_below(statistic, z, -1.0, estimate)
    upper = _fall_below(statistic, -z, estimate, 1.0)
    return Interval(estimate, lower, upper)


def _fall_below(function: Callable[[float], float], level: float, low: float, high: float) -> float:
    """Return where a falling function crosses `level` between `low` and `high`."""
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if function(middle) > level:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def means_interval(
    candidate: ArrayLike,
    champion: ArrayLike,
    *,
    root: bool = False,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of the difference of two means over the same rows: a BCa bootstrap.

    Bias-corrected and accelerated (Efron 1987): second-order right, which matters because errors
    are skewed. The acceleration is the jackknife's (Efron and Tibshirani, equation 14.15).

    Parameters
    ----------
    candidate, champion
        What each row adds: an absolute or squared error. Shape ``(rows,)``, finite.
    root
        Compare the roots of the means: RMSE from squared errors.
    resamples
        Bootstrap draws of all rows.
    seed
        Of the draws.

    Raises
    ------
    ValueError
        No rows, or not as many for each.

    Examples
    --------
    >>> interval = means_interval([1.0, 2.0, 4.0, 3.0] * 25, [1.5, 2.0, 4.5, 3.5] * 25)
    >>> [round(bound, 2) for bound in interval]
    [-0.38, -0.42, -0.33]
    """
    values = np.column_stack(
        [np.asarray(candidate, dtype=np.float64), np.asarray(champion, dtype=np.float64)]
    )
    rows = len(values)
    if rows == 0:
        raise ValueError("there are no rows to compare")

    def difference(means: FloatArray) -> FloatArray:
        both = np.sqrt(np.maximum(means, 0.0)) if root else means
        result: FloatArray = both[..., 0] - both[..., 1]
        return result

    estimate = float(difference(values.mean(axis=0)))
    drawn = np.empty(resamples)
    rng = np.random.default_rng(seed)
    step = max(1, _DRAWS_AT_ONCE // rows)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        chosen = rng.integers(rows, size=(count, rows))
        # One column after the other: taking both at once is three times as slow.
        means = np.stack([values[:, side][chosen].mean(axis=1) for side in (0, 1)], axis=-1)
        drawn[start : start + count] = difference(means)
    if rows == 1:
        return Interval(estimate, estimate, estimate)
    left_out = difference((values.sum(axis=0) - values) / (rows - 1))
    return Interval(estimate, *_accelerated_bounds(drawn, estimate, left_out, confidence))


def _accelerated_bounds(
    drawn: FloatArray, estimate: float, left_out: FloatArray, confidence: float
) -> tuple[float, float]:
    """Bounds of a BCa interval from bootstrap draws and jackknife values."""
    resamples = len(drawn)
    below = float(np.mean(drawn < estimate) + np.mean(drawn == estimate) / 2)
    bias = _NORMAL.inv_cdf(min(max(below, 1 / (resamples + 1)), resamples / (resamples + 1)))
    influence = left_out.mean() - left_out
    squares = float(np.sum(influence**2))
    # Rounding alone makes equal values differ a little.
    acceleration = float(np.sum(influence**3)) / (6 * squares**1.5) if squares > 1e-300 else 0.0
    places = []
    for tail in ((1 - confidence) / 2, (1 + confidence) / 2):
        shifted = bias + _NORMAL.inv_cdf(tail)
        # |acceleration| <= 1/6, so only extreme tails of a very skewed mean come near to zero.
        places.append(_NORMAL.cdf(bias + shifted / max(1 - acceleration * shifted, 1e-9)))
    lower, upper = np.quantile(drawn, places)
    return float(lower), float(upper)


def bootstrap_interval(
    statistic: Callable[[IndexArray], float],
    rows: int,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval | None:
    """Interval of any difference on the same rows: the percentile bootstrap.

    Parameters
    ----------
    statistic
        Takes row numbers, shape ``(rows,)`` with repetitions, and returns the difference on these
        rows; NaN where it is not defined on them (no row of one class).
    rows
        How many there are, at least 1.

    Returns
    -------
    Interval or None
        None when the statistic is not defined on all rows, or on more than half of the resamples
        is not. Resamples on which it is not defined do not count.

    Examples
    --------
    >>> import numpy as np
    >>> errors = np.array([0.2, 0.1, 0.4, 0.3] * 10), np.array([0.3, 0.3, 0.4, 0.5] * 10)
    >>> interval = bootstrap_interval(
    ...     lambda rows: float(np.median(errors[0][rows]) - np.median(errors[1][rows])), 40
    ... )
    >>> interval is not None and interval.lower <= -0.1 <= interval.upper
    True
    """
    if rows < 1:
        raise ValueError("there are no rows to compare")
    rng = np.random.default_rng(seed)
    drawn = [statistic(rng.integers(rows, size=rows)) for _ in range(resamples)]
    return _percentiles(statistic(np.arange(rows)), np.array(drawn), confidence)


def counts_interval(
    statistic: Callable[[IndexArray], float],
    counts: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval | None:
    """Interval as `bootstrap_interval` gives it, for rows that are alike in groups.

    Drawing rows with repetition and counting the kinds is the same as drawing the counts of the
    kinds from a multinomial distribution: a million rows of ten kinds cost as much as ten rows.

    Parameters
    ----------
    statistic
        Takes how many rows there are of each kind, shape ``(kinds,)``, and returns the difference
        on them; NaN where it is not defined.
    counts
        Rows of each kind, shape ``(kinds,)``.

    Examples
    --------
    Ten rows that both models have right, six only the candidate, four only the champion:

    >>> counts_interval(lambda n: float(n[1] - n[2]) / n.sum(), [10, 6, 4])
    Interval(difference=0.1, lower=-0.2, upper=0.4)
    """
    seen = np.asarray(counts, dtype=np.int64)
    rows = int(seen.sum())
    if rows < 1:
        raise ValueError("there are no rows to compare")
    rng = np.random.default_rng(seed)
    drawn = [statistic(draw) for draw in rng.multinomial(rows, seen / rows, size=resamples)]
    return _percentiles(statistic(seen), np.array(drawn), confidence)


def _percentiles(estimate: float, drawn: FloatArray, confidence: float) -> Interval | None:
    defined = drawn[np.isfinite(drawn)]
    if not math.isfinite(estimate) or len(defined) < _LEAST_DEFINED * max(1, len(drawn)):
        return None
    lower, upper = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(estimate), float(lower), float(upper))


def greatest_difference_interval(
    hits: ArrayLike,
    rows: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Greatest difference of a rate between groups, with a bootstrap interval.

    Rows are drawn within each group, so each group's hits are binomial. The greatest of several
    differences is biased upwards, the more the smaller the groups: the interval tells how much
    the figure moves by chance alone and is no test of equality.

    Parameters
    ----------
    hits, rows
        Of each group, shape ``(groups,)``; two groups or more, each with rows.

    Examples
    --------
    >>> result = greatest_difference_interval([300, 240], [1000, 1000])
    >>> [round(bound, 2) for bound in result]
    [0.06, 0.02, 0.1]
    """
    seen, of = np.asarray(hits, dtype=np.int64), np.asarray(rows, dtype=np.int64)
    if len(seen) < 2 or np.any(of < 1) or np.any(seen > of) or np.any(seen < 0):
        raise ValueError("it takes two groups or more, each with rows")
    rates = seen / of
    draws: Any = np.random.default_rng(seed).binomial(of, rates, size=(resamples, len(of))) / of
    spread = draws.max(axis=1) - draws.min(axis=1)
    lower, upper = np.quantile(spread, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(rates.max() - rates.min()), float(lower), float(upper))
