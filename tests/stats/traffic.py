"""Made-up traffic of one rollout, second by second, from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np

from modelplane.decisions.analysis import Outcomes, Tick, VersionCounts
from modelplane.stats.latency import bin_width_us

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(second: int) -> datetime:
    """The end of a second's interval."""
    return START + timedelta(seconds=second)


def histogram(values_us: Sequence[float]) -> dict[int, int]:
    """Values in Envoy's bins."""
    result: dict[int, int] = {}
    for value in values_us:
        whole = int(value)
        bound = whole - whole % bin_width_us(whole)
        result[bound] = result.get(bound, 0) + 1
    return result


def tick(
    sequence: int,
    stable: tuple[int, int] = (0, 0),
    candidate: tuple[int, int] = (0, 0),
    *,
    step_id: int | None = 1,
    boot_id: str = "boot",
    proxy: str = "production/node",
    replicas: dict[str, tuple[int, int]] | None = None,
    outcomes: dict[str, tuple[tuple[int, int], tuple[int, int]]] | None = None,
) -> Tick:
    """A tick with the given ``(requests, failures)``; outcomes are of stable and candidate."""
    others = outcomes or {}
    return Tick(
        proxy=proxy,
        boot_id=boot_id,
        sequence=sequence,
        at=at(sequence),
        step_id=step_id,
        stable=VersionCounts(
            *stable, outcomes={name: Outcomes(*pair[0]) for name, pair in others.items()}
        ),
        candidate=VersionCounts(
            *candidate,
            replicas={name: Outcomes(*pair) for name, pair in (replicas or {}).items()},
            outcomes={name: Outcomes(*pair[1]) for name, pair in others.items()},
        ),
    )


@dataclass
class Traffic:
    """Poisson requests to two versions with lognormal latencies.

    Failure rates are by replica for the candidate; latencies are 20 ms at the median.
    """

    seed: int = 0
    requests_per_s: float = 200
    stable_rate: float = 0.0
    replica_rates: Sequence[float] = (0.0, 0.0)
    slower: float = 1.0
    with_latency: bool = True
    random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def tick(self, sequence: int, weight_pct: float, step_id: int) -> Tick:
        """One second at a weight."""
        n_c = int(self.random.poisson(self.requests_per_s * weight_pct / 100))
        n_b = int(self.random.poisson(self.requests_per_s * (1 - weight_pct / 100)))
        count = len(self.replica_rates)
        shares = self.random.multinomial(n_c, [1 / count] * count).tolist()
        failed = [
            int(self.random.binomial(share, rate))
            for share, rate in zip(shares, self.replica_rates, strict=True)
        ]
        replicas = {
            f"replica-{index}": Outcomes(share, failures)
            for index, (share, failures) in enumerate(zip(shares, failed, strict=True))
            if share
        }
        return Tick(
            proxy="production/node",
            boot_id="boot",
            sequence=sequence,
            at=at(sequence),
            step_id=step_id,
            stable=VersionCounts(
                n_b, int(self.random.binomial(n_b, self.stable_rate)), latency=self._latency(n_b)
            ),
            candidate=VersionCounts(
                n_c, sum(failed), latency=self._latency(n_c, self.slower), replicas=replicas
            ),
        )

    def _latency(self, requests: int, slower: float = 1.0) -> dict[int, int]:
        if not self.with_latency:
            return {}
        values = 20_000 * slower * np.exp(self.random.normal(0, 0.5, requests))
        return histogram(values.tolist())
