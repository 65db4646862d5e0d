"""What live analysis is told: how to judge a rollout, and what each second brought.

Used by the other ``analysis`` modules of this package and, through
:mod:`modelplane.decisions.analysis`, by the analysis controller, which makes ticks of what the
gateways report. Only data; nothing here keeps or concludes anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from modelplane.decisions.routing import OVERRIDE_RULE
from modelplane.resources.monitoring import Labels
from modelplane.resources.strategy import Analysis
from modelplane.resources.telemetry import TelemetryBatch, VariantSample
from modelplane.resources.traffic_split import DEFAULT_RULE
from modelplane.stats.latency import QUANTILES, Histogram, histogram_from_bins, merge_histograms

ERRORS = "errors"
LATENCY = "latency"
LOSS = "loss"
REWARD = "reward"
LABEL_FEED = "labels/"
"""What the name of a tick's `proxy` begins with, where it brings labels."""

LABEL_METRICS = frozenset({"accuracy", "precision", "recall", LOSS, REWARD})
"""What needs labels or rewards; `decisions.analysis_labels` makes counts and numbers of them."""


@dataclass(frozen=True, slots=True)
class MetricSettings:
    """How one metric is judged.

    Attributes
    ----------
    name
        ``errors``, ``latency``, or a yes/no outcome that ticks carry under this name; without
        any such tick it is unavailable and blocks promotion.
    margin
        How much worse the candidate may be: a difference of rates in (0, 1); for latency a share
        of stable's quantiles, positive. None for the default.
    weight
        Share of alpha relative to the other metrics, positive.
    percentile
        Of latency: the one that is judged, of 50, 95 and 99; None for all of them.
    low, high
        Of loss and reward: the declared range.
    """

    name: str
    margin: float | None = None
    weight: float = 1.0
    percentile: int | None = None
    low: float = 0.0
    high: float = 1.0

    def natural(self, badness: float | None) -> float | None:
        """Return what people call it: a precision of 0.67, for a badness of 0.33.

        Errors and latency are told as they are counted.
        """
        if badness is None or self.name not in LABEL_METRICS:
            return badness
        if self.name == LOSS:
            return self.low + badness * (self.high - self.low)
        return self.high - badness * (self.high - self.low)

    def quantile_rows(self, every: tuple[int, ...]) -> tuple[int, ...]:
        """Return the rows of `QUANTILES` that are judged: the declared one's, else `every`."""
        if self.percentile is None:
            return every
        return (QUANTILES.index(self.percentile / 100),)


