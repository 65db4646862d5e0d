"""Phi: one for independent failures, large for bursts, blind to slow drift."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from modelplane.stats.dispersion import (
    DispersionState,
    dispersion_row_from_dict,
    dispersion_row_to_dict,
    new_dispersion,
    phi,
    raw_ratios,
    split_dispersion,
    stack_dispersion,
    update_dispersion,
    update_with_series,
)

pytestmark = pytest.mark.slow

Counts = NDArray[Any]
ticks = st.lists(
    st.integers(0, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), max_size=90
)


def observed(n: Counts, k: Counts, rows: int = 1) -> DispersionState:
    """History of counts, shape ``(seconds, rows)``."""
    state = new_dispersion(rows)
    for second, (trials, failures) in enumerate(zip(n, k, strict=True)):
        state = update_dispersion(state, np.full(rows, second), trials, failures)
    return state


def raw_ratio_written_out(counts: list[tuple[int, int]], scale: int) -> float:
    """The definition, from the whole series at once; the last bin is not closed yet."""
    bins: dict[int, tuple[int, int]] = {}
    for second, (n, k) in enumerate(counts):
        if n:
            before = bins.get(second // scale, (0, 0))
            bins[second // scale] = (before[0] + n, before[1] + k)
    series = list(bins.values())[:-1]
    squares = expected = 0.0
    for (n0, k0), (n1, k1) in pairwise(series):
        squares += (k1 / n1 - k0 / n0) ** 2 / (1 / n0 + 1 / n1)
        pooled = (k0 + k1) / (n0 + n1)
        expected += pooled * (1 - pooled) * (n0 + n1) / (n0 + n1 - 1)
    return squares / expected if expected > 0 else 1.0


@given(ticks)
def test_the_running_sums_are_the_definition(counts: list[tuple[int, int]]) -> None:
    state = observed(np.array([[n] for n, _ in counts]), np.array([[k] for _, k in counts]))
    for index, scale in enumerate((1, 10, 30)):
        expected = raw_ratio_written_out(counts, scale)
        assert raw_ratios(state)[0, index] == pytest.approx(expected, rel=1e-9)


@given(ticks)
def test_phi_is_never_below_one_and_survives_storage(counts: list[tuple[int, int]]) -> None:
    state = observed(np.array([[n] for n, _ in counts]), np.array([[k] for _, k in counts]))
    assert phi(state)[0] >= 1
    again = dispersion_row_from_dict(json.loads(json.dumps(dispersion_row_to_dict(state, 0))))
    assert phi(again)[0] == phi(state)[0]
    assert (again.scales == state.scales).all()


@given(ticks, st.integers(0, 90), st.integers(0, 8))
def test_a_series_at_once_is_the_same_as_tick_by_tick(
    counts: list[tuple[int, int]], cut: int, late: int
) -> None:
    seconds = [second for second in range(len(counts)) for _ in range(1 + second % 2)][
        : len(counts)
    ]
    n, k = [n for n, _ in counts], [k for _, k in counts]
    one = new_dispersion()
    for index in range(len(counts)):
        shift = late if index >= cut else 0
        one = update_dispersion(
            one, [seconds[index] - shift], n[index : index + 1], k[index : index + 1]
        )
    first = update_with_series(new_dispersion(), seconds[:cut], n[:cut], k[:cut])
    later = np.array(seconds[cut:], dtype=float) - late
    both = update_with_series(first, later, n[cut:], k[cut:])
    assert both.scales == pytest.approx(one.scales, rel=1e-9)
    assert both.totals == pytest.approx(one.totals)


def test_counts_that_come_much_too_late_do_not_count() -> None:
    state = update_dispersion(new_dispersion(), [100], [50], [1])
    assert update_dispersion(state, [96], [50], [1]).totals[0].tolist() == [2, 1]
    assert update_dispersion(state, [90], [50], [50]).totals[0].tolist() == [1, 1]


def test_independent_failures_give_a_phi_near_the_history_factor() -> None:
    random = np.random.default_rng(3)
    n = random.poisson(50, (1900, 40))
    state = observed(n, random.binomial(n, 0.01), 40)
    assert raw_ratios(state).mean(axis=0) == pytest.approx([1, 1, 1], abs=0.1)
    assert 1.15 <= np.median(phi(state)) <= 1.45


@pytest.mark.parametrize(("size", "spread_s"), [(2, 1), (5, 1), (5, 4)])
def test_bursts_give_a_phi_of_about_their_size(size: int, spread_s: int) -> None:
    random = np.random.default_rng(4)
    seconds, rows = 1900, 20
    n = np.full((seconds, rows), 60)
    k = np.zeros((seconds, rows), dtype=int)
    starts = random.random((seconds, rows)) < 60 * 0.01 / size
    for second, row in zip(*np.nonzero(starts), strict=True):
        for _ in range(size):
            k[min(seconds - 1, second + random.integers(spread_s)), row] += 1
    state = observed(n, np.minimum(k, n), rows)
    assert size * 0.75 <= np.median(phi(state)) <= size * 2


def test_a_slow_drift_is_no_scatter() -> None:
    random = np.random.default_rng(5)
    seconds = np.arange(1900)
    rate = 0.01 + 0.03 * seconds / 1900
    n = np.full((1900, 20), 50)
    state = observed(n, random.binomial(n, rate[:, None]), 20)
    assert np.median(phi(state)) <= 1.5


def test_a_short_history_is_trusted_less() -> None:
    state = new_dispersion()
    values = []
    for second in range(1900):
        state = update_dispersion(state, [second], [100], [second % 2])
        values.append(float(phi(state)[0]))
    assert values[30] > values[300] > values[1899]
    assert values[1899] == pytest.approx(1.15, abs=0.05)


def test_ticks_of_one_second_are_one_bin_and_empty_ones_none() -> None:
    parts = new_dispersion()
    whole = new_dispersion()
    for second in range(60):
        parts = update_dispersion(parts, [second], [30], [1])
        parts = update_dispersion(parts, [second], [20], [second % 3])
        parts = update_dispersion(parts, [second], [0], [0])
        whole = update_dispersion(whole, [second], [50], [1 + second % 3])
    assert (parts.scales == whole.scales).all()
    assert (parts.totals == whole.totals).all()


def test_rows_do_not_touch_each_other() -> None:
    states = [update_dispersion(new_dispersion(), [0], [10], [row]) for row in range(3)]
    merged = update_dispersion(stack_dispersion(states), [1, 1, 5], [10, 0, 7], [3, 0, 7])
    alone = [
        update_dispersion(state, [second], [n], [k])
        for state, (second, n, k) in zip(states, [(1, 10, 3), (1, 0, 0), (5, 7, 7)], strict=True)
    ]
    for one, other in zip(split_dispersion(merged, [1, 1, 1]), alone, strict=True):
        assert (one.scales == other.scales).all()
