"""Plans before a rollout: they are what a simulated rollout takes, and warn where it cannot end."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelplane.decisions.analysis import AnalysisSettings, MetricSettings, Outcomes
from modelplane.decisions.preflight import Planned, PlannedMetric, RolloutPlan, plan_rollout
from modelplane.decisions.preflight_ramp import (
    Judged,
    Phase,
    smallest_error_harm,
    smallest_slowdown,
)
from modelplane.decisions.preflight_traffic import (
    ObservedTraffic,
    observe_traffic,
    shares_above,
)
from modelplane.resources.strategy import (
    AbStrategy,
    AllAtOnceStrategy,
    Analysis,
    Arm,
    BlueGreenStrategy,
    CanaryStrategy,
    MetricRule,
    RollingStrategy,
    ShadowStrategy,
    Strategy,
)
from modelplane.resources.telemetry import TelemetryBatch, VariantSample
from modelplane.stats.latency import fix_thresholds
from modelplane.stats.sequential import (
    COMPARISON,
    EXCEEDANCE,
    HARM_ONLY,
    arm,
    e_value,
    faster_log_e_value,
    new_state,
    update,
    upper_bound,
)
from tests.stats.traffic import at, histogram

LATENCY = histogram((20_000 * np.exp(np.random.default_rng(0).normal(0, 0.5, 20_000))).tolist())
CANARY = Strategy(canary=CanaryStrategy())
ERRORS_ONLY = Analysis(metrics=(MetricRule(name="errors"),))


def traffic(rate_rps: float, errors: float = 0.01, **others: Any) -> ObservedTraffic:
    return ObservedTraffic(
        request_rate_rps=rate_rps,
        errors=Outcomes(100_000, round(100_000 * errors)),
        **{
            "history_s": 1800.0, "phi": 1.0, "latency": LATENCY,
            "thresholds": fix_thresholds(LATENCY), "latency_phi": (1.0, 1.0, 1.0), **others,
        },
    )  # fmt: skip


def plan(strategy: Strategy, observed: ObservedTraffic, **others: Any) -> RolloutPlan:
    return plan_rollout(Planned("production", "d", "1.0.0", "2.0.0", strategy, **others), observed)


def metric(found: RolloutPlan, name: str) -> PlannedMetric:
    return next(one for one in found.metrics if one.name == name)


class TestCanary:
    def test_it_is_what_the_requests_and_the_margins_make_it(self) -> None:
        found = plan(CANARY, traffic(100))
        assert [step.weight_pct for step in found.steps] == [1, 5, 50]
        assert found.typical_s == pytest.approx(sum(step.seconds for step in found.steps))
        assert found.typical_s is not None
        assert 300 < found.typical_s < 600
        assert found.least_s == 120
        assert found.users_pct == 50
        assert found.candidate_requests == pytest.approx(
            sum(step.candidate_requests for step in found.steps), abs=3
        )
        assert found.warnings == ()

    def test_the_bake_and_the_interval_bind_where_evidence_comes_fast(self) -> None:
        quick = plan(CANARY, traffic(5_000, errors=0.0))
        assert quick.typical_s == 120
        assert all(step.seconds >= 5 for step in quick.steps)
        declared = Strategy(canary=CanaryStrategy(steps=(1, 2, 3, 50), min_bake_s=0))
        assert plan(declared, traffic(5_000, errors=0.0)).least_s == 20

    def test_a_holdback_and_the_warm_up_are_added(self) -> None:
        strategy = Strategy.model_validate(
            {"canary": {"holdback": {"percentage": 5, "for": "10m"}}}
        )
        fresh = traffic(100, history_s=2.0)
        assert plan(strategy, fresh).warm_up_s == 8
        longer, plain = plan(strategy, fresh).typical_s, plan(CANARY, fresh).typical_s
        assert longer is not None
        assert plain is not None
        assert longer == pytest.approx(plain + 600)

    @settings(max_examples=25, deadline=None)
    @given(
        st.floats(0.01, 5000),
        st.floats(0, 0.2),
        st.floats(1, 5),
        st.lists(st.integers(1, 50), min_size=1, max_size=4, unique=True).map(sorted),
        st.booleans(),
    )
    def test_figures_hold_together_whatever_the_traffic(
        self, rate: float, errors: float, phi: float, steps: list[int], shielded: bool
    ) -> None:
        strategy = Strategy(canary=CanaryStrategy(steps=tuple(steps)))
        found = plan(strategy, traffic(rate, errors, phi=phi), shielded=shielded)
        lasted = sum(step.seconds for step in found.steps)
        assert lasted <= found.deadline_s + 1e-6  # type: ignore[operator]
        assert [step.weight_pct for step in found.steps] == steps[: len(found.steps)]
        late = [one.name for one in found.metrics if one.passes_after_s is None]
        assert (found.typical_s is None) == bool(late) == bool(found.warnings)
        if found.typical_s is not None:
            assert found.typical_s >= found.least_s  # type: ignore[operator]
        one_weight = Strategy(canary=CanaryStrategy(steps=tuple(steps[:1])))
        lone, busier = (
            plan(one_weight, traffic(rps, errors, phi=phi), shielded=shielded)
            for rps in (rate, 2 * rate)
        )
        if lone.typical_s is not None:
            assert busier.typical_s is not None
            assert busier.typical_s <= lone.typical_s + 1e-6
        RolloutPlan.model_validate(found.to_dict())

    def test_a_step_waits_longer_where_more_users_are_at_stake(self) -> None:
        """Twice the requests halve the bound that the risk budget asks for before the step, and
        half the bound takes up to four times the requests."""
        strategy = Strategy(canary=CanaryStrategy(steps=(1, 22)))
        quiet, busy = (plan(strategy, traffic(rps, 0.0625, phi=2.0)) for rps in (817, 1634))
        assert quiet.steps[0].seconds < busy.steps[0].seconds < 4 * quiet.steps[0].seconds
        assert quiet.typical_s is not None
        assert busy.typical_s is not None
        assert quiet.typical_s < busy.typical_s

    def test_a_stable_version_that_fails_nearly_everything_has_figures_too(self) -> None:
        strict = Analysis(metrics=(MetricRule(name="errors", margin=0.001),))
        strategy = Strategy(canary=CanaryStrategy(analysis=strict))
        for errors in (0.98, 0.992, 1.0):
            found = plan(strategy, traffic(5_000, errors))
            worst, smallest = found.worst_failed_requests, metric(found, "errors").smallest_harm
            assert (worst is None) == (smallest is None)
            assert smallest is None or errors + smallest < 1
        assert plan(strategy, traffic(5_000, 0.992)).worst_failed_requests


class TestWarnings:
    def test_traffic_that_cannot_answer_the_margins_says_what_would(self) -> None:
        late = CanaryStrategy(steps=(5,), deadline_s=3600, analysis=ERRORS_ONLY)
        (warning,) = plan(Strategy(canary=late), traffic(10)).warnings
        assert "errors will typically pass in about" in warning
        assert "the deadline ends after 60 minutes" in warning
        for way in ("a margin of", "a deadline of", "steps up to 50 %"):
            assert way in warning

    def test_what_it_proposes_would_do(self) -> None:
        late = CanaryStrategy(steps=(50,), deadline_s=3600, analysis=ERRORS_ONLY)
        (warning,) = plan(Strategy(canary=late), traffic(10)).warnings
        margin = float(warning.partition("a margin of ")[2].split()[0])
        wider = Analysis(metrics=(MetricRule(name="errors", margin=margin),))
        in_time = Strategy(canary=late.with_(analysis=wider))
        assert plan(in_time, traffic(10)).warnings == ()

    def test_no_requests_say_nothing_and_are_warned_of(self) -> None:
        found = plan(CANARY, ObservedTraffic())
        assert found.typical_s is None
        assert found.steps == ()
        assert "no requests have come lately" in found.warnings[0]

    def test_latency_that_never_passes_is_told(self) -> None:
        same = {5_000: 100}
        found = plan(CANARY, traffic(100, latency=same, thresholds=()))
        assert found.typical_s is None
        assert "latency will typically pass never" in found.warnings[0]

    def test_a_metric_that_needs_labels_says_how_many(self) -> None:
        rules = (MetricRule(name="errors"), MetricRule(name="accuracy", margin=0.02))
        strategy = Strategy(canary=CanaryStrategy(analysis=Analysis(metrics=rules)))
        found = plan(strategy, traffic(1000), wrong_rates={"accuracy": 0.08})
        labels = metric(found, "accuracy").labels_needed
        assert labels == pytest.approx(math.log(20) * (8 * 0.08 * 0.92 / 0.0004 + 100), rel=0.01)
        assert found.typical_s is None
        assert any(f"{labels:,}" in warning for warning in found.warnings)

    def test_a_predicate_that_was_never_in_force_is_noted(self) -> None:
        strategy = Strategy(canary=CanaryStrategy(predicate="user.region == 'west'"))
        assert "is not known yet" in plan(strategy, traffic(100, under_rule=False)).notes[0]
        assert plan(strategy, traffic(100)).notes == ()


class TestOtherStrategies:
    def test_nothing_is_compared_all_at_once(self) -> None:
        found = plan(Strategy(all_at_once=AllAtOnceStrategy()), traffic(100))
        assert (found.users_pct, found.metrics) == (100, ())
        assert "nothing is compared" in found.notes[0]

    def test_blue_green_waits_for_its_preview(self) -> None:
        found = plan(Strategy(blue_green=BlueGreenStrategy(preview_s=90)), traffic(100))
        assert (found.typical_s, found.users_pct) == (90, 100)

    def test_a_first_version_has_nothing_to_be_compared_with(self) -> None:
        planned = Planned("production", "d", "", "1.0.0", CANARY)
        assert "nothing serves yet" in plan_rollout(planned, ObservedTraffic()).notes[0]

    def test_a_shadow_meets_no_user(self) -> None:
        found = plan(Strategy(shadow=ShadowStrategy(percentage=50)), traffic(100))
        assert found.users_pct == 0
        assert found.typical_s is not None
        assert found.typical_s >= 600
        slow = ShadowStrategy(percentage=1, min_compared=10_000, duration_s=60)
        rare = plan(Strategy(shadow=slow), traffic(100))
        assert rare.typical_s is not None
        assert rare.typical_s >= 10_000

    def test_an_ab_test_lasts_as_long_as_it_says_and_may_be_too_short(self) -> None:
        arms = (Arm(version="2", percentage=10), Arm(version="3", percentage=20))
        short = AbStrategy(arms=arms, duration_s=600, analysis=ERRORS_ONLY)
        found = plan(Strategy(ab=short), traffic(10))
        assert (found.typical_s, found.users_pct) == (600, 30)
        assert found.steps[0].candidate_requests == 600
        assert "the test ends after" in found.warnings[0]

    def test_rolling_goes_replica_by_replica(self) -> None:
        found = plan(Strategy(rolling=RollingStrategy(interval_s=10)), traffic(100), replicas=4)
        assert [step.weight_pct for step in found.steps] == [25, 50, 75, 100]
        # Nothing waits after the last one, which is the promotion.
        assert [step.seconds for step in found.steps] == [10, 10, 10, 0]
        assert (found.least_s, found.typical_s) == (30, 30)
        assert found.candidate_requests == 1500
        assert found.warnings == ()
        alone = plan(Strategy(rolling=RollingStrategy(interval_s=10)), traffic(100))
        assert (alone.typical_s, alone.candidate_requests) == (0, 0)


class TestHarm:
    def test_more_time_finds_smaller_harm_and_parts_ask_for_more(self) -> None:
        judged = Judged(traffic(100), AnalysisSettings())
        short, long = (
            smallest_error_harm([Phase(50, seconds, 50, 50)], judged) for seconds in (100, 1000)
        )
        assert short is not None
        assert long is not None
        assert long < short / 2
        parts = Judged(traffic(100), AnalysisSettings(slices=("user.a=b",)))
        in_parts = smallest_error_harm([Phase(50, 1000, 50, 50)], parts)
        assert in_parts is not None
        assert in_parts > long

    def test_too_few_requests_find_none(self) -> None:
        judged = Judged(traffic(0.01), AnalysisSettings())
        assert smallest_error_harm([Phase(1, 10, 0.0001, 0.0099)], judged) is None

    def test_the_worst_is_small_beside_what_meets_the_candidate(self) -> None:
        found = plan(CANARY, traffic(100))
        assert found.worst_failed_requests is not None
        assert found.candidate_requests is not None
        assert 3 <= found.worst_failed_requests < 0.03 * found.candidate_requests


def batch(second: int, *samples: VariantSample) -> TelemetryBatch:
    return TelemetryBatch(
        environment="production", proxy="p", boot_id="b", sequence=second, at=at(second),
        seconds=1, samples=samples,
    )  # fmt: skip


def sample(revision: str, requests: int, rule: str = "", **others: Any) -> VariantSample:
    return VariantSample(
        deployment="d", revision=revision, requests=requests, failures=requests // 10, rule=rule,
        **others,
    )  # fmt: skip


class TestTraffic:
    def test_it_is_that_of_stable_and_the_rate_that_of_all(self) -> None:
        latency = ((10_000.0, 1_000.0, 30), (20_000.0, 1_000.0, 10))
        batches = [
            batch(s, sample("s", 40, latency=latency), sample("c", 10)) for s in range(1, 61)
        ]
        found = observe_traffic(batches, "d", "s", now=at(60))
        assert found.request_rate_rps == pytest.approx(50)
        assert found.errors == Outcomes(2400, 240)
        assert found.history_s == 60
        assert found.thresholds == fix_thresholds({10_000: 30, 20_000: 10})
        assert len(found.latency_phi) == 3
        assert found.under_rule

    def test_copies_are_no_further_requests(self) -> None:
        batches = [batch(s, sample("s", 40), sample("copy", 40)) for s in range(1, 61)]
        found = observe_traffic(batches, "d", "s", shadows={"copy"}, now=at(60))
        assert found.request_rate_rps == pytest.approx(40)

    def test_only_the_last_minutes_make_the_rate(self) -> None:
        busy = [batch(s, sample("s", 100)) for s in range(1, 301)]
        quiet = [batch(s, sample("s", 10)) for s in range(301, 901)]
        found = observe_traffic([*busy, *quiet], "d", "s", now=at(900))
        assert found.request_rate_rps == pytest.approx(10)
        assert found.errors.trials == 36_000

    def test_counts_under_the_rule_where_there_are_some(self) -> None:
        batches = [batch(s, sample("s", 90), sample("s", 10, "rule-1")) for s in range(1, 61)]
        own = observe_traffic(batches, "d", "s", rule="rule-1", now=at(60))
        assert own.request_rate_rps == pytest.approx(10)
        assert own.under_rule
        other = observe_traffic(batches, "d", "s", rule="rule-2", now=at(60))
        assert other.request_rate_rps == pytest.approx(90)
        assert not other.under_rule

    def test_silence_is_no_traffic(self) -> None:
        assert observe_traffic([], "d", "s", now=at(0)).request_rate_rps == 0
        idle = [batch(s, sample("other", 5)) for s in range(1, 5)]
        assert observe_traffic(idle, "d", "s", now=at(5)).request_rate_rps == 0


RUNS = 120


@pytest.mark.slow
class TestAgainstSimulation:
    """Times within a third of the simulated mean; harm found with a power of 75 % to 99 %."""

    def test_the_time_until_errors_pass(self) -> None:
        rate, margin = 0.01, 0.005
        rules = AnalysisSettings(metrics=(MetricSettings("errors", margin=margin),))
        planned_s = 1 / Judged(traffic(100), rules).error_pace(Phase(50, 0, 50, 50), margin)
        random = np.random.default_rng(1)
        state = arm(new_state(COMPARISON, RUNS), 0.1 * margin, margin)
        state.history[:, 2:] = (100_000, 1_000)
        passed = np.full(RUNS, np.nan)
        for second in range(1, 600):
            n = random.poisson(50, (2, RUNS))
            k = random.binomial(n, rate)
            state = update(state, np.stack([n[0], k[0], n[1], k[1]], -1))
            now = upper_bound(state, 1.0, 0.05) <= margin
            passed = np.where(np.isnan(passed) & now, second, passed)
        assert np.isnan(passed).mean() < 0.02
        assert planned_s == pytest.approx(np.nanmean(passed), rel=1 / 3)

    def test_the_time_until_latency_passes(self) -> None:
        judged = Judged(traffic(100), AnalysisSettings())
        planned_s = 1 / judged.latency_pace(Phase(50, 0, 50, 50))
        stable, candidate = shares_above(traffic(100))
        random = np.random.default_rng(2)
        state = arm(new_state(EXCEEDANCE, (RUNS, 2)), 0.0)
        state.history[..., 2] = 5_000
        state.history[..., 3] = np.array(stable[1:]) * 5_000
        passed = np.full(RUNS, np.nan)
        for second in range(1, 300):
            counts = exceeding(random, candidate, stable)[:, 1:]
            state = update(state, counts)
            now = (faster_log_e_value(state, 1.0) >= math.log(20)).all(axis=-1)
            passed = np.where(np.isnan(passed) & now, second, passed)
        assert np.isnan(passed).mean() < 0.02
        assert planned_s == pytest.approx(np.nanmean(passed), rel=1 / 3)

    def test_the_smallest_error_harm(self) -> None:
        judged = Judged(traffic(100), AnalysisSettings())
        excess = smallest_error_harm([Phase(50, 240, 50, 50)], judged)
        assert excess is not None
        random = np.random.default_rng(3)
        state = arm(new_state(HARM_ONLY, RUNS), 0.00025)
        state.history[:, 2:] = (100_000, 1_000)
        found = np.zeros(RUNS, dtype=bool)
        for _ in range(240):
            n = random.poisson(50, (2, RUNS))
            k = random.binomial(n, np.array([[0.01 + excess], [0.01]]))
            state = update(state, np.stack([n[0], k[0], n[1], k[1]], -1))
            found |= e_value(state, 1.0) / 2 >= 20  # latency has the other half of alpha
        assert 0.75 <= found.mean() <= 0.99

    def test_the_smallest_slowdown(self) -> None:
        judged = Judged(traffic(100), AnalysisSettings())
        slower = smallest_slowdown([Phase(50, 60, 50, 50)], judged)
        assert slower is not None
        stable, candidate = shares_above(traffic(100), 1 + slower)
        random = np.random.default_rng(4)
        state = arm(new_state(EXCEEDANCE, (RUNS, 3)), 0.0)
        state.history[..., 2] = 5_000
        state.history[..., 3] = np.array(stable) * 5_000
        found = np.zeros(RUNS, dtype=bool)
        for _ in range(60):
            state = update(state, exceeding(random, candidate, stable))
            found |= e_value(state, 1.0).mean(axis=-1) / 2 >= 20
        assert 0.75 <= found.mean() <= 0.99


def exceeding(
    random: np.random.Generator, candidate: tuple[float, ...], stable: tuple[float, ...]
) -> np.ndarray[Any, Any]:
    """Counts of a second at 50 requests each: who exceeds a threshold exceeds those below it."""
    sides = []
    for shares in (candidate, stable):
        n = random.poisson(50, RUNS)
        k, before, columns = n, 1.0, []
        for share in shares:
            k = random.binomial(k, share / before)
            before = share
            columns.append(np.stack([n, k], axis=-1))
        sides.append(np.stack(columns, axis=1))
    return np.concatenate(sides, axis=-1)
