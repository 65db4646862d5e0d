"""Sequential tests of a candidate against the stable version: the state and what it says.

Called by ``modelplane.decisions.analysis``. All rows (rollouts x metrics) are updated in one
call; a state is never changed in place. This module does not decide anything: it gives e-values
and bounds, and the caller compares them with its thresholds.

A row is one yes/no outcome per request, compared between the two versions. Its wealth is spread
over bets, along the last axis:

- *harm*: against ``p_c <= p_b + null_shift``. The e-value is the mean wealth; it stays below
  ``1/alpha`` for ever with probability at least ``1 - alpha`` if the candidate is not worse,
  however often one looks, whatever the weights, under drift that both versions share.
- *upper*: against ``p_c >= p_b + margin`` for falling margins; read as an upper bound.
- *lower*: against ``p_c <= p_b + margin`` for rising margins; read as a lower bound.
- *faster*: against ``p_c >= p_b`` with alternatives of smaller odds; for latency exceedances.

Counts wait in ``pending`` until a block holds a trial of each version. Stable trials that have
no candidate trial beside them go into the history, from which the next block's rates are taken;
about as many are kept waiting as a weight of 1 % puts beside one candidate request. Which trials
are used depends on how many there were, never on how they ended, so the bets stay fair.

Among the harm bets a small share of the wealth is spread anew over all of them after each block
(fixed share, with one bet that only holds cash). Without it a long healthy time ruins the bets,
and a version that turns bad late is found late: going from 1 % to 5 % after ten good minutes at
50/s cost 138 failures in 53 s, with it 49 in 18 s. The total wealth is unchanged by sharing, so
the test stays valid.

References
----------
Turner, Ly and Grünwald, and Turner and Grünwald (see :mod:`modelplane.stats.betting`).
Herbster and Warmuth, "Tracking the best expert", Machine Learning 32 (1998): fixed share.
Howard, Ramdas, McAuliffe and Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence
sequences", Annals of Statistics 49 (2021): bounds valid at every look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modelplane.stats.betting import (
    FloatArray,
    block_log_factor,
    log_mean_exp,
    rate_with_odds_times,
)

HARM_ODDS_FACTORS = np.array([1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0])
HARM_RATES = np.array([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.98])
FASTER_ODDS_FACTORS = np.array([0.8, 0.6, 0.4, 0.2, 0.1, 0.03])
UPPER_MARGINS = np.geomspace(0.5, 0.0005, 19)
"""Margins of the upper bound, falling; the row's own margin takes the place of the nearest."""
_LOWER_SIZES = np.array([0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005])
LOWER_MARGINS = np.concatenate([-_LOWER_SIZES, [0.0], _LOWER_SIZES[::-1]])
"""Margins of the lower bound, rising from -0.5 to 0.5."""

HARM_BETS = 1 + len(HARM_ODDS_FACTORS) + len(HARM_RATES)  # the first one holds cash
SHARE_PER_BLOCK = 3e-4
PENDING_STABLE_TRIALS = 100
_LOG_LIMIT = 690.0  # exp() of it is a float and its square root still prints sensibly
_RATE_LIMIT = 1e-9


@dataclass(frozen=True, slots=True)
class TestPlan:
    """Which families of bets a row holds, in the order harm, upper, lower, faster."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    name: str
    margins: bool
    faster: bool

    @property
    def bets(self) -> int:
        """Bets in one row, the cash bet included."""
        return (
            HARM_BETS
            + self.margins * (len(UPPER_MARGINS) + len(LOWER_MARGINS))
            + self.faster * len(FASTER_ODDS_FACTORS)
        )


COMPARISON = TestPlan("comparison", margins=True, faster=False)
HARM_ONLY = TestPlan("harm_only", margins=False, faster=False)
EXCEEDANCE = TestPlan("exceedance", margins=False, faster=True)
PLANS: Mapping[str, TestPlan] = {plan.name: plan for plan in (COMPARISON, HARM_ONLY, EXCEEDANCE)}

_HARM = slice(0, HARM_BETS)
_UPPER = slice(HARM_BETS, HARM_BETS + len(UPPER_MARGINS))
_LOWER = slice(_UPPER.stop, _UPPER.stop + len(LOWER_MARGINS))
_FASTER = slice(HARM_BETS, HARM_BETS + len(FASTER_ODDS_FACTORS))


@dataclass(frozen=True, slots=True, eq=False)
class SequentialState:
    """Wealth and counts of some rows of one plan; ``rows`` is any leading shape.

    Attributes
    ----------
    plan
        The families of bets.
    log_wealth
        Natural logarithm of each bet's wealth, shape ``(*rows, plan.bets)``; 0 at the start.
    pending
        ``(n_c, k_c, n_b, k_b)`` of the block that is not closed yet, shape ``(*rows, 4)``.
    history
        The same sums before the pending block, shape ``(*rows, 4)``.
    fixed
        What the end of the warm-up fixes, shape ``(*rows, 2)``, NaN before: the boundary of the
        harm test, and the row's margin (without meaning in a plan without margins).
    """

    plan: TestPlan
    log_wealth: FloatArray
    pending: FloatArray
    history: FloatArray
    fixed: FloatArray

    @property
    def null_shift(self) -> FloatArray:
        """Boundary of the harm test, shape ``(*rows,)``."""
        return self.fixed[..., 0]

    @property
    def margin(self) -> FloatArray:
        """Margin of the row, one of its upper margins, shape ``(*rows,)``."""
        return self.fixed[..., 1]

    @property
    def armed(self) -> NDArray[np.bool_]:
        """Rows whose warm-up is over, shape ``(*rows,)``."""
        return ~np.isnan(self.null_shift)

    @property
    def stable_rate(self) -> FloatArray:
        """Stable's failure rate by its history, ``(failures + 1/2) / (trials + 1)``."""
        return (self.history[..., 3] + 0.5) / (self.history[..., 2] + 1.0)


