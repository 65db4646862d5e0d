"""The course that a rollout will typically take at the present traffic, and what it can show.

Called by `decisions.preflight`. Pure arithmetic on expectations: the candidate is taken to be
exactly as good as stable, and evidence to come at its average pace. The same rules as in a running
rollout say when the weight may grow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from modelplane.decisions.analysis import RampSettings, allowed_weight_pct
from modelplane.decisions.analysis_inputs import ERRORS, LATENCY, AnalysisSettings, MetricSettings
from modelplane.decisions.preflight_traffic import ObservedTraffic, shares_above
from modelplane.decisions.rollout_canary import IDLE_BELOW_RPS, ramp_steps
from modelplane.resources.strategy import CanaryStrategy
from modelplane.stats.latency import PROMOTION_QUANTILES, QUANTILES
from modelplane.stats.sample_size import (
    growth_for_power,
    growth_per_request,
    harm_growth_per_request,
    requests_needed,
)
from modelplane.stats.sequential import FASTER_ODDS_FACTORS, HARM_BETS, upper_margins

POWER = 0.8
"""A harm counts as detectable when it is found with at least this probability."""

REACTION_S = 2.0
"""From the evidence to a weight of 0: the next tick and the gateway's acknowledgement."""

_PROMOTION_ROWS = tuple(QUANTILES.index(quantile) for quantile in PROMOTION_QUANTILES)
_HALVINGS = 20
_WORST_OF = 40
_SLOWEST = 50.0


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of constant weight.

    Attributes
    ----------
    weight_pct
        The candidate's share of those who may meet it.
    seconds
        How long it lasts.
    candidate_rps, stable_rps
        Requests per second to each.
    """

    weight_pct: float
    seconds: float
    candidate_rps: float
    stable_rps: float

    @property
    def rate_rps(self) -> float:
        """Requests per second to both."""
        return self.candidate_rps + self.stable_rps

    @property
    def share(self) -> float:
        """The candidate's share of them."""
        return self.candidate_rps / self.rate_rps if self.rate_rps else 0.0


@dataclass(frozen=True, slots=True)
class Judged:
    """What a course is judged by.

    Attributes
    ----------
    traffic, settings
        Of the deployment and of the strategy.
    margin
        Of errors, the default one written out.
    """

    traffic: ObservedTraffic
    settings: AnalysisSettings

    @property
    def margin(self) -> float:
        """Margin of errors."""
        declared = next((m.margin for m in self.settings.metrics if m.name == ERRORS), None)
        return declared or self.settings.default_margin(self.traffic.error_rate)

    @property
    def latency(self) -> MetricSettings | None:
        """How latency is judged; None when it is not."""
        return next((m for m in self.settings.metrics if m.name == LATENCY), None)

    def error_pace(self, phase: Phase, margin: float) -> float:
        """Evidence per second against a margin of errors, as a share of what is needed."""
        if not 0 < phase.share < 1:
            return 0.0
        rate, beta = self.traffic.error_rate, self.settings.beta
        needed = self.traffic.phi * requests_needed(rate, phase.share, margin, beta)
        return phase.rate_rps / needed

    def latency_pace(self, phase: Phase) -> float:
        """Evidence per second that latency is within its margin, likewise; 0: it will never be."""
        declared = self.latency
        if declared is None or not self.traffic.thresholds:
            return 0.0
        stable, candidate = shares_above(self.traffic)
        target = math.log(len(FASTER_ODDS_FACTORS) / self.settings.beta)
        paces = []
        for row in declared.quantile_rows(_PROMOTION_ROWS):
            growth = growth_per_request(candidate[row], stable[row], phase.share)
            fewer = growth if candidate[row] < stable[row] else 0.0
            paces.append(phase.rate_rps * fewer / (self.traffic.latency_phi[row] * target))
        return min(paces)

    def harm_target(self, name: str) -> float:
        """Log-wealth of the best bet at which a metric shows harm by itself."""
        metrics = self.settings.judged_metrics()
        weight = next(metric.weight for metric in metrics if metric.name == name)
        share = weight / sum(metric.weight for metric in metrics)
        bets: float = HARM_BETS
        if name == LATENCY and (declared := self.latency) is not None:
            bets *= len(declared.quantile_rows(tuple(range(len(QUANTILES)))))
        if name == ERRORS and self.settings.slices:
            bets *= 2  # the other half lies on the slices
        return math.log(bets / (share * self.settings.alpha))


