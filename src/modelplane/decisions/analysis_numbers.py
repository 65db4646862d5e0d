"""Metrics that are judged by numbers or by pairs of answers, and what stable did beforehand.

Called by the ``analysis`` modules of this package that absorb counts and end the warm-up, with
what `decisions.analysis_labels` made of labels. It keeps the evidence and judges nothing.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from modelplane.decisions.analysis_evidence import MetricEvidence
from modelplane.decisions.analysis_inputs import AnalysisSettings, LabelCounts, Tick
from modelplane.stats.dispersion import update_dispersion
from modelplane.stats.rewards import (
    MeanState,
    add_history,
    add_pairs,
    add_values,
    arm_means,
)


def absorb_numbers(metric: MetricEvidence, labels: LabelCounts) -> MetricEvidence:
    """Add the numbers that labels brought for a metric; the first ones begin its evidence."""
    numbers = labels.numbers.get(metric.name)
    if numbers is None:
        return metric
    means = add_history(metric.means or MeanState(), numbers.earlier)
    if means.fixed is None and metric.margin is not None:
        # Judged by yes/no outcomes before; what was fixed then holds.
        means = arm_means(means, float(metric.tests.null_shift[0]), metric.margin)
    if numbers.pairs:
        ours, theirs = zip(*numbers.pairs, strict=True)
        means = add_pairs(means, ours, theirs)
    if numbers.stable or numbers.candidate:
        means = add_values(means, numbers.candidate, numbers.stable)
    stable = len(numbers.earlier) + len(numbers.stable) + len(numbers.pairs)
    candidate = len(numbers.candidate) + len(numbers.pairs)
    return replace(
        metric,
        means=means,
        stable=metric.stable.plus(stable, 0),
        candidate=metric.candidate.plus(candidate, 0),
    )


def add_earlier(metric: MetricEvidence, tick: Tick) -> MetricEvidence:
    """Add what stable did before the candidate met anyone: it says what is normal, no more."""
    earlier = tick.labels.earlier.get(metric.name) if tick.labels is not None else None
    if tick.labels is None or earlier is None or not earlier.trials:
        return metric
    trials, failures = earlier.trials, earlier.failures
    second = math.floor(tick.labels.predicted_at.timestamp())
    history = metric.tests.history + np.array([0.0, 0.0, trials, failures])
    return replace(
        metric,
        stable=metric.stable.plus(trials, failures),
        tests=replace(metric.tests, history=history),
        dispersion=update_dispersion(metric.dispersion, [second], [trials], [failures]),
    )


def arm_numbers(
    metric: MetricEvidence, declared: float | None, settings: AnalysisSettings
) -> MetricEvidence:
    """End the warm-up of a metric that is judged by numbers; margins are shares of the range."""
    assert metric.means is not None
    margin = declared or settings.default_margin(metric.means.stable_mean or 0.0)
    means = arm_means(metric.means, settings.kappa * margin, margin)
    return replace(metric, margin=margin, means=means)
