"""Simulated canaries: modelplane's analysis beside the rules that other tools document.

Run by ``python -m bench`` and alone. Every rule decides about the same requests: each second
draws from a generator that is seeded by the second, whatever the rule. Failures are independent.

The rules, as documented:

- *Argo Rollouts*, docs/features/analysis.md, background analysis: 20 % more every 10 minutes,
  measured from 40 % on every 5 minutes; three measurements under 95 % success abort. The query
  there sees the whole service; here it sees the candidate alone, which can only help it.
- *Flagger*, docs/gitbook/usage/how-it-works.md: checks every minute, 5 % more after a good one
  up to 50 %; under 99 % success is a failed check, ten of them roll back.
- *Kayenta*, Spinnaker's "best practices for configuring canary" and NetflixACAJudge: candidate
  and an equal baseline at 10 % each, three runs of one hour of 60 points; a run fails when the
  98 % Mann-Whitney interval of the shift lies above a quarter of its estimate.
- *modelplane*: every second, alpha 0.05, errors alone, no shield, with the product's own
  functions; stable was watched for 30 minutes before, or for one minute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from modelplane.decisions.analysis import AnalysisSettings, RampSettings, next_weight_pct
from modelplane.decisions.analysis_reading import MIN_FAILURES_PER_PHI
from modelplane.stats.dispersion import new_dispersion, phi, update_dispersion
from modelplane.stats.sequential import COMPARISON, arm, e_value, new_state, update, upper_bound

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Scenario:
    """A stable and a candidate failure rate at a request rate."""

    name: str
    stable_rate: float
    candidate_rate: float
    requests_per_s: float

    @property
    def harmful(self) -> bool:
        """Whether the candidate is worse."""
        return self.candidate_rate > self.stable_rate


SCENARIOS = (
    Scenario("healthy, 1 %, 10/s", 0.01, 0.01, 10),
    Scenario("healthy, 1 %, 100/s", 0.01, 0.01, 100),
    Scenario("healthy, 1 %, 1000/s", 0.01, 0.01, 1000),
    Scenario("1 % to 2 %, 100/s", 0.01, 0.02, 100),
    Scenario("1 % to 5 %, 100/s", 0.01, 0.05, 100),
    Scenario("0.1 % to 100 %, 100/s", 0.001, 1.0, 100),
)


class Rule(Protocol):
    """Decides for many runs at once; weights are shares of 1, shape ``(runs,)``."""

    name: str
    horizon_s: int
    weight: Array

    def observe(self, second: int, counts: Array) -> tuple[Mask, Mask]:
        """Take one second's ``(n_c, k_c, n_b, k_b)``; return who rolls back and who promotes."""


