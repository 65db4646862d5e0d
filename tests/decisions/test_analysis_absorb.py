"""Evidence: nothing is counted twice, nothing is lost, everything is stored."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelplane.decisions.analysis import (
    AnalysisSettings,
    EvidenceState,
    MetricSettings,
    Tick,
    VersionTotals,
    absorb,
    absorb_many,
    judge,
    start_evidence,
    tick_from_batch,
)
from modelplane.decisions.analysis_evidence import MAX_REPLICAS, MAX_SEQUENCES
from modelplane.errors import InvalidResource
from modelplane.resources.telemetry import (
    ReplicaSample,
    TelemetryBatch,
    VariantSample,
)
from tests.stats.traffic import Traffic, at, tick

SETTINGS = AnalysisSettings()
ERRORS_ONLY = AnalysisSettings(metrics=(MetricSettings("errors"),))


def written(state: EvidenceState) -> str:
    return json.dumps(state.to_dict())


def warmed(
    settings: AnalysisSettings = SETTINGS, seconds: int = 12, seed: int = 0
) -> EvidenceState:
    traffic = Traffic(seed=seed)
    ticks = [traffic.tick(second, 0, 0) for second in range(1, seconds + 1)]
    return absorb(start_evidence("uid", settings), ticks, settings)


@st.composite
def sides(draw: st.DrawFn, most: int = 40) -> tuple[int, int]:
    n = draw(st.integers(0, most))
    return n, draw(st.integers(0, n))


@st.composite
def streams(draw: st.DrawFn) -> list[Tick]:
    """Ticks of two gateways, one of which restarted; replicas share the candidate's requests."""
    sequences: dict[tuple[str, str], count[int]] = {}
    result = []
    for _ in range(draw(st.integers(0, 12))):
        position = draw(st.sampled_from([("a", "1"), ("a", "2"), ("b", "1")]))
        sequence = next(sequences.setdefault(position, count(1)))
        n, k = draw(sides())
        half = min(n // 2, k)
        replicas = {"r0": (n // 2, half), "r1": (n - n // 2, k - half)}
        result.append(
            tick(sequence, draw(sides()), (n, k), step_id=draw(st.sampled_from([None, 1, 2])),
                 proxy=position[0], boot_id=position[1], replicas=replicas)
        )  # fmt: skip
    return result


class TestSequences:
    @settings(max_examples=10)
    @given(streams(), st.data())
    def test_a_batch_that_comes_again_changes_nothing(
        self, ticks: list[Tick], data: st.DataObject
    ) -> None:
        once = absorb(warmed(), ticks, SETTINGS)
        again = data.draw(st.lists(st.sampled_from(ticks), max_size=5)) if ticks else []
        assert absorb(once, again, SETTINGS) is once

    @settings(max_examples=10)
    @given(streams(), st.randoms())
    def test_the_order_within_a_batch_does_not_matter(
        self, ticks: list[Tick], order: object
    ) -> None:
        shuffled = list(ticks)
        order.shuffle(shuffled)  # type: ignore[attr-defined]
        repeated = shuffled + shuffled[:2]
        assert written(absorb(warmed(), ticks, SETTINGS)) == written(
            absorb(warmed(), repeated, SETTINGS)
        )

    def test_a_gateway_that_restarts_counts_from_one_again(self) -> None:
        state = absorb(warmed(), [tick(1, (50, 0), boot_id="new")], SETTINGS)
        assert state.sequences["production/node", "new"] == 1
        assert state.sequences["production/node", "boot"] == 12

    def test_only_so_many_boots_are_remembered(self) -> None:
        state = warmed()
        for boot in range(MAX_SEQUENCES + 5):
            state = absorb(state, [tick(1, (5, 0), boot_id=str(boot))], SETTINGS)
        assert len(state.sequences) == MAX_SEQUENCES
        assert ("production/node", str(MAX_SEQUENCES + 4)) in state.sequences


class TestManyAtOnce:
    @settings(max_examples=10)
    @given(st.lists(streams(), min_size=1, max_size=3))
    def test_many_rollouts_together_are_the_same_as_one_by_one(
        self, many: list[list[Tick]]
    ) -> None:
        kinds = [SETTINGS, ERRORS_ONLY, AnalysisSettings(metrics=(MetricSettings("precision"),))]
        each = [kinds[index % len(kinds)] for index in range(len(many))]
        states = [warmed(one, seed=index) for index, one in enumerate(each)]
        together = absorb_many(states, many, each)
        for state, ticks, one, result in zip(states, many, each, together, strict=True):
            assert written(result) == written(absorb(state, ticks, one))

    def test_a_rollout_without_ticks_keeps_its_state(self) -> None:
        states = [warmed(), warmed()]
        result = absorb_many(states, [[], [tick(13, (5, 0))]], [SETTINGS, SETTINGS])
        assert result[0] is states[0]
        assert result[1] is not states[1]

    def test_nothing_to_do_is_fine(self) -> None:
        assert absorb_many([], [], []) == []


class TestStorage:
    @settings(max_examples=10)
    @given(streams(), streams())
    def test_a_stored_state_goes_on_exactly(self, before: list[Tick], after: list[Tick]) -> None:
        later = [t for t in after if t.boot_id == "2"]
        state = absorb(warmed(), [t for t in before if t.boot_id == "1"], SETTINGS)
        stored = EvidenceState.from_dict(json.loads(written(state)))
        assert written(stored) == written(state)
        assert written(absorb(stored, later, SETTINGS)) == written(absorb(state, later, SETTINGS))

    def test_a_verdict_survives_storage(self) -> None:
        traffic = Traffic(stable_rate=0.01, replica_rates=(0.2, 0.2))
        ticks = [traffic.tick(second, 5 if second > 12 else 0, 1) for second in range(1, 40)]
        state = absorb(start_evidence("uid", SETTINGS), ticks, SETTINGS)
        stored = EvidenceState.from_dict(json.loads(written(state)))
        assert judge(stored, SETTINGS, at(40)) == judge(state, SETTINGS, at(40))

    def test_a_record_of_a_later_modelplane_is_refused(self) -> None:
        with pytest.raises(InvalidResource, match="format 4"):
            EvidenceState.from_dict({**warmed().to_dict(), "format": 4})

    def test_a_record_is_small(self) -> None:
        assert len(written(warmed())) < 12_000


class TestTotals:
    @settings(max_examples=20)
    @given(streams())
    def test_every_request_is_counted_once(self, ticks: list[Tick]) -> None:
        state = absorb(start_evidence("uid", SETTINGS), ticks, SETTINGS)
        for totals, side in ((state.stable, "stable"), (state.candidate, "candidate")):
            counts = [getattr(one, side) for one in ticks]
            assert totals == VersionTotals(
                sum(c.requests for c in counts), sum(c.failures for c in counts), 0
            )
        assert sum(r.attempts.failures for r in state.replicas) == state.candidate.failures

    def test_the_request_rate_is_the_recent_one(self) -> None:
        state = start_evidence("uid", ERRORS_ONLY)
        for second in range(1, 121):
            requests = 10 if second <= 60 else 100
            state = absorb(state, [tick(second, (requests, 0))], ERRORS_ONLY)
        assert 80 <= state.request_rate_rps <= 100

    def test_two_gateways_add_up(self) -> None:
        state = start_evidence("uid", ERRORS_ONLY)
        for second in range(1, 31):
            ticks = [tick(second, (20, 0), proxy=proxy) for proxy in ("a", "b")]
            state = absorb(state, ticks, ERRORS_ONLY)
        assert state.request_rate_rps == pytest.approx(40, rel=0.05)


class TestSteps:
    def test_a_new_step_starts_its_own_count_and_keeps_the_wealth(self) -> None:
        state = absorb(warmed(), [tick(13, (90, 0), (5, 2), step_id=1)], SETTINGS)
        moved = absorb(state, [tick(14, (90, 0), (9, 0), step_id=2)], SETTINGS)
        assert (moved.step_id, moved.step_candidate_requests, moved.step_at) == (2, 9, at(14))
        errors = moved.metric("errors")
        assert errors is not None
        assert errors.candidate.trials == 14

    def test_counts_of_an_old_step_feed_the_wealth_alone(self) -> None:
        state = absorb(warmed(), [tick(13, (90, 0), (5, 0), step_id=2)], SETTINGS)
        late = absorb(state, [tick(14, (90, 0), (5, 5), step_id=1)], SETTINGS)
        assert (late.step_id, late.step_candidate_requests, late.step_at) == (2, 5, at(13))
        assert late.candidate.failures == 5
        assert judge(late, SETTINGS, at(14)).e_value > judge(state, SETTINGS, at(14)).e_value > 0


class TestWarmUp:
    def test_it_needs_time_and_requests(self) -> None:
        quick = absorb(start_evidence("u", ERRORS_ONLY), [tick(1, (500, 0))], ERRORS_ONLY)
        assert not quick.metrics[0].armed
        slow = quick
        for second in range(2, 12):
            slow = absorb(slow, [tick(second, (1, 0))], ERRORS_ONLY)
        assert slow.metrics[0].armed
        few = start_evidence("u", ERRORS_ONLY)
        for second in range(1, 50):
            few = absorb(few, [tick(second, (2, 0))], ERRORS_ONLY)
        assert not few.metrics[0].armed

    def test_the_margin_is_frozen_from_what_stable_did(self) -> None:
        state = start_evidence("u", ERRORS_ONLY)
        for second in range(1, 14):
            state = absorb(state, [tick(second, (100, 10))], ERRORS_ONLY)
        errors = state.metrics[0]
        assert errors.margin == pytest.approx(0.025, rel=0.02)
        later = absorb(state, [tick(14, (1000, 0))], ERRORS_ONLY)
        assert later.metrics[0].margin == errors.margin

    def test_latency_thresholds_are_fixed_and_above_stables_quantiles(self) -> None:
        latency = warmed().metric("latency")
        assert latency is not None
        assert [t.quantile for t in latency.thresholds] == [0.5, 0.95, 0.99]
        assert latency.thresholds[0].stable_us == pytest.approx(20_000, rel=0.1)
        assert all(t.candidate_us >= 1.2 * t.stable_us for t in latency.thresholds)

    def test_the_scatter_learned_before_is_taken_over(self) -> None:
        history = start_evidence("", ERRORS_ONLY)
        for second in range(1, 100):
            history = absorb(history, [tick(second, (100, 5 * (second % 10 == 0)))], ERRORS_ONLY)
        fresh = judge(start_evidence("u", ERRORS_ONLY), ERRORS_ONLY, at(100))
        taken_over = judge(start_evidence("u", ERRORS_ONLY, history), ERRORS_ONLY, at(100))
        assert taken_over.phi == judge(history, ERRORS_ONLY, at(100)).phi != fresh.phi

    def test_a_long_history_at_once_teaches_the_same_as_second_by_second(self) -> None:
        never = AnalysisSettings(warm_up_s=1e9)
        traffic = Traffic(seed=9, stable_rate=0.01)
        ticks = [traffic.tick(second, 0, 0) for second in range(1, 120)]
        slowly = at_once = start_evidence("uid", never)
        for one in ticks:
            slowly = absorb(slowly, [one], never)
        at_once = absorb(at_once, ticks, never)
        now = at(120)
        assert judge(at_once, never, now).phi == pytest.approx(judge(slowly, never, now).phi)
        assert at_once.stable == slowly.stable
        assert at_once.sequences == slowly.sequences
        for one_metric, other in zip(at_once.metrics, slowly.metrics, strict=True):
            assert one_metric.stable == other.stable
            assert one_metric.stable_latency == other.stable_latency
            assert (one_metric.tests.history == other.tests.history).all()

    def test_the_whole_history_of_a_batch_sets_the_margin(self) -> None:
        ticks = [tick(s, (100, 0 if s < 60 else 40), step_id=None) for s in range(1, 121)]
        state = absorb(start_evidence("uid", ERRORS_ONLY), ticks, ERRORS_ONLY)
        assert state.metrics[0].margin == pytest.approx(0.25 * 0.2, rel=0.05)


class TestSettingsThatChange:
    def test_a_metric_that_is_added_warms_up_and_one_that_is_removed_is_forgotten(self) -> None:
        state = absorb(warmed(ERRORS_ONLY), [tick(13, (50, 0), (5, 0))], SETTINGS)
        assert [metric.name for metric in state.metrics] == ["errors", "latency"]
        assert [metric.armed for metric in state.metrics] == [True, False]
        state = absorb(state, [tick(14, (50, 0), (5, 0))], ERRORS_ONLY)
        assert [metric.name for metric in state.metrics] == ["errors"]


class TestReplicas:
    def test_only_so_many_are_told_apart(self) -> None:
        replicas = {f"r{index:03}": (2, 0) for index in range(MAX_REPLICAS + 8)}
        state = absorb(warmed(), [tick(13, (50, 0), (80, 0), replicas=replicas)], SETTINGS)
        state = absorb(state, [tick(14, (50, 0), (80, 0), replicas=replicas)], SETTINGS)
        assert len(state.replicas) == len(state.leave_one_out.fixed) == MAX_REPLICAS

    def test_a_late_replica_starts_with_all_evidence_before_it(self) -> None:
        state = absorb(warmed(), [tick(13, (90, 0), (5, 4), replicas={"r0": (5, 4)})], SETTINGS)
        both = {"r0": (5, 0), "r1": (5, 0)}
        state = absorb(state, [tick(14, (90, 0), (10, 0), replicas=both)], SETTINGS)
        assert [r.attempts.trials for r in state.replicas] == [10, 5]
        wealth = state.leave_one_out.log_wealth
        assert wealth[0].max() < 1 < wealth[1].max()


def test_a_batch_is_read_for_one_deployment() -> None:
    batch = TelemetryBatch(
        environment="production", proxy="production/n1", boot_id="b", sequence=3,
        at=at(3), seconds=1.5,
        samples=(
            VariantSample(deployment="d", revision="s", requests=90, failures=1,
                          latency=((880.0, 10.0, 90),)),
            VariantSample(deployment="d", revision="c", requests=10, failures=4, client_failures=1,
                          replicas={"r": ReplicaSample(attempts=11, failures=4)}),
            VariantSample(deployment="other", revision="c", requests=7, failures=7),
        ),
        steps={"d": {"uid": 4}},
    )  # fmt: skip
    read = tick_from_batch(batch, "d", "uid", stable="s", candidate="c")
    assert (read.proxy, read.boot_id, read.sequence, read.step_id) == ("production/n1", "b", 3, 4)
    assert read.at - at(3) == timedelta(0)
    assert (read.stable.requests, read.stable.failures, read.stable.latency) == (90, 1, {880: 90})
    assert (read.candidate.failures, read.candidate.client_failures) == (4, 1)
    assert read.candidate.replicas["r"].trials == 11
    assert tick_from_batch(batch, "d", "another", "s", "c").step_id is None
    assert tick_from_batch(batch, "x", "uid", "s", "c").candidate.requests == 0
