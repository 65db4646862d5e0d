"""Rollouts in virtual time whose labels come late, through the real decisions.

One world: fifteen seconds a step, an agent that applies each split at once, requests that never
fail, and a binary model whose answers turn out right or wrong ten minutes later, a little earlier
or later each, in any order.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from modelplane.decisions.analysis import (
    AnalysisVerdict,
    EvidenceState,
    LabelCase,
    RampSettings,
    Tick,
    VersionCounts,
    absorb_many,
    allowed_weight_pct,
    feed_of,
    judge_many,
    label_ticks,
    settings_of,
    start_evidence,
)
from modelplane.decisions.judgements import judge_evidence
from modelplane.decisions.rollout import (
    AppliedSplit,
    RolloutObservation,
    decide_rollout,
    ramp_steps,
)
from modelplane.ports.predictions import Outcome, Place
from modelplane.resources.monitoring import Labels
from modelplane.resources.rollout import RolloutSpec, RolloutStatus
from modelplane.resources.strategy import Analysis, CanaryStrategy, Holdback, MetricRule, Strategy
from tests.decisions.worlds import V1, V2, replica

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
STEP_S = 15
RATE_RPS = 20.0
POSITIVE = 0.3
"""Share of the requests that are predicted positive: the trials of precision."""

LABELS = Labels(horizon_s=1800, max_weight=25)


def strategy_of(metric: str, *, holdback_pct: float = 0.0) -> Strategy:
    """A canary that is judged by errors and by one metric that needs labels."""
    return Strategy(
        canary=CanaryStrategy(
            min_bake_s=60,
            deadline_s=7 * 3600,
            analysis=Analysis(
                metrics=(MetricRule(name="errors", margin=0.02), MetricRule(name=metric)),
                on_inconclusive="hold",
            ),
            holdback=Holdback(percentage=holdback_pct, for_s=60) if holdback_pct else None,
        )
    )


@dataclass
class LabelledRollout:
    """One rollout of a candidate whose precision is `candidate`, over one of `stable`.

    Parameters
    ----------
    from_pct
        The candidate has its own precision from this weight on, and stable's before.
    delay_s
        How long labels take, on average; a quarter of it is chance.
    """

    seed: int
    stable: float
    candidate: float
    strategy: Strategy
    delay_s: float = 600.0
    from_pct: float = 0.0
    status: RolloutStatus = field(default_factory=RolloutStatus)
    second: int = 0
    weights: list[float] = field(default_factory=list)
    ended_s: int | None = None

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        self.sequence = 0
        self.labels: list[tuple[float, int, bool, datetime, bool]] = []
        self.spec = RolloutSpec(
            deployment="delay", promotion="delay-2", ordinal=2, stable=V1, candidate=V2
        )
        analysis = self.strategy.analysis
        assert analysis is not None
        self.settings = settings_of(analysis, LABELS)
        self.state = start_evidence(str(self.seed), self.settings)

    @property
    def now(self) -> datetime:
        return START + timedelta(seconds=self.second)

    def step(self) -> list[Tick]:
        """A step passes: requests are answered, and labels come for older ones."""
        self.second += STEP_S
        weight = self.status.weight_pct / 100
        asked = [
            int(self.random.poisson(RATE_RPS * STEP_S * share)) for share in (1 - weight, weight)
        ]
        worse, now = self.status.weight_pct >= self.from_pct, self.now
        for is_candidate, requests in enumerate(asked):
            precision = self.candidate if is_candidate and worse else self.stable
            trials = int(self.random.binomial(requests, POSITIVE))
            came = self.second + self.delay_s * self.random.uniform(0.75, 1.25, trials)
            right = self.random.random(trials) < precision
            for came_s, is_right in zip(came.tolist(), right.tolist(), strict=True):
                self.sequence += 1
                entry = (came_s, self.sequence, bool(is_candidate), now, is_right)
                heapq.heappush(self.labels, entry)
        gateway = Tick(
            proxy="production/local",
            boot_id="boot",
            sequence=self.second,
            at=self.now,
            step_id=self.status.step_id if self.status.ramp_started_at else None,
            stable=VersionCounts(requests=asked[0]),
            candidate=VersionCounts(requests=asked[1]),
            seconds=STEP_S,
        )
        return [gateway, *self._label_ticks()]

    def _label_ticks(self) -> list[Tick]:
        case = LabelCase(
            environment="production",
            stable=V1.short,
            candidate=V2.short,
            metrics=tuple(metric.name for metric in self.settings.metrics),
            labels=LABELS,
            began=self.status.ramp_started_at,
        )
        after = self.state.sequences.get(feed_of("production"), 0)
        outcomes: list[Outcome] = []
        while self.labels and self.labels[0][0] <= self.second:
            _, _, is_candidate, at, right = heapq.heappop(self.labels)
            of = V2 if is_candidate else V1
            place = Place("production", "delay", of.version, of.short)
            sequence = after + len(outcomes) + 1
            outcomes.append(Outcome(sequence, place, at, 1, None, int(right), None))
        return label_ticks(case, outcomes, now=self.now)

    def decide(self, state: EvidenceState, verdict: AnalysisVerdict) -> None:
        """Store the judgement and let the rollout decide by it."""
        self.state = state
        canary = self.strategy.canary
        assert canary is not None
        rate = state.request_rate_rps
        ramp = RampSettings(weights_pct=ramp_steps(canary))
        allowed = allowed_weight_pct(rate, verdict.ucb, verdict.stable_rate, ramp)
        observed = RolloutObservation(
            uid="uid",
            strategy=self.strategy,
            replicas_wanted=1,
            replicas=(replica(V2),),
            split=AppliedSplit({"uid": self.status.step_id}, self._applied_at()),
            judgement=judge_evidence(state, verdict, allowed),
            labels=LABELS,
        )
        self.status = decide_rollout(self.spec, self.status, observed, now=self.now).status
        self.weights.append(self.status.weight_pct)
        if self.status.finished_at is not None:
            self.ended_s = self.second

    def _applied_at(self) -> datetime | None:
        return self.status.steps[-1].started_at if self.status.steps else None

    @property
    def is_over(self) -> bool:
        return self.status.finished_at is not None


def run_all(rollouts: list[LabelledRollout], *, until_s: int) -> list[LabelledRollout]:
    """Run all of them to their ends, or until so many seconds have passed for each."""
    running = list(rollouts)
    while running:
        ticks = [one.step() for one in running]
        rules = [one.settings for one in running]
        states = absorb_many([one.state for one in running], ticks, rules)
        # All are at the same second.
        verdicts = judge_many(states, rules, running[0].now)
        for one, state, verdict in zip(running, states, verdicts, strict=True):
            one.decide(state, verdict)
        running = [one for one in running if not one.is_over and one.second < until_s]
    return rollouts


def many(count: int, seed: int, like: LabelledRollout) -> list[LabelledRollout]:
    """Fresh rollouts like one, each with a seed of its own."""
    return [replace(like, seed=seed + index, weights=[]) for index in range(count)]
