"""What a rollout would take, said before it begins: time, detectable harm, requests, labels.

Called by the API for ``rollout plan`` and for the warnings of ``apply``. Pure. It decides nothing:
the rollout goes by its evidence, whatever was said here. All figures are typical ones at the
present traffic, for a candidate that is exactly as good as stable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import Field

from modelplane.decisions.analysis_inputs import ERRORS, LATENCY, settings_of
from modelplane.decisions.preflight_ramp import (
    Judged,
    Phase,
    canary_course,
    passing_times,
    requests_until,
    smallest_error_harm,
    smallest_slowdown,
    warm_up_s,
    worst_failures,
)
from modelplane.decisions.preflight_traffic import ObservedTraffic
from modelplane.resources.meta import Part
from modelplane.resources.strategy import Analysis, MetricRule, Strategy
from modelplane.stats.latency import DEFAULT_SLOWDOWN, quantile_bin_us
from modelplane.stats.sample_size import requests_needed

ASSUMED_WRONG_RATE = 0.1
"""Of a metric with labels, where the version does not say: so great a share is wrong."""

_WIDER = (1.5, 2.0, 3.0, 5.0, 10.0, 20.0)
_GREATEST_MARGIN = 0.5


class PlannedStep(Part):
    """One weight, and how long the candidate will typically have it."""

    weight_pct: float
    seconds: float
    candidate_requests: int = Field(description="That meet the candidate in this step.")


class PlannedMetric(Part):
    """What one metric needs, and what it can show."""

    name: str
    stable: float | None = Field(
        default=None, description="Stable's failure rate, or 95th percentile in microseconds."
    )
    margin: float | None = Field(
        default=None, description="Of rates the difference; of latency the share."
    )
    passes_after_s: float | None = Field(
        default=None, description="From the first traffic; absent: not before the deadline."
    )
    smallest_harm: float | None = Field(
        default=None,
        description="Found with a probability of 80 % in the rollout's time: a difference of "
        "rates; of latency a share by which every request is slower. Absent: none.",
    )
    labels_needed: int | None = Field(
        default=None, description="Labelled requests to both versions; where labels are needed."
    )


class RolloutPlan(Part):
    """What a rollout would take."""

    environment: str = ""
    deployment: str = ""
    stable: str = Field(default="", description="Version that serves; empty: none does.")
    candidate: str = Field(default="", description="Version that is planned.")
    strategy: str = ""
    request_rate_rps: float = 0.0
    history_s: float = Field(default=0.0, description="How long there have been counts.")
    dispersion: float = Field(default=1.0, description="How correlated stable's failures are.")
    warm_up_s: float = Field(default=0.0, description="Before the first traffic.")
    steps: tuple[PlannedStep, ...] = ()
    least_s: float | None = Field(default=None, description="At the least, with any traffic.")
    typical_s: float | None = Field(
        default=None, description="For a healthy candidate; absent: not before the deadline."
    )
    deadline_s: float | None = None
    users_pct: float = Field(default=0.0, description="Share of users who meet the candidate.")
    candidate_requests: int | None = None
    worst_failed_requests: int | None = Field(
        default=None,
        description="That the candidate fails on average before it is taken back, at the worst "
        "size of harm.",
    )
    shielded: bool = Field(default=True, description="Stable answers those, nobody sees them.")
    metrics: tuple[PlannedMetric, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Planned:
    """What is planned, and where.

    Attributes
    ----------
    environment, deployment, stable, candidate
        Names and versions; `stable` is empty when nothing serves yet.
    strategy
        The one that holds.
    shielded
        Whether stable answers what the candidate fails.
    replicas
        Of the deployment.
    wrong_rates
        Shares that stable gets wrong by metric, where its version says so.
    """

    environment: str
    deployment: str
    stable: str
    candidate: str
    strategy: Strategy
    shielded: bool = True
    replicas: int = 1
    wrong_rates: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Course:
    """Phases, when metrics pass, and the times that the strategy declares."""

    phases: Sequence[Phase]
    passes: Mapping[str, float | None]
    least_s: float
    deadline_s: float
    waits_for_evidence: bool = True
    users_pct: float | None = None


def plan_rollout(planned: Planned, traffic: ObservedTraffic) -> RolloutPlan:
    """Say what a rollout would take.

    Parameters
    ----------
    planned
        What is planned.
    traffic
        What stable did lately.

    Returns
    -------
    RolloutPlan
        Without times and figures where nothing can be said; `notes` say why.
    """
    strategy = planned.strategy
    plan = RolloutPlan(
        environment=planned.environment,
        deployment=planned.deployment,
        stable=planned.stable,
        candidate=planned.candidate,
        strategy=strategy.type,
        request_rate_rps=traffic.request_rate_rps,
        history_s=traffic.history_s,
        dispersion=traffic.phi,
        shielded=planned.shielded,
    )
    if not planned.stable:
        return plan.with_(
            users_pct=100.0, notes=("nothing serves yet: the first version takes all traffic",)
        )
    analysis = strategy.analysis
    if analysis is None:
        return plan.with_(**_uncompared(strategy))
    judged = Judged(traffic, settings_of(analysis))
    course = _course(planned, judged)
    plan = plan.with_(
        least_s=course.least_s,
        deadline_s=course.deadline_s,
        users_pct=course.users_pct
        if course.users_pct is not None
        else max(phase.weight_pct for phase in course.phases),
    )
    notes = _notes(planned, traffic)
    if traffic.request_rate_rps <= 0:
        silent = "no requests have come lately: without them there is no evidence, and no end"
        return plan.with_(warnings=(silent,), notes=notes)
    plan = plan.with_(**_figures(planned, judged, course, analysis), notes=notes)
    return plan.with_(warnings=tuple(_warnings(plan, planned, judged, course)))


def _uncompared(strategy: Strategy) -> dict[str, object]:
    """A strategy that compares nothing."""
    said = "nothing is compared: once the candidate is ready it gets all traffic"
    if strategy.blue_green is None:
        return {"users_pct": 100.0, "least_s": 0.0, "typical_s": 0.0, "notes": (said,)}
    way = strategy.blue_green
    warm = f"; the version before stays warm for {way.keep_warm_s:g} s to switch back to"
    return {
        "users_pct": 100.0,
        "least_s": way.preview_s,
        "typical_s": way.preview_s,
        "notes": (said + warm,),
    }


def _course(planned: Planned, judged: Judged) -> _Course:
    strategy, rate = planned.strategy, judged.traffic.request_rate_rps
    if (canary := strategy.canary) is not None:
        phases, passes = canary_course(canary, judged, shielded=planned.shielded)
        steps = 2 if canary.steps == "auto" else len(canary.steps)
        least_s = max(canary.min_bake_s, steps * canary.analysis.interval_s)
        holdback_s = canary.holdback.for_s if canary.holdback else 0.0
        return _Course(phases, passes, least_s + holdback_s, canary.deadline_s)
    if (shadow := strategy.shadow) is not None:
        copied = rate * shadow.percentage / 100
        one = Phase(shadow.percentage, math.inf, copied, rate)
        passes = passing_times([one], judged, shadow.deadline_s)
        pairs_s = shadow.min_compared / copied if copied else math.inf
        least_s = shadow.duration_s
        lasts_s = max(least_s, pairs_s, *(at or shadow.deadline_s for at in passes.values()))
        phase = Phase(shadow.percentage, min(lasts_s, shadow.deadline_s), copied, rate)
        return _Course([phase], passes, least_s, shadow.deadline_s, users_pct=0.0)
    if (ab := strategy.ab) is not None:
        least = min(ab.arms, key=lambda arm: arm.percentage).percentage
        rest = 100 - sum(arm.percentage for arm in ab.arms)
        phase = Phase(least, ab.duration_s, rate * least / 100, rate * rest / 100)
        passes = passing_times([phase], judged, ab.duration_s)
        return _Course(
            [phase],
            passes,
            ab.duration_s,
            ab.duration_s,
            waits_for_evidence=False,
            users_pct=100.0 - rest,
        )
    interval_s = strategy.rolling.interval_s if strategy.rolling else 0.0
    shares = [index / planned.replicas for index in range(1, planned.replicas)]
    phases = [Phase(100 * s, interval_s, rate * s, rate * (1 - s)) for s in shares]
    phases.append(Phase(100.0, 0.0, rate, 0.0))  # the last replica is the promotion
    whole_s = interval_s * len(shares)
    return _Course(phases, {}, whole_s, whole_s, waits_for_evidence=False)


def _figures(
    planned: Planned, judged: Judged, course: _Course, analysis: Analysis
) -> dict[str, object]:
    phases = course.phases
    spent_s = sum(phase.seconds for phase in phases)
    waiting_s = warm_up_s(judged) if planned.strategy.canary is not None else 0.0
    in_time = all(at is not None for at in course.passes.values()) or not course.waits_for_evidence
    unknown = [rule for rule in analysis.metrics if rule.name not in {ERRORS, LATENCY}]
    if course.waits_for_evidence and unknown:
        in_time = False
    holdback = planned.strategy.canary.holdback if planned.strategy.canary else None
    more_s = waiting_s + (holdback.for_s if holdback else 0.0)
    smallest = smallest_error_harm(phases, judged)
    return {
        "warm_up_s": waiting_s,
        "steps": tuple(
            PlannedStep(
                weight_pct=phase.weight_pct,
                seconds=phase.seconds,
                candidate_requests=round(phase.candidate_rps * phase.seconds),
            )
            for phase in phases
        ),
        "typical_s": spent_s + more_s if in_time else None,
        "candidate_requests": round(requests_until(phases, spent_s)),
        "worst_failed_requests": math.ceil(worst_failures(phases, judged, smallest))
        if smallest is not None
        else None,
        "metrics": tuple(_metrics(planned, judged, course, analysis, smallest)),
    }


def _metrics(
    planned: Planned,
    judged: Judged,
    course: _Course,
    analysis: Analysis,
    smallest: float | None,
) -> list[PlannedMetric]:
    traffic = judged.traffic
    found = [
        PlannedMetric(
            name=ERRORS,
            stable=traffic.error_rate,
            margin=judged.margin,
            passes_after_s=course.passes.get(ERRORS),
            smallest_harm=smallest,
        )
    ]
    for rule in analysis.metrics:
        if rule.name == LATENCY:
            quantile = (rule.percentile or 95) / 100
            found.append(
                PlannedMetric(
                    name=LATENCY,
                    stable=float(quantile_bin_us(traffic.latency, quantile))
                    if traffic.latency
                    else None,
                    margin=rule.margin or DEFAULT_SLOWDOWN,
                    passes_after_s=course.passes.get(LATENCY),
                    smallest_harm=smallest_slowdown(course.phases, judged),
                )
            )
        elif rule.name != ERRORS:
            found.append(_labelled_metric(planned, judged, course, rule))
    return found


def _labelled_metric(
    planned: Planned, judged: Judged, course: _Course, rule: MetricRule
) -> PlannedMetric:
    """A yes/no outcome that needs labels: how many, at the last share that is compared."""
    wrong = min(max(planned.wrong_rates.get(rule.name, ASSUMED_WRONG_RATE), 0.0), 0.99)
    margin = rule.margin or judged.settings.default_margin(wrong)
    share = course.phases[-1].share
    share = share if 0 < share < 1 else 0.5
    needed = requests_needed(wrong, share, margin, judged.settings.beta)
    return PlannedMetric(
        name=rule.name, stable=wrong, margin=margin, labels_needed=math.ceil(needed)
    )


def _notes(planned: Planned, traffic: ObservedTraffic) -> tuple[str, ...]:
    strategy, notes = planned.strategy, []
    if planned.candidate == planned.stable:
        notes.append("this version serves already: only another runtime would start a rollout")
    if strategy.predicate and not traffic.under_rule:
        notes.append(
            "how many requests the predicate holds for is not known yet: these are the figures "
            "if it held for all; with a tenth of the requests evidence takes ten times as long"
        )
    if strategy.canary is not None and strategy.canary.holdback is not None:
        holdback = strategy.canary.holdback
        notes.append(f"{holdback.percentage:g} % stay on stable for {holdback.for_s:g} s after it")
    if strategy.ab is not None:
        notes.append("an A/B test compares for its whole time; figures are of its smallest arm")
    if strategy.rolling is not None:
        notes.append("harm rolls back, and nothing waits for evidence")
    return tuple(notes)


def _warnings(plan: RolloutPlan, planned: Planned, judged: Judged, course: _Course) -> list[str]:
    found = []
    late = [metric.name for metric in plan.metrics if _is_late(metric, course)]
    if late:
        found.append(_late_warning(late, plan, planned, judged, course))
    for metric in plan.metrics:
        if metric.labels_needed is not None:
            found.append(
                f"{metric.name} cannot be measured without labels, about "
                f"{metric.labels_needed:,} of them; until then nothing is promoted by itself"
            )
    return found


def _is_late(metric: PlannedMetric, course: _Course) -> bool:
    return metric.name in course.passes and metric.passes_after_s is None


def _late_warning(
    late: Sequence[str], plan: RolloutPlan, planned: Planned, judged: Judged, course: _Course
) -> str:
    needs_s = passing_times(course.phases, judged, math.inf)
    most_s = max((at or math.inf) for at in (needs_s[name] for name in late))
    when = "never" if math.isinf(most_s) else f"in about {_spoken(most_s)}"
    said = (
        f"at {plan.request_rate_rps:.3g} requests/s {' and '.join(late)} will typically pass "
        f"{when}, and the {'test' if planned.strategy.ab else 'deadline'} ends after "
        f"{_spoken(course.deadline_s)}"
    )
    ways = list(_ways_out(late, planned, judged, course, most_s))
    return said + (f"; what would do: {', or '.join(ways)}" if ways else "")


def _ways_out(
    late: Sequence[str], planned: Planned, judged: Judged, course: _Course, needs_s: float
) -> list[str]:
    ways = []
    if late == [ERRORS] and (wider := _wide_enough(planned, judged, course)) is not None:
        ways.append(f"a margin of {wider:.2g} for errors")
    if math.isfinite(needs_s):
        word = "duration" if planned.strategy.ab else "deadline"
        ways.append(f"a {word} of {_spoken(1.5 * needs_s)}")
    elif LATENCY in late:
        ways.append("a wider margin for latency, or judging errors alone")
    last = course.phases[-1]
    if planned.strategy.canary is not None and last.weight_pct < 50:
        ways.append("steps up to 50 %")
    if planned.strategy.shadow is not None and last.weight_pct < 100:
        ways.append("copying all requests")
    return ways


def _wide_enough(planned: Planned, judged: Judged, course: _Course) -> float | None:
    """A margin of errors that would pass before the deadline, a round multiple of the present."""
    phase = course.phases[-1]
    before_s = sum(one.seconds for one in course.phases[:-1])
    for factor in _WIDER:
        margin = judged.margin * factor
        pace = judged.error_pace(phase, margin) if margin <= _GREATEST_MARGIN else 0.0
        if pace > 0 and before_s + 1 / pace <= course.deadline_s:
            return margin
    return None


def _spoken(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.0f} s"
