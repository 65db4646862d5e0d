"""Figures of a model's quality from counts and sums, each with an interval of 95 %.

Called by ``modelplane.decisions.quality``. Works on what merges by adding, never on rows. The
intervals are for one look; the judgement of rollouts has tests of its own that hold at every look
(:mod:`modelplane.stats.sequential`).

References
----------
Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the
American Statistical Association 22 (1927): proportions. DeLong, DeLong and Clarke-Pearson,
"Comparing the areas under two or more correlated receiver operating characteristic curves: a
nonparametric approach", Biometrics 44 (1988), equations 3 to 5: the variance of the area. Brier,
"Verification of forecasts expressed in terms of probability", Monthly Weather Review 78 (1950).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

Z = 1.959963984540054


class Estimate(NamedTuple):
    """A figure and the bounds of its 95 % interval; None where there is no interval."""

    value: float
    lower: float | None
    upper: float | None


def proportion(successes: float, trials: float) -> Estimate | None:
    """A share with Wilson's score interval; None without trials.

    Examples
    --------
    >>> [round(x, 4) for x in proportion(81, 263)]
    [0.308, 0.2553, 0.3662]
    """
    if trials <= 0:
        return None
    share = successes / trials
    spread = Z * math.sqrt(share * (1 - share) / trials + Z * Z / (4 * trials * trials))
    centre = share + Z * Z / (2 * trials)
    scale = 1 + Z * Z / trials
    lower, upper = (centre - spread) / scale, (centre + spread) / scale
    return Estimate(share, max(0.0, min(lower, share)), min(1.0, max(upper, share)))


def f1_score(true_positive: float, false_positive: float, false_negative: float) -> Estimate | None:
    """F1 with an interval.

    ``J = TP / (TP + FP + FN)`` is the share of true positives among all that was positive or
    called so, and ``F1 = 2 J / (1 + J)`` rises with it, so that J's interval maps onto F1's.

    Examples
    --------
    >>> round(f1_score(40, 10, 10).value, 3)
    0.8
    """
    jaccard = proportion(true_positive, true_positive + false_positive + false_negative)
    if jaccard is None:
        return None
    return Estimate(*(2 * x / (1 + x) if x is not None else None for x in jaccard))  # type: ignore[arg-type]


def area_under_curve(positives: ArrayLike, negatives: ArrayLike) -> Estimate | None:
    """Area under the ROC curve from score histograms; None while one class is missing.

    Parameters
    ----------
    positives, negatives
        Counts in the same rising bins of scores; scores in one bin count as tied.

    Examples
    --------
    >>> round(area_under_curve([1, 2, 7], [6, 3, 1]).value, 3)
    0.845
    """
    p, n = (np.asarray(counts, dtype=np.float64) for counts in (positives, negatives))
    total_p, total_n = p.sum(), n.sum()
    if total_p <= 0 or total_n <= 0:
        return None
    # What share of the other class lies below a score in each bin, ties counted as a half.
    below = (np.cumsum(n) - n / 2) / total_n
    above = 1 - (np.cumsum(p) - p / 2) / total_p
    area = float((p * below).sum() / total_p)
    variance = _placement_variance(p, below, area) / total_p
    variance += _placement_variance(n, above, area) / total_n
    if variance <= 0 or not 0 < area < 1:
        # All pairs are in order: as sure as if the smaller class were so many trials.
        few = float(min(total_p, total_n))
        return proportion(area * few, few)
    # On the scale of logits the interval stays within 0 and 1.
    logit = math.log(area / (1 - area))
    spread = Z * math.sqrt(variance) / (area * (1 - area))
    lower, upper = (1 / (1 + math.exp(-x)) for x in (logit - spread, logit + spread))
    return Estimate(area, lower, upper)


def _placement_variance(counts: ArrayLike, placements: ArrayLike, area: float) -> float:
    weights, values = np.asarray(counts), np.asarray(placements)
    total = float(weights.sum())
    if total < 2:
        return 0.0
    return float((weights * (values - area) ** 2).sum() / (total - 1))


def mean(count: float, total: float, squares: float) -> Estimate | None:
    """A mean with a normal interval, from the sums of values and of their squares.

    Examples
    --------
    >>> round(mean(4, 10, 30).value, 2)
    2.5
    """
    if count <= 0:
        return None
    value = total / count
    if count < 2:
        return Estimate(value, None, None)
    variance = max(0.0, (squares - count * value * value) / (count - 1))
    spread = Z * math.sqrt(variance / count)
    return Estimate(value, value - spread, value + spread)


def root_mean_square(count: float, squares: float, fourths: float) -> Estimate | None:
    """The root of the mean square, from the sums of second and fourth powers.

    Examples
    --------
    >>> round(root_mean_square(2, 8, 32).value, 2)
    2.0
    """
    of_squares = mean(count, squares, fourths)
    if of_squares is None:
        return None
    return Estimate(
        *(math.sqrt(max(0.0, x)) if x is not None else None for x in of_squares)  # type: ignore[arg-type]
    )


def calibration_error(
    counts: ArrayLike, score_sums: ArrayLike, positives: ArrayLike
) -> Estimate | None:
    """Expected calibration error over bins of scores: how far scores are from what happened.

    The mean over predictions of ``|mean score - share of positives|`` of their bin. It is biased
    upwards while bins hold few, and has no interval.

    Examples
    --------
    >>> round(calibration_error([10, 10], [1.0, 9.0], [1, 7]).value, 3)
    0.1
    """
    n, sums, hits = (np.asarray(x, dtype=np.float64) for x in (counts, score_sums, positives))
    total = float(n.sum())
    if total <= 0:
        return None
    return Estimate(float(np.abs(sums - hits).sum() / total), None, None)
