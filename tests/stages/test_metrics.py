"""Metrics by name: scikit-learn's figures, and intervals that do not depend on the short cut."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import sklearn.metrics
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.linear_model import LogisticRegression

from modelplane.stages import metrics
from modelplane.stages.failures import CheckImpossible
from modelplane.stages.metrics import SHORT_NAMES, Comparison, compare, find_metric
from modelplane.stats.paired import bootstrap_interval, proportions_interval

RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, 2, size=400)
CANDIDATE = np.where(RNG.random(400) < 0.9, TRUTH, 1 - TRUTH)
CHAMPION = np.where(RNG.random(400) < 0.85, TRUTH, 1 - TRUTH)


def test_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(metrics).failed == 0


@pytest.mark.parametrize(
    ("name", "greater", "probabilities"),
    [
        ("accuracy", True, False),
        ("f1_score", True, False),
        ("matthews_corrcoef", True, False),
        ("cohen_kappa_score", True, False),
        ("roc_auc_score", True, True),
        ("average_precision", True, True),
        ("top_k_accuracy_score", True, True),
        ("d2_log_loss_score", True, True),
        ("log_loss", False, True),
        ("brier_score_loss", False, True),
        ("zero_one_loss", False, False),
        ("rmse", False, False),
        ("max_error", False, False),
        ("mean_poisson_deviance", False, False),
        ("r2", True, False),
    ],
)
def test_which_way_is_better_and_what_a_metric_takes(
    name: str, greater: bool, probabilities: bool
) -> None:
    metric = find_metric(name)
    assert metric.name == name
    assert (metric.greater_is_better, metric.takes_probabilities) == (greater, probabilities)


def test_each_short_name_is_a_metric() -> None:
    for name in SHORT_NAMES:
        assert find_metric(name).name == name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("accuracy_scor", "did you mean `accuracy_score`"),
        ("confusion_matrix", "no metric of sklearn.metrics"),
        ("roc_curve", "no metric"),
        ("make_scorer", "no metric"),
        ("adjusted_rand_score", "no metric"),
        ("os.system", "no metric"),
        ("__class__", "no metric"),
    ],
)
def test_what_is_no_metric_is_refused(name: str, words: str) -> None:
    with pytest.raises(CheckImpossible, match=words):
        find_metric(name)


def test_arguments_are_those_of_the_function() -> None:
    metric = find_metric("fbeta_score", {"beta": 2.0})
    assert compare(metric, TRUTH, CANDIDATE).value() == pytest.approx(
        sklearn.metrics.fbeta_score(TRUTH, CANDIDATE, beta=2)
    )
    with pytest.raises(CheckImpossible, match="takes no argument `sample_weight`"):
        find_metric("f1", {"sample_weight": "x"})
    with pytest.raises(CheckImpossible, match=r"takes no argument `colour`; it takes .*`average`"):
        find_metric("f1", {"colour": "x"})
    with pytest.raises(CheckImpossible, match="cannot be computed"):
        compare(find_metric("f1", {"average": "sometimes"}), TRUTH, CANDIDATE)


def test_text_and_numbers_that_mean_the_same_are_compared_and_others_refused() -> None:
    texts = CANDIDATE.astype(str).astype(object)
    right = sklearn.metrics.accuracy_score(TRUTH, CANDIDATE)
    metric = find_metric("accuracy")
    assert compare(metric, TRUTH, texts).value() == right
    assert compare(metric, TRUTH.astype(str).astype(object), CANDIDATE).value() == right
    said = np.where(CANDIDATE == 1, "True", "False").astype(object)
    assert compare(metric, TRUTH.astype(bool), said).value() == right
    words = np.where(TRUTH == 1, "yes", "no").astype(object)
    with pytest.raises(CheckImpossible, match="not the same labels"):
        compare(metric, words, CANDIDATE)
    with pytest.raises(CheckImpossible, match="not the same labels"):
        compare(metric, TRUTH, words)


def test_several_classes_need_an_average_and_scikit_learn_says_so() -> None:
    three = RNG.integers(0, 3, size=100)
    with pytest.raises(CheckImpossible, match="average"):
        compare(find_metric("f1"), three, three)
    assert compare(find_metric("f1", {"average": "macro"}), three, three).value() == 1


def _probabilities(
    names: NDArray[np.object_] | None = None,
) -> tuple[NDArray[np.object_], NDArray[np.float64]]:
    data = load_breast_cancer()
    truth = data.target if names is None else names[data.target]
    model = LogisticRegression(C=0.001, max_iter=2000).fit(data.data[:, :5], truth)
    return truth, model.predict_proba(data.data[:, :5])


@pytest.mark.parametrize("name", ["auc", "log_loss", "brier", "average_precision"])
def test_probabilities_of_two_classes(name: str) -> None:
    truth, probabilities = _probabilities()
    function = find_metric(name).function
    value = compare(find_metric(name), truth, probabilities).value()
    assert value == pytest.approx(function(truth, probabilities[:, 1]))
    if name != "log_loss":
        assert compare(find_metric(name), truth, probabilities[:, 1]).value() == value


def test_the_positive_class_may_be_any() -> None:
    truth, probabilities = _probabilities(np.array(["malignant", "benign"], dtype=object))
    metric = find_metric("average_precision", {"pos_label": "malignant"})
    # Classes are in the order of their names: benign comes first.
    expected = sklearn.metrics.average_precision_score(truth == "malignant", probabilities[:, 1])
    assert compare(metric, truth, probabilities).value() == pytest.approx(expected)
    metric = find_metric("average_precision", {"pos_label": "benign"})
    expected = sklearn.metrics.average_precision_score(truth == "benign", probabilities[:, 0])
    assert compare(metric, truth, probabilities).value() == pytest.approx(expected)
    with pytest.raises(CheckImpossible, match="no class of the data"):
        compare(find_metric("brier", {"pos_label": "unclear"}), truth, probabilities)


def test_probabilities_of_several_classes_some_of_which_are_not_in_the_data() -> None:
    data = load_iris()
    model = LogisticRegression(max_iter=1000).fit(data.data, data.target)
    some = np.flatnonzero(data.target != 2)
    probabilities = model.predict_proba(data.data)
    every = compare(find_metric("auc", {"multi_class": "ovr"}), data.target, probabilities)
    assert every.value() == pytest.approx(
        sklearn.metrics.roc_auc_score(data.target, probabilities, multi_class="ovr")
    )
    log_loss = compare(find_metric("log_loss"), data.target[some], probabilities[some])
    assert log_loss.value() == pytest.approx(
        sklearn.metrics.log_loss(data.target[some], probabilities[some], labels=[0, 1, 2])
    )
    names = data.target_names[data.target[some]].astype(object)
    with pytest.raises(CheckImpossible, match="3 classes and the data has 2"):
        compare(find_metric("log_loss"), names, probabilities[some])


def test_accuracy_has_the_score_interval() -> None:
    made = compare(find_metric("accuracy"), TRUTH, CANDIDATE, CHAMPION)
    right, before = CANDIDATE == TRUTH, CHAMPION == TRUTH
    expected = proportions_interval(int(np.sum(right & ~before)), int(np.sum(before & ~right)), 400)
    assert made.interval(None, 0.95) == expected
    loss = compare(find_metric("zero_one_loss"), TRUTH, CANDIDATE, CHAMPION).interval(None, 0.95)
    assert loss is not None
    assert loss.difference == pytest.approx(-expected.difference)
    assert (loss.lower, loss.upper) == pytest.approx((-expected.upper, -expected.lower))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["f1", "balanced_accuracy"])
def test_kinds_of_rows_give_the_interval_of_all_rows(name: str) -> None:
    made = compare(find_metric(name), TRUTH, CANDIDATE, CHAMPION)
    short = made.interval(None, 0.9, resamples=150)
    function = made.metric.function
    long = bootstrap_interval(
        lambda rows: float(
            function(TRUTH[rows], CANDIDATE[rows]) - function(TRUTH[rows], CHAMPION[rows])
        ),
        400,
        confidence=0.9,
        resamples=150,
    )
    assert short is not None
    assert long is not None
    assert short.difference == pytest.approx(long.difference)
    width = long.upper - long.lower
    assert abs(short.lower - long.lower) < 0.3 * width
    assert abs(short.upper - long.upper) < 0.3 * width


@pytest.mark.parametrize("name", ["mae", "rmse", "mse", "r2", "median_absolute_error"])
def test_errors_of_numbers(name: str) -> None:
    truth = RNG.normal(size=300)
    close, wide = truth + RNG.normal(0, 0.1, 300), truth + RNG.normal(0, 0.3, 300)
    made = compare(find_metric(name), truth, close, wide)
    interval = made.interval(None, 0.95, resamples=100)
    champion = made.champion_value()
    assert interval is not None
    assert champion is not None
    assert interval.difference == pytest.approx(made.value() - champion)
    better = interval.lower > 0 if made.metric.greater_is_better else interval.upper < 0
    assert better


def test_a_metric_that_is_not_defined_on_some_rows_is_not_a_number_there() -> None:
    truth, probabilities = _probabilities()
    made = compare(find_metric("auc"), truth, probabilities, probabilities)
    ones = np.flatnonzero(truth == 1)
    assert np.isnan(made.value(ones))
    assert made.interval(ones, 0.95, resamples=20) is None
    with pytest.raises(CheckImpossible):
        compare(find_metric("auc"), truth[ones], probabilities[ones])


def test_without_a_champion_there_is_no_difference() -> None:
    made = compare(find_metric("accuracy"), TRUTH, CANDIDATE)
    assert isinstance(made, Comparison)
    assert made.champion_value() is None
    assert made.interval(None, 0.95) is None
