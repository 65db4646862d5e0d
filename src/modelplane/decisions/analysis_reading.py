"""The numbers that a verdict rests on, read from all evidence in a few array operations.

Called by :mod:`modelplane.decisions.analysis_verdict`. It turns wealth into e-values and bounds
and applies phi; it compares nothing with alpha or a margin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modelplane.decisions.analysis_evidence import (
    EvidenceState,
    MetricEvidence,
)
from modelplane.decisions.analysis_inputs import (
    ERRORS,
    LATENCY,
    AnalysisSettings,
)
from modelplane.stats.dispersion import phi, stack_dispersion
from modelplane.stats.latency import QUANTILES
from modelplane.stats.rewards import lower_mean_bound, mean_e_value, upper_mean_bound
from modelplane.stats.sequential import (
    e_value,
    faster_best_log_wealth,
    faster_log_e_value,
    lower_bound,
    margin_log_wealth,
    upper_bound,
)
from modelplane.stats.sequential_rows import stack

MIN_FAILURES_PER_PHI = 3.0
"""Evidence counts towards a rollback from this times phi candidate failures on."""


@dataclass(frozen=True, slots=True)
class OutcomeReading:
    """Numbers of a yes/no outcome.

    Attributes
    ----------
    e_value
        Evidence of harm.
    counted_e_value
        The same, but 0 while there are too few candidate failures for a rollback.
    upper, lower
        Bounds of the difference of the rates.
    margin_log_wealth
        Log-wealth against the margin, divided by phi.
    """

    phi: float
    stable_rate: float
    e_value: float
    counted_e_value: float
    upper: float
    lower: float
    margin_log_wealth: float


@dataclass(frozen=True, slots=True)
class LatencyReading:
    """Numbers of the latency's quantiles; tuples hold one entry for each of `QUANTILES`.

    Attributes
    ----------
    e_value, counted_e_value
        Means over the judged quantiles, as in :class:`OutcomeReading`.
    faster_log_e_values
        Evidence that the candidate exceeds its thresholds less often than stable.
    best_log_wealth
        Of the best single bet in that test, for estimating a wait.
    stable_rate, candidate_rate
        Shares of requests above the thresholds.
    """

    e_value: float
    counted_e_value: float
    phi: tuple[float, ...]
    faster_log_e_values: tuple[float, ...]
    best_log_wealth: tuple[float, ...]
    stable_rate: tuple[float, ...]
    candidate_rate: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class EvidenceReading:
    """Numbers of one rollout.

    Attributes
    ----------
    metrics
        Each metric's, in order.
    e_values_without_replicas
        Evidence of harm by errors without each candidate replica.
    e_values_of_slices, counted_e_values_of_slices
        Evidence of harm by errors in each slice, as in :class:`OutcomeReading`.
    """

    metrics: tuple[OutcomeReading | LatencyReading, ...]
    e_values_without_replicas: tuple[float, ...]
    e_values_of_slices: tuple[float, ...]
    counted_e_values_of_slices: tuple[float, ...]


def read_many(
    states: Sequence[EvidenceState], settings: Sequence[AnalysisSettings]
) -> list[EvidenceReading]:
    """Read all evidence together; one entry for each rollout."""
    outcomes, latencies, betas, rows = [], [], [], []
    # Rollouts often share their settings.
    judged = {key: _judged_rows(one) for key, one in {id(s): s for s in settings}.items()}
    for state, one in zip(states, settings, strict=True):
        for metric in state.metrics:
            if metric.name == LATENCY:
                latencies.append(metric)
                rows.append(judged[id(one)])
            else:
                outcomes.append(metric)
                betas.append(one.beta)
    outcome_readings = iter(_read_outcomes(outcomes, betas))
    latency_readings = iter(_read_latencies(latencies, rows))
    harm = _read_harm_tests(states)
    return [
        EvidenceReading(
            tuple(
                next(latency_readings) if metric.name == LATENCY else next(outcome_readings)
                for metric in state.metrics
            ),
            *harm_values,
        )
        for state, harm_values in zip(states, harm, strict=True)
    ]


def _judged_rows(settings: AnalysisSettings) -> list[bool]:
    """Which quantiles of latency a rollback looks at."""
    every = tuple(range(len(QUANTILES)))
    declared = next((m for m in settings.metrics if m.name == LATENCY), None)
    judged = declared.quantile_rows(every) if declared else every
    return [row in judged for row in every]


def _read_outcomes(
    metrics: Sequence[MetricEvidence], betas: Sequence[float]
) -> list[OutcomeReading]:
    if not metrics:
        return []
    tests = stack([metric.tests for metric in metrics])
    scatter = phi(stack_dispersion([metric.dispersion for metric in metrics]))
    e_values = e_value(tests, scatter)
    enough = tests.history[:, 1] + tests.pending[:, 1] >= MIN_FAILURES_PER_PHI * scatter
    columns = (
        scatter,
        tests.stable_rate,
        e_values,
        np.where(enough, e_values, 0.0),
        upper_bound(tests, scatter, betas),
        lower_bound(tests, scatter, betas),
        margin_log_wealth(tests, scatter),
    )
    readings = [
        OutcomeReading(*row) for row in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return [
        _read_means(metric, beta) or reading
        for metric, beta, reading in zip(metrics, betas, readings, strict=True)
    ]


def _read_means(metric: MetricEvidence, beta: float) -> OutcomeReading | None:
    """Numbers of a metric that is judged by numbers or pairs; None for any other.

    They are taken as independent: phi is 1, and no few of them are too few.
    """
    if metric.means is None:
        return None
    e = mean_e_value(metric.means)
    return OutcomeReading(
        phi=1.0,
        stable_rate=metric.means.stable_mean or 0.0,
        e_value=e,
        counted_e_value=e,
        upper=upper_mean_bound(metric.means, beta),
        lower=lower_mean_bound(metric.means, beta),
        margin_log_wealth=0.0,
    )


def _read_latencies(
    metrics: Sequence[MetricEvidence], judged: Sequence[Sequence[bool]]
) -> list[LatencyReading]:
    if not metrics:
        return []
    shape = (len(metrics), len(QUANTILES))
    tests = stack([metric.tests for metric in metrics])
    scatter = phi(stack_dispersion([metric.dispersion for metric in metrics]))
    exceeded = tests.history[:, 1] + tests.pending[:, 1]
    e_values = e_value(tests, scatter)
    counted = np.where(exceeded >= MIN_FAILURES_PER_PHI * scatter, e_values, 0.0)
    stable_rate = tests.stable_rate
    share = np.array(judged, dtype=np.float64)
    share /= share.sum(axis=1, keepdims=True)
    means = [(values.reshape(shape) * share).sum(axis=1) for values in (e_values, counted)]
    rows = (
        scatter,
        faster_log_e_value(tests, scatter),
        faster_best_log_wealth(tests, scatter),
        stable_rate,
        (exceeded + stable_rate / 2) / (tests.history[:, 0] + tests.pending[:, 0] + 1),
    )
    return [
        LatencyReading(mean, counted_mean, *(tuple(values) for values in quantiles))
        for mean, counted_mean, *quantiles in zip(
            *(column.tolist() for column in means),
            *(column.reshape(shape).tolist() for column in rows),
            strict=True,
        )
    ]


def _read_harm_tests(
    states: Sequence[EvidenceState],
) -> list[tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]]:
    """E-values of errors without each replica and in each slice, read with the phi of errors."""
    tested = [state for state in states if state.replicas or state.slices]
    if not tested:
        return [((), (), ())] * len(states)
    errors = [metric for state in tested for metric in state.metrics if metric.name == ERRORS]
    sizes = [len(state.replicas) + len(state.slices) for state in tested]
    scatter = np.repeat(phi(stack_dispersion([metric.dispersion for metric in errors])), sizes)
    tests = stack(
        [
            rows
            for state in tested
            for rows in (state.leave_one_out, state.slice_tests)
            if len(rows.fixed)
        ]
    )
    values = e_value(tests, scatter)
    enough = tests.history[:, 1] + tests.pending[:, 1] >= MIN_FAILURES_PER_PHI * scatter
    shown, counted = values.tolist(), np.where(enough, values, 0.0).tolist()
    result, start = [], 0
    for state in states:
        middle = start + len(state.replicas)
        stop = middle + len(state.slices)
        row = (shown[start:middle], shown[middle:stop], counted[middle:stop])
        result.append((tuple(row[0]), tuple(row[1]), tuple(row[2])))
        start = stop
    return result
