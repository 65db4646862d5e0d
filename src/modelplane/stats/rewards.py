"""Two versions compared by numbers: rewards, losses, and yes/no outcomes of the same requests.

Called by ``modelplane.decisions.analysis``. Keeps the wealth of bets on bounded differences, and
decides nothing. All numbers are *badness*, from 0 (best) to 1 (worst) of a declared range.

A difference ``D`` is the candidate's badness minus stable's, in [-1, 1]. Three ways lead to one:

- two arms: of the values that came together, those of the larger side are dealt evenly to those of
  the smaller one; ``D`` is a value minus the mean of those dealt to it;
- the same request answered by both (a shadow): ``D`` is the difference of the two;
- the same request judged right or wrong: ``D`` is -1, 0 or 1. Pairs that agree change nothing when
  the boundary is 0, so that the discordant ones are tested against 1/2: a bet ``b`` multiplies by
  ``1 + b`` and ``1 - b``, the likelihood ratio of the share ``(1 + b) / 2`` against 1/2.

Against "on average ``D`` is at most ``m``" a bet ``b`` in (0, 1 / (1 + m)) earns ``1 + b (D - m)``:
never negative, and at most 1 on average under that null, whatever came before. The mean over
several fixed ``b`` is an e-process, so it may be read at every look. Which values meet in one
difference depends on how many there are and in which order they came, never on what they are.
``log(1 + b x)`` adds up, so the order within one call does not matter either.

References
----------
Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", Journal of the
Royal Statistical Society B 86 (2024): capital processes for bounded means, section 4, and bets
mixed over a grid. McNemar, "Note on the sampling error of the difference between correlated
proportions or percentages", Psychometrika 12 (1947): only discordant pairs tell the two apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from modelplane.stats.betting import FloatArray, log_mean_exp

BETS = np.geomspace(0.01, 0.9, 10)
"""Shares of the largest bet that cannot lose everything."""

_SIZES = np.array([0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.002, 0.001])
MARGINS = np.concatenate([_SIZES, [0.0], -_SIZES[::-1]])
"""Margins of the upper bound, falling; the own margin takes the place of the nearest."""

MAX_WAITING = 500
"""Values of one version that wait for values of the other; the oldest go first."""

_SHARE_PER_CALL = 1e-3
_LOG_LIMIT = 690.0


@dataclass(frozen=True, slots=True, eq=False)
class MeanState:
    """What is known of one metric of two versions.

    Attributes
    ----------
    log_wealth
        Natural logarithms, shape ``(1 + margins + margins, bets)``: of the harm test, of the upper
        bound and of the lower bound.
    fixed
        What the warm-up fixes: the boundary of the harm test, and the margin; None before.
    stable, candidate
        How many values there were, and the sum of their badness.
    differences
        How many differences were made.
    waiting_stable, waiting_candidate, waiting_pairs
        Values that wait for the other version's, and differences that wait for the warm-up.
    """

    log_wealth: FloatArray = field(
        default_factory=lambda: np.zeros((1 + 2 * len(MARGINS), len(BETS)))
    )
    fixed: tuple[float, float] | None = None
    stable: tuple[int, float] = (0, 0.0)
    candidate: tuple[int, float] = (0, 0.0)
    differences: int = 0
    waiting_stable: tuple[float, ...] = ()
    waiting_candidate: tuple[float, ...] = ()
    waiting_pairs: tuple[float, ...] = ()

    @property
    def stable_mean(self) -> float | None:
        """Mean badness; None without values."""
        return self.stable[1] / self.stable[0] if self.stable[0] else None

    @property
    def candidate_mean(self) -> float | None:
        """Mean badness; None without values."""
        return self.candidate[1] / self.candidate[0] if self.candidate[0] else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; :meth:`from_dict` reads them back exactly."""
        return {
            "log_wealth": self.log_wealth.tolist(),
            "fixed": self.fixed,
            "stable": self.stable,
            "candidate": self.candidate,
            "differences": self.differences,
            "waiting": [self.waiting_stable, self.waiting_candidate, self.waiting_pairs],
        }

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> MeanState:
        """Return the state that :meth:`to_dict` wrote."""
        fixed = record["fixed"]
        waiting = [tuple(values) for values in record["waiting"]]
        return MeanState(
            log_wealth=np.array(record["log_wealth"], dtype=np.float64),
            fixed=None if fixed is None else (fixed[0], fixed[1]),
            stable=(record["stable"][0], record["stable"][1]),
            candidate=(record["candidate"][0], record["candidate"][1]),
            differences=record["differences"],
            waiting_stable=waiting[0],
            waiting_candidate=waiting[1],
            waiting_pairs=waiting[2],
        )


def scale(value: float, low: float, high: float, *, higher_is_better: bool) -> float:
    """Return the badness of a value in a declared range: 0 is the best end, 1 the worst.

    What lies outside counts as the bound, and what is no number as the worst.

    Examples
    --------
    >>> scale(75, 0, 100, higher_is_better=True), scale(-3, 0, 100, higher_is_better=False)
    (0.25, 0.0)
    """
    if math.isnan(value):
        return 1.0
    share = (min(max(value, low), high) - low) / (high - low)
    return 1.0 - share if higher_is_better else share


def arm_means(state: MeanState, null_shift: float, margin: float) -> MeanState:
    """End the warm-up: fix the harm test's boundary and the margin, and use what has waited."""
    armed = replace(state, fixed=(null_shift, margin), waiting_pairs=())
    return _bet(armed, np.array(state.waiting_pairs, dtype=np.float64))