def warm_up_s(judged: Judged) -> float:
    """How long the first step waits for stable's normal, seconds."""
    traffic, settings = judged.traffic, judged.settings
    if traffic.request_rate_rps < IDLE_BELOW_RPS:
        return 0.0
    missing = settings.warm_up_min_stable_requests - traffic.errors.trials
    return max(0.0, settings.warm_up_s - traffic.history_s, missing / traffic.request_rate_rps)


def canary_course(
    canary: CanaryStrategy, judged: Judged, *, shielded: bool
) -> tuple[list[Phase], dict[str, float | None]]:
    """Return the phases of a canary up to its promotion, and when each metric passes.

    Returns
    -------
    phases
        The last one lasts until every metric passes, or to the deadline when that is sooner.
    passes
        Seconds from the first step by metric; None where it would be after the deadline.
    """
    steps = ramp_steps(canary)
    ramp = RampSettings(weights_pct=steps, shielded=shielded)
    rate = judged.traffic.request_rate_rps
    bound = _BoundSoFar(judged)
    phases: list[Phase] = []
    now_s, weight, index = 0.0, steps[0], 0
    while True:
        phase = _split(rate, weight)
        left_s = canary.deadline_s - now_s
        pass_s = bound.passes_in_s(phase)
        if index == len(steps) - 1:
            lasts_s = max(pass_s, canary.analysis.interval_s, canary.min_bake_s - now_s)
        else:
            goes_on_s = min(bound.allows_in_s(phase, steps[index + 1], ramp), pass_s)
            lasts_s = max(goes_on_s, canary.analysis.interval_s)
        lasts_s = min(lasts_s, left_s)
        phases.append(replace(phase, seconds=lasts_s))
        bound.add(phase, lasts_s)
        now_s += lasts_s
        if index == len(steps) - 1 or now_s >= canary.deadline_s:
            return phases, passing_times(phases, judged, canary.deadline_s)
        index = bound.next_step(index, steps, ramp, is_auto=canary.steps == "auto")
        weight = steps[index]


def passing_times(
    phases: Sequence[Phase], judged: Judged, deadline_s: float
) -> dict[str, float | None]:
    """When errors and latency pass, seconds from the start; the last phase goes on for ever."""
    ways: dict[str, Callable[[Phase], float]] = {
        ERRORS: lambda phase: judged.error_pace(phase, judged.margin)
    }
    if judged.latency is not None:
        ways[LATENCY] = judged.latency_pace
    found: dict[str, float | None] = {}
    for name, pace in ways.items():
        at_s = _time_to(1.0, phases, pace)
        found[name] = at_s if at_s <= deadline_s else None
    return found


def smallest_error_harm(phases: Sequence[Phase], judged: Judged) -> float | None:
    """Smallest excess failure rate that is found within the phases; None when none is."""
    traffic, settings = judged.traffic, judged.settings
    target = growth_for_power(judged.harm_target(ERRORS), POWER)
    rate, shift = traffic.error_rate, settings.kappa * judged.margin
    least = 3 * traffic.phi

    def is_found(excess: float) -> bool:
        growth = sum(
            phase.rate_rps
            * phase.seconds
            * harm_growth_per_request(rate + excess, rate, shift, phase.share)
            for phase in phases
            if 0 < phase.share < 1
        )
        failures = sum(p.candidate_rps * p.seconds for p in phases) * (rate + excess)
        return growth / traffic.phi >= target and failures >= least

    return _smallest(is_found, shift, 0.999 - rate)


def smallest_slowdown(phases: Sequence[Phase], judged: Judged) -> float | None:
    """Smallest share by which all requests are slower that is found; None when none is."""
    declared = judged.latency
    if declared is None or not judged.traffic.thresholds:
        return None
    target = growth_for_power(judged.harm_target(LATENCY), POWER)
    rows = declared.quantile_rows(tuple(range(len(QUANTILES))))

    def is_found(slower: float) -> bool:
        stable, candidate = shares_above(judged.traffic, 1 + slower)
        return any(
            sum(
                phase.rate_rps
                * phase.seconds
                * harm_growth_per_request(min(candidate[row], 0.999), stable[row], 0.0, phase.share)
                for phase in phases
                if 0 < phase.share < 1
            )
            / judged.traffic.latency_phi[row]
            >= target
            for row in rows
        )

    return _smallest(is_found, 0.0, _SLOWEST)


