"""Rules, slices, percentiles and compared answers: who is compared with whom, and what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelplane.decisions.analysis import (
    AnalysisSettings,
    AnalysisVerdict,
    EvidenceState,
    MetricSettings,
    Outcomes,
    Tick,
    absorb,
    absorb_many,
    judge,
    judge_many,
    settings_of,
    start_evidence,
    tick_from_batch,
)
from modelplane.decisions.recordings import decode_ticks, encode_ticks
from modelplane.resources.strategy import MAX_SLICES, Analysis, MetricRule, Slice
from modelplane.resources.telemetry import SliceSample, TelemetryBatch, VariantSample
from tests.stats.traffic import Traffic, at, tick

WEST, EAST = "user.region=west", "user.region=east"
SETTINGS = AnalysisSettings(metrics=(MetricSettings("errors"),), slices=(WEST, EAST))
WHOLE = replace(SETTINGS, slices=())

Counts = dict[str, tuple[int, int]]


def sliced(second: int, stable: Counts, candidate: Counts, **others: Any) -> Tick:
    """A tick whose requests are all in one slice or another; `(requests, failures)` by slice."""
    one = tick(second, _total(stable), _total(candidate), **others)
    return replace(
        one,
        stable=replace(one.stable, slices=_outcomes(stable)),
        candidate=replace(one.candidate, slices=_outcomes(candidate)),
    )


def _total(counts: Counts) -> tuple[int, int]:
    return sum(n for n, _ in counts.values()), sum(k for _, k in counts.values())


def _outcomes(counts: Counts) -> dict[str, Outcomes]:
    return {name: Outcomes(*pair) for name, pair in counts.items()}


def warmed(rules: AnalysisSettings = SETTINGS) -> EvidenceState:
    ticks = [sliced(s, {WEST: (20, 0), EAST: (180, 2)}, {}, step_id=0) for s in range(1, 13)]
    return absorb(start_evidence("uid", rules), ticks, rules)


def run(
    rules: AnalysisSettings, candidate: Counts, seconds: int, **others: Any
) -> tuple[int, EvidenceState, AnalysisVerdict]:
    """Seconds until harm or a verdict about a replica, at equal shares of 200 requests."""
    state = warmed(rules)
    for second in range(13, 13 + seconds):
        one = sliced(second, {WEST: (10, 0), EAST: (90, 1)}, candidate, **others)
        state = absorb(state, [one], rules)
        verdict = judge(state, rules, at(second))
        if verdict.harm or verdict.bad_replica:
            break
    return second - 12, state, verdict


class TestSlices:
    def test_harm_to_one_part_is_found_sooner_and_named(self) -> None:
        harmed = {WEST: (10, 1), EAST: (90, 1)}
        with_parts, _, verdict = run(SETTINGS, harmed, 300)
        alone, _, of_whole = run(WHOLE, harmed, 300)
        assert verdict.harm
        assert verdict.harm_metrics == ("errors",)
        assert [part.name for part in verdict.slices if part.harm] == [WEST]
        assert "user.region=west: " in verdict.reason
        assert "user.region=east: " not in verdict.reason
        assert with_parts < 0.7 * alone
        assert not of_whole.slices

    def test_a_healthy_candidate_harms_no_part_and_passes(self) -> None:
        rules = replace(SETTINGS, metrics=(MetricSettings("errors", margin=0.02),))
        _, state, verdict = run(rules, {WEST: (10, 0), EAST: (90, 1)}, 100)
        assert verdict.passes
        assert not any(part.harm for part in verdict.slices)
        assert [part.candidate_trials for part in verdict.slices] == [1000, 9000]
        assert state.slices[0].stable.trials == 12 * 20 + 1000

    def test_a_part_in_harm_holds_the_promotion_though_the_whole_is_within_its_margin(
        self,
    ) -> None:
        rules = replace(
            SETTINGS,
            # Little weight of errors: naming a part asks for less than a rollback.
            metrics=(
                MetricSettings("errors", margin=0.2, weight=1e-6),
                MetricSettings("other", margin=0.2),
            ),
        )
        state = warmed(rules)
        for second in range(13, 100):
            one = sliced(
                second,
                {WEST: (10, 0), EAST: (90, 1)},
                {WEST: (10, 1), EAST: (90, 1)},
                outcomes={"other": ((100, 0), (100, 0))},
            )
            state = absorb(state, [one], rules)
            verdict = judge(state, rules, at(second))
            if verdict.slices[0].harm:
                break
        assert {metric.verdict for metric in verdict.metrics} == {"pass"}
        assert not verdict.harm
        assert [part.name for part in verdict.slices if part.harm] == [WEST]
        assert not verdict.passes

    def test_a_part_needs_failures_of_its_own_and_enough_of_them(self) -> None:
        state = absorb(warmed(), [sliced(13, {WEST: (10, 0)}, {WEST: (2, 2)})], SETTINGS)
        assert not judge(state, SETTINGS, at(13)).harm

    def test_one_bad_replica_is_not_harm_to_a_part(self) -> None:
        """Both replicas serve both parts; one fails all the failures there are."""
        _, _, verdict = run(
            SETTINGS,
            {WEST: (10, 1), EAST: (90, 1)},
            300,
            replicas={"good": (50, 0), "bad": (50, 2)},
        )
        assert not verdict.harm
        assert verdict.bad_replica == "bad"

    def test_what_a_replaced_replica_did_to_a_part_is_not_the_versions_later(self) -> None:
        counts = {WEST: (10, 3), EAST: (90, 1)}
        _, state, verdict = run(SETTINGS, counts, 300, replicas={"good": (50, 0), "bad": (50, 4)})
        assert verdict.bad_replica == "bad"
        began = state.sequences["production/node", "boot"] + 1
        for second in range(began, began + 100):
            late = {"bad": (50, 4)} if second < began + 10 else {"new": (50, 0)}
            west = (10, 3) if "bad" in late else (10, 0)
            failing = {WEST: west, EAST: (90, 1 if "bad" in late else 0)}
            one = sliced(
                second, {WEST: (10, 0), EAST: (90, 1)}, failing,
                replicas={"good": (50, 0), **late},
            )  # fmt: skip
            state = absorb(state, [one], SETTINGS)
            verdict = judge(state, SETTINGS, at(second))
            assert not verdict.harm
        assert verdict.e_value > 20
        assert verdict.bad_replica is None

    def test_a_part_that_is_declared_later_begins_without_evidence(self) -> None:
        state = warmed(WHOLE)
        state = absorb(state, [sliced(13, {EAST: (50, 0)}, {EAST: (50, 9)})], SETTINGS)
        assert [part.name for part in state.slices] == [WEST, EAST]
        assert bool(state.slice_tests.armed.all())
        fewer = absorb(state, [sliced(14, {EAST: (5, 0)}, {})], replace(SETTINGS, slices=(EAST,)))
        assert [part.candidate for part in fewer.slices] == [Outcomes(50, 9)]
        assert (fewer.slice_tests.log_wealth[0] == state.slice_tests.log_wealth[1]).all()

    def test_only_so_many_are_kept(self) -> None:
        many = replace(SETTINGS, slices=tuple(f"user.n={n}" for n in range(MAX_SLICES + 5)))
        assert len(warmed(many).slices) == MAX_SLICES


@st.composite
def streams(draw: st.DrawFn) -> list[Tick]:
    def side() -> Counts:
        return {
            name: (n, draw(st.integers(0, n)))
            for name in draw(st.sets(st.sampled_from([WEST, EAST])))
            for n in [draw(st.integers(0, 30))]
        }

    seconds = range(13, 13 + draw(st.integers(1, 5)))
    return [sliced(s, side(), side(), replicas={"r": (1, 0)}) for s in seconds]


class TestState:
    @settings(max_examples=15)
    @given(st.lists(streams(), min_size=1, max_size=3))
    def test_many_rollouts_together_are_the_same_as_one_by_one(
        self, many: list[list[Tick]]
    ) -> None:
        rules = [
            (SETTINGS, WHOLE, replace(SETTINGS, slices=(EAST,)))[i % 3] for i in range(len(many))
        ]
        states = [warmed(one) for one in rules]
        together = absorb_many(states, many, rules)
        one_by_one = [
            absorb(state, ticks, one) for state, ticks, one in zip(states, many, rules, strict=True)
        ]
        assert [s.to_dict() for s in together] == [s.to_dict() for s in one_by_one]
        verdicts = judge_many(together, rules, at(20))
        assert verdicts == [judge(s, r, at(20)) for s, r in zip(one_by_one, rules, strict=True)]

    @settings(max_examples=15)
    @given(streams(), streams())
    def test_a_stored_state_goes_on_exactly(self, first: list[Tick], second: list[Tick]) -> None:
        later = [replace(one, boot_id="2") for one in second]
        state = absorb(warmed(), first, SETTINGS)
        stored = EvidenceState.from_dict(json.loads(json.dumps(state.to_dict())))
        again = absorb(stored, later, SETTINGS).to_dict()
        assert again == absorb(state, later, SETTINGS).to_dict()

    @given(streams())
    def test_recordings_keep_parts_and_comparisons(self, ticks: list[Tick]) -> None:
        compared = [
            replace(t, candidate=replace(t.candidate, compared=Outcomes(9, 4))) for t in ticks
        ]
        assert list(decode_ticks(encode_ticks(compared))) == compared

    def test_evidence_without_parts_is_read_as_it_was_written_before(self) -> None:
        record = warmed(WHOLE).to_dict()
        before = {k: v for k, v in record.items() if k not in {"slices", "compared"}}
        assert EvidenceState.from_dict({**before, "format": 1}).to_dict() == record


class TestRules:
    def batch(self, *samples: VariantSample) -> TelemetryBatch:
        return TelemetryBatch(
            environment="production", proxy="p", boot_id="b", sequence=1, at=at(1), seconds=1,
            samples=samples, steps={"d": {"uid": 2}},
        )  # fmt: skip

    def sample(self, revision: str, rule: str, requests: int, **others: Any) -> VariantSample:
        return VariantSample(
            deployment="d", revision=revision, rule=rule, requests=requests, failures=1, **others
        )

    def test_only_who_is_under_the_same_rule_is_compared(self) -> None:
        batch = self.batch(
            self.sample("s", "", 90), self.sample("c", "", 10),
            self.sample("s", "rule-1", 30), self.sample("c", "rule-1", 3),
            self.sample("c", "override", 50),
        )  # fmt: skip
        everybody = tick_from_batch(batch, "d", "uid", "s", "c")
        assert (everybody.stable.requests, everybody.candidate.requests) == (90, 10)
        own = tick_from_batch(batch, "d", "uid", "s", "c", rule="rule-1")
        assert (own.stable.requests, own.candidate.requests, own.step_id) == (30, 3, 2)

    def test_copies_of_everybody_are_made_under_every_rule(self) -> None:
        batch = self.batch(
            self.sample("s", "", 90), self.sample("s", "rule-1", 30),
            self.sample("s", "override", 7),
            self.sample("c", "", 90, compared=15, different=3),
            self.sample("c", "rule-1", 30, compared=5),
        )  # fmt: skip
        whole = tick_from_batch(batch, "d", "uid", "s", "c", is_mirrored=True)
        assert (whole.stable.requests, whole.candidate.requests) == (120, 120)
        assert whole.candidate.compared == Outcomes(20, 3)
        part = tick_from_batch(batch, "d", "uid", "s", "c", rule="rule-1", is_mirrored=True)
        assert (part.stable.requests, part.candidate.requests) == (30, 30)
        assert part.candidate.compared == Outcomes(5, 0)

    def test_slices_come_with_the_counts(self) -> None:
        west = {WEST: SliceSample(requests=4, failures=1)}
        batch = self.batch(self.sample("s", "", 9, slices=west))
        assert tick_from_batch(batch, "d", "uid", "s", "c").stable.slices == {WEST: Outcomes(4, 1)}


def test_settings_are_those_that_the_analysis_declares() -> None:
    analysis = Analysis(
        metrics=(MetricRule(name="latency", margin=0.5, weight=2, percentile=99),),
        alpha=0.1,
        slices=(Slice(by="user.region", values=("west", "east")),),
    )
    found = settings_of(analysis)
    assert found.slices == (WEST, EAST)
    assert found.metrics == (MetricSettings("latency", 0.5, 2, 99),)
    assert found.alpha == 0.1


@pytest.mark.slow
class TestPercentiles:
    def verdict(self, percentile: int | None, tail: float, seconds: int = 60) -> AnalysisVerdict:
        """The candidate's slowest twentieth takes `tail` times as long, the rest as stable."""
        rules = AnalysisSettings(metrics=(MetricSettings("latency", percentile=percentile),))
        traffic = Traffic(seed=5)
        state = start_evidence("uid", rules)
        for second in range(1, seconds):
            one = traffic.tick(second, 0 if second <= 15 else 50, 1)
            slow = {
                round(us * tail) if us > 45_000 else us: n
                for us, n in one.candidate.latency.items()
            }
            state = absorb(
                state, [replace(one, candidate=replace(one.candidate, latency=slow))], rules
            )
            verdict = judge(state, rules, at(second))
            if verdict.harm or verdict.passes:
                break
        return verdict

    def test_a_slow_tail_harms_at_its_own_percentile_alone(self) -> None:
        slow = self.verdict(99, 4.0)
        assert slow.harm_metrics == ("latency",)
        assert "latency: p99 " in slow.reason
        unhurt = self.verdict(50, 4.0)
        assert unhurt.passes
        assert "p50" in unhurt.metrics[-1].sentence

    def test_each_percentile_finds_what_all_together_find(self) -> None:
        assert self.verdict(None, 4.0).harm_metrics == ("latency",)


class TestCompared:
    def test_pairs_are_summed_and_bounded(self) -> None:
        state = warmed(WHOLE)
        assert judge(state, WHOLE, at(13)).different_lower is None
        for second in range(13, 23):
            one = tick(second, (50, 0), (50, 0))
            pairs = replace(one, candidate=replace(one.candidate, compared=Outcomes(50, 10)))
            state = absorb(state, [pairs], WHOLE)
        verdict = judge(state, WHOLE, at(23))
        assert (verdict.compared, verdict.different) == (500, 100)
        assert verdict.different_lower is not None
        assert 0.1 < verdict.different_lower < 0.2
