"""Bets against "the candidate is at most this much worse": one block of counts, one log factor.

Called by :mod:`modelplane.stats.sequential`, which keeps the wealth. This module holds no state
and decides nothing; it only computes what one bet earns on one block.

Notation: ``c`` is the candidate, ``b`` the stable version (the baseline); ``n`` trials and ``k``
failures; ``shift`` the boundary of the null, ``p_c = p_b + shift``.

Why a bet cannot win on average under the null. With ``lambda_b = -(n_c/n_b) lambda_c`` the
expectation of a block's factor is ``(1 + lambda_c (p_c - q_c))**n_c * (1 + lambda_b (p_b -
q_b))**n_b``. Taking logarithms and ``ln(1 + x) <= x`` gives at most ``n_c lambda_c (p_c - p_b -
shift)``, since ``q_c = q_b + shift``: at most zero on the whole null whenever the sign of
``lambda_c`` agrees with the direction of the test. So any ``q_b`` gives a valid e-variable; the
projection below only chooses one that grows fast.

References
----------
Turner, Ly and Grünwald, "Generic E-variables for exact sequential k-sample tests that allow for
optional stopping", Journal of Statistical Planning and Inference 230 (2024): two Bernoulli
streams in blocks. Turner and Grünwald, "Exact anytime-valid confidence intervals for contingency
tables and beyond", Statistics & Probability Letters 198 (2023): nulls with an effect size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

_RATE_FLOOR = 1e-12
_STAKE = 0.999
"""Share of the wealth that a block may lose at most on one trial of the stable version."""


def null_projection(
    theta: ArrayLike, stable_rate: ArrayLike, shift: ArrayLike, candidate_share: ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """Rates on the null's boundary close to the alternative ``(theta, stable_rate)``.

    Minimises the Poisson approximation of the block's Kullback-Leibler divergence, which has a
    closed form. With ``shift == 0`` that is the weighted mean of the two rates.

    Parameters
    ----------
    theta, stable_rate
        The alternative's failure rates of candidate and stable, in (0, 1).
    shift
        Boundary of the null, ``p_c - p_b``, in (-1, 1).
    candidate_share
        ``n_c / (n_c + n_b)`` of the block, in (0, 1).

    Returns
    -------
    tuple of numpy.ndarray
        ``(q_c, q_b)`` with ``q_c == q_b + shift``, both inside (0, 1).

    Examples
    --------
    >>> q_c, q_b = null_projection(0.05, 0.01, 0.0, 0.25)
    >>> round(float(q_c), 6), round(float(q_b), 6)
    (0.02, 0.02)
    """
    theta, stable_rate, shift, share = (
        np.asarray(value, dtype=np.float64)
        for value in (theta, stable_rate, shift, candidate_share)
    )
    linear = shift - share * theta - (1 - share) * stable_rate
    product = (1 - share) * stable_rate * shift
    root = np.sqrt(np.maximum(linear * linear + 4 * product, 0.0))
    # The second form avoids the cancellation of root - linear when linear > 0.
    steep = linear > 0
    q_b = np.where(steep, 2 * product / np.where(steep, linear + root, 1.0), 0.5 * (root - linear))
    low = np.maximum(0.0, -shift) + _RATE_FLOOR
    high = np.minimum(1.0, 1.0 - shift) - _RATE_FLOOR
    q_b = np.clip(q_b, low, high)
    return q_b + shift, q_b


def block_log_factor(
    counts: ArrayLike,
    theta: ArrayLike,
    stable_rate: ArrayLike,
    shift: ArrayLike,
    direction: ArrayLike,
) -> FloatArray:
    """Logarithm of what each bet earns on one block.

    Parameters
    ----------
    counts
        ``(n_c, k_c, n_b, k_b)`` along the last axis, shape ``(*rows, 4)``; a row with ``n_c`` or
        ``n_b`` zero is no block and gives 0.
    theta
        Candidate rate of each alternative, shape ``(*rows, bets)``.
    stable_rate
        Stable's rate from data before this block, shape ``(*rows,)``.
    shift
        Boundary of each null, broadcast against ``theta``.
    direction
        +1 bets against ``p_c <= p_b + shift``, -1 against ``p_c >= p_b + shift``.

    Returns
    -------
    numpy.ndarray
        Shape ``(*rows, bets)``. Zero where the alternative lies inside the null.

    Examples
    --------
    One failed candidate request beside one good stable request multiplies the wealth; the same
    failure on both sides loses.

    >>> import numpy as np
    >>> factor = block_log_factor([1, 1, 1, 0], [0.5], 0.01, 0.0, 1)
    >>> float(np.exp(factor[0]).round(3))
    2.606
    >>> bool(block_log_factor([1, 1, 1, 1], [0.5], 0.01, 0.0, 1)[0] < 0)
    True
    """
    block = np.asarray(counts, dtype=np.float64)[..., None, :]
    n_c, k_c, n_b, k_b = (block[..., index] for index in range(4))
    closed = (n_c > 0) & (n_b > 0)
    n_c = np.where(closed, n_c, 1.0)
    n_b = np.where(closed, n_b, 1.0)
    rate = np.asarray(stable_rate, dtype=np.float64)[..., None]
    sign = np.asarray(direction, dtype=np.float64)

    q_c, q_b = null_projection(theta, rate, shift, n_c / (n_c + n_b))
    lambda_c = (np.asarray(theta) - q_c) / (q_c * (1 - q_c))
    # A bet of the wrong sign would win under the null: such an alternative is skipped.
    upper = np.where(sign > 0, _STAKE * n_b / (n_c * (1 - q_b)), 0.0)
    lower = np.where(sign < 0, -_STAKE * n_b / (n_c * q_b), 0.0)
    lambda_c = np.clip(lambda_c, lower, upper)
    lambda_b = -(n_c / n_b) * lambda_c
    log_factor: FloatArray = (
        k_c * np.log1p(lambda_c * (1 - q_c))
        + (n_c - k_c) * np.log1p(-lambda_c * q_c)
        + k_b * np.log1p(lambda_b * (1 - q_b))
        + (n_b - k_b) * np.log1p(-lambda_b * q_b)
    )
    return np.where(closed, log_factor, 0.0)


def rate_with_odds_times(rate: ArrayLike, factor: ArrayLike) -> FloatArray:
    """The rate whose odds are ``factor`` times the odds of ``rate``.

    Examples
    --------
    >>> float(rate_with_odds_times(0.2, 4.0))
    0.5
    """
    rate = np.asarray(rate, dtype=np.float64)
    odds_times = np.asarray(factor, dtype=np.float64) * rate
    result: FloatArray = odds_times / (1 - rate + odds_times)
    return result


def log_mean_exp(log_values: ArrayLike) -> Any:
    """Logarithm of the mean of ``exp(log_values)`` along the last axis, without overflow.

    Examples
    --------
    >>> import math
    >>> round(math.exp(float(log_mean_exp([0.0, math.log(3.0)]))), 12)
    2.0
    """
    values = np.asarray(log_values, dtype=np.float64)
    top = values.max(axis=-1, keepdims=True)
    mean = np.exp(values - top).mean(axis=-1)
    return top[..., 0] + np.log(mean)
