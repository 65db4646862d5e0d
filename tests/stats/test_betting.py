"""One block: a bet never wins on average under its null, and it grows as fast as it can."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from modelplane.stats.betting import (
    block_log_factor,
    log_mean_exp,
    null_projection,
    rate_with_odds_times,
)

rates = st.floats(0.0005, 0.95)
trials = st.integers(1, 4)


def binomial(n: int, k: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def mean_factor(
    n: tuple[int, int], truth: tuple[float, float], bet: tuple[float, float, float], direction: int
) -> float:
    """Exact expectation of the block's factor by enumeration of all outcomes."""
    outcomes = list(product(range(n[0] + 1), range(n[1] + 1)))
    counts = np.array([(n[0], k_c, n[1], k_b) for k_c, k_b in outcomes], dtype=float)
    theta, stable_rate, shift = bet
    factors = np.exp(
        block_log_factor(
            counts,
            np.full((len(counts), 1), theta),
            np.full(len(counts), stable_rate),
            shift,
            direction,
        )
    )[:, 0]
    chances = [
        binomial(n[0], k_c, truth[0]) * binomial(n[1], k_b, truth[1]) for k_c, k_b in outcomes
    ]
    return float(np.dot(factors, chances))


@given(n_c=trials, n_b=trials, theta=rates, stable_rate=rates, shift=st.floats(-0.5, 0.5),
       p_b=st.floats(0, 1), inside=st.floats(0, 1), direction=st.sampled_from([1, -1]))  # fmt: skip
def test_no_bet_wins_on_average_anywhere_on_its_null(
    n_c: int, n_b: int, theta: float, stable_rate: float, shift: float,
    p_b: float, inside: float, direction: int,
) -> None:  # fmt: skip
    edge = min(max(p_b + shift, 0.0), 1.0)
    if direction > 0:
        if p_b + shift < 0:
            return  # no candidate rate is that low: the null is empty
        p_c = edge * inside
    else:
        if p_b + shift > 1:
            return
        p_c = edge + (1 - edge) * inside
    mean = mean_factor((n_c, n_b), (p_c, p_b), (theta, stable_rate, shift), direction)
    assert mean <= 1 + 1e-9


@given(n_c=st.integers(1, 50), n_b=st.integers(1, 50), theta=rates, stable_rate=rates,
       shift=st.floats(-0.5, 0.5), direction=st.sampled_from([1, -1]), data=st.data())  # fmt: skip
def test_factors_are_finite_for_every_outcome(
    n_c: int, n_b: int, theta: float, stable_rate: float, shift: float,
    direction: int, data: st.DataObject,
) -> None:  # fmt: skip
    k_c, k_b = data.draw(st.integers(0, n_c)), data.draw(st.integers(0, n_b))
    factor = block_log_factor([n_c, k_c, n_b, k_b], [theta], stable_rate, shift, direction)
    assert np.isfinite(factor).all()


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("shift", [0.0, 0.00025, 0.0025, 0.05])
@pytest.mark.parametrize(("theta", "stable"), [(0.02, 0.01), (0.3, 0.01), (0.01, 0.001)])
def test_the_projection_minimises_the_poisson_divergence(
    share: float, shift: float, theta: float, stable: float
) -> None:
    def divergence(q_b: float) -> float:
        q_c = q_b + shift
        return share * (q_c - theta * math.log(q_c)) + (1 - share) * (q_b - stable * math.log(q_b))

    best = minimize_scalar(
        divergence, bounds=(1e-9, 0.9), method="bounded", options={"xatol": 1e-12}
    )
    q_c, q_b = null_projection(theta, stable, shift, share)
    assert float(q_b) == pytest.approx(best.x, rel=1e-4, abs=1e-8)
    assert float(q_c - q_b) == pytest.approx(shift, abs=1e-12)


@pytest.mark.parametrize(("n_c", "n_b"), [(1, 99), (5, 95), (50, 50)])
@pytest.mark.parametrize(("theta", "stable"), [(0.02, 0.01), (0.05, 0.01), (0.98, 0.001)])
def test_growth_is_close_to_the_best_possible(
    n_c: int, n_b: int, theta: float, stable: float
) -> None:
    """The best possible growth against "no worse" is the divergence from the common mean."""
    mean = (n_c * theta + n_b * stable) / (n_c + n_b)

    def divergence(p: float) -> float:
        return p * math.log(p / mean) + (1 - p) * math.log((1 - p) / (1 - mean))

    best = n_c * divergence(theta) + n_b * divergence(stable)
    # The factor is linear in the counts, so its mean growth is its growth at the mean counts.
    growth = block_log_factor([n_c, n_c * theta, n_b, n_b * stable], [theta], stable, 0.0, 1)
    assert float(growth[0]) == pytest.approx(best, rel=0.01)


def test_an_alternative_inside_the_null_is_skipped() -> None:
    assert block_log_factor([5, 5, 5, 0], [0.01], 0.2, 0.0, 1).tolist() == [0.0]
    assert block_log_factor([5, 0, 5, 5], [0.4], 0.2, 0.0, -1).tolist() == [0.0]


def test_a_row_without_both_versions_is_no_block() -> None:
    counts = [[5, 1, 0, 0], [0, 0, 5, 1], [0, 0, 0, 0]]
    assert not block_log_factor(counts, [[0.5]] * 3, [0.1] * 3, 0.0, 1).any()


@given(rates, st.floats(0.01, 100))
def test_odds_are_multiplied(rate: float, factor: float) -> None:
    changed = float(rate_with_odds_times(rate, factor))
    assert changed / (1 - changed) == pytest.approx(factor * rate / (1 - rate), rel=1e-9)


def test_the_mean_of_huge_wealth_does_not_overflow() -> None:
    assert float(log_mean_exp([2000.0, 2000.0])) == pytest.approx(2000.0)
    assert float(log_mean_exp([-2000.0, 0.0])) == pytest.approx(-math.log(2))
