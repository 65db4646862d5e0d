"""phi: how much more stable's failures scatter than independent requests would.

Called by ``modelplane.decisions.analysis``, which divides log-wealth by phi when it reads it.
Retries, sessions and bursts make failures come together; a test that takes each for independent
evidence rolls healthy candidates back. This module measures the scatter of the stable version
alone and knows nothing of candidates. Phi is an estimate, not a guarantee.

Counts are binned at 1, 10 and 30 seconds. At each scale the squared differences of successive
failure rates are compared with what independent requests give; successive differences do not
see a slow drift. Never split stable's requests in halves by request instead: that divides each
burst evenly and sees nothing.

References
----------
von Neumann, "Distribution of the ratio of the mean square successive difference to the
variance", Annals of Mathematical Statistics 12 (1941). Dividing a log-likelihood by an
estimated dispersion: Wedderburn, "Quasi-likelihood functions, generalized linear models, and
the Gauss-Newton method", Biometrika 61 (1974).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modelplane.stats.betting import FloatArray

SCALES_S = np.array([1, 10, 30])
LATE_S = 5.0
SHORT_HISTORY_S = 60.0
SHORT_HISTORY_FACTOR = 1.5
LONG_HISTORY_S = 1800.0
LONG_HISTORY_FACTOR = 1.15

# Columns of `DispersionState.scales`.
_BIN, _OPEN_N, _OPEN_K, _LAST_N, _LAST_K, _SQUARES, _EXPECTED, _PAIRS = range(8)


@dataclass(frozen=True, slots=True, eq=False)
class DispersionState:
    """Running sums for some rows; ``rows`` is any leading shape.

    Attributes
    ----------
    scales
        Shape ``(*rows, 3, 8)``, one line for each of `SCALES_S`: number of the open bin (-1
        before the first), trials and failures in it, trials and failures of the bin before it,
        sum of scaled squared differences, sum of their expectations under independence, pairs.
    totals
        All failures seen and the seconds that had trials, shape ``(*rows, 2)``.
    """

    scales: FloatArray
    totals: FloatArray


def new_dispersion(rows: int | tuple[int, ...] = 1) -> DispersionState:
    """Rows that have seen nothing.

    Examples
    --------
    Without any history phi is cautious: 2 by shrinkage, times 1.5.

    >>> float(phi(new_dispersion())[0])
    3.0
    """
    shape = (rows,) if isinstance(rows, int) else rows
    scales = np.zeros((*shape, len(SCALES_S), 8))
    scales[..., _BIN] = -1.0
    return DispersionState(scales, np.zeros((*shape, 2)))


def update_dispersion(
    state: DispersionState, second: ArrayLike, trials: ArrayLike, failures: ArrayLike
) -> DispersionState:
    """Add stable's counts of one tick.

    Parameters
    ----------
    second
        Number of the second that the tick belongs to, from any origin, shape ``(*rows,)``.
        Several ticks may fall into one second (several proxies). One that is a little late is
        added to the bin that is open; one that is more than `LATE_S` late does not count.
    trials, failures
        Whole numbers, ``failures <= trials``, shape ``(*rows,)``. Rows without trials do not
        change.

    Returns
    -------
    DispersionState
        A new state.
    """
    n = np.asarray(trials, dtype=np.float64)
    k = np.asarray(failures, dtype=np.float64)
    second = np.asarray(second, dtype=np.float64)
    seen = (n > 0) & (second >= state.scales[..., 0, _BIN] - LATE_S)
    number = np.floor(second[..., None] / SCALES_S)
    scales = state.scales.copy()
    opens = seen[..., None] & (number > scales[..., _BIN])
    pair = opens & (scales[..., _LAST_N] > 0) & (scales[..., _OPEN_N] > 0)
    squares, expected = _pair_sums(scales, pair)
    scales[..., _SQUARES] += squares
    scales[..., _EXPECTED] += expected
    scales[..., _PAIRS] += pair
    moves = opens & (scales[..., _OPEN_N] > 0)
    for last, now in ((_LAST_N, _OPEN_N), (_LAST_K, _OPEN_K)):
        scales[..., last] = np.where(moves, scales[..., now], scales[..., last])
        scales[..., now] = np.where(opens, 0.0, scales[..., now])
    scales[..., _BIN] = np.where(opens, number, scales[..., _BIN])
    scales[..., _OPEN_N] += np.where(seen, n, 0.0)[..., None]
    scales[..., _OPEN_K] += np.where(seen, k, 0.0)[..., None]
    added = np.stack([np.where(seen, k, 0.0), opens[..., 0]], axis=-1)
    return DispersionState(scales, state.totals + added)


def update_with_series(
    state: DispersionState, seconds: ArrayLike, trials: ArrayLike, failures: ArrayLike
) -> DispersionState:
    """Add many ticks to a state of one row at once.

    The same as :func:`update_dispersion` tick by tick, in a few array operations.

    Parameters
    ----------
    seconds, trials, failures
        Shape ``(ticks,)``; the seconds must not fall.
    """
    second, n, k = (np.asarray(values, dtype=np.float64) for values in (seconds, trials, failures))
    now = state.scales[0, 0, _BIN]
    seen = (n > 0) & (second >= now - LATE_S)
    second, n, k = np.maximum(second[seen], now), n[seen], k[seen]
    if not len(second):
        return state
    scales = state.scales.copy()
    for line, scale in zip(scales[0], SCALES_S, strict=True):
        opened, first = np.unique(np.floor(second / scale), return_index=True)
        bins = np.column_stack([opened, np.add.reduceat(n, first), np.add.reduceat(k, first)])
        if line[_BIN] == opened[0]:
            bins[0, 1:] += line[[_OPEN_N, _OPEN_K]]
        elif line[_OPEN_N] > 0:
            bins = np.vstack([line[[_BIN, _OPEN_N, _OPEN_K]], bins])
        if line[_LAST_N] > 0:
            bins = np.vstack([[0.0, line[_LAST_N], line[_LAST_K]], bins])
        closed = bins[:-1]
        squares, expected = _pair_terms(closed[:-1, 1:].T, closed[1:, 1:].T)
        line[_SQUARES] += squares.sum()
        line[_EXPECTED] += expected.sum()
        line[_PAIRS] += max(0, len(closed) - 1)
        line[[_BIN, _OPEN_N, _OPEN_K]] = bins[-1]
        if len(bins) > 1:
            line[[_LAST_N, _LAST_K]] = bins[-2, 1:]
    new_seconds = np.unique(second[second > now]).size
    return DispersionState(scales, state.totals + np.array([k.sum(), new_seconds]))


def _pair_sums(scales: FloatArray, pair: NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """Terms of the last two bins where they are a pair, 0 elsewhere."""
    before = np.where(pair, np.moveaxis(scales[..., [_LAST_N, _LAST_K]], -1, 0), 1.0)
    after = np.where(pair, np.moveaxis(scales[..., [_OPEN_N, _OPEN_K]], -1, 0), 1.0)
    squares, expected = _pair_terms(before, after)
    return np.where(pair, squares, 0.0), np.where(pair, expected, 0.0)


def _pair_terms(before: FloatArray, after: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Scaled squared difference of two bins' rates and its expectation; bins are ``(n, k)``."""
    (n0, k0), (n1, k1) = before, after
    squares = (k1 / n1 - k0 / n0) ** 2 / (1 / n1 + 1 / n0)
    pooled = (k0 + k1) / (n0 + n1)
    # The pooled rate is estimated from the pair itself; N/(N-1) makes the expectation exact.
    expected = pooled * (1 - pooled) * (n0 + n1) / (n0 + n1 - 1)
    return squares, expected


