"""What the tests promise when one looks every second: simulated with fixed seeds.

The shares allowed here are the promised 5 % and three standard errors of the simulation.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from modelplane.stats.dispersion import new_dispersion, phi, update_dispersion
from modelplane.stats.sequential import (
    COMPARISON,
    EXCEEDANCE,
    HARM_ONLY,
    SequentialState,
    arm,
    e_value,
    faster_log_e_value,
    lower_bound,
    new_state,
    update,
    upper_bound,
)

pytestmark = pytest.mark.slow

Counts = NDArray[Any]
RUNS = 200
ALLOWED = 0.05 + 3 * math.sqrt(0.05 * 0.95 / RUNS)


def warm(random: np.random.Generator, rate: float, plan: Any = COMPARISON) -> SequentialState:
    n = np.full(RUNS, 300)
    k = random.binomial(n, rate)
    return update(new_state(plan, RUNS), np.column_stack([0 * n, 0 * n, n, k]))


def tick(
    random: np.random.Generator, requests: float, weight: float, rates: tuple[float, float]
) -> Counts:
    """Counts of one second for every run; ``rates`` are candidate's and stable's."""
    n_c = random.poisson(requests * weight, RUNS)
    n_b = random.poisson(requests * (1 - weight), RUNS)
    return np.column_stack(
        [n_c, random.binomial(n_c, rates[0]), n_b, random.binomial(n_b, rates[1])]
    )


@pytest.mark.parametrize(("rate", "requests"), [(0.01, 100), (0.0005, 100), (0.1, 8)])
def test_equal_versions_are_seldom_called_harmful_however_often_one_looks(
    rate: float, requests: float
) -> None:
    """Under changes of weight and a drift that both versions share; d = 0, the strictest test."""
    random = np.random.default_rng(21)
    state = arm(warm(random, rate, HARM_ONLY), 0.0)
    ever = np.zeros(RUNS, dtype=bool)
    for second in range(400):
        weight = (0.01, 0.05, 0.25, 0.5)[min(second // 60, 3)]
        now = rate * (1 + 0.8 * math.sin(second / 40))
        state = update(state, tick(random, requests, weight, (now, now)))
        ever |= e_value(state, 1.0) >= 20
    assert ever.mean() <= ALLOWED


@pytest.mark.parametrize("difference", [0.0, 0.003, 0.02])
def test_the_bounds_hold_at_every_look(difference: float) -> None:
    random = np.random.default_rng(22)
    state = arm(warm(random, 0.01), 0.0, 0.0025)
    above = np.zeros(RUNS, dtype=bool)
    below = np.zeros(RUNS, dtype=bool)
    for _ in range(250):
        state = update(state, tick(random, 300, 0.5, (0.01 + difference, 0.01)))
        above |= upper_bound(state, 1.0, 0.05) < difference
        below |= lower_bound(state, 1.0, 0.05) > difference
    assert above.mean() <= ALLOWED
    assert below.mean() <= ALLOWED


def test_equal_exceedance_is_seldom_called_faster() -> None:
    random = np.random.default_rng(23)
    state = arm(warm(random, 0.05, EXCEEDANCE), 0.0)
    ever = np.zeros(RUNS, dtype=bool)
    for _ in range(400):
        state = update(state, tick(random, 100, 0.5, (0.05, 0.05)))
        ever |= faster_log_e_value(state, 1.0) >= math.log(20)
    assert ever.mean() <= ALLOWED


def bursty(random: np.random.Generator, n: Counts, rate: float, size: int) -> Counts:
    """Failures that come ``size`` at a time within a second."""
    return np.minimum(size * random.poisson(n * rate / size), n)


@pytest.mark.parametrize("size", [2, 5])
def test_bursts_roll_back_by_themselves_and_not_with_phi(size: int) -> None:
    random = np.random.default_rng(24)
    scatter = new_dispersion(RUNS)
    history = np.full(RUNS, 100)
    second = 0
    for second in range(1800):
        k = bursty(random, history, 0.01, size)
        scatter = update_dispersion(scatter, np.full(RUNS, second), history, k)
    state = arm(warm(random, 0.01, HARM_ONLY), 0.00025)
    plain = np.zeros(RUNS, dtype=bool)
    corrected = np.zeros(RUNS, dtype=bool)
    failures = np.zeros(RUNS)
    for later in range(400):
        n = random.poisson(25, RUNS), random.poisson(75, RUNS)
        failed = [bursty(random, side, 0.01, size) for side in n]
        scatter = update_dispersion(scatter, np.full(RUNS, second + later + 1), n[1], failed[1])
        state = update(state, np.column_stack([n[0], failed[0], n[1], failed[1]]))
        failures += failed[0]
        divisor = phi(scatter)
        plain |= e_value(state, 1.0) >= 20
        corrected |= (e_value(state, divisor) >= 20) & (failures >= 3 * divisor)
    assert plain.mean() > ALLOWED
    assert corrected.mean() <= ALLOWED


@pytest.mark.parametrize(("candidate", "most_failures"), [(0.02, 40), (0.05, 12), (1.0, 6)])
def test_harm_costs_few_failures(candidate: float, most_failures: int) -> None:
    random = np.random.default_rng(25)
    state = arm(warm(random, 0.01, HARM_ONLY), 0.00025)
    found = np.zeros(RUNS, dtype=bool)
    failures = np.zeros(RUNS)
    while not found.all():
        counts = tick(random, 100, 0.05, (candidate, 0.01))
        state = update(state, counts)
        failures += np.where(found, 0, counts[:, 1])
        found |= e_value(state, 1.0) >= 20
    assert failures.mean() <= most_failures


def test_harm_after_a_long_healthy_time_costs_few_failures_too() -> None:
    random = np.random.default_rng(26)
    state = arm(warm(random, 0.01, HARM_ONLY), 0.00025)
    found = np.zeros(RUNS, dtype=bool)
    failures = np.zeros(RUNS)
    for second in range(700):
        sick = second >= 600
        counts = tick(random, 100, 0.5, (0.05 if sick else 0.01, 0.01))
        state = update(state, counts)
        failures += np.where(found | (not sick), 0, counts[:, 1])
        found |= (e_value(state, 1.0) >= 20) & sick
    assert found.all()
    assert failures.mean() <= 60
