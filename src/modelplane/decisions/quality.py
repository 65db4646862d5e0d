"""Live quality of a deployment's versions, from predictions that labels have come for. Pure.

`ports.quality` keeps the counts and asks here; the API, the CLI and the series of the catalogue
show the report. Counts merge by adding, so a window is the sum of its parts of time.

Figures are told of all predictions of a version, whatever rule or copy they came by. Two versions
that met different users cannot be compared by them: the judgement of a rollout does that.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pydantic import Field

from modelplane.decisions.analysis_labels import Labelled, Value, absolute_error, same
from modelplane.decisions.series import Sample, sample
from modelplane.resources.meta import Part
from modelplane.resources.monitoring import Labels, Task
from modelplane.stats import quality as figures

SCORE_BINS = 200
CALIBRATION_BINS = 10
MAX_CLASSES = 3
"""Different labels that are remembered: more than two are more than two classes."""


class Figure(Part):
    """One figure with its 95 % interval."""

    value: float
    lower: float | None = Field(default=None, description="Absent: there is no interval for it.")
    upper: float | None = None
    count: int = Field(description="Predictions that it is made of.")


class VersionQuality(Part):
    """One version, or one slice of its predictions."""

    version: str
    slice: str = Field(default="", description="Such as `user.region=west`; empty: all.")
    labelled: int = 0
    rewarded: int = 0
    metrics: dict[str, Figure] = Field(default_factory=dict)


class Completeness(Part):
    """How many of a version's predictions have labels, and how many were lost."""

    version: str
    predictions: int = 0
    labelled: int = 0
    rewarded: int = 0
    due: int = Field(default=0, description="Older than the horizon.")
    due_labelled: int = 0
    dropped: int = 0

    @property
    def due_ratio(self) -> float | None:
        """Share of the due ones that have labels; None while none is due."""
        return self.due_labelled / self.due if self.due else None


class QualityReport(Part):
    """Quality of a deployment's versions by labels."""

    deployment: str
    environment: str
    task: Task | None = Field(default=None, description="Absent: no labels have come.")
    since: datetime | None = Field(default=None, description="Oldest prediction that counts.")
    until: datetime | None = Field(default=None, description="Newest one that has a label.")
    versions: tuple[VersionQuality, ...] = ()
    completeness: tuple[Completeness, ...] = ()


