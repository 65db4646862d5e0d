"""Verdicts: harm is found, a bad replica is not the version's fault, silence passes nothing."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelplane.decisions.analysis import (
    SILENCE_RPS,
    AnalysisSettings,
    AnalysisVerdict,
    EvidenceState,
    MetricSettings,
    MetricVerdict,
    RampSettings,
    absorb,
    absorb_many,
    allowed_weight_pct,
    judge,
    judge_many,
    next_weight_pct,
    start_evidence,
)
from tests.stats.traffic import Traffic, at, tick

SETTINGS = AnalysisSettings()
ERRORS_ONLY = AnalysisSettings(metrics=(MetricSettings("errors"),))


@dataclass
class Outcome:
    """How a simulated rollout ended."""

    second: int
    weight_pct: float
    state: EvidenceState
    verdict: AnalysisVerdict


def roll_out(
    traffic: Traffic, settings: AnalysisSettings = SETTINGS, seconds: int = 240
) -> Outcome:
    """Ramp as the automatic strategy does until harm, a bad replica or promotion at 50 %."""
    state = start_evidence("uid", settings)
    weight, step, changed = 0.0, 0, 0
    for second in range(1, seconds + 1):
        state = absorb(state, [traffic.tick(second, weight, step)], settings)
        verdict = judge(state, settings, at(second))
        if verdict.harm or verdict.bad_replica or (verdict.passes and weight == 50):
            break
        if weight == 0 or second - changed >= 5:
            wanted = next_weight_pct(
                weight, state.request_rate_rps, verdict.ucb, verdict.stable_rate
            )
            if verdict.warm and (weight == 0 or verdict.fresh) and wanted > weight:
                weight, step, changed = wanted, step + 1, second
    return Outcome(second, weight, state, verdict)


def metric(verdict: AnalysisVerdict, name: str) -> MetricVerdict:
    return next(one for one in verdict.metrics if one.name == name)


def warmed(
    settings: AnalysisSettings = ERRORS_ONLY, stable: tuple[int, int] = (100, 1)
) -> EvidenceState:
    ticks = [tick(second, stable, step_id=0) for second in range(1, 13)]
    return absorb(start_evidence("uid", settings), ticks, settings)


@pytest.mark.slow
class TestRollouts:
    def test_a_healthy_candidate_reaches_half_of_the_traffic_and_passes(self) -> None:
        outcome = roll_out(Traffic(seed=1))
        assert outcome.verdict.passes
        assert outcome.weight_pct == 50
        assert {one.verdict for one in outcome.verdict.metrics} == {"pass"}
        assert outcome.second < 120
        assert "within the margin in errors and latency" in outcome.verdict.reason

    def test_a_total_outage_ends_at_the_first_weight(self) -> None:
        outcome = roll_out(Traffic(seed=2, replica_rates=(1.0, 1.0)))
        assert outcome.verdict.harm_metrics == ("errors",)
        assert outcome.weight_pct == 1
        assert outcome.state.candidate.failures <= 14

    @pytest.mark.parametrize("seed", range(4))
    def test_a_tenth_of_failures_ends_after_a_handful_and_accuses_no_replica(
        self, seed: int
    ) -> None:
        traffic = Traffic(seed=seed, replica_rates=(0.11, 0.11), with_latency=False)
        outcome = roll_out(traffic, ERRORS_ONLY)
        assert outcome.verdict.harm
        assert outcome.verdict.bad_replica is None
        assert outcome.state.candidate.failures <= 20

    def test_a_slow_candidate_is_rolled_back_for_latency(self) -> None:
        outcome = roll_out(Traffic(seed=4, slower=1.5))
        assert outcome.verdict.harm_metrics == ("latency",)
        assert "latency: p95" in outcome.verdict.reason

    def test_a_candidate_at_the_allowed_slowdown_neither_passes_nor_harms(self) -> None:
        outcome = roll_out(Traffic(seed=5, slower=1.2), seconds=120)
        assert not outcome.verdict.harm
        assert metric(outcome.verdict, "latency").verdict == "undecided"

    def test_one_bad_replica_is_named_and_the_version_is_not_blamed(self) -> None:
        outcome = roll_out(Traffic(seed=6, stable_rate=0.01, replica_rates=(0.3, 0.01, 0.01)))
        assert not outcome.verdict.harm
        assert outcome.verdict.bad_replica == "replica-0"
        assert not outcome.verdict.passes
        assert "replica-0" in outcome.verdict.reason

    def test_once_the_bad_replica_is_replaced_the_version_goes_on_and_passes(self) -> None:
        state, accused_at = warmed(), 0
        for second in range(13, 400):
            is_replaced = accused_at and second > accused_at + 10
            first = {"d": (30, 0)} if is_replaced else {"a": (30, 9)}
            one = tick(
                second, (100, 1), (90, sum(k for _, k in first.values())),
                replicas={**first, "b": (30, 0), "c": (30, 0)},
            )  # fmt: skip
            state = absorb(state, [one], ERRORS_ONLY)
            verdict = judge(state, ERRORS_ONLY, at(second))
            assert not verdict.harm
            if verdict.bad_replica and not accused_at:
                accused_at = second
            if accused_at and second <= accused_at + 70:
                assert verdict.bad_replica == "a"  # silent, but perhaps only put aside for a while
            if verdict.passes:
                break
        assert verdict.passes
        assert verdict.bad_replica is None
        stored = EvidenceState.from_dict(state.to_dict())
        assert judge(stored, ERRORS_ONLY, at(second)) == verdict

    def test_two_of_three_bad_replicas_are_a_bad_version(self) -> None:
        outcome = roll_out(Traffic(seed=7, stable_rate=0.01, replica_rates=(0.3, 0.3, 0.01)))
        assert outcome.verdict.harm

    def test_a_single_replica_is_the_version(self) -> None:
        outcome = roll_out(Traffic(seed=8, replica_rates=(0.5,)))
        assert outcome.verdict.harm

    @pytest.mark.slow
    def test_healthy_versions_are_seldom_rolled_back(self) -> None:
        rollouts, settings = 60, [ERRORS_ONLY] * 60
        traffics = [
            Traffic(seed=seed, stable_rate=0.02, replica_rates=(0.02, 0.02), with_latency=False)
            for seed in range(rollouts)
        ]
        states = [start_evidence(str(index), ERRORS_ONLY) for index in range(rollouts)]
        harmed = [False] * rollouts
        for second in range(1, 71):
            weight = 0 if second <= 12 else 25
            ticks = [[traffic.tick(second, weight, 1)] for traffic in traffics]
            states = absorb_many(states, ticks, settings)
            verdicts = judge_many(states, settings, at(second))
            harmed = [was or one.harm for was, one in zip(harmed, verdicts, strict=True)]
        assert sum(harmed) <= 6  # 5 % of 60, and a little more than two standard errors


class TestMissingData:
    def test_nothing_at_all_is_undecided(self) -> None:
        verdict = judge(start_evidence("uid", SETTINGS), SETTINGS, at(0))
        assert not verdict.harm
        assert not verdict.passes
        assert not verdict.warm
        assert verdict.ucb == 1
        assert {one.verdict for one in verdict.metrics} == {"undecided"}

    def test_good_evidence_stops_passing_when_it_gets_old(self) -> None:
        outcome = roll_out(Traffic(seed=1))
        last = outcome.state.last_at
        assert last is not None
        assert judge(outcome.state, SETTINGS, at(outcome.second + 10)).passes
        stale = judge(outcome.state, SETTINGS, at(outcome.second + 16))
        assert not stale.passes
        assert not stale.fresh
        assert "lately" in stale.reason

    def test_a_new_step_passes_only_on_its_own_requests(self) -> None:
        outcome = roll_out(Traffic(seed=1))
        after = outcome.second + 1
        state = absorb(outcome.state, [tick(after, (100, 0), (0, 0), step_id=9)], SETTINGS)
        assert not judge(state, SETTINGS, at(after)).passes
        state = absorb(state, [tick(after + 1, (100, 0), (100, 0), step_id=9)], SETTINGS)
        assert judge(state, SETTINGS, at(after + 1)).passes

    def test_ticks_without_candidate_requests_are_not_fresh(self) -> None:
        state = warmed()
        for second in range(13, 40):
            state = absorb(state, [tick(second, (100, 0))], ERRORS_ONLY)
        assert not judge(state, ERRORS_ONLY, at(39)).fresh


class TestMetrics:
    def test_a_metric_without_counts_is_unavailable_and_blocks_promotion(self) -> None:
        settings = AnalysisSettings(metrics=(MetricSettings("errors"), MetricSettings("precision")))
        outcome = roll_out(Traffic(seed=1, with_latency=False), settings, seconds=100)
        assert metric(outcome.verdict, "errors").verdict == "pass"
        assert outcome.verdict.unavailable == ("precision",)
        assert not outcome.verdict.passes
        assert outcome.verdict.warm
        assert outcome.verdict.reason.startswith("precision cannot be measured")

    def test_errors_are_judged_when_nobody_names_them(self) -> None:
        settings = AnalysisSettings(metrics=(MetricSettings("latency"),))
        outcome = roll_out(Traffic(seed=2, replica_rates=(1.0, 1.0)), settings)
        assert outcome.verdict.harm_metrics == ("errors",)

    def test_another_outcome_is_judged_once_ticks_carry_it(self) -> None:
        settings = AnalysisSettings(metrics=(MetricSettings("errors"), MetricSettings("empty")))
        state = start_evidence("uid", settings)
        for second in range(1, 60):
            n = 50 if second > 12 else 0
            outcomes = {"empty": ((50, 1), (n, n // 5))}
            state = absorb(state, [tick(second, (50, 0), (n, 0), outcomes=outcomes)], settings)
        verdict = judge(state, settings, at(59))
        assert verdict.harm_metrics == ("empty",)
        assert metric(verdict, "errors").verdict != "harm"

    def test_a_smaller_share_of_alpha_asks_for_more_evidence(self) -> None:
        def harmed(weight: float) -> bool:
            shares = (MetricSettings("errors", weight=weight), MetricSettings("precision"))
            settings = AnalysisSettings(metrics=shares)
            state = warmed(settings)
            for second in range(13, 17):
                state = absorb(state, [tick(second, (95, 1), (5, 3))], settings)
            return judge(state, settings, at(16)).harm

        assert harmed(1.0)
        assert not harmed(1e-9)

    def test_an_edited_margin_takes_effect_at_once(self) -> None:
        outcome = roll_out(Traffic(seed=1, with_latency=False), ERRORS_ONLY)
        assert outcome.verdict.passes
        strict = AnalysisSettings(metrics=(MetricSettings("errors", margin=0.0005),))
        verdict = judge(outcome.state, strict, at(outcome.second))
        assert not verdict.passes
        assert metric(verdict, "errors").margin == 0.0005

    def test_a_wide_margin_passes_sooner(self) -> None:
        wide = AnalysisSettings(metrics=(MetricSettings("errors", margin=0.02),))
        traffic = [Traffic(seed=1, with_latency=False) for _ in range(2)]
        assert roll_out(traffic[0], wide).second < roll_out(traffic[1], ERRORS_ONLY).second

    def test_few_failures_never_roll_back(self) -> None:
        state = absorb(warmed(), [tick(13, (99, 0), (1, 1))], ERRORS_ONLY)
        state = absorb(state, [tick(14, (99, 0), (1, 1))], ERRORS_ONLY)
        verdict = judge(state, ERRORS_ONLY, at(14))
        assert verdict.e_value > 1
        assert not verdict.harm

    def test_people_read_how_many_requests_are_still_needed(self) -> None:
        state = warmed()
        needed = []
        for second in range(13, 40):
            state = absorb(state, [tick(second, (50, 0), (50, 0))], ERRORS_ONLY)
            needed.append(judge(state, ERRORS_ONLY, at(second)).requests_still_needed or 0)
        assert 0 < needed[-1] < needed[10] < needed[0]
        sentence = judge(state, ERRORS_ONLY, at(39)).metrics[0].sentence
        assert f"about {needed[-1]:,} more requests to the candidate" in sentence

    def test_harm_reports_a_difference_with_bounds_around_it(self) -> None:
        state = warmed()
        for second in range(13, 30):
            state = absorb(state, [tick(second, (80, 1), (20, 5))], ERRORS_ONLY)
        errors = metric(judge(state, ERRORS_ONLY, at(29)), "errors")
        assert errors.verdict == "harm"
        assert errors.difference == pytest.approx(0.25 - 0.0112, abs=0.005)
        assert errors.difference is not None
        assert errors.lower is not None
        assert errors.upper is not None
        assert 0 < errors.lower < errors.difference < errors.upper
        assert "85 of 340 candidate requests (25.00%)" in errors.sentence


class TestMany:
    def test_many_judged_together_are_the_same_as_one_by_one(self) -> None:
        each = [SETTINGS, ERRORS_ONLY, AnalysisSettings(alpha=0.01, beta=0.1), SETTINGS]
        states = []
        for index, one in enumerate(each):
            traffic = Traffic(
                seed=index, stable_rate=0.01, replica_rates=(0.02 * index,) * index or (0,)
            )
            ticks = [traffic.tick(s, 0 if s <= 12 else 10, 1) for s in range(1, 30)]
            states.append(absorb(start_evidence(str(index), one), ticks, one))
        states[3] = start_evidence("new", SETTINGS)
        together = judge_many(states, each, at(30))
        assert together == [judge(s, one, at(30)) for s, one in zip(states, each, strict=True)]

    def test_no_rollouts_no_verdicts(self) -> None:
        assert judge_many([], [], at(0)) == []


rates = st.floats(0, 5000)
bounds = st.floats(0.0005, 1)


class TestRamp:
    @given(
        rates, bounds, st.floats(0, 1), st.booleans(), st.sampled_from([0.0, 1.0, 5.0, 10.0, 50.0])
    )
    def test_a_weight_never_falls_and_never_leaves_the_ladder(
        self, rate: float, ucb: float, stable: float, shielded: bool, current: float
    ) -> None:
        ramp = RampSettings(shielded=shielded)
        weight = next_weight_pct(current, rate, ucb, stable, ramp)
        assert weight >= current
        assert weight in {current, *ramp.weights_pct}

    @given(rates, bounds, st.floats(0, 0.5), st.booleans(), st.floats(1, 10))
    def test_more_risk_never_allows_more(
        self, rate: float, ucb: float, stable: float, shielded: bool, worse: float
    ) -> None:
        ramp = RampSettings(shielded=shielded)
        allowed = allowed_weight_pct(rate, ucb, stable, ramp)
        assert allowed_weight_pct(rate, min(1.0, ucb * worse), stable, ramp) <= allowed
        if rate >= SILENCE_RPS:
            assert allowed_weight_pct(rate * worse, ucb, stable, ramp) <= allowed

    @given(st.floats(1, 5000), bounds, st.floats(0, 0.5), st.booleans(), st.booleans())
    def test_the_budget_and_the_headroom_hold_above_the_first_weight(
        self, rate: float, ucb: float, stable: float, shielded: bool, scaled: bool
    ) -> None:
        ramp = RampSettings(shielded=shielded, stable_scaled_for_all=scaled)
        share = allowed_weight_pct(rate, ucb, stable, ramp) / 100
        if share > 0.01:
            budget = 250 if shielded else 25
            assert rate * share * 30 * ucb <= budget * (1 + 1e-9)
            if shielded and not scaled:
                assert share * min(1, ucb + stable) <= 0.1 * (1 + 1e-9)

    def test_without_traffic_only_the_first_weight_is_allowed(self) -> None:
        assert allowed_weight_pct(0.0, 0.001, 0.0) == 1.0

    @settings(max_examples=20)
    @given(st.integers(0, 500))
    def test_a_candidate_that_nothing_is_known_of_stays_small(self, rate: int) -> None:
        assert next_weight_pct(1.0, float(rate), 1.0, 0.0) <= 5.0
