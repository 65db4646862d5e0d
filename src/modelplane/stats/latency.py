"""Latency as yes/no outcomes: how often a request is slower than a threshold.

Called by ``modelplane.decisions.analysis``. At the end of the warm-up stable's quantiles are
fixed; from then on stable counts requests above ``q`` and the candidate requests above
``max(1.2 q, q + 2 ms)``. A candidate that is at most 1.2 times as slow then exceeds its
threshold at most as often as stable exceeds its own, under any drift that both share, so the
tests of :mod:`modelplane.stats.sequential` apply with a null shift of zero. This module keeps no
state and judges nothing.

A histogram is a mapping from a bin's lower bound in microseconds to its count. The bins are
those of Envoy's log-linear histograms: two significant digits, so 88 to 89, 670 to 680, 1000
to 1100 microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from modelplane.stats.betting import FloatArray

Histogram = Mapping[int, int]
"""Count of requests by the lower bound of their bin, in microseconds."""

QUANTILES = (0.5, 0.95, 0.99)
PROMOTION_QUANTILES = (0.95, 0.99)
DEFAULT_SLOWDOWN = 0.2
SLOWDOWN_FLOOR_US = 2_000
_ROUNDING = 1e-9  # 0.07 * 100 must not be more than 7


@dataclass(frozen=True, slots=True)
class LatencyThreshold:
    """Where one quantile's exceedances start, in microseconds.

    Attributes
    ----------
    quantile
        Of stable's latency when the thresholds were fixed, in (0, 1).
    stable_us
        That quantile, rounded down to a bin's lower bound.
    candidate_us
        ``max((1 + slowdown) stable_us, stable_us + 2000)``, rounded up to a bin's lower bound.
    """

    quantile: float
    stable_us: int
    candidate_us: int


def bin_width_us(lower_us: int) -> int:
    """Width of the bin that starts at ``lower_us``: two significant digits, at least 1.

    Examples
    --------
    >>> [bin_width_us(lower) for lower in (0, 7, 88, 670, 1000, 99000)]
    [1, 1, 1, 10, 100, 1000]
    """
    return int(10 ** max(0, len(str(lower_us)) - 2))


def round_up_to_bin_us(latency_us: float) -> int:
    """Lower bound of the first bin at or above a latency.

    Examples
    --------
    >>> round_up_to_bin_us(105.6), round_up_to_bin_us(110), round_up_to_bin_us(9901)
    (110, 110, 10000)
    """
    whole = math.ceil(latency_us)
    width = bin_width_us(whole)
    return -(-whole // width) * width


def histogram_from_bins(bins: Iterable[tuple[float, float, int]]) -> dict[int, int]:
    """Histogram from Envoy's ``(lower bound, width, count)`` triples, in microseconds.

    Examples
    --------
    >>> histogram_from_bins([(88.0, 1.0, 2), (670.0, 10.0, 1)])
    {88: 2, 670: 1}
    """
    histogram: dict[int, int] = {}
    for lower, _, count in bins:
        if count > 0:
            bound = round(lower)
            histogram[bound] = histogram.get(bound, 0) + int(count)
    return histogram


def merge_histograms(left: Histogram, right: Histogram) -> dict[int, int]:
    """Sum of two histograms."""
    merged = dict(left)
    known = merged.get
    for bound, count in right.items():
        merged[bound] = known(bound, 0) + count
    return merged


def subtract_histogram(whole: Histogram, part: Histogram) -> dict[int, int]:
    """Undo :func:`merge_histograms`: what is left of the whole without a part of it.

    Examples
    --------
    >>> subtract_histogram({10: 3, 20: 1}, {10: 1, 20: 1})
    {10: 2}
    """
    return {bound: n - part.get(bound, 0) for bound, n in whole.items() if n > part.get(bound, 0)}


def quantile_bin_us(histogram: Histogram, quantile: float) -> int:
    """Lower bound of the bin that holds a quantile.

    Raises
    ------
    ValueError
        If the histogram is empty.

    Examples
    --------
    >>> quantile_bin_us({10: 90, 50: 9, 200: 1}, 0.95)
    50
    """
    total = sum(histogram.values())
    if total <= 0:
        raise ValueError("an empty histogram has no quantiles")
    bounds = sorted(histogram)
    cumulative = np.cumsum([histogram[bound] for bound in bounds])
    index = int(np.searchsorted(cumulative, quantile * total - _ROUNDING, side="left"))
    return bounds[min(index, len(bounds) - 1)]


def estimate_quantile_us(
    histogram: Histogram, quantile: float, total: int, at_least_us: int = 0
) -> float | None:
    """A quantile by linear interpolation inside its bin, for people to read; None when empty.

    ``total`` is the histogram's sum, which its owner keeps anyway; ``at_least_us`` a guess below
    which the quantile will hardly lie: a good one saves most of the work.

    Examples
    --------
    >>> round(estimate_quantile_us({1000: 100}, 0.5, 100))
    1050
    """
    above = (1 - quantile) * total + _ROUNDING
    seen = 0
    bounds = [bound for bound in histogram if bound >= at_least_us]
    if sum(histogram[bound] for bound in bounds) <= above:
        bounds = list(histogram)
    bounds.sort(reverse=True)
    for bound in bounds:
        count = histogram[bound]
        seen += count
        if seen > above:
            return bound + (seen - above) / count * bin_width_us(bound)
    return None


def fix_thresholds(
    warm_up: Histogram, slowdown: float = DEFAULT_SLOWDOWN
) -> tuple[LatencyThreshold, ...]:
    """Thresholds of all `QUANTILES` from stable's latencies in the warm-up.

    Parameters
    ----------
    warm_up
        Stable's latencies.
    slowdown
        How much slower the candidate may be, as a share of stable's quantile, not negative; two
        milliseconds are always allowed.

    Examples
    --------
    >>> fix_thresholds({1000: 90, 40000: 10})[1]
    LatencyThreshold(quantile=0.95, stable_us=40000, candidate_us=48000)
    """
    return tuple(
        _threshold(quantile, quantile_bin_us(warm_up, quantile), slowdown) for quantile in QUANTILES
    )


def _threshold(quantile: float, stable_us: int, slowdown: float) -> LatencyThreshold:
    slower = max((1 + slowdown) * stable_us, stable_us + SLOWDOWN_FLOOR_US)
    # Six digits take the last bit of 1.2 * q away, which would push an exact edge up a bin.
    return LatencyThreshold(quantile, stable_us, round_up_to_bin_us(round(slower, 6)))


def exceedances(
    histograms: Sequence[Histogram], thresholds_us: Sequence[Sequence[float]]
) -> tuple[FloatArray, FloatArray]:
    """Requests in each histogram and how many were at or above each threshold.

    Parameters
    ----------
    histograms
        One for each row.
    thresholds_us
        The same number of thresholds for each row, in microseconds, at lower bounds of bins.

    Returns
    -------
    tuple of numpy.ndarray
        Requests, shape ``(rows,)``, and exceedances, shape ``(rows, thresholds)``.

    Examples
    --------
    >>> requests, above = exceedances([{10: 5, 20: 3}, {}], [[20, 30], [20, 30]])
    >>> requests.tolist(), above.tolist()
    ([8.0, 0.0], [[3.0, 0.0], [0.0, 0.0]])
    """
    rows = len(histograms)
    if rows == 0:
        return np.zeros(0), np.zeros((0, 0))
    sizes = [len(histogram) for histogram in histograms]
    row = np.repeat(np.arange(rows), sizes)
    bounds = np.fromiter(chain.from_iterable(histograms), dtype=np.float64, count=sum(sizes))
    counts = np.fromiter(
        chain.from_iterable(histogram.values() for histogram in histograms),
        dtype=np.float64,
        count=sum(sizes),
    )
    limits = np.asarray(thresholds_us, dtype=np.float64).reshape(rows, -1)
    requests = np.bincount(row, weights=counts, minlength=rows).astype(np.float64)
    above = np.empty(limits.shape)
    for column in range(limits.shape[1]):
        slow = np.where(bounds >= limits[row, column], counts, 0.0)
        above[:, column] = np.bincount(row, weights=slow, minlength=rows)
    return requests, above
