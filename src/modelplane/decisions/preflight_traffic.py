"""The present traffic of a deployment, as far as a plan of a rollout depends on it. Pure.

Called by `api.preflight` with what the gateways reported lately; read by `decisions.preflight`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from modelplane.decisions.analysis_inputs import (
    NOTHING,
    Outcomes,
    VersionCounts,
    tick_from_batch,
)
from modelplane.resources.telemetry import TelemetryBatch
from modelplane.resources.traffic_split import DEFAULT_RULE
from modelplane.stats.dispersion import new_dispersion, phi, update_with_series
from modelplane.stats.latency import (
    DEFAULT_SLOWDOWN,
    QUANTILES,
    Histogram,
    LatencyThreshold,
    bin_width_us,
    exceedances,
    fix_thresholds,
    merge_histograms,
)

RATE_WINDOW_S = 300.0
"""The request rate is that of the last so many seconds; everything else of the last half hour."""

_UNKNOWN_PHI = float(phi(new_dispersion())[0])


@dataclass(frozen=True, slots=True)
class ObservedTraffic:
    """What stable did lately.

    Attributes
    ----------
    request_rate_rps
        Requests per second to all versions, under the rule where that is known.
    history_s
        How long there have been counts, seconds.
    under_rule
        Whether all this is about those a predicate holds for; otherwise it is about everybody.
    errors
        Stable's requests and failures.
    phi
        How its failures scatter, at least 1.
    latency
        Its latencies.
    thresholds, latency_phi
        What latency would be judged by, and how exceedances of each threshold scatter; empty
        without latencies.
    """

    request_rate_rps: float = 0.0
    history_s: float = 0.0
    under_rule: bool = True
    errors: Outcomes = NOTHING
    phi: float = _UNKNOWN_PHI
    latency: Histogram = field(default_factory=dict)
    thresholds: tuple[LatencyThreshold, ...] = ()
    latency_phi: tuple[float, ...] = ()

    @property
    def error_rate(self) -> float:
        """Stable's failure rate, ``(failures + 1/2) / (requests + 1)``."""
        return (self.errors.failures + 0.5) / (self.errors.trials + 1)


def observe_traffic(
    batches: Sequence[TelemetryBatch],
    deployment: str,
    stable: str,
    *,
    rule: str = DEFAULT_RULE,
    shadows: Collection[str] = (),
    slowdown: float | None = None,
    now: datetime,
) -> ObservedTraffic:
    """Sum up what gateways reported of a deployment.

    Parameters
    ----------
    batches
        Of the last half hour, oldest first.
    stable
        Short digest of the revision that serves.
    rule
        The routing rule of the planned rollout. While there are no counts under it, those of
        everybody are taken.
    shadows
        Short digests of the revisions that get copies only, which are no further requests.
    slowdown
        How much slower a candidate may be, as a share; None for the default.
    now
        The time.
    """
    under_rule = any(rule in (s.rule, DEFAULT_RULE) for b in batches for s in b.samples)
    counted = rule if under_rule else DEFAULT_RULE
    ticks = [tick_from_batch(b, deployment, "", stable, "", rule=counted) for b in batches]
    if not any(tick.stable.requests for tick in ticks):
        return ObservedTraffic(under_rule=under_rule)
    began = min((tick.at.timestamp() - tick.seconds for tick in ticks), default=now.timestamp())
    history_s = max(now.timestamp() - began, 1.0)
    window_s = min(RATE_WINDOW_S, history_s)
    recent = sum(
        sample.requests
        for batch in batches
        if (now - batch.at).total_seconds() < window_s
        for sample in batch.samples
        if (sample.rule or DEFAULT_RULE) == counted and sample.revision not in shadows
    )
    seconds = [math.floor(tick.at.timestamp()) for tick in ticks]
    stable_counts = [tick.stable for tick in ticks]
    thresholds, latency, latency_phi = _observe_latency(stable_counts, seconds, slowdown)
    trials = [counts.requests for counts in stable_counts]
    failures = [counts.failures for counts in stable_counts]
    scatter = update_with_series(new_dispersion(), seconds, trials, failures)
    return ObservedTraffic(
        request_rate_rps=recent / window_s,
        history_s=history_s,
        under_rule=under_rule,
        errors=Outcomes(sum(trials), sum(failures)),
        phi=float(phi(scatter)[0]),
        latency=latency,
        thresholds=thresholds,
        latency_phi=latency_phi,
    )


def _observe_latency(
    counts: Sequence[VersionCounts], seconds: Sequence[int], slowdown: float | None
) -> tuple[tuple[LatencyThreshold, ...], Histogram, tuple[float, ...]]:
    latency: Histogram = {}
    for one in counts:
        latency = merge_histograms(latency, one.latency)
    if not latency:
        return (), {}, ()
    thresholds = fix_thresholds(latency, DEFAULT_SLOWDOWN if slowdown is None else slowdown)
    limits = [[threshold.stable_us for threshold in thresholds]] * len(counts)
    requests, above = exceedances([one.latency for one in counts], limits)
    scatter = [
        update_with_series(new_dispersion(), seconds, requests, above[:, row])
        for row in range(len(QUANTILES))
    ]
    return thresholds, latency, tuple(float(phi(one)[0]) for one in scatter)


def shares_above(
    traffic: ObservedTraffic, slower: float = 1.0
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Shares of stable's requests above its thresholds, and of a candidate's above its own.

    Within a bin requests are taken to lie evenly.

    Parameters
    ----------
    slower
        How many times as long as stable's the candidate's latencies are.
    """
    bounds = np.array(list(traffic.latency), dtype=np.float64)
    counts = np.array(list(traffic.latency.values()), dtype=np.float64)
    widths = np.array([bin_width_us(bound) for bound in traffic.latency], dtype=np.float64)

    def share(limit_us: float, times: float) -> float:
        above = np.clip((bounds + widths - limit_us / times) / widths, 0.0, 1.0)
        return float((above * counts).sum() / counts.sum())

    return (
        tuple(share(threshold.stable_us, 1.0) for threshold in traffic.thresholds),
        tuple(share(threshold.candidate_us, slower) for threshold in traffic.thresholds),
    )
