"""Evidence into a verdict: is the candidate worse, as good, or not known yet?

Called by the analysis controller through :mod:`modelplane.decisions.analysis` after each tick,
for all running rollouts at once. It changes nothing, and what to do about a verdict is the
rollout decision's business. Missing data is never a reason to pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from modelplane.decisions.analysis_evidence import (
    EvidenceState,
    MetricEvidence,
)
from modelplane.decisions.analysis_inputs import (
    ERRORS,
    LATENCY,
    AnalysisSettings,
    MetricSettings,
)
from modelplane.decisions.analysis_reading import (
    EvidenceReading,
    LatencyReading,
    OutcomeReading,
    read_many,
)
from modelplane.stats.latency import PROMOTION_QUANTILES, QUANTILES, estimate_quantile_us
from modelplane.stats.replicas import gathering
from modelplane.stats.sample_size import growth_per_request, requests_needed, still_needed
from modelplane.stats.sequential import FASTER_ODDS_FACTORS

MetricVerdictName = Literal["harm", "pass", "undecided", "unavailable"]
SHOWN_QUANTILE = 0.95
ACCUSATION_LEVEL = 0.01
"""Greatest probability of accusing some replica when all are alike."""
_PROMOTION_ROWS = [QUANTILES.index(quantile) for quantile in PROMOTION_QUANTILES]


@dataclass(frozen=True, slots=True)
class MetricVerdict:
    """One metric's part of a verdict.

    Attributes
    ----------
    stable, candidate, difference
        Rates from 0 to 1; for latency the 95th percentile in microseconds. None while unknown.
    lower, upper
        Bounds of the difference that hold at every look; None for latency.
    margin
        Greatest difference that passes; None while warming up.
    e_value
        Evidence of harm, 1 at the start, finite.
    requests_still_needed
        Requests to the candidate until it passes if it is as good as stable; None if that
        cannot be said.
    candidate_trials, candidate_failures
        What ``candidate`` is the rate of; for latency failures are not counted.
    """

    name: str
    verdict: MetricVerdictName
    stable: float | None = None
    candidate: float | None = None
    difference: float | None = None
    lower: float | None = None
    upper: float | None = None
    margin: float | None = None
    e_value: float = 1.0
    requests_still_needed: int | None = None
    candidate_trials: int = 0
    candidate_failures: int = 0

    @property
    def sentence(self) -> str:
        """What people read about this metric."""
        if self.verdict == "unavailable":
            return f"{self.name} cannot be measured: no counts of it have arrived"
        if self.stable is None or self.candidate is None:
            return f"{self.name}: no requests to compare yet"
        text = self._latency_text() if self.name == LATENCY else self._outcome_text()
        if self.requests_still_needed is None:
            return text
        return f"{text}; about {self.requests_still_needed:,} more requests to the candidate"

    def _outcome_text(self) -> str:
        rates = (
            f"{self.name}: {self.candidate_failures:,} of {self.candidate_trials:,} candidate "
            f"requests ({self.candidate:.2%}) against {self.stable:.2%} of stable's"
        )
        if self.verdict == "harm":
            odds = f"{self.e_value:,.0f}" if self.e_value < 1e6 else "more than a million"
            return f"{rates}, evidence {odds} to 1"
        if self.margin is None:
            return f"{rates}, still learning what is normal"
        if self.verdict == "pass":
            return f"{rates}, at most {self.upper:.2%} more, within the margin of {self.margin:.2%}"
        return f"{rates}, at most {self.upper:.2%} more so far, margin {self.margin:.2%}"

    def _latency_text(self) -> str:
        assert self.stable is not None
        assert self.candidate is not None
        times = (
            f"latency: p95 {self.candidate / 1000:.3g} ms against "
            f"{self.stable / 1000:.3g} ms of stable"
        )
        if self.verdict == "harm":
            return f"{times}, more often slow than stable with the margin added"
        if self.verdict == "pass":
            return f"{times}, within the margin at p95 and p99"
        return times if self.margin is not None else f"{times}, still learning what is normal"


@dataclass(frozen=True, slots=True)
class AnalysisVerdict:
    """What the evidence says of a candidate.

    Attributes
    ----------
    harm
        The candidate is worse: roll back.
    harm_metrics
        Where it is worse; empty without harm.
    bad_replica
        A replica whose failures alone would show harm: do not grow, replace it.
    passes
        Every metric is within its margin and the counts are fresh.
    fresh
        Requests of the present step met the candidate a short while ago.
    warm
        Errors and latency, where judged, have seen enough of stable.
    ucb
        Upper bound of the candidate's excess failure rate, 1 before anything is known.
    stable_rate
        Stable's failure rate.
    phi
        How much stable's failures scatter, as errors are judged; at least 1.
    e_value
        Weighted sum of the metrics' e-values; ``1/alpha`` shows harm once there are enough
        failures.
    unavailable
        Metrics that cannot be measured.
    requests_still_needed
        The most that any metric still needs; None if that cannot be said.
    stable_requests
        Seen in the whole rollout.
    """

    harm: bool
    harm_metrics: tuple[str, ...]
    bad_replica: str | None
    passes: bool
    fresh: bool
    warm: bool
    ucb: float
    stable_rate: float
    phi: float
    e_value: float
    unavailable: tuple[str, ...]
    metrics: tuple[MetricVerdict, ...]
    requests_still_needed: int | None
    stable_requests: int

    @property
    def reason(self) -> str:
        """The verdict in one sentence."""
        if self.harm:
            worse = (metric.sentence for metric in self.metrics if metric.verdict == "harm")
            return f"the candidate is worse: {'; '.join(worse)}"
        if self.bad_replica is not None:
            return f"replica {self.bad_replica} fails and the others do not: replace it"
        if self.passes:
            names = " and ".join(metric.name for metric in self.metrics)
            return f"the candidate is within the margin in {names}"
        if not self.warm:
            return f"learning what is normal for stable: {self.stable_requests:,} requests seen"
        if not self.fresh:
            return "no request of this step has met the candidate lately"
        return "; ".join(metric.sentence for metric in self.metrics if metric.verdict != "pass")


def judge(state: EvidenceState, settings: AnalysisSettings, now: datetime) -> AnalysisVerdict:
    """Judge one rollout; see :func:`judge_many`."""
    return judge_many([state], [settings], now)[0]


def judge_many(
    states: Sequence[EvidenceState], settings: Sequence[AnalysisSettings], now: datetime
) -> list[AnalysisVerdict]:
    """Judge many rollouts in a few array operations.

    Parameters
    ----------
    states, settings
        One entry for each rollout.
    now
        The time, against which the age of the counts is measured.
    """
    return [
        _Case(state, one, {m.name: m for m in one.judged_metrics()}, reading, now).verdict()
        for state, one, reading in zip(states, settings, read_many(states, settings), strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Harm:
    """Which part of alpha each metric has used up, and whom that accuses."""

    e_value: float
    metrics: frozenset[str]
    bad_replica: str | None


@dataclass(frozen=True, slots=True)
class _Case:
    """One rollout's evidence with the numbers read from it."""

    state: EvidenceState
    settings: AnalysisSettings
    declared: Mapping[str, MetricSettings]
    reading: EvidenceReading
    now: datetime

    def verdict(self) -> AnalysisVerdict:
        """Put the metrics together."""
        state = self.state
        harm = self._weigh_harm()
        metrics = tuple(
            self._judge_metric(metric, reading, metric.name in harm.metrics)
            for metric, reading in zip(state.metrics, self.reading.metrics, strict=True)
        )
        fresh = self._is_fresh()
        passes = fresh and harm.bad_replica is None and all(m.verdict == "pass" for m in metrics)
        needed = [m.requests_still_needed for m in metrics if m.verdict == "undecided"]
        known = [count for count in needed if count is not None]
        errors = next(
            reading
            for metric, reading in zip(state.metrics, self.reading.metrics, strict=True)
            if metric.name == ERRORS and isinstance(reading, OutcomeReading)
        )
        return AnalysisVerdict(
            harm=bool(harm.metrics),
            harm_metrics=tuple(m.name for m in metrics if m.name in harm.metrics),
            bad_replica=harm.bad_replica,
            passes=passes,
            fresh=fresh,
            warm=self._is_warm(),
            ucb=errors.upper,
            stable_rate=errors.stable_rate,
            phi=errors.phi,
            e_value=harm.e_value,
            unavailable=tuple(m.name for m in metrics if m.verdict == "unavailable"),
            metrics=metrics,
            requests_still_needed=max(known) if known and len(known) == len(needed) else None,
            stable_requests=state.stable.requests,
        )

    def _weigh_harm(self) -> _Harm:
        """Sum the weighted e-values; errors must show without any one candidate replica.

        The weighted sum of e-values is one, so alpha holds for all metrics together.
        """
        total = sum(metric.weight for metric in self.declared.values())
        least = self.reading.e_values_without_replicas
        parts: dict[str, float] = {}
        shown = whole = 0.0
        for metric, reading in zip(self.state.metrics, self.reading.metrics, strict=True):
            declared = self.declared.get(metric.name)
            share = declared.weight / total if declared else 0.0
            limit = min(least) if metric.name == ERRORS and len(least) > 1 else math.inf
            parts[metric.name] = share * min(reading.counted_e_value, limit)
            shown += share * min(reading.e_value, limit)
            whole += share * reading.counted_e_value
        threshold = 1 / self.settings.alpha
        if sum(parts.values()) >= threshold:
            top = max(parts.values())
            named = (name for name, part in parts.items() if part >= min(top, threshold))
            return _Harm(shown, frozenset(named), None)
        return _Harm(shown, frozenset(), self._bad_replica() if whole >= threshold else None)

    def _bad_replica(self) -> str | None:
        """The replica that failures gather on and without which next to no evidence is left."""
        replicas = self.state.replicas
        attempts = sum(replica.attempts.trials for replica in replicas)
        failures = sum(replica.attempts.failures for replica in replicas)
        accused: dict[str, float] = {}
        for replica, e in zip(replicas, self.reading.e_values_without_replicas, strict=True):
            own = replica.attempts
            surprise = gathering(own.failures, failures, own.trials / max(attempts, 1))
            enough = math.log(len(replicas) / ACCUSATION_LEVEL)
            if surprise >= enough and e < math.sqrt(1 / self.settings.alpha):
                accused[replica.name] = surprise
        return max(accused, key=accused.__getitem__, default=None)

    def _is_fresh(self) -> bool:
        state = self.state
        if state.step_at is None or state.step_candidate_requests == 0:
            return False
        return (self.now - state.step_at).total_seconds() <= self.settings.stale_after_s

    def _is_warm(self) -> bool:
        return all(m.armed for m in self.state.metrics if m.name in (ERRORS, LATENCY))

    def _candidate_share(self) -> float:
        stable, candidate = self.state.step_stable_requests, self.state.step_candidate_requests
        return candidate / (stable + candidate) if stable and candidate else 0.5

    def _judge_metric(
        self, metric: MetricEvidence, reading: OutcomeReading | LatencyReading, harmed: bool
    ) -> MetricVerdict:
        if not metric.available:
            return MetricVerdict(metric.name, "unavailable")
        if isinstance(reading, LatencyReading):
            return self._judge_latency(metric, reading, harmed)
        return self._judge_outcome(metric, reading, harmed)

    def _judge_outcome(
        self, metric: MetricEvidence, reading: OutcomeReading, harmed: bool
    ) -> MetricVerdict:
        margin = metric.margin
        if margin is not None:
            # An edited margin takes effect at once; the tests keep the one they began with.
            declared = self.declared.get(metric.name)
            margin = (declared.margin if declared else None) or margin
        passes = margin is not None and reading.upper <= margin
        needed = None
        if margin is not None and not passes and not harmed:
            share = self._candidate_share()
            beta = self.settings.beta
            total = reading.phi * requests_needed(reading.stable_rate, share, margin, beta)
            left = still_needed(total, reading.margin_log_wealth, beta)
            needed = max(1, math.ceil(share * left))
        verdict = _verdict_name(harmed, passes)
        stable, candidate = metric.stable.rate, metric.candidate.rate
        return MetricVerdict(
            name=metric.name,
            verdict=verdict,
            stable=stable,
            candidate=candidate,
            difference=None if stable is None or candidate is None else candidate - stable,
            lower=reading.lower,
            upper=reading.upper,
            margin=margin,
            e_value=reading.e_value,
            requests_still_needed=needed,
            candidate_trials=metric.candidate.trials,
            candidate_failures=metric.candidate.failures,
        )

    def _judge_latency(
        self, metric: MetricEvidence, reading: LatencyReading, harmed: bool
    ) -> MetricVerdict:
        target = math.log(1 / self.settings.beta)
        passes = metric.armed and all(
            reading.faster_log_e_values[row] >= target for row in _PROMOTION_ROWS
        )
        verdict = _verdict_name(harmed, passes)
        stable, candidate = (
            estimate_quantile_us(histogram, SHOWN_QUANTILE, total.trials)
            for histogram, total in (
                (metric.stable_latency, metric.stable),
                (metric.candidate_latency, metric.candidate),
            )
        )
        needed = None
        if metric.armed and verdict == "undecided":
            needed = self._latency_requests_needed(reading)
        shown = next((t for t in metric.thresholds if t.quantile == SHOWN_QUANTILE), None)
        return MetricVerdict(
            name=metric.name,
            verdict=verdict,
            stable=stable,
            candidate=candidate,
            difference=None if stable is None or candidate is None else candidate - stable,
            margin=None if shown is None else float(shown.candidate_us - shown.stable_us),
            e_value=reading.e_value,
            requests_still_needed=needed,
            candidate_trials=metric.candidate.trials,
        )

    def _latency_requests_needed(self, reading: LatencyReading) -> int | None:
        """Candidate requests until p95 and p99 pass, if both go on as they did so far."""
        share = self._candidate_share()
        # The mean over the bets costs the best of them this much.
        target = math.log(1 / self.settings.beta) + math.log(len(FASTER_ODDS_FACTORS))
        most = 1.0
        for row in _PROMOTION_ROWS:
            missing = target - reading.best_log_wealth[row]
            if missing <= 0:
                continue
            stable, candidate = reading.stable_rate[row], reading.candidate_rate[row]
            growth = growth_per_request(candidate, stable, share)
            if candidate >= stable or growth <= 0:
                return None
            most = max(most, share * reading.phi[row] * missing / growth)
        return math.ceil(most)


def _verdict_name(harmed: bool, passes: bool) -> MetricVerdictName:
    if harmed:
        return "harm"
    return "pass" if passes else "undecided"
