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

from modelplane.decisions.analysis_evidence import (
    EvidenceState,
    MetricEvidence,
)
from modelplane.decisions.analysis_findings import (
    AnalysisVerdict,
    MetricVerdict,
    MetricVerdictName,
    SliceVerdict,
)
from modelplane.decisions.analysis_inputs import (
    ERRORS,
    LABEL_METRICS,
    LATENCY,
    LOSS,
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
from modelplane.stats.proportion import share_lower_bound
from modelplane.stats.replicas import gathering
from modelplane.stats.sample_size import growth_per_request, requests_needed, still_needed
from modelplane.stats.sequential import FASTER_ODDS_FACTORS
from modelplane.stats.slices import combine, name_parts

SHOWN_QUANTILE = 0.95
ACCUSATION_LEVEL = 0.01
"""Greatest probability of accusing some replica when all are alike."""
GONE_AFTER_S = 60.0
"""A replica that had no request for so long while others had was replaced. A gateway puts one
that fails aside for a few seconds, unless told otherwise."""
_PROMOTION_ROWS = tuple(QUANTILES.index(quantile) for quantile in PROMOTION_QUANTILES)
_EVERY_QUANTILE = MetricSettings(LATENCY)


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
    declared = {
        key: {metric.name: metric for metric in one.judged_metrics()}
        for key, one in {id(one): one for one in settings}.items()
    }
    return [
        _Case(state, one, declared[id(one)], reading, now).verdict()
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
        slices = self._judge_slices()
        fresh = self._is_fresh()
        passes = (
            fresh
            and harm.bad_replica is None
            and all(m.verdict == "pass" for m in metrics)
            and not any(part.harm for part in slices)
        )
        compared = state.compared
        # How many labels are missing says nothing of requests.
        counted = [m for m in metrics if m.name not in LABEL_METRICS]
        needed = [m.requests_still_needed for m in counted if m.verdict == "undecided"]
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
            slices=slices,
            compared=compared.trials,
            different=compared.failures,
            different_lower=share_lower_bound(
                compared.failures, compared.trials, self.settings.beta
            )
            if compared.trials
            else None,
        )

    def _weigh_harm(self) -> _Harm:
        """Sum the weighted e-values; errors must show without any one candidate replica.

        The weighted sum of e-values is one, so alpha holds for all metrics together.
        """
        total = sum(metric.weight for metric in self.declared.values())
        least = self.reading.e_values_without_replicas
        parts: dict[str, float] = {}
        shown = whole = of_slices = 0.0
        for metric, reading in zip(self.state.metrics, self.reading.metrics, strict=True):
            declared = self.declared.get(metric.name)
            share = declared.weight / total if declared else 0.0
            if metric.name != ERRORS:
                parts[metric.name] = share * reading.counted_e_value
                shown += share * reading.e_value
                whole += share * reading.counted_e_value
                continue
            limit = min(least) if len(least) > 1 else math.inf
            slices = self.reading.counted_e_values_of_slices
            parts[ERRORS] = share * combine(min(reading.counted_e_value, limit), slices)
            of_slices = share * combine(0.0, slices)
            shown += share * combine(min(reading.e_value, limit), self.reading.e_values_of_slices)
            whole += share * combine(reading.counted_e_value, slices)
        threshold = 1 / self.settings.alpha
        if sum(parts.values()) >= threshold:
            # Slices are not told apart by replica: what only they show must not be one replica's.
            needs_slices = sum(parts.values()) - of_slices < threshold
            replica = self._bad_replica() if needs_slices else None
            if replica is not None:
                return _Harm(shown, frozenset(), self._unless_replaced(replica))
            top = max(parts.values())
            named = (name for name, part in parts.items() if part >= min(top, threshold))
            return _Harm(shown, frozenset(named), None)
        replica = self._bad_replica() if whole >= threshold else None
        return _Harm(shown, frozenset(), self._unless_replaced(replica))

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

    def _unless_replaced(self, name: str | None) -> str | None:
        """None for a replica that is gone: what it did stays in the evidence, and holds nobody."""
        heard = {r.name: r.last_at for r in self.state.replicas if r.last_at is not None}
        if name not in heard:
            return name
        silent_s = (max(heard.values()) - heard[name]).total_seconds()
        return name if silent_s <= GONE_AFTER_S else None

    def _judge_slices(self) -> tuple[SliceVerdict, ...]:
        reading = self.reading
        if not self.state.slices:
            return ()
        named = name_parts(reading.counted_e_values_of_slices, self.settings.alpha)
        return tuple(
            SliceVerdict(
                name=part.name,
                stable=part.stable.rate,
                candidate=part.candidate.rate,
                candidate_trials=part.candidate.trials,
                candidate_failures=part.candidate.failures,
                e_value=e,
                harm=harm,
            )
            for part, e, harm in zip(
                self.state.slices, reading.e_values_of_slices, named, strict=True
            )
        )

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
        declared = self.declared.get(metric.name) or MetricSettings(metric.name)
        margin = metric.margin
        if margin is not None:
            # An edited margin takes effect at once; the tests keep the one they began with.
            margin = declared.margin or margin
        passes = margin is not None and reading.upper <= margin
        needed = None
        if margin is not None and not passes and not harmed and metric.means is None:
            share = self._candidate_share()
            beta = self.settings.beta
            total = reading.phi * requests_needed(reading.stable_rate, share, margin, beta)
            left = still_needed(total, reading.margin_log_wealth, beta)
            needed = max(1, math.ceil(share * left))
        verdict = _verdict_name(harmed, passes)
        stable, candidate = metric.stable.rate, metric.candidate.rate
        if metric.means is not None:
            stable, candidate = metric.means.stable_mean, metric.means.candidate_mean
        stable, candidate = declared.natural(stable), declared.natural(candidate)
        lower, upper = reading.lower, reading.upper
        if metric.name in LABEL_METRICS:
            span = declared.high - declared.low
            rises = metric.name == LOSS
            lower, upper = (lower * span, upper * span) if rises else (-upper * span, -lower * span)
            margin = None if margin is None else margin * span
        return MetricVerdict(
            name=metric.name,
            verdict=verdict,
            stable=stable,
            candidate=candidate,
            difference=None if stable is None or candidate is None else candidate - stable,
            lower=lower,
            upper=upper,
            margin=margin,
            e_value=combine(reading.e_value, self.reading.e_values_of_slices)
            if metric.name == ERRORS
            else reading.e_value,
            requests_still_needed=needed,
            candidate_trials=metric.candidate.trials,
            candidate_failures=metric.candidate.failures,
        )

    def _judge_latency(
        self, metric: MetricEvidence, reading: LatencyReading, harmed: bool
    ) -> MetricVerdict:
        target = math.log(1 / self.settings.beta)
        declared = self.declared.get(LATENCY, _EVERY_QUANTILE)
        rows = declared.quantile_rows(_PROMOTION_ROWS)
        passes = metric.armed and all(reading.faster_log_e_values[row] >= target for row in rows)
        verdict = _verdict_name(harmed, passes)
        quantile = declared.percentile / 100 if declared.percentile else SHOWN_QUANTILE
        shown = next((t for t in metric.thresholds if t.quantile == quantile), None)
        # Four bins below its last threshold there is room for what changed since.
        guess_us = round(0.8 * shown.stable_us) if shown else 0
        stable, candidate = (
            estimate_quantile_us(histogram, quantile, total.trials, guess_us)
            for histogram, total in (
                (metric.stable_latency, metric.stable),
                (metric.candidate_latency, metric.candidate),
            )
        )
        needed = None
        if metric.armed and verdict == "undecided":
            needed = self._latency_requests_needed(reading, rows)
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
            percentile=declared.percentile,
        )

    def _latency_requests_needed(self, reading: LatencyReading, rows: Sequence[int]) -> int | None:
        """Candidate requests until the given quantiles pass, if all go on as they did so far."""
        share = self._candidate_share()
        # The mean over the bets costs the best of them this much.
        target = math.log(1 / self.settings.beta) + math.log(len(FASTER_ODDS_FACTORS))
        most = 1.0
        for row in rows:
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
