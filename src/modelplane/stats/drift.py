"""Distances between two samples that were counted into the same bins, and a test of sameness.

Called by `modelplane.decisions.drift` and the validation stage `data`, for all features at once:
counts are arrays of shape (features, bins), padded with bins that are 0 in both samples, which
count for nothing. Counts in, numbers out.

PSI is computed on shares ``(count + 1/2) / (rows + bins/2)``: a bin that is empty in one sample
makes it large, never infinite. Where nothing changed its mean is ``(bins - 1)(1/n + 1/m)``, to
first order; `stability_index` takes that off.

References
----------
Yurdakul and Naranjo, "Statistical properties of the population stability index", Journal of Risk
Model Validation 14 (2020): the mean and the chi-square law of PSI. Lin, "Divergence measures based
on the Shannon entropy", IEEE Transactions on Information Theory 37 (1991). Rao and Scott, "On
chi-squared tests for multiway contingency tables with cell proportions estimated from survey
data", Annals of Statistics 12 (1984): division by the dispersion where rows are correlated. Holm,
"A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6
(1979). Chernoff, Annals of Mathematical Statistics 23 (1952): the bound for rare bins.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

LEAST_EXPECTED = 5.0
"""Bins in which fewer rows are expected are put together for the chi-square test (Cochran)."""

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def quantile_edges(values: ArrayLike, bins: int) -> FloatArray:
    """Return the inner edges of at most `bins` bins of about equal shares; rising, no edge twice.

    Bin i holds what is at least edge i-1 and below edge i. A column of no more than `bins`
    different values has a bin for each.

    Parameters
    ----------
    values
        Finite numbers, shape (n,), n >= 1.
    bins
        At least 1.

    Examples
    --------
    >>> quantile_edges([0, 0, 0, 1, 2], 20).tolist()
    [1.0, 2.0]
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    distinct = np.unique(ordered)
    if len(distinct) <= bins:
        return np.asarray(distinct[1:])
    at = np.linspace(0, len(ordered), bins + 1)[1:-1].astype(np.int64)
    edges = np.unique(ordered[at])
    return np.asarray(edges[edges > ordered[0]])


def bin_counts(values: ArrayLike, edges: ArrayLike) -> NDArray[np.int64]:
    """Count finite numbers into the bins between `edges`; shape (edges + 1,)."""
    inner = np.asarray(edges, dtype=np.float64)
    place = np.searchsorted(inner, np.asarray(values, dtype=np.float64), side="right")
    return np.bincount(place, minlength=len(inner) + 1).astype(np.int64)


def dispersion(slots: ArrayLike) -> FloatArray:
    """How much more counts scatter between slots of time than rows drawn one by one would.

    Rows of one user come in bursts and are alike. What is tested is divided by this.

    Parameters
    ----------
    slots
        Counts, shape (features, slots, bins).

    Returns
    -------
    ndarray
        Shape (features,): mean over the degrees of freedom of Pearson's statistic of the slots
        against their sum, at least 1.
    """
    counts = np.asarray(slots, dtype=np.float64)
    rows = counts.sum(axis=2, keepdims=True)
    total = counts.sum(axis=1, keepdims=True)
    all_rows = total.sum(axis=2, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = rows * total / all_rows
        terms = np.where(expected > 0, (counts - expected) ** 2 / expected, 0.0)
    free = ((rows[..., 0] > 0).sum(axis=1) - 1) * ((total[:, 0] > 0).sum(axis=1) - 1)
    found = terms.sum(axis=(1, 2)) / np.maximum(free, 1)
    return np.maximum(1.0, np.where(free > 0, found, 1.0))


def stability_index(
    reference: ArrayLike, recent: ArrayLike, scatter: ArrayLike = 1.0, *, biased: bool = False
) -> FloatArray:
    """Population stability index of each feature, without what chance alone makes of it.

    Parameters
    ----------
    reference, recent
        Counts, shape (features, bins).
    scatter
        Dispersion of `recent`, shape (features,) or a number, at least 1.
    biased
        Whether the plain index is returned.

    Returns
    -------
    ndarray
        Shape (features,), at least 0.

    Examples
    --------
    >>> round(float(stability_index([[500, 500]], [[800, 200]])[0]), 3)
    0.413
    """
    p, q, bins, n, m = _shares(reference, recent)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, (q - p) * np.log(q / p), 0.0)
    found = terms.sum(axis=1)
    if biased:
        return np.asarray(found)
    chance = (bins - 1) * (1 / np.maximum(n, 1) + np.asarray(scatter) / np.maximum(m, 1))
    return np.asarray(np.maximum(found - chance, 0.0))