def new_state(plan: TestPlan, rows: int | tuple[int, ...] = 1) -> SequentialState:
    """Rows that have seen nothing and warm up on stable alone until :func:`arm`.

    Examples
    --------
    >>> float(e_value(new_state(HARM_ONLY), phi=1.0)[0])
    1.0
    """
    shape = (rows,) if isinstance(rows, int) else rows
    return SequentialState(
        plan=plan,
        log_wealth=np.zeros((*shape, plan.bets)),
        pending=np.zeros((*shape, 4)),
        history=np.zeros((*shape, 4)),
        fixed=np.full((*shape, 2), np.nan),
    )


def arm(
    state: SequentialState, null_shift: ArrayLike, margin: ArrayLike = np.nan
) -> SequentialState:
    """End the warm-up: freeze the harm test's boundary and the margin of every row.

    Parameters
    ----------
    null_shift
        How much worse the candidate may be before the harm test looks at it, in [0, 1).
    margin
        Margin that promotion asks for, in (0, 1); NaN for a plan without margins.
    """
    fixed = np.empty_like(state.fixed)
    fixed[..., 0] = null_shift
    fixed[..., 1] = margin
    return replace(state, fixed=fixed)


def upper_margins(margin: ArrayLike) -> FloatArray:
    """Falling margins of each row, with the row's own in the place of the nearest.

    Examples
    --------
    >>> upper_margins([0.0025])[0, 13:16].round(4).tolist()
    [0.0034, 0.0025, 0.0016]
    """
    own = np.asarray(margin, dtype=np.float64)[..., None]
    distance = np.abs(np.log(UPPER_MARGINS / np.where(own > 0, own, 1.0)))
    nearest = np.arange(len(UPPER_MARGINS)) == distance.argmin(axis=-1)[..., None]
    return np.where(nearest & (own > 0), own, UPPER_MARGINS)


def update(state: SequentialState, counts: ArrayLike) -> SequentialState:
    """Absorb one tick of counts.

    Parameters
    ----------
    counts
        ``(n_c, k_c, n_b, k_b)``: trials and failures of candidate and stable, shape
        ``(*rows, 4)``, whole numbers with ``0 <= k <= n``.

    Returns
    -------
    SequentialState
        A new state. Rows that warm up put stable's counts into the history and keep the
        candidate's pending, so that no failure is lost.
    """
    counts = np.asarray(counts, dtype=np.float64)
    armed = state.armed
    # Stable trials that waited in vain for a candidate trial become history.
    waited = state.pending[..., 0] + counts[..., 0] == 0
    waited &= state.pending[..., 2] + counts[..., 2] > PENDING_STABLE_TRIALS
    to_history = np.where(waited[..., None], state.pending[..., 2:], 0.0)
    to_history += np.where(armed[..., None], 0.0, counts[..., 2:])
    pending = state.pending + counts
    pending[..., 2:] -= to_history
    history = state.history.copy()
    history[..., 2:] += to_history

    closed = armed & (pending[..., 0] > 0) & (pending[..., 2] > 0)
    block = np.where(closed[..., None], pending, 0.0)
    before = replace(state, history=history)
    log_wealth = state.log_wealth.copy()
    theta, shift, direction = _alternatives(before)
    log_wealth[..., 1:] += block_log_factor(block, theta, before.stable_rate, shift, direction)
    log_wealth[..., _HARM] = np.where(
        closed[..., None], _share(log_wealth[..., _HARM]), log_wealth[..., _HARM]
    )
    return SequentialState(state.plan, log_wealth, pending - block, history + block, state.fixed)


def _share(log_wealth: FloatArray) -> FloatArray:
    pooled = log_mean_exp(log_wealth)[..., None] + np.log(SHARE_PER_BLOCK)
    shared: FloatArray = np.logaddexp(log_wealth + np.log1p(-SHARE_PER_BLOCK), pooled)
    return shared


