"""Latency thresholds: a candidate that is at most a fifth slower never exceeds more often."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.stats.latency import (
    DEFAULT_SLOWDOWN,
    QUANTILES,
    bin_width_us,
    estimate_quantile_us,
    exceedances,
    fix_thresholds,
    histogram_from_bins,
    merge_histograms,
    quantile_bin_us,
    round_up_to_bin_us,
)

latencies = st.lists(st.integers(1, 5_000_000), min_size=1, max_size=200)


def binned(values: list[int] | list[float]) -> dict[int, int]:
    histogram: dict[int, int] = {}
    for value in values:
        bound = math.floor(value) - math.floor(value) % bin_width_us(math.floor(value))
        histogram[bound] = histogram.get(bound, 0) + 1
    return histogram


@given(st.integers(0, 10**9))
def test_bins_are_at_most_ten_percent_wide_and_hold_their_values(value: int) -> None:
    (bound,) = binned([value])
    assert bound <= value < bound + bin_width_us(bound)
    assert bin_width_us(bound) <= max(1, bound / 10)


@given(st.floats(0, 1e9))
def test_rounding_up_gives_the_first_bound_at_or_above(value: float) -> None:
    bound = round_up_to_bin_us(value)
    assert bound >= value
    assert binned([bound]) == {bound: 1}
    if bound > 0:
        (below,) = binned([bound - 1])
        assert below < value or below + bin_width_us(below) == bound


@given(latencies, st.sampled_from(QUANTILES))
def test_a_quantile_is_rounded_down_to_its_bin(values: list[int], quantile: float) -> None:
    exact = sorted(values)[max(0, math.ceil(quantile * len(values) - 1e-9) - 1)]
    bound = quantile_bin_us(binned(values), quantile)
    assert bound <= exact < bound + bin_width_us(bound)


@given(latencies, st.sampled_from(QUANTILES))
def test_the_shown_quantile_lies_in_the_same_bin(values: list[int], quantile: float) -> None:
    histogram = binned(values)
    shown = estimate_quantile_us(histogram, quantile, len(values))
    bound = quantile_bin_us(histogram, quantile)
    assert shown is not None
    assert bound - 1e-6 <= shown <= bound + bin_width_us(bound) + 1e-6


@given(latencies, latencies, st.sampled_from([DEFAULT_SLOWDOWN, 0.5, 1.0]), st.floats(0, 1))
def test_what_is_as_slow_as_allowed_never_exceeds_where_stable_does_not(
    warm_up: list[int], later: list[int], slowdown: float, share: float
) -> None:
    """Request by request, so it holds for any distribution and any drift that both share."""
    slower = 1 + share * slowdown
    for threshold in fix_thresholds(binned(warm_up), slowdown):
        for value in later:
            _, stable = exceedances([binned([value])], [[threshold.stable_us]])
            _, candidate = exceedances([binned([value * slower])], [[threshold.candidate_us]])
            assert candidate[0, 0] <= stable[0, 0]


@given(latencies)
def test_thresholds_are_bounds_of_bins(warm_up: list[int]) -> None:
    for threshold in fix_thresholds(binned(warm_up)):
        assert binned([threshold.stable_us]) == {threshold.stable_us: 1}
        assert binned([threshold.candidate_us]) == {threshold.candidate_us: 1}
        assert threshold.candidate_us >= threshold.stable_us + 2000


@given(st.lists(latencies, max_size=5), st.lists(st.integers(0, 10**6), min_size=3, max_size=3))
def test_exceedances_count_row_by_row(many: list[list[int]], limits: list[int]) -> None:
    bounds = [round_up_to_bin_us(limit) for limit in limits]
    requests, above = exceedances([binned(values) for values in many], [bounds] * len(many))
    assert requests.tolist() == [len(values) for values in many]
    for row, values in enumerate(many):
        assert above[row].tolist() == [sum(v >= bound for v in values) for bound in bounds]


@given(latencies, latencies)
def test_merging_is_counting_together(left: list[int], right: list[int]) -> None:
    assert merge_histograms(binned(left), binned(right)) == binned(left + right)


def test_envoy_bins_are_read_and_empty_ones_left_out() -> None:
    bins = [(88.0, 1.0, 2), (670.0, 10.0, 0), (1000.0, 100.0, 5)]
    assert histogram_from_bins(bins) == {88: 2, 1000: 5}


def test_nothing_has_no_quantile() -> None:
    assert estimate_quantile_us({}, 0.95, 0) is None
    with pytest.raises(ValueError, match="no quantiles"):
        quantile_bin_us({}, 0.5)


def test_no_rows_give_no_counts() -> None:
    requests, above = exceedances([], [])
    assert requests.shape == (0,)
    assert np.size(above) == 0