def _shares(
    reference: ArrayLike, recent: ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    a, b = np.asarray(reference, dtype=np.float64), np.asarray(recent, dtype=np.float64)
    used = (a + b) > 0
    bins = used.sum(axis=1).astype(np.float64)
    n, m = a.sum(axis=1), b.sum(axis=1)
    p = np.where(used, a + 0.5, 0.0) / np.maximum(n + bins / 2, 1)[:, None]
    q = np.where(used, b + 0.5, 0.0) / np.maximum(m + bins / 2, 1)[:, None]
    return p, q, bins, n, m


def _plain_shares(counts: ArrayLike) -> FloatArray:
    found = np.asarray(counts, dtype=np.float64)
    return np.asarray(found / np.maximum(found.sum(axis=1, keepdims=True), 1))


def jensen_shannon(reference: ArrayLike, recent: ArrayLike) -> FloatArray:
    """Jensen-Shannon distance (root of the divergence to base 2) of each feature, 0 to 1."""
    p, q = _plain_shares(reference), _plain_shares(recent)
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log2(p / middle), 0) + np.where(
            q > 0, q * np.log2(q / middle), 0
        )
    return np.asarray(np.sqrt(np.clip(terms.sum(axis=1) / 2, 0.0, 1.0)))


def total_variation(reference: ArrayLike, recent: ArrayLike) -> FloatArray:
    """Return the share of the rows that would have to change their bin, 0 to 1."""
    gaps = np.abs(_plain_shares(reference) - _plain_shares(recent))
    return np.asarray(gaps.sum(axis=1) / 2)


def wasserstein(reference: ArrayLike, recent: ArrayLike, positions: ArrayLike) -> FloatArray:
    """Wasserstein-1 distance of each feature: how far its rows moved on average.

    Parameters
    ----------
    reference, recent
        Counts, shape (features, bins).
    positions
        Where each bin lies (the mean of the reference in it), shape (features, bins), rising over
        the bins that are used.

    Returns
    -------
    ndarray
        Shape (features,), in the unit of the positions.
    """
    places = np.asarray(positions, dtype=np.float64)
    gaps = np.cumsum(_plain_shares(reference) - _plain_shares(recent), axis=1)[:, :-1]
    return np.asarray((np.abs(gaps) * np.maximum(np.diff(places, axis=1), 0)).sum(axis=1))


def same_p(reference: ArrayLike, recent: ArrayLike, scatter: ArrayLike = 1.0) -> FloatArray:
    """Chance of such a difference, or a greater one, if both samples were of one distribution.

    The smaller of two, doubled: Pearson's chi-square over the bins with enough rows, and for the
    rare bins together the Chernoff bound on how many of their rows are recent.

    Parameters
    ----------
    reference, recent, scatter
        As for `stability_index`.

    Returns
    -------
    ndarray
        Shape (features,), 0 to 1.
    """
    a, b = np.asarray(reference, dtype=np.float64), np.asarray(recent, dtype=np.float64)
    phi = np.broadcast_to(np.asarray(scatter, dtype=np.float64), a.shape[:1])
    n, m = a.sum(axis=1), b.sum(axis=1)
    share = m / np.maximum(n + m, 1)
    both = a + b
    is_rare = both * np.minimum(share, 1 - share)[:, None] < LEAST_EXPECTED
    rare, rare_recent = (both * is_rare).sum(axis=1), (b * is_rare).sum(axis=1)
    kept_a = np.concatenate([np.where(is_rare, 0, a), (rare - rare_recent)[:, None]], axis=1)
    kept_b = np.concatenate([np.where(is_rare, 0, b), rare_recent[:, None]], axis=1)
    too_few = rare * np.minimum(share, 1 - share) < LEAST_EXPECTED
    kept_a[:, -1][too_few] = kept_b[:, -1][too_few] = 0
    statistic, free = pearson(kept_a, kept_b)
    common = chi_square_tail(statistic / phi, free)
    return np.asarray(
        np.minimum(1.0, 2 * np.minimum(common, _rare_p(rare_recent, rare, share, phi)))
    )