def add_history(state: MeanState, values: Sequence[float]) -> MeanState:
    """Add what stable did before the candidate met anyone: it says what is normal, no more."""
    count, total = state.stable
    return replace(state, stable=(count + len(values), total + math.fsum(values)))


def add_values(state: MeanState, candidate: Sequence[float], stable: Sequence[float]) -> MeanState:
    """Absorb values of two arms, in the order in which they came.

    Examples
    --------
    >>> state = arm_means(MeanState(), 0.0, 0.05)
    >>> worse = add_values(state, [0.9] * 100, [0.1] * 100)
    >>> bool(mean_e_value(worse) > 1000), upper_mean_bound(worse)
    (True, 1.0)
    """
    grown = replace(
        add_history(state, stable),
        candidate=(state.candidate[0] + len(candidate), state.candidate[1] + math.fsum(candidate)),
    )
    ours = (*state.waiting_candidate, *candidate)
    theirs = (*state.waiting_stable, *stable)
    if state.fixed is None or not ours or not theirs:
        return replace(
            grown, waiting_candidate=ours[-MAX_WAITING:], waiting_stable=theirs[-MAX_WAITING:]
        )
    differences = _deal(np.array(ours), np.array(theirs))
    return _bet(replace(grown, waiting_candidate=(), waiting_stable=()), differences)


def add_pairs(state: MeanState, candidate: Sequence[float], stable: Sequence[float]) -> MeanState:
    """Absorb values of both versions for the same requests, one by one."""
    grown = replace(
        add_history(state, stable),
        candidate=(state.candidate[0] + len(candidate), state.candidate[1] + math.fsum(candidate)),
    )
    differences = np.array(candidate, dtype=np.float64) - np.array(stable, dtype=np.float64)
    if state.fixed is None:
        waiting = (*state.waiting_pairs, *differences.tolist())
        return replace(grown, waiting_pairs=waiting[-MAX_WAITING:])
    return _bet(grown, differences)


def _deal(ours: FloatArray, theirs: FloatArray) -> FloatArray:
    """One difference for each value of the smaller side, beside its share of the larger one."""
    few, many = (ours, theirs) if len(ours) <= len(theirs) else (theirs, ours)
    edges = np.arange(len(few)) * len(many) // len(few)
    sizes = np.diff(np.append(edges, len(many)))
    means = np.add.reduceat(many, edges) / sizes
    difference: FloatArray = few - means if few is ours else means - few
    return difference


def _bet(state: MeanState, differences: FloatArray) -> MeanState:
    if state.fixed is None or not len(differences):
        return state
    shift, margin = state.fixed
    upper = own_margins(margin)
    harm = _log_factors(differences, np.array([shift]))
    # From below: the mean of -D is at most -m.
    below = _log_factors(-differences, -upper)
    above = _log_factors(differences, upper)
    log_wealth = state.log_wealth + np.concatenate([harm, below, above])
    # A long healthy time must not ruin the bets: a little of the wealth is spread anew.
    pooled = log_mean_exp(log_wealth[0]) + math.log(_SHARE_PER_CALL)
    log_wealth[0] = np.logaddexp(log_wealth[0] + math.log1p(-_SHARE_PER_CALL), pooled)
    return replace(state, log_wealth=log_wealth, differences=state.differences + len(differences))


def _log_factors(differences: FloatArray, boundaries: FloatArray) -> FloatArray:
    """Log of what each bet earns against "at most the boundary", shape (boundaries, bets)."""
    bets = BETS / (1 + boundaries[:, None])
    values, counts = np.unique(differences, return_counts=True)
    gains = np.log1p(bets[..., None] * (values - boundaries[:, None, None]))
    result: FloatArray = gains @ counts.astype(np.float64)
    return result


def own_margins(margin: float) -> FloatArray:
    """Return the falling margins with the own one in the place of the nearest.

    Examples
    --------
    >>> own_margins(0.06)[3:6].tolist()
    [0.1, 0.06, 0.03]
    """
    margins = MARGINS.copy()
    positive = margins > 0
    nearest = int(np.argmin(np.abs(np.log(margins[positive] / margin))))
    margins[nearest] = margin
    return margins


def mean_e_value(state: MeanState) -> float:
    """E-value against "on average the candidate is at most the boundary worse"; finite."""
    return math.exp(min(float(log_mean_exp(state.log_wealth[0])), _LOG_LIMIT))


def upper_mean_bound(state: MeanState, beta: float = 0.05) -> float:
    """Upper bound of the mean difference at level ``1 - beta``, valid at every look.

    Below 0 the candidate is better, beyond doubt. 1 while nothing is known.
    """
    if state.fixed is None:
        return 1.0
    rejected = _rejected(state.log_wealth[1 : 1 + len(MARGINS)], beta)
    return float(np.concatenate([[1.0], own_margins(state.fixed[1])])[rejected])


def lower_mean_bound(state: MeanState, beta: float = 0.05) -> float:
    """Lower bound of the mean difference; -1 while nothing is known."""
    if state.fixed is None:
        return -1.0
    rejected = _rejected(state.log_wealth[1 + len(MARGINS) :][::-1], beta)
    return float(np.concatenate([[-1.0], own_margins(state.fixed[1])[::-1]])[rejected])


def _rejected(log_wealth: ArrayLike, beta: float) -> int:
    """How many nulls are rejected in order: only the first true one can be wrong."""
    shown = log_mean_exp(log_wealth) >= -math.log(beta)
    return int(np.logical_and.accumulate(shown).sum())