class ArgoRollouts:
    """Fixed threshold on the candidate's success rate in windows of five minutes."""

    name = "Argo Rollouts"
    horizon_s = 2400

    def __init__(self, runs: int) -> None:
        self.weight = np.full(runs, 0.2)
        self._window = np.zeros((runs, 2))
        self._failed = np.zeros(runs)

    def observe(self, second: int, counts: Array) -> tuple[Mask, Mask]:
        self._window += counts[:, :2]
        if second % 300 == 0:
            if second >= 600:
                self._failed += self._window[:, 1] > 0.05 * self._window[:, 0]
            self._window[:] = 0
        self.weight = np.full_like(self.weight, 0.2 * min(4, 1 + second // 600))
        return self._failed >= 3, np.full(len(self.weight), second >= self.horizon_s)


class Flagger:
    """Fixed threshold on the candidate's success rate, every minute."""

    name = "Flagger"
    horizon_s = 1200

    def __init__(self, runs: int) -> None:
        self.weight = np.full(runs, 0.05)
        self._window = np.zeros((runs, 2))
        self._failed = np.zeros(runs)

    def observe(self, second: int, counts: Array) -> tuple[Mask, Mask]:
        self._window += counts[:, :2]
        promote = np.zeros(len(self.weight), dtype=bool)
        if second % 60 == 0:
            bad = self._window[:, 1] > 0.01 * self._window[:, 0]
            self._failed += bad
            promote = ~bad & (self.weight > 0.49)
            self.weight = np.where(bad, self.weight, np.minimum(self.weight + 0.05, 0.5))
            self._window[:] = 0
        return self._failed >= 10, promote


class Kayenta:
    """Mann-Whitney on the error rates of 60 minutes against an equal baseline."""

    name = "Kayenta"
    horizon_s = 10_800

    def __init__(self, runs: int) -> None:
        self.weight = np.full(runs, 0.1)
        self._minute = np.zeros((runs, 4))
        self._points: list[Array] = []
        self._random = np.random.default_rng(1)

    def observe(self, second: int, counts: Array) -> tuple[Mask, Mask]:
        baseline = self._random.binomial(counts[:, 2].astype(int), 1 / 9)
        failed = self._random.hypergeometric(
            counts[:, 3].astype(int), (counts[:, 2] - counts[:, 3]).astype(int), baseline
        )
        self._minute += np.column_stack([counts[:, :2], baseline, failed])
        if second % 60 == 0:
            trials = np.maximum(self._minute[:, [0, 2]], 1)
            self._points.append(self._minute[:, [1, 3]] / trials)
            self._minute[:] = 0
        rollback = np.zeros(len(self.weight), dtype=bool)
        if second % 3600 == 0:
            points = np.stack(self._points, axis=1)
            rollback = np.array([_is_high(run[:, 0], run[:, 1]) for run in points])
            self._points = []
        return rollback, ~rollback & (second >= self.horizon_s)


def _is_high(candidate: Array, baseline: Array) -> bool:
    """The lower end of the interval of the shift lies above a quarter of its estimate."""
    shifts = np.sort(np.subtract.outer(candidate, baseline).ravel())
    n = len(candidate)
    z = 2.326  # 98 %, two-sided
    rank = math.floor(n * n / 2 - z * math.sqrt(n * n * (2 * n + 1) / 12))
    return bool(shifts[max(rank, 0)] > 0.25 * abs(float(np.median(shifts))))


class Modelplane:
    """The product's tests, dispersion and ramp, on errors alone."""

    horizon_s = 7200

    def __init__(self, runs: int, scenario: Scenario, history_s: int, seed: int) -> None:
        self.name = "modelplane" if history_s > 60 else "modelplane, 1 min history"
        self._settings = AnalysisSettings()
        self._ramp = RampSettings(shielded=False)
        self._rate = scenario.requests_per_s
        self._dispersion = new_dispersion(runs)
        self._tests = new_state(COMPARISON, runs)
        random = np.random.default_rng([seed, 0])
        for second in range(-history_s, 0):
            n = random.poisson(self._rate, runs)
            k = random.binomial(n, scenario.stable_rate)
            self._dispersion = update_dispersion(self._dispersion, second + history_s, n, k)
            if second >= -max(10, math.ceil(100 / self._rate)):
                self._tests = update(self._tests, np.column_stack([np.zeros((runs, 2)), n, k]))
        margins = np.array([self._settings.default_margin(p) for p in self._tests.stable_rate])
        self._margin = margins
        self._tests = arm(self._tests, self._settings.kappa * margins, margins)
        self._history_s = history_s
        self._failures = np.zeros(runs)
        self._changed_at = np.zeros(runs)
        self.weight = np.full(runs, self._ramp.weights_pct[0] / 100)

    def observe(self, second: int, counts: Array) -> tuple[Mask, Mask]:
        self._tests = update(self._tests, counts)
        self._dispersion = update_dispersion(
            self._dispersion,
            np.full(len(counts), second + self._history_s),
            counts[:, 2],
            counts[:, 3],
        )
        self._failures += counts[:, 1]
        scatter = phi(self._dispersion)
        harm = e_value(self._tests, scatter) >= 1 / self._settings.alpha
        harm &= self._failures >= MIN_FAILURES_PER_PHI * scatter
        upper = upper_bound(self._tests, scatter, self._settings.beta)
        rates = self._tests.stable_rate
        for run in np.flatnonzero((second - self._changed_at >= 5) & (self.weight < 0.5)):
            pct = next_weight_pct(
                100 * self.weight[run], self._rate, float(upper[run]), float(rates[run]), self._ramp
            )
            if pct > 100 * self.weight[run]:
                self.weight[run] = pct / 100
                self._changed_at[run] = second
        promote = (upper <= self._margin) & (self.weight >= 0.5) & (second >= 120)
        return harm, promote & ~harm


def simulate(rule: Rule, scenario: Scenario, runs: int, seed: int) -> dict[str, float | None]:
    """Run one rule until every run has ended or the rule's horizon is over."""
    open_runs = np.ones(runs, dtype=bool)
    rolled_back = np.zeros(runs, dtype=bool)
    promoted_at = np.full(runs, np.nan)
    failed = np.zeros(runs)
    for second in range(1, rule.horizon_s + 1):
        random = np.random.default_rng([seed, second])
        requests = random.poisson(scenario.requests_per_s, runs)
        n_c = random.binomial(requests, rule.weight)
        k_c = random.binomial(n_c, scenario.candidate_rate)
        k_b = random.binomial(requests - n_c, scenario.stable_rate)
        counts = np.column_stack([n_c, k_c, requests - n_c, k_b]).astype(np.float64)
        failed += np.where(open_runs, k_c, 0)
        harm, promote = rule.observe(second, counts)
        rolled_back |= open_runs & harm
        promoted_at = np.where(open_runs & promote & ~harm, second, promoted_at)
        open_runs &= ~(harm | promote)
        if not open_runs.any():
            break
    promoted = ~np.isnan(promoted_at)
    return {
        "rolled_back": round(float(rolled_back.mean()), 4),
        "promoted": round(float(promoted.mean()), 4),
        "failed_until_rollback": _mean(failed[rolled_back]),
        "failed": _mean(failed),
        "seconds_to_promote": _median(promoted_at[promoted]),
    }


def _mean(values: Array) -> float | None:
    return round(float(values.mean()), 1) if len(values) else None


def _median(values: Array) -> float | None:
    return float(np.median(values)) if len(values) else None


def run(runs: int = 200, seed: int = 1) -> dict[str, Any]:
    """Simulate every rule in every scenario.

    Returns
    -------
    dict
        ``scenarios``: by scenario and rule the share rolled back and promoted, the mean number
        of failed candidate requests (of runs rolled back, and of all), the median seconds to
        promotion. ``table``: the same as markdown.
    """
    table: dict[str, dict[str, dict[str, float | None]]] = {}
    for scenario in SCENARIOS:
        rules: Sequence[Rule] = (
            ArgoRollouts(runs),
            Flagger(runs),
            Kayenta(runs),
            Modelplane(runs, scenario, 60, seed),
            Modelplane(runs, scenario, 1800, seed),
        )
        table[scenario.name] = {rule.name: simulate(rule, scenario, runs, seed) for rule in rules}
    result: dict[str, Any] = {"runs": runs, "seed": seed, "scenarios": table}
    return {**result, "table": markdown(result)}


def markdown(result: dict[str, Any]) -> str:
    """Write a result of :func:`run` as a table."""
    scenarios = result["scenarios"]
    names = list(next(iter(scenarios.values())))
    lines = [
        f"| {result['runs']} runs a cell | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for scenario in SCENARIOS:
        cells = [scenarios[scenario.name][name] for name in names]
        if scenario.harmful:
            rows = [
                ("rolled back", [f"{cell['rolled_back']:.0%}" for cell in cells]),
                ("failed requests", [f"{cell['failed']:,.0f}" for cell in cells]),
            ]
        else:
            rows = [
                ("false rollbacks", [f"{cell['rolled_back']:.1%}" for cell in cells]),
                (
                    "seconds to promote",
                    [
                        "–"
                        if cell["seconds_to_promote"] is None
                        else f"{cell['seconds_to_promote']:,.0f}"
                        for cell in cells
                    ],
                ),
            ]
        lines += [f"| {scenario.name}: {what} | {' | '.join(row)} |" for what, row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    print(run()["table"])
