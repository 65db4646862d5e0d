"""How long one analysis tick takes: 1,000 rollouts, five tests each, absorbed and judged.

Run by ``python -m bench`` and alone. Each rollout is judged by errors, by latency at three
quantiles and by one more yes/no outcome, has two candidate replicas, and brings one second of
counts. Measures only; judges nothing.
"""

from __future__ import annotations

import statistics
import time
from datetime import UTC, datetime, timedelta

import numpy as np

from modelplane.decisions.analysis import (
    AnalysisSettings,
    MetricSettings,
    Outcomes,
    Tick,
    VersionCounts,
    absorb_many,
    judge_many,
    start_evidence,
)
from modelplane.stats.latency import bin_width_us

ROLLOUTS = 1_000
WARM_UP_TICKS = 13
MEASURED_TICKS = 9
REQUESTS_PER_S = 100
START = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = AnalysisSettings(
    metrics=(MetricSettings("errors"), MetricSettings("latency"), MetricSettings("empty_answer"))
)


def _histogram(random: np.random.Generator, requests: int) -> dict[int, int]:
    histogram: dict[int, int] = {}
    for latency_us in np.exp(random.normal(10, 0.5, requests)).astype(int).tolist():
        bound = latency_us - latency_us % bin_width_us(latency_us)
        histogram[bound] = histogram.get(bound, 0) + 1
    return histogram


def _counts(random: np.random.Generator, replicas: int) -> VersionCounts:
    requests = int(random.poisson(REQUESTS_PER_S / 2))
    shares = random.multinomial(requests, [1 / replicas] * replicas).tolist() if replicas else []
    failures = [int(random.binomial(share, 0.01)) for share in shares]
    return VersionCounts(
        requests=requests,
        failures=sum(failures) if replicas else int(random.binomial(requests, 0.01)),
        latency=_histogram(random, requests),
        replicas={
            f"replica-{index}": Outcomes(share, failed)
            for index, (share, failed) in enumerate(zip(shares, failures, strict=True))
        },
        outcomes={"empty_answer": Outcomes(requests, int(random.binomial(requests, 0.02)))},
    )


def _ticks(random: np.random.Generator, second: int) -> list[list[Tick]]:
    at = START + timedelta(seconds=second)
    patterns = [(_counts(random, 0), _counts(random, 2)) for _ in range(50)]
    chosen = [patterns[index] for index in random.integers(0, len(patterns), ROLLOUTS)]
    return [
        [Tick("gateway", "boot", second, at, 1, stable=stable, candidate=candidate)]
        for stable, candidate in chosen
    ]


def run() -> dict[str, float]:
    """Measure one tick.

    Returns
    -------
    dict
        ``rollouts``, ``tests_per_rollout``, and the median seconds of ``absorb_s``, ``judge_s``
        and of both together, ``tick_s``.
    """
    random = np.random.default_rng(7)
    states = [start_evidence(f"rollout-{index}", SETTINGS) for index in range(ROLLOUTS)]
    settings = [SETTINGS] * ROLLOUTS
    absorbing, judging = [], []
    for second in range(1, WARM_UP_TICKS + MEASURED_TICKS + 1):
        ticks = _ticks(random, second)
        began = time.perf_counter()
        states = absorb_many(states, ticks, settings)
        absorbed = time.perf_counter()
        judge_many(states, settings, START + timedelta(seconds=second))
        judged = time.perf_counter()
        if second > WARM_UP_TICKS:
            absorbing.append(absorbed - began)
            judging.append(judged - absorbed)
    both = [a + j for a, j in zip(absorbing, judging, strict=True)]
    return {
        "rollouts": ROLLOUTS,
        "tests_per_rollout": 5,
        "absorb_s": round(statistics.median(absorbing), 4),
        "judge_s": round(statistics.median(judging), 4),
        "tick_s": round(statistics.median(both), 4),
    }


if __name__ == "__main__":
    for name, value in run().items():
        print(f"{name:20} {value}")
