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
        Means over the quantiles, as in :class:`OutcomeReading`.
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
    """Numbers of one rollout: each metric's, in order, and errors without each replica."""

    metrics: tuple[OutcomeReading | LatencyReading, ...]
    e_values_without_replicas: tuple[float, ...]


def read_many(
    states: Sequence[EvidenceState], settings: Sequence[AnalysisSettings]
) -> list[EvidenceReading]:
    """Read all evidence together; one entry for each rollout."""
    outcomes, latencies, betas = [], [], []
    for state, one in zip(states, settings, strict=True):
        for metric in state.metrics:
            if metric.name == LATENCY:
                latencies.append(metric)
            else:
                outcomes.append(metric)
                betas.append(one.beta)
    outcome_readings = iter(_read_outcomes(outcomes, betas))
    latency_readings = iter(_read_latencies(latencies))
    without = _read_without_replicas(states)
    return [
        EvidenceReading(
            tuple(
                next(latency_readings) if metric.name == LATENCY else next(outcome_readings)
                for metric in state.metrics
            ),
            e_values,
        )
        for state, e_values in zip(states, without, strict=True)
    ]


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
    return [
        OutcomeReading(*row) for row in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _read_latencies(metrics: Sequence[MetricEvidence]) -> list[LatencyReading]:
    if not metrics:
        return []
    shape = (len(metrics), len(QUANTILES))
    tests = stack([metric.tests for metric in metrics])
    scatter = phi(stack_dispersion([metric.dispersion for metric in metrics]))
    exceeded = tests.history[:, 1] + tests.pending[:, 1]
    e_values = e_value(tests, scatter)
    counted = np.where(exceeded >= MIN_FAILURES_PER_PHI * scatter, e_values, 0.0)
    stable_rate = tests.stable_rate
    means = (e_values.reshape(shape).mean(axis=1), counted.reshape(shape).mean(axis=1))
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


def _read_without_replicas(states: Sequence[EvidenceState]) -> list[tuple[float, ...]]:
    """E-values of errors without each candidate replica, read with the phi of errors."""
    replicated = [state for state in states if state.replicas]
    if not replicated:
        return [()] * len(states)
    sizes = [len(state.replicas) for state in replicated]
    scatter = phi(
        stack_dispersion(
            [
                metric.dispersion
                for state in replicated
                for metric in state.metrics
                if metric.name == ERRORS
            ]
        )
    )
    tests = stack([state.leave_one_out for state in replicated])
    values = iter(e_value(tests, np.repeat(scatter, sizes)).tolist())
    return [tuple(next(values) for _ in state.replicas) for state in states]
