"""Live analysis of a rollout: absorb counts, judge the candidate, say how far it may grow.

The way in for the analysis controller: everything it needs is importable from here. All of it is
pure and works on many rollouts at once; `absorb` and `judge` are the same for one.

The candidate is compared with the stable version that runs beside it. One may look every second
and a candidate that is not worse is still rolled back with probability at most alpha over the
whole rollout, as far as failures are independent or scatter as stable's do. Limits that stay:
phi is an estimate; bursts longer than 30 s, or of a kind that only the candidate has, escape it;
a single candidate replica cannot be told from a bad version; slow tails in under 5 % of requests
may be missed.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelplane.decisions.analysis_absorb import absorb, absorb_many
from modelplane.decisions.analysis_evidence import (
    EvidenceState,
    MetricEvidence,
    ReplicaEvidence,
    SliceEvidence,
    VersionTotals,
    start_evidence,
)
from modelplane.decisions.analysis_findings import AnalysisVerdict, MetricVerdict, SliceVerdict
from modelplane.decisions.analysis_inputs import (
    ERRORS,
    LABEL_METRICS,
    LATENCY,
    AnalysisSettings,
    MetricSettings,
    Outcomes,
    Tick,
    VersionCounts,
    settings_of,
    tick_from_batch,
)
from modelplane.decisions.analysis_labels import LabelCase, feed_of, label_ticks, needs_labels
from modelplane.decisions.analysis_verdict import judge, judge_many

__all__ = [
    "ERRORS",
    "LABEL_METRICS",
    "LATENCY",
    "SILENCE_RPS",
    "AnalysisSettings",
    "AnalysisVerdict",
    "EvidenceState",
    "LabelCase",
    "MetricEvidence",
    "MetricSettings",
    "MetricVerdict",
    "Outcomes",
    "RampSettings",
    "ReplicaEvidence",
    "SliceEvidence",
    "SliceVerdict",
    "Tick",
    "VersionCounts",
    "VersionTotals",
    "absorb",
    "absorb_many",
    "allowed_weight_pct",
    "feed_of",
    "judge",
    "judge_many",
    "label_ticks",
    "needs_labels",
    "next_weight_pct",
    "settings_of",
    "start_evidence",
    "tick_from_batch",
]


SILENCE_RPS = 1e-6
"""A decaying rate below this means that nobody asks any more."""


@dataclass(frozen=True, slots=True)
class RampSettings:
    """How much risk a growing weight may carry.

    Attributes
    ----------
    weights_pct
        Rising weights in percent. At the last one stable still gives the comparison.
    horizon_s
        How long a bad candidate might stay unnoticed, for the budget's arithmetic.
    excess_failures
        Failures beyond stable's that users may see in that time.
    shielded
        Whether stable answers what the candidate fails.
    shielded_excess_failures
        The budget then; such a request is only slow.
    headroom
        Share of all requests that stable can take over from a failing candidate.
    stable_scaled_for_all
        Whether stable keeps replicas for all traffic, so that headroom does not bind.
    """

    weights_pct: tuple[float, ...] = (1.0, 5.0, 25.0, 50.0)
    horizon_s: float = 30.0
    excess_failures: float = 25.0
    shielded: bool = True
    shielded_excess_failures: float = 250.0
    headroom: float = 0.10
    stable_scaled_for_all: bool = False


def allowed_weight_pct(
    request_rate_rps: float, ucb: float, stable_rate: float, ramp: RampSettings | None = None
) -> float:
    """The largest weight whose worst plausible outcome fits the risk budget.

    Parameters
    ----------
    request_rate_rps
        Requests per second to both versions; below `SILENCE_RPS` only the first weight is
        allowed.
    ucb
        Upper bound of the candidate's excess failure rate, in (0, 1].
    stable_rate
        Stable's failure rate, in [0, 1].

    Returns
    -------
    float
        Percent, between the first and the last of ``weights_pct``. The first is always allowed:
        without requests there will never be evidence.

    Examples
    --------
    >>> allowed_weight_pct(100, 1.0, 0.01, RampSettings(shielded=False))
    1.0
    >>> allowed_weight_pct(100, 0.02, 0.01, RampSettings(shielded=False))
    41.666666666666664
    """
    ramp = ramp or RampSettings()
    first, last = ramp.weights_pct[0], ramp.weights_pct[-1]
    if request_rate_rps < SILENCE_RPS:
        return first
    budget = ramp.shielded_excess_failures if ramp.shielded else ramp.excess_failures
    limits = [last, 100 * budget / (request_rate_rps * ramp.horizon_s * ucb)]
    if ramp.shielded and not ramp.stable_scaled_for_all:
        limits.append(100 * ramp.headroom / min(1.0, ucb + stable_rate))
    return max(first, min(limits))


def next_weight_pct(
    current_pct: float,
    request_rate_rps: float,
    ucb: float,
    stable_rate: float,
    ramp: RampSettings | None = None,
) -> float:
    """The next weight of the automatic ramp: the highest allowed one, never a lower one.

    Examples
    --------
    >>> next_weight_pct(0, 200, 1.0, 0.0)
    1.0
    >>> next_weight_pct(1, 200, 0.1, 0.01)
    25.0
    """
    ramp = ramp or RampSettings()
    allowed = allowed_weight_pct(request_rate_rps, ucb, stable_rate, ramp)
    within = [weight for weight in ramp.weights_pct if weight <= allowed]
    return max([current_pct, *within])