@dataclass(slots=True)
class QualityCounts:
    """Counts and sums of some labelled predictions.

    Attributes
    ----------
    labelled, correct
        Labels, and those that said what was predicted.
    cells
        Of predictions as a binary task has them: (predicted positive, truly positive).
    positives, negatives
        By bin of the score, `SCORE_BINS` of them from 0 to 1.
    score_sums
        By bin of the score.
    brier, errors, rewards
        Powers of (score - truth)^2, of the absolute error, and of rewards: how many, sums of the
        first, second and (of errors) fourth powers.
    classes
        Some labels that were seen, as text.
    has_fractions
        Whether a label or a prediction is a number that is not whole.
    """

    labelled: int = 0
    correct: int = 0
    cells: Counter[tuple[bool, bool]] = field(default_factory=Counter)
    positives: Counter[int] = field(default_factory=Counter)
    negatives: Counter[int] = field(default_factory=Counter)
    score_sums: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    brier: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    errors: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])
    rewards: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    classes: set[str] = field(default_factory=set)
    has_fractions: bool = False

    def add(self, outcome: Labelled, labels: Labels) -> None:
        """Add what turned out of one prediction."""
        if outcome.reward is not None:
            _add_powers(self.rewards, outcome.reward)
        if outcome.label is None or (outcome.predicted is None and outcome.score is None):
            return
        truth = same(outcome.label, labels.positive)
        self.labelled += 1
        if len(self.classes) < MAX_CLASSES:
            self.classes.add("positive" if truth else str(outcome.label))
        if outcome.predicted is not None:
            self.correct += same(outcome.predicted, outcome.label)
            self.cells[same(outcome.predicted, labels.positive), truth] += 1
            self.has_fractions |= _is_fraction(outcome.label) or _is_fraction(outcome.predicted)
            error = absolute_error(outcome.predicted, outcome.label)
            if error is not None:
                _add_powers(self.errors, error)
        if outcome.score is not None:
            score = min(max(outcome.score, 0.0), 1.0)
            place = min(SCORE_BINS - 1, int(score * SCORE_BINS))
            (self.positives if truth else self.negatives)[place] += 1
            self.score_sums[place] += score
            _add_powers(self.brier, (score - truth) ** 2)

    def merge(self, other: QualityCounts) -> None:
        """Add the counts of others."""
        self.labelled += other.labelled
        self.correct += other.correct
        self.cells.update(other.cells)
        self.positives.update(other.positives)
        self.negatives.update(other.negatives)
        for place, total in other.score_sums.items():
            self.score_sums[place] += total
        for mine, theirs in (
            (self.brier, other.brier),
            (self.errors, other.errors),
            (self.rewards, other.rewards),
        ):
            mine[:] = [a + b for a, b in zip(mine, theirs, strict=True)]
        self.classes |= other.classes
        self.has_fractions |= other.has_fractions

    def task(self, declared: Task | None) -> Task | None:
        """Return the declared task, or what labels and predictions look like."""
        if declared is not None or not self.labelled:
            return declared
        if self.has_fractions:
            return "regression"
        is_binary = "positive" in self.classes and len(self.classes) <= 2
        return "binary" if is_binary or len(self.classes) == 1 else "multiclass"

    def metrics(self, task: Task | None) -> dict[str, Figure]:
        """Return the figures that a task has, as far as there are any."""
        found: dict[str, tuple[figures.Estimate | None, float]] = {}
        if task in {"binary", "multiclass"}:
            known = sum(self.cells.values())
            found["accuracy"] = (figures.proportion(self.correct, known), known)
        if task == "binary":
            found |= self._binary()
        if task == "regression":
            n = self.errors[0]
            found["mae"] = (figures.mean(*self.errors[:3]), n)
            found["rmse"] = (figures.root_mean_square(n, *self.errors[2:]), n)
        found["reward"] = (figures.mean(*self.rewards), self.rewards[0])
        return {
            name: Figure(
                value=estimate.value, lower=estimate.lower, upper=estimate.upper, count=round(count)
            )
            for name, (estimate, count) in found.items()
            if estimate is not None
        }

    def _binary(self) -> dict[str, tuple[figures.Estimate | None, float]]:
        tp, fp = self.cells[True, True], self.cells[True, False]
        fn = self.cells[False, True]
        scored = self.brier[0]
        positives, negatives = (
            [bins[place] for place in range(SCORE_BINS)]
            for bins in (self.positives, self.negatives)
        )
        wide = SCORE_BINS // CALIBRATION_BINS
        in_bins = [0.0] * CALIBRATION_BINS
        hits, sums = in_bins.copy(), in_bins.copy()
        for place in range(SCORE_BINS):
            in_bins[place // wide] += positives[place] + negatives[place]
            hits[place // wide] += positives[place]
            sums[place // wide] += self.score_sums.get(place, 0.0)
        return {
            "precision": (figures.proportion(tp, tp + fp), tp + fp),
            "recall": (figures.proportion(tp, tp + fn), tp + fn),
            "f1": (figures.f1_score(tp, fp, fn), tp + fp + fn),
            "auc": (figures.area_under_curve(positives, negatives), scored),
            "brier": (figures.mean(*self.brier), scored),
            "calibration_error": (figures.calibration_error(in_bins, sums, hits), scored),
        }


def _add_powers(sums: list[float], value: float) -> None:
    sums[0] += 1
    sums[1] += value
    sums[2] += value * value
    if len(sums) > 3:
        sums[3] += value**4


def _is_fraction(value: Value) -> bool:
    return isinstance(value, float) and not value.is_integer()


MAX_SLICES = 200
"""Slices of one deployment that figures are kept of; whatever comes later is in no slice."""

PARTS_OF_WINDOW = 24


@dataclass(slots=True)
class QualityWindow:
    """The newest labelled predictions of a deployment, by part of time, version and slice.

    It reaches as far back from the newest labelled prediction as labels may take, so that it does
    not run empty while labels are on their way.
    """

    labels: Labels
    parts: dict[int, dict[tuple[str, str], QualityCounts]] = field(default_factory=dict)
    newest: datetime | None = None
    slices: set[str] = field(default_factory=set)

    @property
    def _part_s(self) -> float:
        return max(1.0, self.labels.horizon_s / PARTS_OF_WINDOW)

    def add(self, outcomes: Iterable[tuple[str, Sequence[str], Labelled]]) -> None:
        """Add what turned out: version, slices, outcome."""
        for version, slices, outcome in outcomes:
            if self.newest is None or outcome.predicted_at > self.newest:
                self.newest = outcome.predicted_at
            number = int(outcome.predicted_at.timestamp() // self._part_s)
            part = self.parts.setdefault(number, {})
            for name in ("", *slices):
                if name and name not in self.slices:
                    if len(self.slices) >= MAX_SLICES:
                        continue
                    self.slices.add(name)
                counts = part.get((version, name))
                if counts is None:
                    counts = part[version, name] = QualityCounts()
                counts.add(outcome, self.labels)
        oldest = self._oldest()
        self.parts = {number: part for number, part in self.parts.items() if number >= oldest}

    def _oldest(self) -> int:
        if self.newest is None:
            return 0
        since = self.newest - timedelta(seconds=self.labels.horizon_s)
        return int(since.timestamp() // self._part_s)

    @property
    def since(self) -> datetime | None:
        """Begin of the window; None without labels."""
        if self.newest is None:
            return None
        seconds = self._oldest() * self._part_s
        return datetime.fromtimestamp(seconds, self.newest.tzinfo)

    def sums(self) -> dict[tuple[str, str], QualityCounts]:
        """Return the counts of the window by version and slice."""
        totals: dict[tuple[str, str], QualityCounts] = defaultdict(QualityCounts)
        for part in self.parts.values():
            for key, counts in part.items():
                totals[key].merge(counts)
        return dict(totals)


def report_quality(
    environment: str,
    deployment: str,
    window: QualityWindow,
    completeness: Iterable[Mapping[str, Any]] = (),
) -> QualityReport:
    """Return what is known of a deployment's quality.

    Parameters
    ----------
    completeness
        Fields of `Completeness`; those of one version are added up.
    """
    sums = window.sums()
    everything = QualityCounts()
    for (_, name), counts in sums.items():
        if not name:
            everything.merge(counts)
    task = everything.task(window.labels.task)
    return QualityReport(
        deployment=deployment,
        environment=environment,
        task=task,
        since=window.since,
        until=window.newest,
        versions=tuple(
            VersionQuality(
                version=version,
                slice=name,
                labelled=counts.labelled,
                rewarded=round(counts.rewards[0]),
                metrics=counts.metrics(task),
            )
            for (version, name), counts in sorted(sums.items())
        ),
        completeness=_add_up(completeness),
    )


def _add_up(rows: Iterable[Mapping[str, Any]]) -> tuple[Completeness, ...]:
    versions: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts = {name: int(count) for name, count in row.items() if name != "version"}
        versions[str(row["version"])].update(counts)
    return tuple(
        Completeness.model_validate({"version": version, **counts})
        for version, counts in sorted(versions.items())
    )


def quality_samples(report: QualityReport) -> Iterator[Sample]:
    """Return the samples of the catalogue that a report holds."""
    for version in report.versions:
        for name, figure in version.metrics.items():
            labels = {
                "environment": report.environment,
                "deployment": report.deployment,
                "version": version.version,
                "metric": name,
                "slice": version.slice,
            }
            yield sample("modelplane_quality", figure.value, **labels)
            if figure.lower is not None and figure.upper is not None:
                yield sample("modelplane_quality_lower", figure.lower, **labels)
                yield sample("modelplane_quality_upper", figure.upper, **labels)
