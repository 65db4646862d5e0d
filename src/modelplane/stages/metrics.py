"""Metrics of scikit-learn by name, computed for a candidate and a champion on the same rows.

Called by the checks on data. Chooses the narrowest interval that is right for a metric (see
`stats.paired`); decides nothing.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import numpy as np
import sklearn
import sklearn.metrics

from modelplane.stages.data import choose_labels, choose_probabilities
from modelplane.stages.data_files import first_line
from modelplane.stages.data_tables import Array, listed
from modelplane.stages.failures import CheckImpossible
from modelplane.stats.paired import (
    IndexArray,
    Interval,
    bootstrap_interval,
    counts_interval,
    means_interval,
    proportions_interval,
)

SHORT_NAMES = {
    "accuracy": "accuracy_score",
    "balanced_accuracy": "balanced_accuracy_score",
    "f1": "f1_score",
    "precision": "precision_score",
    "recall": "recall_score",
    "mcc": "matthews_corrcoef",
    "auc": "roc_auc_score",
    "roc_auc": "roc_auc_score",
    "average_precision": "average_precision_score",
    "brier": "brier_score_loss",
    "mae": "mean_absolute_error",
    "mse": "mean_squared_error",
    "rmse": "root_mean_squared_error",
    "mape": "mean_absolute_percentage_error",
    "r2": "r2_score",
}
MEAN_RESAMPLES = 2000
RESAMPLES = 1000
_LEAST_RESAMPLES = 200
_ROWS_TO_DRAW = 20_000_000
"""Of all resamples together: a metric of a million rows takes a second."""

_GREATER = ("_score", "_corrcoef")
_SMALLER = ("_error", "_loss", "_deviance")
_OF_PROBABILITIES = ("y_score", "y_proba", "y_prob")
_NAMED_PROBABILITIES = {"log_loss", "d2_log_loss_score"}
"""Their second parameter was called `y_pred` before it was `y_proba`."""

_PER_ROW: dict[str, Callable[[Array], Array]] = {
    "mean_absolute_error": np.abs,
    "mean_squared_error": np.square,
    "root_mean_squared_error": np.square,
}


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric, as a stage names it.

    Attributes
    ----------
    name
        As it was written; what it is measured under.
    function
        Of ``sklearn.metrics``; takes the truth and the predictions.
    greater_is_better
        False of errors, losses and deviances.
    takes_probabilities
        Whether it takes probabilities (or scores) and not labels or values.
    arguments
        Further arguments of the function.
    """

    name: str
    function: Callable[..., Any]
    greater_is_better: bool
    takes_probabilities: bool
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_share(self) -> bool:
        """Whether it is the share of rows that are right, or wrong."""
        return self._is_plain("accuracy_score", "zero_one_loss")

    @property
    def is_mean(self) -> bool:
        """Whether it is a mean over rows, or the root of one."""
        return self._is_plain(*_PER_ROW)

    def _is_plain(self, *names: str) -> bool:
        return self.function.__name__ in names and not self.arguments

    def choose(self, outputs: Mapping[str, Array], wanted: str | None = None) -> Array:
        """Return the output that it judges; raises `CheckImpossible` when that is not clear."""
        choose = choose_probabilities if self.takes_probabilities else choose_labels
        return choose(outputs, wanted)


def find_metric(name: str, arguments: Mapping[str, str | float | bool] | None = None) -> Metric:
    """Return a metric by its name in ``sklearn.metrics``, or by one of `SHORT_NAMES`.

    Raises
    ------
    CheckImpossible
        There is no such metric, it gives no single number, or it takes no such argument.

    Examples
    --------
    >>> find_metric("rmse").greater_is_better
    False
    """
    known = _metrics()
    function = known.get(SHORT_NAMES.get(name, name))
    if function is None:
        close = get_close_matches(name, [*SHORT_NAMES, *known], n=3)
        hint = f"; did you mean {listed(close)}?" if close else ""
        raise CheckImpossible(
            f"`{name}` is no metric of sklearn.metrics that compares predictions with the truth "
            f"and gives one number{hint}"
        )
    _, second, *others = inspect.signature(function).parameters
    allowed = set(others) - {"sample_weight", "labels", "y_pred"}
    given = {key: _whole(value) for key, value in (arguments or {}).items()}
    if unknown := sorted(set(given) - allowed):
        raise CheckImpossible(
            f"{function.__name__} takes no argument {listed(unknown)}; it takes "
            f"{listed(sorted(allowed)) or 'none'}"
        )
    return Metric(
        name=name,
        function=function,
        greater_is_better=function.__name__.endswith(_GREATER),
        takes_probabilities=second in _OF_PROBABILITIES
        or function.__name__ in _NAMED_PROBABILITIES,
        arguments=given,
    )


