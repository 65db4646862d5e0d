"""Healthy rollouts judged by everything at once: errors, latency, parts of the users, replicas.

The single tests are simulated in ``tests/stats/test_error_rates.py``. Here the whole judge is, as
the controller uses it: one look a second, growing weights, failures that come in groups, and
phi carried over from a rollout before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from modelplane.decisions.analysis import (
    AnalysisSettings,
    EvidenceState,
    Outcomes,
    Tick,
    VersionCounts,
    absorb_many,
    judge_many,
    start_evidence,
)
from tests.stats.traffic import at, histogram

pytestmark = pytest.mark.slow

ROLLOUTS = 200
HISTORIES = 6
HISTORY_S = 180
RATE_RPS = 120.0
FAILING = 0.02
GROUP = 5
"""So many requests fail together."""
REGIONS = {"user.region=west": 0.1, "user.region=east": 0.3, "user.region=north": 0.6}
SETTINGS = AnalysisSettings(kappa=0.0, slices=tuple(REGIONS))
"""With `kappa` 0 equal versions lie on the boundary of what is not harm: the hardest case."""

_TIMES = histogram((20_000 * np.exp(np.random.default_rng(0).normal(0, 0.5, 50_000))).tolist())
_BINS_US = np.array(list(_TIMES))
_SHARES = np.array(list(_TIMES.values())) / sum(_TIMES.values())


def counts(random: np.random.Generator, requests: float, failing: float) -> VersionCounts:
    """A second of one version on two replicas; failures come in groups, each in one region."""
    trials = random.poisson([requests * share for share in REGIONS.values()])
    failures = np.minimum(trials, GROUP * random.binomial(trials, failing / GROUP))
    n, k = int(trials.sum()), int(failures.sum())
    times = random.multinomial(n, _SHARES)
    seen = np.flatnonzero(times)
    first = int(random.binomial(n, 0.5))
    failed = int(random.hypergeometric(k, n - k, first)) if n else 0
    return VersionCounts(
        requests=n,
        failures=k,
        latency=dict(zip(_BINS_US[seen].tolist(), times[seen].tolist(), strict=True)),
        replicas={"a": Outcomes(first, failed), "b": Outcomes(n - first, k - failed)} if n else {},
        slices={
            name: Outcomes(*pair)
            for name, pair in zip(
                REGIONS, zip(trials.tolist(), failures.tolist(), strict=True), strict=True
            )
        },
    )


def second_of(
    random: np.random.Generator, second: int, weight: float, failing: float = FAILING
) -> Tick:
    return Tick(
        proxy="production/node",
        boot_id="boot",
        sequence=second,
        at=at(second),
        step_id=round(100 * weight),
        stable=counts(random, RATE_RPS * (1 - weight), FAILING),
        candidate=counts(random, RATE_RPS * weight, failing) if weight else VersionCounts(),
    )


def course() -> Iterator[tuple[int, float]]:
    """Seconds and weights: a warm-up, then as an automatic ramp goes."""
    for second in range(HISTORY_S + 1, HISTORY_S + 61):
        passed = second - HISTORY_S
        yield second, 0.0 if passed <= 10 else 0.05 if passed <= 20 else 0.5


def roll_out(
    random: np.random.Generator, rollouts: int, histories: Sequence[EvidenceState], failing: float
) -> float:
    """Share of rollouts that are ever rolled back."""
    states = [
        start_evidence(str(n), SETTINGS, histories[n % len(histories)]) for n in range(rollouts)
    ]
    running = list(range(rollouts))
    for second, weight in course():
        ticks = [[second_of(random, second, weight, failing)] for _ in running]
        rules = [SETTINGS] * len(running)
        states = absorb_many(states, ticks, rules)
        verdicts = judge_many(states, rules, at(second))
        kept = [index for index, one in enumerate(verdicts) if not one.harm]
        states, running = [states[i] for i in kept], [running[i] for i in kept]
        if not running:
            break
    return 1 - len(running) / rollouts


def test_healthy_versions_are_rolled_back_no_more_often_than_alpha_by_all_tests_together() -> None:
    random = np.random.default_rng(2026)
    histories = [start_evidence("before", SETTINGS) for _ in range(HISTORIES)]
    for second in range(1, HISTORY_S + 1):
        ticks = [[second_of(random, second, 0.0)] for _ in histories]
        histories = absorb_many(histories, ticks, [SETTINGS] * HISTORIES)
    assert roll_out(random, ROLLOUTS, histories, FAILING) <= SETTINGS.alpha
    assert roll_out(random, 20, histories, 15 * FAILING) >= 0.9
