"""Paired intervals: published figures, scipy's bootstrap, coverage, and what always holds."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from modelplane.stats import paired
from modelplane.stats.paired import (
    bootstrap_interval,
    counts_interval,
    greatest_difference_interval,
    means_interval,
    proportions_interval,
)


def test_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(paired).failed == 0


@pytest.mark.parametrize(
    ("only_first", "only_second", "rows", "lower", "upper"),
    [
        # Fagerland, Lydersen and Laake (2014): airway hyper-responsiveness before and after stem
        # cell transplantation, and complete response before and after consolidation therapy.
        (1, 7, 21, -0.517, -0.026),
        (6, 16, 161, -0.1240, -0.0054),
    ],
)
def test_score_interval_gives_the_published_figures(
    only_first: int, only_second: int, rows: int, lower: float, upper: float
) -> None:
    interval = proportions_interval(only_first, only_second, rows)
    digits = 3 if rows == 21 else 4
    assert (round(interval.lower, digits), round(interval.upper, digits)) == (lower, upper)


def test_score_interval_without_a_differing_row_is_as_wide_as_the_data_allows() -> None:
    # With b = c = 0 the bounds solve n d^2 = z^2 (|d| (1 - |d|) ...): z^2 / (n + z^2).
    z = scipy.stats.norm.ppf(0.975)
    interval = proportions_interval(0, 0, 500)
    assert interval.difference == 0
    assert interval.upper == pytest.approx(z**2 / (500 + z**2))
    assert interval.lower == pytest.approx(-interval.upper)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 200), st.floats(0.6, 0.99))
def test_score_interval_is_ordered_mirrored_and_within_bounds(
    b: int, c: int, same: int, confidence: float
) -> None:
    rows = b + c + same + 1
    interval = proportions_interval(b, c, rows, confidence=confidence)
    assert -1 <= interval.lower <= interval.difference <= interval.upper <= 1
    assert interval.lower < interval.upper
    mirrored = proportions_interval(c, b, rows, confidence=confidence)
    assert mirrored.lower == pytest.approx(-interval.upper, abs=1e-9)
    wider = proportions_interval(b, c, rows, confidence=confidence + 0.009)
    assert wider.lower <= interval.lower + 1e-12
    assert wider.upper >= interval.upper - 1e-12


@pytest.mark.parametrize("counts", [(1, 1, 0), (-1, 0, 5), (3, 3, 5)])
def test_counts_that_cannot_be_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="cannot differ"):
        proportions_interval(*counts)


@pytest.mark.parametrize("root", [False, True])
def test_bca_agrees_with_scipy(root: bool) -> None:
    rng = np.random.default_rng(1)
    first = rng.exponential(size=300)
    second = 0.8 * first + 0.3 * rng.exponential(size=300)

    def difference(one: np.ndarray, other: np.ndarray, axis: int) -> np.ndarray:
        means = one.mean(axis), other.mean(axis)
        left, right = (np.sqrt(mean) for mean in means) if root else means
        result: np.ndarray = left - right
        return result

    theirs = scipy.stats.bootstrap(
        (first, second), difference, paired=True, method="BCa", n_resamples=9999, rng=2
    ).confidence_interval
    ours = means_interval(first, second, root=root, resamples=10_000)
    width = theirs.high - theirs.low
    assert abs(ours.lower - theirs.low) < 0.04 * width
    assert abs(ours.upper - theirs.high) < 0.04 * width


def test_equal_errors_have_a_difference_of_exactly_zero() -> None:
    errors = np.random.default_rng(0).normal(size=200) ** 2
    assert means_interval(errors, errors) == (0, 0, 0)
    assert means_interval(errors, errors, root=True) == (0, 0, 0)


def test_the_same_seed_gives_the_same_interval_and_pairing_makes_it_narrow() -> None:
    rng = np.random.default_rng(3)
    champion = rng.exponential(size=500)
    candidate = champion + rng.normal(0.0, 0.05, size=500)
    narrow = means_interval(candidate, champion, resamples=500)
    assert narrow == means_interval(candidate, champion, resamples=500)
    wide = means_interval(rng.permutation(candidate), champion, resamples=500)
    assert narrow.upper - narrow.lower < (wide.upper - wide.lower) / 5


def test_counts_and_rows_give_the_same_interval() -> None:
    counts = np.array([700, 180, 120])
    per_row = np.repeat([0.0, 1.0, -1.0], counts)
    by_rows = bootstrap_interval(lambda rows: float(per_row[rows].mean()), 1000, resamples=4000)
    by_counts = counts_interval(
        lambda n: float(n[1] - n[2]) / float(n.sum()), counts, resamples=4000
    )
    score = proportions_interval(180, 120, 1000)
    assert by_rows is not None
    assert by_counts is not None
    for interval in (by_rows, by_counts):
        assert interval.difference == pytest.approx(0.06)
        assert interval.lower == pytest.approx(score.lower, abs=0.003)
        assert interval.upper == pytest.approx(score.upper, abs=0.003)


def test_resamples_without_the_metric_do_not_count_and_too_many_give_no_interval() -> None:
    sometimes = bootstrap_interval(lambda rows: 0.5 if 0 in rows else float("nan"), 20)
    assert sometimes == (0.5, 0.5, 0.5)
    assert bootstrap_interval(lambda rows: float("nan"), 20) is None
    hardly = bootstrap_interval(
        lambda rows: 0.5 if len(np.unique(rows)) == len(rows) else float("nan"), 20
    )
    assert hardly is None


def test_greatest_difference_of_two_groups_is_the_usual_one() -> None:
    interval = greatest_difference_interval([300, 240], [1000, 1000], resamples=4000)
    spread = 1.96 * np.sqrt(0.3 * 0.7 / 1000 + 0.24 * 0.76 / 1000)
    assert interval.difference == pytest.approx(0.06)
    assert interval.lower == pytest.approx(0.06 - spread, abs=0.004)
    assert interval.upper == pytest.approx(0.06 + spread, abs=0.004)


def test_one_group_has_no_difference() -> None:
    with pytest.raises(ValueError, match="two groups"):
        greatest_difference_interval([1], [2])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "only_candidate", "only_champion"),
    [(50, 0.05, 0.05), (200, 0.02, 0.04), (1000, 0.01, 0.012), (2000, 0.1, 0.08)],
)
def test_score_interval_covers_the_truth_as_often_as_it_says(
    rows: int, only_candidate: float, only_champion: float
) -> None:
    rng = np.random.default_rng(rows)
    same = 1 - only_candidate - only_champion
    draws = rng.multinomial(rows, [only_candidate, only_champion, same], size=2000)
    truth = only_candidate - only_champion
    intervals = [proportions_interval(int(b), int(c), rows) for b, c, _ in draws]
    covered = np.mean([one.lower <= truth <= one.upper for one in intervals])
    assert 0.935 <= covered <= 0.975


@pytest.mark.slow
@pytest.mark.parametrize("root", [False, True])
def test_bca_interval_covers_the_truth_of_skewed_errors(root: bool) -> None:
    # Candidate and champion share most of each error: mean 1.1 against 1.0.
    rng = np.random.default_rng(7)
    covered = below = 0
    repetitions = 600
    truth = np.sqrt(1.1) - 1 if root else 0.1
    for repetition in range(repetitions):
        shared = rng.exponential(0.8, size=400)
        candidate = shared + rng.exponential(0.3, size=400)
        champion = shared + rng.exponential(0.2, size=400)
        interval = means_interval(candidate, champion, root=root, resamples=600, seed=repetition)
        covered += interval.lower <= truth <= interval.upper
        below += interval.lower > truth
    assert 0.92 <= covered / repetitions <= 0.975
    # What a margin decides on is one bound: wrong in a fortieth of all cases.
    assert below / repetitions <= 0.05