def _metrics() -> dict[str, Callable[..., Any]]:
    """Return the functions of sklearn.metrics that take the truth and predictions, by name."""
    found: dict[str, Callable[..., Any]] = {}
    for name in sklearn.metrics.__all__:
        function = getattr(sklearn.metrics, name)
        if not inspect.isfunction(function) or not name.endswith((*_GREATER, *_SMALLER)):
            continue
        first, second = [*inspect.signature(function).parameters, "", ""][:2]
        if first == "y_true" and second in ("y_pred", *_OF_PROBABILITIES):
            found[name] = function
    # Symmetric in both, and so without a truth in its signature.
    found["cohen_kappa_score"] = sklearn.metrics.cohen_kappa_score
    return found


def _whole(value: str | float | bool) -> Any:
    """Return whole numbers as such: scikit-learn tells 5.0 from 5."""
    is_whole = isinstance(value, float) and value.is_integer()
    return int(value) if is_whole else value


@dataclass(frozen=True, slots=True)
class Comparison:
    """A metric with the truth and what both models say of the same rows; made by `compare`.

    Attributes
    ----------
    truth, candidate, champion
        Arrays of as many rows; `champion` is None where there is none.
    arguments
        Of the metric's function.
    """

    metric: Metric
    truth: Array
    candidate: Array
    champion: Array | None
    arguments: Mapping[str, Any]

    def value(self, rows: IndexArray | None = None) -> float:
        """Return the candidate's metric; NaN where it is not defined on `rows`."""
        return self._compute(self.candidate, rows)

    def champion_value(self, rows: IndexArray | None = None) -> float | None:
        """Return the champion's metric; None without a champion, NaN where not defined."""
        return None if self.champion is None else self._compute(self.champion, rows)

    @property
    def is_quick(self) -> bool:
        """Whether an interval takes milliseconds: others compute the metric a thousand times."""
        return self.metric.is_share or self.metric.is_mean

    def interval(
        self, rows: IndexArray | None, confidence: float, *, resamples: int | None = None
    ) -> Interval | None:
        """Return the difference, candidate minus champion, on `rows` with its interval.

        None without a champion, and where the metric is not defined on most resamples.
        """
        if self.champion is None:
            return None
        every = slice(None) if rows is None else rows
        truth, candidate, champion = (
            values[every] for values in (self.truth, self.candidate, self.champion)
        )
        if self.metric.is_share:
            return self._share_interval(candidate == truth, champion == truth, confidence)
        if self.metric.is_mean:
            function = self.metric.function.__name__
            per_row, right = _PER_ROW[function], truth.astype(np.float64)
            return means_interval(
                per_row(candidate - right),
                per_row(champion - right),
                root=function.startswith("root"),
                confidence=confidence,
                resamples=resamples or MEAN_RESAMPLES,
            )
        part = Comparison(self.metric, truth, candidate, champion, self.arguments)
        return part._resampled(champion, confidence, resamples)

    def _share_interval(self, candidate: Array, champion: Array, confidence: float) -> Interval:
        only_candidate = int(np.sum(candidate & ~champion))
        only_champion = int(np.sum(champion & ~candidate))
        if not self.metric.greater_is_better:  # what is counted is the rows that are wrong
            only_candidate, only_champion = only_champion, only_candidate
        return proportions_interval(
            only_candidate, only_champion, len(candidate), confidence=confidence
        )

    def _resampled(
        self, champion: Array, confidence: float, resamples: int | None
    ) -> Interval | None:
        rows = len(self.truth)
        with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
            kinds = None if self.metric.takes_probabilities else self._kinds(champion)
            if kinds is not None:
                first, counts = kinds

                def of_counts(drawn: IndexArray) -> float:
                    there = drawn > 0
                    weights = drawn[there].astype(np.float64)
                    some = first[there]
                    candidate = self._compute(self.candidate, some, weights)
                    return candidate - self._compute(champion, some, weights)

                count = resamples or RESAMPLES
                return counts_interval(of_counts, counts, confidence=confidence, resamples=count)

            def of_rows(some: IndexArray) -> float:
                return self._compute(self.candidate, some) - self._compute(champion, some)

            count = resamples or min(RESAMPLES, max(_LEAST_RESAMPLES, _ROWS_TO_DRAW // rows))
            return bootstrap_interval(of_rows, rows, confidence=confidence, resamples=count)

    def _kinds(self, champion: Array) -> tuple[IndexArray, IndexArray] | None:
        """Return a row of each kind and how many are alike; None when hardly any are."""
        if "sample_weight" not in inspect.signature(self.metric.function).parameters:
            return None
        code = np.zeros(len(self.truth), dtype=np.int64)
        for values in (self.truth, self.candidate, champion):
            distinct, number = np.unique(values, return_inverse=True)
            if len(distinct) > 1000:
                return None
            code = code * len(distinct) + number
        _, first, counts = np.unique(code, return_index=True, return_counts=True)
        return (first, counts) if 4 * len(first) <= len(code) else None

    def _compute(
        self, predicted: Array, rows: IndexArray | None, weights: Array | None = None
    ) -> float:
        truth = self.truth if rows is None else self.truth[rows]
        some = predicted if rows is None else predicted[rows]
        try:
            return _call(self.metric, truth, some, self.arguments, weights)
        except ValueError:
            return math.nan


def compare(
    metric: Metric, truth: Array, candidate: Array, champion: Array | None = None
) -> Comparison:
    """Bring truth and predictions into the form that the metric takes.

    Raises
    ------
    CheckImpossible
        The metric cannot be computed from them on all rows; says why in scikit-learn's words.
    """
    arguments = dict(metric.arguments)
    if truth.dtype.kind == "O":
        truth = truth.astype(str)
    if metric.takes_probabilities:
        arguments |= _label_arguments(metric, truth, candidate)
        candidate = _of_classes(metric, truth, candidate)
        champion = None if champion is None else _of_classes(metric, truth, champion)
    else:
        candidate = _alike(truth, candidate)
        champion = None if champion is None else _alike(truth, champion)
    made = Comparison(metric, truth, candidate, champion, arguments)
    for who, predicted in (("candidate", candidate), ("champion", champion)):
        if predicted is None:
            continue
        try:
            value = _call(metric, truth, predicted, arguments)
        except (ValueError, TypeError) as error:
            raise CheckImpossible(
                f"{metric.name} of the {who} cannot be computed: {first_line(error)}"
            ) from error
        if not math.isfinite(value):
            raise CheckImpossible(f"{metric.name} of the {who} is not defined on this data")
    return made


def _call(
    metric: Metric,
    truth: Array,
    predicted: Array,
    arguments: Mapping[str, Any],
    weights: Array | None = None,
) -> float:
    further = dict(arguments) if weights is None else {**arguments, "sample_weight": weights}
    with warnings.catch_warnings():
        # Undefined figures come back as NaN or as what `zero_division` says.
        warnings.simplefilter("ignore")
        value = metric.function(truth, predicted, **further)
    if np.ndim(value) != 0:
        raise ValueError(f"it gives {np.size(value)} numbers, not one: change its arguments")
    return float(value)


def _classes(truth: Array, width: int) -> Array:
    """Return the classes that the columns of probabilities belong to."""
    seen = np.unique(truth)
    if len(seen) == width:
        return seen
    if seen.dtype.kind in "iub" and seen.min() >= 0 and seen.max() < width:
        return np.arange(width)
    raise CheckImpossible(
        f"the model gives probabilities of {width} classes and the data has {len(seen)} "
        f"({listed(seen)}): which is which cannot be told"
    )


def _label_arguments(metric: Metric, truth: Array, predicted: Array) -> dict[str, Any]:
    """Return the argument `labels` where the function takes one."""
    if "labels" not in inspect.signature(metric.function).parameters:
        return {}
    width = predicted.shape[1] if predicted.ndim == 2 else 2
    return {"labels": _classes(truth, width)}


def _of_classes(metric: Metric, truth: Array, predicted: Array) -> Array:
    """Return probabilities of all classes or, with two, of the positive one."""
    if predicted.ndim == 1 or predicted.shape[1] != 2:
        return predicted
    if metric.function.__name__ in _NAMED_PROBABILITIES:
        return predicted
    classes = _classes(truth, 2)
    positive = metric.arguments.get("pos_label")
    if positive is None:
        return predicted[:, 1]
    names = [str(one) for one in classes]
    if str(positive) not in names:
        raise CheckImpossible(f"pos_label {positive!r} is no class of the data: {listed(names)}")
    return predicted[:, names.index(str(positive))]


def _alike(truth: Array, predicted: Array) -> Array:
    """Return predictions in the truth's type where one is text and the other is not."""
    predicted = predicted.astype(str) if predicted.dtype.kind == "O" else predicted
    if (truth.dtype.kind == "U") == (predicted.dtype.kind == "U"):
        return predicted
    # By the text of what the data holds: "0" is 0 and "True" is true.
    known = {str(_whole(value)): value for value in np.unique(truth).tolist()}
    texts = [str(_whole(value)) for value in predicted.tolist()]
    if truth.dtype.kind == "U":
        same = np.array(texts)
    else:
        same = np.array([known.get(text, text) for text in texts])
    if not known.keys() & set(texts) or (same.dtype.kind == "U") != (truth.dtype.kind == "U"):
        raise _unlike(truth, predicted)
    return same


def _unlike(truth: Array, predicted: Array) -> CheckImpossible:
    return CheckImpossible(
        f"the truth holds values such as {truth[0]!s:.40} and the model predicts such as "
        f"{predicted[0]!s:.40}: these are not the same labels"
    )