def pearson(reference: ArrayLike, recent: ArrayLike) -> tuple[FloatArray, NDArray[np.int64]]:
    """Return Pearson's statistic of homogeneity and its degrees of freedom, by feature."""
    a, b = np.asarray(reference, dtype=np.float64), np.asarray(recent, dtype=np.float64)
    both = a + b
    n, m = a.sum(axis=1, keepdims=True), b.sum(axis=1, keepdims=True)
    total = np.maximum(n + m, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Both rows of the table together: (a - e)^2/e is the same but for the share.
        terms = np.where(
            (both > 0) & (n > 0) & (m > 0),
            (b - both * m / total) ** 2 / (both * (m / total) * (n / total)),
            0.0,
        )
    return terms.sum(axis=1), np.maximum((both > 0).sum(axis=1) - 1, 0).astype(np.int64)


def _rare_p(
    successes: FloatArray, trials: FloatArray, share: FloatArray, phi: FloatArray
) -> FloatArray:
    """Bound of the chance that so many of the rows in rare bins are recent, or more."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = successes / trials
        gain = np.where(successes > 0, successes * np.log(found / share), 0.0) + np.where(
            successes < trials, (trials - successes) * np.log((1 - found) / (1 - share)), 0.0
        )
    is_more = (trials > 0) & (share > 0) & (share < 1) & (found > share)
    return np.where(is_more, np.exp(-np.where(is_more, gain, 0.0) / phi), 1.0)


def chi_square_tail(statistic: ArrayLike, free: ArrayLike) -> FloatArray:
    """Chance that a chi-square variable is at least `statistic`; 1 with no degrees of freedom.

    The finite sums for whole degrees of freedom (Abramowitz and Stegun 26.4.4 and 26.4.5).

    Examples
    --------
    >>> round(float(chi_square_tail(3.841, 1)), 3), round(float(chi_square_tail(5.991, 2)), 3)
    (0.05, 0.05)
    """
    half, df = np.broadcast_arrays(
        np.asarray(statistic, dtype=np.float64) / 2, np.asarray(free, dtype=np.int64)
    )
    is_odd = df % 2 == 1
    start = np.where(is_odd, 0.5, 0.0)
    # The terms are half^k e^-half / Gamma(k + 1) for k = start, start + 1, ... below df/2.
    safe = np.maximum(half, 1e-300)
    found = np.where(is_odd, _erfc(np.sqrt(half)), 0.0)
    for index in range(int(df.max(initial=0) + 1) // 2):
        k = np.where(is_odd, start + index, float(index))
        log_gamma = np.where(is_odd, math.lgamma(index + 1.5), math.lgamma(index + 1.0))
        term = np.exp(k * np.log(safe) - half - log_gamma)
        found = found + np.where(k < df / 2 - 0.25, term, 0.0)
    return np.where(df > 0, np.minimum(found, 1.0), 1.0)


def holm(p_values: ArrayLike, alpha: float) -> BoolArray:
    """Which hypotheses fall, so that none of the true ones does but with chance `alpha`.

    Examples
    --------
    >>> holm([0.001, 0.04, 0.02], 0.05).tolist()
    [True, True, True]
    >>> holm([0.001, 0.04, 0.03], 0.05).tolist()
    [True, False, False]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    holds = p[order] <= alpha / np.arange(len(p), 0, -1)
    falls = np.zeros(len(p), dtype=bool)
    falls[order] = np.logical_and.accumulate(holds) if len(p) else holds
    return falls
