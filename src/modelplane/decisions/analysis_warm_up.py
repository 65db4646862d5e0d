"""The end of the warm-up: what is normal for stable is fixed, and latency's follows it.

Called by :mod:`modelplane.decisions.analysis_absorb` after each batch of counts. It draws no
conclusion about the candidate.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from modelplane.decisions.analysis_evidence import EvidenceState, MetricEvidence
from modelplane.decisions.analysis_inputs import ERRORS, LATENCY, AnalysisSettings
from modelplane.decisions.analysis_numbers import arm_numbers
from modelplane.decisions.analysis_slices import arm_slices
from modelplane.stats.latency import (
    DEFAULT_SLOWDOWN,
    Histogram,
    exceedances,
    fix_thresholds,
    subtract_histogram,
)
from modelplane.stats.sequential import EXCEEDANCE, arm, new_state

RENEW_AFTER_S = 15.0
RENEW_AFTER_REQUESTS = 500
"""So many requests to stable, and seconds, are between two sets of latency thresholds."""


def arm_warm_metrics(state: EvidenceState, settings: AnalysisSettings) -> EvidenceState:
    """End the warm-up of each metric that has seen enough of stable.

    Done once for each batch, so that a rollout that starts with a long history learns stable's
    normal from all of it.
    """
    if all(metric.armed for metric in state.metrics):
        return state
    if state.first_at is None or state.last_at is None:
        return state
    if (state.last_at - state.first_at).total_seconds() < settings.warm_up_s:
        return state
    declared = {metric.name: metric.margin for metric in settings.judged_metrics()}
    metrics = []
    leave_one_out, slice_tests = state.leave_one_out, state.slice_tests
    for metric in state.metrics:
        if metric.armed or metric.stable.trials < settings.warm_up_min_stable_requests:
            metrics.append(metric)
        elif metric.name == LATENCY:
            armed = _arm_latency(metric, declared[LATENCY])
            metrics.append(_settle(armed, {}, state.last_at))
        elif metric.means is not None:
            metrics.append(arm_numbers(metric, declared[metric.name], settings))
        else:
            margin = declared[metric.name] or settings.default_margin(
                float(metric.tests.stable_rate[0])
            )
            shift = settings.kappa * margin
            metrics.append(replace(metric, margin=margin, tests=arm(metric.tests, shift, margin)))
            if metric.name == ERRORS:
                leave_one_out = arm(leave_one_out, shift)
                slice_tests = arm_slices(slice_tests, metrics[-1])
    return replace(
        state, metrics=tuple(metrics), leave_one_out=leave_one_out, slice_tests=slice_tests
    )


def _arm_latency(metric: MetricEvidence, margin: float | None) -> MetricEvidence:
    """Fix the thresholds; the warm-up's exceedances become the history of the tests."""
    slowdown = DEFAULT_SLOWDOWN if margin is None else margin
    thresholds = fix_thresholds(metric.stable_latency, slowdown)
    requests, above = exceedances([metric.stable_latency], [[t.stable_us for t in thresholds]])
    tests = new_state(EXCEEDANCE, len(thresholds))
    tests.history[:, 2] = requests[0]
    tests.history[:, 3] = above[0]
    return replace(metric, thresholds=thresholds, tests=arm(tests, 0.0))


def renew_latency_thresholds(state: EvidenceState, settings: AnalysisSettings) -> EvidenceState:
    """Follow stable's latency: fix the thresholds anew from what it did lately.

    What is ordinary changes with the hour, and the warm-up may have been unlike it (a candidate
    that starts on the same machine slows stable down); thresholds that nobody exceeds any more
    would give no evidence. The tests stay valid, because each second is judged by thresholds
    that were fixed before it: a candidate at most as much slower as allowed exceeds any such
    threshold at most as often as stable does.
    """
    metric = state.metric(LATENCY)
    if metric is None or not metric.thresholds or state.last_at is None:
        return state
    seen = metric.recent_requests
    since = metric.renewed_at or state.last_at
    if seen < RENEW_AFTER_REQUESTS or (state.last_at - since).total_seconds() < RENEW_AFTER_S:
        return state
    declared = {one.name: one.margin for one in settings.judged_metrics()}[LATENCY]
    slowdown = DEFAULT_SLOWDOWN if declared is None else declared
    recent = metric.recent_latency
    renewed = _settle(
        replace(metric, thresholds=fix_thresholds(recent, slowdown)),
        # Half of it stays, so that the next thresholds do not jump.
        {us: n // 2 for us, n in recent.items() if n > 1},
        state.last_at,
    )
    others = [renewed if one.name == LATENCY else one for one in state.metrics]
    return replace(state, metrics=tuple(others))


def _settle(metric: MetricEvidence, kept: Histogram, at: datetime | None) -> MetricEvidence:
    """New thresholds are fixed: of the latencies before them only `kept` count again."""
    return replace(
        metric,
        settled_latency=subtract_histogram(metric.stable_latency, kept),
        settled_requests=metric.stable.trials - sum(kept.values()),
        renewed_at=at,
    )
