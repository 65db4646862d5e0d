"""How long a verdict takes: the formula agrees with the tests that it speaks of."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.stats.sample_size import growth_per_request, requests_needed, still_needed
from modelplane.stats.sequential import COMPARISON, arm, new_state, update, upper_bound


@pytest.mark.parametrize(
    ("rate", "margin", "needed"),
    [(0.0, 0.0025, 2_400), (0.001, 0.0025, 5_500), (0.01, 0.005, 9_800), (0.05, 0.025, 1_900)],
)
def test_the_table_of_the_design_within_its_error(rate: float, margin: float, needed: int) -> None:
    assert requests_needed(rate, 0.5, margin) == pytest.approx(needed, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "margin"), [(0.002, 0.005), (0.02, 0.01)])
def test_good_candidates_need_as_many_on_average(rate: float, margin: float) -> None:
    random = np.random.default_rng(11)
    rows, per_tick = 150, 200
    state = update(new_state(COMPARISON, rows), np.tile([0, 0, 10_000, 10_000 * rate], (rows, 1)))
    state = arm(state, 0.0, margin)
    passed_at = np.full(rows, np.inf)
    needed = requests_needed(rate, 0.5, margin)
    for tick in range(1, int(20 * needed / per_tick)):
        half = np.full(rows, per_tick // 2)
        k_c, k_b = random.binomial(half, rate), random.binomial(half, rate)
        state = update(state, np.column_stack([half, k_c, half, k_b]))
        passes = upper_bound(state, 1.0, 0.05) <= margin
        passed_at = np.where(passes & np.isinf(passed_at), tick * per_tick, passed_at)
        if np.isfinite(passed_at).all():
            break
    assert float(passed_at.mean()) == pytest.approx(needed, rel=0.15)


@given(st.floats(0, 0.9), st.floats(0.01, 0.99), st.floats(0.001, 0.5))
def test_a_wider_margin_never_needs_more(rate: float, share: float, margin: float) -> None:
    assert requests_needed(rate, share, margin) >= requests_needed(rate, share, margin * 1.5)


@given(st.floats(0, 1), st.floats(0.001, 0.999), st.floats(0.01, 0.99))
def test_growth_is_zero_only_without_a_difference(p_c: float, p_b: float, share: float) -> None:
    growth = growth_per_request(p_c, p_b, share)
    assert growth >= 0
    if abs(p_c - p_b) > 0.01:
        assert growth > 0


def test_evidence_shortens_the_wait_and_counter_evidence_makes_it_longer() -> None:
    target = math.log(20)
    assert still_needed(1000, 0.0) == pytest.approx(1000)
    assert still_needed(1000, target) == 0
    assert still_needed(1000, 2 * target) == 0
    assert still_needed(1000, -target) == pytest.approx(2000)