def raw_ratios(state: DispersionState) -> FloatArray:
    """Observed over expected scatter at each scale, shape ``(*rows, 3)``; 1 where unknown."""
    expected = state.scales[..., _EXPECTED]
    known = expected > 0
    ratio: FloatArray = np.where(
        known, state.scales[..., _SQUARES] / np.where(known, expected, 1.0), 1.0
    )
    return ratio


def phi(state: DispersionState) -> FloatArray:
    """The divisor of log-wealth, at least 1, shape ``(*rows,)``.

    Each raw ratio is shrunk: the one at 1 s towards 2 by 20 failures' worth, those at 10 s and
    30 s towards the scale below by 10 pairs' worth. The greatest is then raised by a factor for
    what a short history may have missed: 1.5 up to a minute, 1.15 from 30 minutes on.

    Examples
    --------
    A hundred seconds in which every tenth second holds a burst of five failures:

    >>> state = new_dispersion()
    >>> for second in range(100):
    ...     state = update_dispersion(state, [second], [100], [5 * (second % 10 == 0)])
    >>> bool(phi(state)[0] > 4)
    True
    """
    raw = raw_ratios(state)
    failures = state.totals[..., 0]
    pairs = np.minimum(state.scales[..., _PAIRS], failures[..., None] / 3)
    f1 = (40 + failures * raw[..., 0]) / (20 + failures)
    f10 = (10 * np.maximum(f1, 1) + pairs[..., 1] * raw[..., 1]) / (10 + pairs[..., 1])
    f30 = (10 * np.maximum(f10, 1) + pairs[..., 2] * raw[..., 2]) / (10 + pairs[..., 2])
    scatter = np.maximum.reduce([np.ones_like(f1), f1, f10, f30])
    result: FloatArray = scatter * _history_factor(state.totals[..., 1])
    return result


def _history_factor(history_s: FloatArray) -> FloatArray:
    """Between a short and a long history linear in the logarithm of its length."""
    factor: FloatArray = np.interp(
        np.log(np.maximum(history_s, 1.0)),
        np.log([SHORT_HISTORY_S, LONG_HISTORY_S]),
        [SHORT_HISTORY_FACTOR, LONG_HISTORY_FACTOR],
    )
    return factor


def stack_dispersion(states: Sequence[DispersionState]) -> DispersionState:
    """Rows of several states, one after another along the first axis."""
    return DispersionState(
        np.concatenate([state.scales for state in states]),
        np.concatenate([state.totals for state in states]),
    )


def split_dispersion(state: DispersionState, sizes: Sequence[int]) -> list[DispersionState]:
    """Undo :func:`stack_dispersion`."""
    edges = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    return [
        DispersionState(state.scales[start:stop], state.totals[start:stop])
        for start, stop in pairwise(edges)
    ]


def dispersion_row_to_dict(state: DispersionState, row: int) -> dict[str, Any]:
    """One row as plain lists; :func:`dispersion_row_from_dict` reads it exactly."""
    return {"scales": state.scales[row].tolist(), "totals": state.totals[row].tolist()}


def dispersion_row_from_dict(record: Mapping[str, Any]) -> DispersionState:
    """State of one row from :func:`dispersion_row_to_dict`'s record."""
    return DispersionState(
        np.array([record["scales"]], dtype=np.float64).reshape(1, len(SCALES_S), 8),
        np.array([record["totals"]], dtype=np.float64).reshape(1, 2),
    )