@dataclass(frozen=True, slots=True)
class AnalysisSettings:
    """How a rollout is judged.

    Attributes
    ----------
    alpha
        Greatest probability of ever rolling back a candidate that is not worse.
    beta
        Greatest probability that a bound of the difference is ever wrong.
    kappa
        Share of the margin by which a candidate may be worse before the harm test looks; 0 is
        the strict test.
    metrics
        ``errors`` is judged even when it is not among them.
    margin_floor, margin_share
        Default margin: ``max(margin_floor, margin_share * stable's rate)``.
    warm_up_min_stable_requests, warm_up_s
        Both must be reached before a metric is judged.
    stale_after_s
        Counts older than this, in seconds, let nothing pass.
    slices
        Parts of the users whose errors are judged by themselves too, such as
        ``user.region=west``.
    """

    alpha: float = 0.05
    beta: float = 0.05
    kappa: float = 0.1
    metrics: tuple[MetricSettings, ...] = (MetricSettings(ERRORS), MetricSettings(LATENCY))
    margin_floor: float = 0.0025
    margin_share: float = 0.25
    warm_up_min_stable_requests: int = 100
    warm_up_s: float = 10.0
    stale_after_s: float = 15.0
    slices: tuple[str, ...] = ()

    def judged_metrics(self) -> tuple[MetricSettings, ...]:
        """Return the metrics with ``errors`` among them: no candidate may fail unseen."""
        if any(metric.name == ERRORS for metric in self.metrics):
            return self.metrics
        return (MetricSettings(ERRORS), *self.metrics)

    def default_margin(self, stable_rate: float) -> float:
        """Return the margin of a metric that declares none."""
        return max(self.margin_floor, self.margin_share * stable_rate)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Trials and failures of a yes/no outcome."""

    trials: int = 0
    failures: int = 0

    @property
    def rate(self) -> float | None:
        """Failures per trial; None without trials."""
        return self.failures / self.trials if self.trials else None

    def plus(self, trials: int, failures: int) -> Outcomes:
        """Return the sum."""
        return Outcomes(self.trials + trials, self.failures + failures)


NOTHING = Outcomes()


@dataclass(frozen=True, slots=True)
class VersionCounts:
    """What one version did in one interval.

    Attributes
    ----------
    requests, failures
        Requests assigned to the version and those that it failed, hidden ones included.
    client_failures
        Failures that clients saw; the others were answered by stable.
    latency
        Requests by the lower bound of their histogram bin, in microseconds.
    replicas
        Attempts and failed attempts of each replica.
    outcomes
        Other yes/no outcomes by metric name.
    slices
        Requests and failures of each declared part of the users.
    compared
        Of a shadow: pairs of answers compared, and those that differ.
    """

    requests: int = 0
    failures: int = 0
    client_failures: int = 0
    latency: Histogram = field(default_factory=dict)
    replicas: Mapping[str, Outcomes] = field(default_factory=dict)
    outcomes: Mapping[str, Outcomes] = field(default_factory=dict)
    slices: Mapping[str, Outcomes] = field(default_factory=dict)
    compared: Outcomes = NOTHING


@dataclass(frozen=True, slots=True)
class Numbers:
    """Badness, 0 to 1, of labelled predictions, in the order in which the labels came.

    Attributes
    ----------
    earlier
        Of stable, from before the candidate met anyone.
    stable, candidate
        Of different requests.
    pairs
        Of the same requests: the candidate's and stable's.
    """

    earlier: tuple[float, ...] = ()
    stable: tuple[float, ...] = ()
    candidate: tuple[float, ...] = ()
    pairs: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """What makes a tick one of labels.

    Attributes
    ----------
    predicted_at
        About when its predictions were made.
    earlier
        Yes/no outcomes of stable from before the candidate met anyone: they say what is normal.
    numbers
        By metric.
    """

    predicted_at: datetime
    earlier: Mapping[str, Outcomes] = field(default_factory=dict)
    numbers: Mapping[str, Numbers] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tick:
    """One interval, about a second, of one gateway; or labels that came for some predictions.

    Attributes
    ----------
    proxy, boot_id, sequence
        What names it; a tick that was absorbed before changes nothing.
    at
        End of the interval.
    step_id
        The step of this rollout that the gateway had acknowledged before the interval began;
        None when there was none.
    seconds
        Length of the interval; 0 for labels.
    labels
        Only for labels, whose yes/no outcomes stand in the versions' `outcomes`.
    """

    proxy: str
    boot_id: str
    sequence: int
    at: datetime
    step_id: int | None
    stable: VersionCounts
    candidate: VersionCounts
    seconds: float = 1.0
    labels: LabelCounts | None = None


def settings_of(analysis: Analysis, labels: Labels | None = None) -> AnalysisSettings:
    """Return the settings that a strategy's analysis declares, with the ranges of `labels`."""
    ranges = {LOSS: labels.loss, REWARD: labels.reward} if labels is not None else {}
    return AnalysisSettings(
        alpha=analysis.alpha,
        metrics=tuple(
            MetricSettings(
                rule.name,
                rule.margin,
                rule.weight,
                rule.percentile,
                *((bounds.low, bounds.high) if (bounds := ranges.get(rule.name)) else ()),
            )
            for rule in analysis.metrics
        ),
        slices=tuple(f"{part.by}={value}" for part in analysis.slices for value in part.values),
    )