def worst_failures(phases: Sequence[Phase], judged: Judged, smallest: float) -> float:
    """Most requests that the candidate fails on average before it is taken back.

    Over all sizes of harm from the smallest detectable one to a total outage; the weight is taken
    to grow as if it were healthy, so this is on the safe side.
    """
    rate, shift = judged.traffic.error_rate, judged.settings.kappa * judged.margin
    target = judged.harm_target(ERRORS) * judged.traffic.phi
    most, outage = 0.0, max(0.99, rate + smallest)
    for part in range(_WORST_OF + 1):
        excess = smallest * ((outage - rate) / smallest) ** (part / _WORST_OF)
        failing = min(rate + excess, outage)

        def growth(phase: Phase, failing: float = failing) -> float:
            grown = harm_growth_per_request(failing, rate, shift, phase.share)
            return phase.rate_rps * grown if 0 < phase.share < 1 else 0.0

        at_s = max(
            _time_to(target, phases, growth),
            _time_to(3 * judged.traffic.phi / failing, phases, lambda p: p.candidate_rps),
        )
        met = requests_until(phases, min(at_s, sum(p.seconds for p in phases)) + REACTION_S)
        most = max(most, met * failing)
    return most


def requests_until(phases: Sequence[Phase], seconds: float) -> float:
    """Requests that met the candidate in the first so many seconds."""
    met = 0.0
    for index, phase in enumerate(phases):
        is_last = index == len(phases) - 1
        spent_s = seconds if is_last else min(seconds, phase.seconds)
        met += phase.candidate_rps * spent_s
        seconds -= spent_s
    return met


class _BoundSoFar:
    """The upper bound of the excess failure rate as it falls with the evidence."""

    def __init__(self, judged: Judged) -> None:
        self._judged = judged
        self._margins = upper_margins([judged.margin])[0].tolist()
        self._evidence = [0.0] * len(self._margins)
        self._latency = 0.0

    def add(self, phase: Phase, seconds: float) -> None:
        for index, margin in enumerate(self._margins):
            self._evidence[index] += seconds * self._judged.error_pace(phase, margin)
        self._latency += seconds * self._judged.latency_pace(phase)

    def passes_in_s(self, phase: Phase) -> float:
        own = self._margins.index(self._judged.margin)
        pace = self._judged.error_pace(phase, self._judged.margin)
        wait_s = _wait_s(1 - self._evidence[own], pace)
        if self._judged.latency is not None:
            wait_s = max(wait_s, _wait_s(1 - self._latency, self._judged.latency_pace(phase)))
        return wait_s

    def allows_in_s(self, phase: Phase, weight_pct: float, ramp: RampSettings) -> float:
        """How long until the risk budget allows a weight."""
        if self._allowed(1.0, ramp) >= weight_pct:
            return 0.0
        for margin, evidence in zip(self._margins, self._evidence, strict=True):
            if self._allowed(margin, ramp) >= weight_pct:
                return _wait_s(1 - evidence, self._judged.error_pace(phase, margin))
        return math.inf

    def next_step(
        self, index: int, steps: Sequence[float], ramp: RampSettings, *, is_auto: bool
    ) -> int:
        """The next weight: declared ones one by one, else the highest that is allowed."""
        if not is_auto:
            return index + 1
        bound = 1.0
        for margin, evidence in zip(self._margins, self._evidence, strict=True):
            if evidence < 1 - 1e-9:
                break
            bound = margin
        allowed = self._allowed(bound, ramp)
        within = [i for i, step in enumerate(steps) if i > index and step <= allowed]
        return within[-1] if within else index + 1

    def _allowed(self, bound: float, ramp: RampSettings) -> float:
        traffic = self._judged.traffic
        return allowed_weight_pct(traffic.request_rate_rps, bound, traffic.error_rate, ramp)


def _split(rate_rps: float, weight_pct: float) -> Phase:
    candidate = rate_rps * weight_pct / 100
    return Phase(weight_pct, 0.0, candidate, rate_rps - candidate)


def _wait_s(missing: float, pace: float) -> float:
    if missing <= 0:
        return 0.0
    return missing / pace if pace > 0 else math.inf


def _time_to(target: float, phases: Sequence[Phase], pace: Callable[[Phase], float]) -> float:
    """When a sum that grows at a pace of its own in each phase reaches a target."""
    grown = passed_s = 0.0
    for index, phase in enumerate(phases):
        wait_s = _wait_s(target - grown, pace(phase))
        if wait_s <= phase.seconds or index == len(phases) - 1:
            return passed_s + wait_s
        grown += pace(phase) * phase.seconds
        passed_s += phase.seconds
    return math.inf


def _smallest(is_found: Callable[[float], bool], low: float, high: float) -> float | None:
    """Smallest value that is found, by halving; None when not even the highest is."""
    if not is_found(high):
        return None
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if is_found(middle):
            high = middle
        else:
            low = middle
    return high
