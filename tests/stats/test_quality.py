"""Figures of quality agree with scikit-learn, and their intervals hold as often as said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from modelplane.stats.quality import (
    Estimate,
    area_under_curve,
    calibration_error,
    f1_score,
    mean,
    proportion,
    root_mean_square,
)

BINS = 200
counts = st.integers(0, 1000)


def histogram(scores: np.ndarray) -> np.ndarray:
    return np.bincount(np.minimum(BINS - 1, (scores * BINS).astype(int)), minlength=BINS)


def covers(estimate: Estimate | None, truth: float) -> bool:
    assert estimate is not None
    assert estimate.lower is not None
    assert estimate.upper is not None
    return estimate.lower <= truth <= estimate.upper


@given(counts, counts)
def test_a_share_lies_in_its_interval_and_that_between_0_and_1(hits: int, misses: int) -> None:
    estimate = proportion(hits, hits + misses)
    if not hits + misses:
        assert estimate is None
    else:
        assert covers(estimate, hits / (hits + misses))
        assert estimate is not None
        assert 0 <= (estimate.lower or 0) <= (estimate.upper or 0) <= 1


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_f1_is_that_of_scikit_learn(tp: int, fp: int, fn: int, tn: int) -> None:
    truth = [1] * tp + [0] * fp + [1] * fn + [0] * tn
    said = [1] * tp + [1] * fp + [0] * fn + [0] * tn
    estimate = f1_score(tp, fp, fn)
    if not tp + fp + fn:
        assert estimate is None
    else:
        assert estimate is not None
        assert estimate.value == pytest.approx(metrics.f1_score(truth, said, zero_division=0))


def test_the_area_is_that_of_scikit_learn_and_its_interval_holds_as_often_as_said() -> None:
    random, covered, runs = np.random.default_rng(3), 0, 300
    # Two normal scores a distance 1 apart, squeezed into 0 to 1: the area is Phi(1 / sqrt 2).
    truth = 0.7602499
    for _ in range(runs):
        positives = 1 / (1 + np.exp(-random.normal(1, 1, 80)))
        negatives = 1 / (1 + np.exp(-random.normal(0, 1, 120)))
        p, n = histogram(positives), histogram(negatives)
        estimate = area_under_curve(p, n)
        assert estimate is not None
        places = np.concatenate([np.repeat(np.arange(BINS), p), np.repeat(np.arange(BINS), n)])
        labels = [1] * 80 + [0] * 120
        assert estimate.value == pytest.approx(metrics.roc_auc_score(labels, places))
        covered += covers(estimate, truth)
    assert 0.92 <= covered / runs <= 0.98


def test_a_perfect_order_still_has_an_interval() -> None:
    estimate = area_under_curve([0, 0, 10], [10, 0, 0])
    assert estimate is not None
    assert estimate.value == estimate.upper == 1
    assert 0.7 < (estimate.lower or 0) < 1
    assert area_under_curve([1], [0]) is None


def test_calibration_and_brier_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(4)
    scores = random.random(5000)
    truth = random.random(5000) < scores**2
    bins = np.minimum(9, (scores * 10).astype(int))
    found = calibration_error(
        np.bincount(bins, minlength=10),
        np.bincount(bins, scores, minlength=10),
        np.bincount(bins, truth, minlength=10),
    )
    shares = [abs(scores[bins == b].mean() - truth[bins == b].mean()) for b in range(10)]
    sizes = [(bins == b).mean() for b in range(10)]
    assert found is not None
    assert found.value == pytest.approx(np.dot(shares, sizes))
    squares = (scores - truth) ** 2
    brier = mean(5000, squares.sum(), (squares**2).sum())
    assert brier is not None
    assert brier.value == pytest.approx(metrics.brier_score_loss(truth, scores))


def test_errors_are_those_of_scikit_learn_with_intervals_that_hold() -> None:
    random, covered = np.random.default_rng(5), 0
    for _ in range(300):
        errors = random.normal(0, 2, 400)
        rmse = root_mean_square(400, (errors**2).sum(), (errors**4).sum())
        assert rmse is not None
        assert rmse.value == pytest.approx(metrics.root_mean_squared_error(errors, 0 * errors))
        covered += covers(rmse, 2.0)
    assert 0.92 <= covered / 300 <= 0.98