def tick_from_batch(
    batch: TelemetryBatch,
    deployment: str,
    rollout_uid: str,
    stable: str,
    candidate: str,
    *,
    rule: str = DEFAULT_RULE,
    is_mirrored: bool = False,
    beside: Mapping[str, str] | None = None,
) -> Tick:
    """Read one rollout's counts from what a gateway sent.

    Parameters
    ----------
    deployment, rollout_uid
        Whose counts; a split of another rollout gives no step.
    stable, candidate
        Short digests of the two revisions.
    rule
        The routing rule that both are counted under: only who is under the same rule can be
        compared.
    is_mirrored
        Whether the candidate gets copies only: those of everybody are made under every rule.
    beside
        Other rules under which users meet the candidate, with what they are called: each is a
        part of the users by itself, since stable has another share of the requests there.
    """
    names = beside or {}
    own = [sample for sample in batch.samples if sample.deployment == deployment]
    every_rule = is_mirrored and rule == DEFAULT_RULE
    return Tick(
        proxy=batch.proxy,
        boot_id=batch.boot_id,
        sequence=batch.sequence,
        at=batch.at,
        step_id=batch.steps.get(deployment, {}).get(rollout_uid),
        stable=_with_parts(
            _counts(s for s in own if s.revision == stable and _is_under(s, rule, every_rule)),
            [(names[s.rule], s) for s in own if s.revision == stable and s.rule in names],
        ),
        candidate=_with_parts(
            _counts(s for s in own if s.revision == candidate and _is_under(s, rule, every_rule)),
            [(names[s.rule], s) for s in own if s.revision == candidate and s.rule in names],
        ),
        seconds=batch.seconds,
    )


def _is_under(sample: VariantSample, rule: str, every_rule: bool) -> bool:
    name = sample.rule or DEFAULT_RULE
    # Requests that chose their version themselves say nothing of anybody else.
    return name == rule or (every_rule and name != OVERRIDE_RULE)


def _with_parts(counts: VersionCounts, parts: Sequence[tuple[str, VariantSample]]) -> VersionCounts:
    if not parts:
        return counts
    under = {name: Outcomes(sample.requests, sample.failures) for name, sample in parts}
    return replace(counts, slices={**counts.slices, **under})


def _counts(samples: Iterable[VariantSample]) -> VersionCounts:
    counted = [_counts_from_sample(sample) for sample in samples]
    total = counted[0] if counted else VersionCounts()
    for more in counted[1:]:
        total = VersionCounts(
            requests=total.requests + more.requests,
            failures=total.failures + more.failures,
            client_failures=total.client_failures + more.client_failures,
            latency=merge_histograms(total.latency, more.latency),
            replicas=_sum_outcomes(total.replicas, more.replicas),
            outcomes=_sum_outcomes(total.outcomes, more.outcomes),
            slices=_sum_outcomes(total.slices, more.slices),
            compared=total.compared.plus(more.compared.trials, more.compared.failures),
        )
    return total


def _sum_outcomes(
    left: Mapping[str, Outcomes], right: Mapping[str, Outcomes]
) -> dict[str, Outcomes]:
    result = dict(left)
    for name, more in right.items():
        result[name] = result.get(name, NOTHING).plus(more.trials, more.failures)
    return result


def _counts_from_sample(sample: VariantSample) -> VersionCounts:
    return VersionCounts(
        requests=sample.requests,
        failures=sample.failures,
        client_failures=sample.client_failures,
        latency=histogram_from_bins(sample.latency),
        replicas={
            name: Outcomes(replica.attempts, replica.failures)
            for name, replica in sample.replicas.items()
        },
        slices={
            name: Outcomes(part.requests, part.failures) for name, part in sample.slices.items()
        },
        compared=Outcomes(sample.compared, min(sample.different, sample.compared)),
    )