def _alternatives(state: SequentialState) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Candidate rate and null shift of every bet but the cash, and the directions."""
    rate = state.stable_rate[..., None]
    shift = np.where(state.armed, state.null_shift, 0.0)[..., None]
    boundary = np.clip(rate + shift, _RATE_LIMIT, 1 - _RATE_LIMIT)
    thetas = [
        rate_with_odds_times(boundary, HARM_ODDS_FACTORS),
        np.minimum(0.995, np.maximum(HARM_RATES, 1.5 * boundary)),
    ]
    shifts = [np.broadcast_to(shift, (*rate.shape[:-1], HARM_BETS - 1))]
    directions = [np.ones(HARM_BETS - 1)]
    if state.plan.margins:
        upper = upper_margins(state.margin)
        thetas += [np.broadcast_to(rate, upper.shape), _plug_in_rate(state)]
        shifts += [upper, np.broadcast_to(LOWER_MARGINS, (*rate.shape[:-1], len(LOWER_MARGINS)))]
        directions += [-np.ones(len(UPPER_MARGINS)), np.ones(len(LOWER_MARGINS))]
    if state.plan.faster:
        faster = rate_with_odds_times(rate, FASTER_ODDS_FACTORS)
        thetas.append(faster)
        shifts.append(np.zeros_like(faster))
        directions.append(-np.ones(len(FASTER_ODDS_FACTORS)))
    return (
        np.concatenate(thetas, axis=-1),
        np.concatenate(shifts, axis=-1),
        np.concatenate(directions),
    )


def _plug_in_rate(state: SequentialState) -> FloatArray:
    """The candidate's own rate so far, shrunk to stable's: the lower bound's alternative."""
    rate = state.stable_rate
    plug_in = (state.history[..., 1] + 2 * rate) / (state.history[..., 0] + 2)
    plug_in = np.minimum(plug_in, 1 - _RATE_LIMIT)  # with 1 a single success costs everything
    return np.broadcast_to(plug_in[..., None], (*rate.shape, len(LOWER_MARGINS)))


def log_e_value(state: SequentialState, phi: ArrayLike) -> FloatArray:
    """Logarithm of the harm test's e-value, shape ``(*rows,)``.

    ``phi >= 1`` divides the log-wealth when it is read. By Jensen's inequality the mean of the
    powers is at most the power ``1/phi`` of the mean, so for independent requests the guarantee
    holds for any ``phi >= 1``, even one estimated from the same data.
    """
    scaled = state.log_wealth[..., _HARM] / np.asarray(phi, dtype=np.float64)[..., None]
    result: FloatArray = log_mean_exp(scaled)
    return result


def e_value(state: SequentialState, phi: ArrayLike) -> FloatArray:
    """E-value of the harm test, finite, shape ``(*rows,)``; harm is shown at ``1/alpha``."""
    result: FloatArray = np.exp(np.minimum(log_e_value(state, phi), _LOG_LIMIT))
    return result


def faster_log_e_value(state: SequentialState, phi: ArrayLike) -> FloatArray:
    """Logarithm of the e-value against "the candidate exceeds at least as often"."""
    scaled = state.log_wealth[..., _FASTER] / np.asarray(phi, dtype=np.float64)[..., None]
    result: FloatArray = log_mean_exp(scaled)
    return result


def faster_best_log_wealth(state: SequentialState, phi: ArrayLike) -> FloatArray:
    """Log-wealth of the best of the faster bets, divided by ``phi``, for estimating a wait."""
    best: FloatArray = state.log_wealth[..., _FASTER].max(axis=-1)
    result: FloatArray = best / np.asarray(phi, dtype=np.float64)
    return result


def margin_log_wealth(state: SequentialState, phi: ArrayLike) -> FloatArray:
    """Log-wealth of the bet against the row's own margin, divided by ``phi``."""
    own = upper_margins(state.margin) == state.margin[..., None]
    wealth = np.where(own, state.log_wealth[..., _UPPER], 0.0).sum(axis=-1)
    result: FloatArray = wealth / np.asarray(phi, dtype=np.float64)
    return result


def upper_bound(state: SequentialState, phi: ArrayLike, beta: ArrayLike) -> FloatArray:
    """Upper bound of ``p_c - p_b`` at level ``1 - beta``, valid at every look.

    The smallest margin reached by rejecting the falling margins in order; 1 when none is.
    """
    rejected = _rejected(state.log_wealth[..., _UPPER], phi, beta)
    margins = upper_margins(state.margin)
    padded = np.concatenate([np.ones((*margins.shape[:-1], 1)), margins], axis=-1)
    return np.take_along_axis(padded, rejected[..., None], axis=-1)[..., 0]


def lower_bound(state: SequentialState, phi: ArrayLike, beta: ArrayLike) -> FloatArray:
    """Lower bound of ``p_c - p_b`` at level ``1 - beta``, valid at every look; -1 at first."""
    rejected = _rejected(state.log_wealth[..., _LOWER], phi, beta)
    return np.concatenate([[-1.0], LOWER_MARGINS])[rejected]


def _rejected(log_wealth: FloatArray, phi: ArrayLike, beta: ArrayLike) -> NDArray[np.intp]:
    """How many nulls are rejected in order: only the first true one can be wrong."""
    scaled = log_wealth / np.asarray(phi, dtype=np.float64)[..., None]
    target = -np.log(np.asarray(beta, dtype=np.float64))[..., None]
    in_order = np.logical_and.accumulate(scaled >= target, axis=-1)
    count: NDArray[np.intp] = in_order.sum(axis=-1)
    return count
