"""Quality figures: they agree with scikit-learn, merge by adding, and tell the task."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from modelplane.decisions.quality import (
    MAX_SLICES,
    QualityCounts,
    QualityWindow,
    quality_samples,
    report_quality,
)
from modelplane.ports.predictions import Outcome, Place
from modelplane.resources.monitoring import Labels

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LABELS = Labels(horizon_s=3600)


def outcome(
    predicted: Any, label: Any, score: float | None = None, reward: float | None = None,
    second: float = 0, version: str = "1.0.0", parts: tuple[str, ...] = (),
) -> Outcome:  # fmt: skip
    place = Place("production", "fraud", version)
    at = NOW + timedelta(seconds=second)
    return Outcome(1, place, at, predicted, score, label, reward, parts)


def counts_of(outcomes: Sequence[Outcome], labels: Labels = LABELS) -> QualityCounts:
    counts = QualityCounts()
    for one in outcomes:
        counts.add(one, labels)
    return counts


rows = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=80
)


@given(rows)
def test_figures_are_those_of_scikit_learn(found: list[tuple[int, int, float]]) -> None:
    said, truth, scores = zip(*found, strict=True)
    figures = counts_of([outcome(*row) for row in found]).metrics("binary")
    assert figures["accuracy"].value == pytest.approx(metrics.accuracy_score(truth, said))
    for name, function in (
        ("precision", metrics.precision_score),
        ("recall", metrics.recall_score),
        ("f1", metrics.f1_score),
    ):
        if name in figures:
            assert figures[name].value == pytest.approx(function(truth, said, zero_division=0))
    assert figures["brier"].value == pytest.approx(metrics.brier_score_loss(truth, scores))
    assert ("auc" in figures) == (len(set(truth)) == 2)


@given(rows, rows)
def test_counts_merge_by_adding(left: list[Any], right: list[Any]) -> None:
    whole = counts_of([outcome(*row) for row in [*left, *right]])
    merged = counts_of([outcome(*row) for row in left])
    merged.merge(counts_of([outcome(*row) for row in right]))
    for name, figure in whole.metrics("binary").items():
        other = merged.metrics("binary")[name]
        assert other.value == pytest.approx(figure.value)
        assert other.count == figure.count


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=2, max_size=50))
def test_errors_of_a_regression(found: list[tuple[float, float]]) -> None:
    said, truth = zip(*found, strict=True)
    figures = counts_of([outcome(*row) for row in found]).metrics("regression")
    assert figures["mae"].value == pytest.approx(metrics.mean_absolute_error(truth, said))
    rmse = metrics.root_mean_squared_error(truth, said)
    assert figures["rmse"].value == pytest.approx(rmse, abs=1e-6)


@pytest.mark.parametrize(
    ("found", "task"),
    [
        ([(1, 1), (0, 0)], "binary"),
        ([(0, 0)], "binary"),
        ([("1", 1.0), (True, "0")], "binary"),
        ([("cat", "dog"), ("dog", "dog"), ("cat", "cow")], "multiclass"),
        ([(1.5, 2), (2, 2)], "regression"),
        ([(None, 1)], None),
    ],
)
def test_the_task_is_told_by_labels_and_predictions(found: list[Any], task: str | None) -> None:
    assert counts_of([outcome(*row) for row in found]).task(None) == task


def window(outcomes: Sequence[Outcome]) -> QualityWindow:
    made = QualityWindow(LABELS)
    made.add((one.place.version, one.parts, one) for one in outcomes)
    return made


def test_the_window_reaches_back_from_the_newest_label_as_far_as_labels_may_take() -> None:
    old = [outcome(1, 0, second=-9000) for _ in range(5)]
    new = [outcome(1, 1, second=-60) for _ in range(5)]
    for order in (old + new, new + old):
        report = report_quality("production", "fraud", window(order))
        (version,) = report.versions
        assert version.metrics["precision"].value == 1
        assert version.labelled == 5
        assert report.until == NOW - timedelta(seconds=60)


def test_slices_are_bounded_and_told_apart() -> None:
    made = [outcome(1, n % 2, parts=(f"input.id={n}",)) for n in range(MAX_SLICES + 50)]
    report = report_quality("production", "fraud", window(made))
    assert len(report.versions) == MAX_SLICES + 1
    (whole,) = (one for one in report.versions if not one.slice)
    assert whole.labelled == len(made)


def test_rewards_without_labels_have_a_mean() -> None:
    report = report_quality(
        "production", "fraud", window([outcome(1, None, reward=n) for n in range(5)])
    )
    assert report.task is None
    (version,) = report.versions
    assert set(version.metrics) == {"reward"}
    assert version.metrics["reward"].value == 2
    assert (version.labelled, version.rewarded) == (0, 5)


def test_series_are_those_of_the_catalogue_with_intervals_where_there_are_any() -> None:
    found = [outcome(1, n % 2, score=n / 10, second=n) for n in range(10)]
    samples = list(quality_samples(report_quality("production", "fraud", window(found))))
    names = {(one.name, one.labels["metric"]) for one in samples}
    assert ("modelplane_quality", "calibration_error") in names
    assert ("modelplane_quality_lower", "calibration_error") not in names
    assert ("modelplane_quality_upper", "precision") in names
    assert {one.labels["version"] for one in samples} == {"1.0.0"}
