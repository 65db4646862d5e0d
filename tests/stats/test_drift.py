"""The distances against scipy, the test's level, and what the bins promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon

from modelplane.stats.drift import (
    bin_counts,
    chi_square_tail,
    dispersion,
    holm,
    jensen_shannon,
    pearson,
    quantile_edges,
    same_p,
    stability_index,
    total_variation,
    wasserstein,
)

SAMPLES = st.integers(2, 30).flatmap(
    lambda bins: st.tuples(
        *[st.lists(st.integers(0, 5000), min_size=bins, max_size=bins).filter(any)] * 2
    )
)


@given(SAMPLES)
def test_distances_are_those_of_scipy(samples: tuple[list[int], list[int]]) -> None:
    a, b = (np.array(sample, dtype=float) for sample in samples)
    p, q = a / a.sum(), b / b.sum()
    places = np.cumsum(np.arange(len(a)) % 3 + 0.5)
    assert jensen_shannon([a], [b])[0] == pytest.approx(jensenshannon(p, q, base=2), abs=1e-7)
    assert total_variation([a], [b])[0] == pytest.approx(np.abs(p - q).sum() / 2)
    expected = stats.wasserstein_distance(places, places, p, q)
    assert wasserstein([a], [b], [places])[0] == pytest.approx(expected, abs=1e-9)
    used = (a + b) > 0
    p, q = a[used] + 0.5, b[used] + 0.5
    symmetric = stats.entropy(p, q) + stats.entropy(q, p)
    assert stability_index([a], [b], biased=True)[0] == pytest.approx(symmetric, abs=1e-9)
    statistic, free = pearson([a], [b])
    if used.sum() > 1:
        table = np.vstack([a, b])[:, used]
        found = stats.chi2_contingency(table, correction=False)
        assert statistic[0] == pytest.approx(found.statistic)
        assert free[0] == found.dof
        assert chi_square_tail(statistic, free)[0] == pytest.approx(found.pvalue, abs=1e-12)


@given(st.floats(0, 400), st.integers(1, 80))
def test_the_tail_of_chi_square_is_that_of_scipy(statistic: float, free: int) -> None:
    expected = stats.chi2.sf(statistic, free)
    assert chi_square_tail(statistic, free) == pytest.approx(expected, rel=1e-9, abs=1e-280)


@given(SAMPLES, st.integers(1, 5))
def test_bins_that_are_empty_in_both_samples_count_for_nothing(
    samples: tuple[list[int], list[int]], padding: int
) -> None:
    a, b = (np.array([sample], dtype=float) for sample in samples)
    wide = [np.pad(sample, ((0, 0), (0, padding))) for sample in (a, b)]
    for distance in (stability_index, jensen_shannon, total_variation, same_p):
        assert distance(*wide)[0] == pytest.approx(distance(a, b)[0])


@given(
    st.lists(st.floats(-1e6, 1e6) | st.integers(-3, 3).map(float), min_size=1, max_size=300),
    st.integers(1, 20),
)
def test_bins_hold_every_value_once_and_none_is_empty(values: list[float], bins: int) -> None:
    edges = quantile_edges(values, bins)
    counts = bin_counts(values, edges)
    assert len(counts) <= bins
    assert (np.diff(edges) > 0).all()
    assert counts.sum() == len(values)
    assert (counts > 0).all()
    if len(different := set(values)) <= bins:
        assert counts.tolist() == [values.count(value) for value in sorted(different)]


def test_numbers_of_many_values_have_bins_of_equal_shares() -> None:
    values = np.random.default_rng(1).normal(size=10_000)
    counts = bin_counts(values, quantile_edges(values, 20))
    assert len(counts) == 20
    assert counts.min() >= 499
    assert counts.max() <= 501


def test_the_index_of_what_did_not_change_is_zero_on_average() -> None:
    random = np.random.default_rng(2)
    shares = np.full(20, 0.05)
    a, b = random.multinomial(5000, shares, 2000), random.multinomial(600, shares, 2000)
    plain = stability_index(a, b, biased=True)
    chance = 19 * (1 / 5000 + 1 / 600)
    assert plain.mean() == pytest.approx(chance, rel=0.05)
    assert abs(np.mean(plain - chance)) < 0.002


def test_the_level_holds_far_out_and_with_rare_bins() -> None:
    random = np.random.default_rng(3)
    shares = np.array([0.5, 0.3, 0.19, 0.006, 0.003, 0.001])
    a, b = random.multinomial(20_000, shares, 40_000), random.multinomial(500, shares, 40_000)
    p = same_p(a, b)
    for level in (0.1, 0.01, 0.001):
        assert (p <= level).mean() <= level * 1.3 + 2e-4


def test_a_new_value_is_found_though_none_was_expected() -> None:
    a, b = [[50_000, 50_000, 0]], [[240, 240, 20]]
    assert same_p(a, b)[0] < 1e-12


def test_rows_in_bursts_scatter_more_and_are_tested_less_strictly() -> None:
    random = np.random.default_rng(4)
    shares = np.full(10, 0.1)
    single = random.multinomial(50, shares, (400, 30))
    bursts = random.multinomial(10, shares, (400, 30)) * 5
    assert dispersion(single).mean() == pytest.approx(1.0, abs=0.1)
    assert dispersion(bursts).mean() == pytest.approx(5.0, rel=0.1)
    reference = random.multinomial(100_000, shares, 400)
    recent = bursts.sum(axis=1)
    assert (same_p(reference, recent) < 0.01).mean() > 0.3
    assert (same_p(reference, recent, dispersion(bursts)) < 0.01).mean() <= 0.03


@given(st.lists(st.floats(0, 1), max_size=30), st.floats(0.001, 0.5))
def test_holm_is_stricter_than_each_alone_and_laxer_than_bonferroni(
    p_values: list[float], alpha: float
) -> None:
    falls = holm(p_values, alpha)
    for p, fell in zip(p_values, falls, strict=True):
        assert not fell or p <= alpha
        assert fell or p > alpha / len(p_values)
