"""The agent's pure decisions: restarts, plans from splits, causes."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from modelplane.decisions.agent_failures import explain_exit
from modelplane.decisions.agent_routing import cluster_name, plan_route, split_cluster_name
from modelplane.decisions.restarts import (
    GiveUp,
    RestartHistory,
    RestartPolicy,
    StartAfter,
    decide_restart,
    record_exit,
)
from modelplane.decisions.routing import TOTAL_WEIGHT
from modelplane.resources.meta import Metadata
from modelplane.resources.traffic_split import (
    SplitEndpoint,
    SplitVariant,
    TrafficSplit,
    TrafficSplitSpec,
)

POLICY = RestartPolicy(max_early_exits=3)


def exits(count: int, *, was_ready: bool, ran_s: float = 0.0) -> RestartHistory:
    history = RestartHistory(was_ready=was_ready)
    for number in range(count):
        history = record_exit(
            history, POLICY, started_at_s=100.0 * number, ended_at_s=100.0 * number + ran_s
        )
    return history


def test_the_first_start_is_at_once() -> None:
    assert decide_restart(RestartHistory(), POLICY, now_s=5) == StartAfter(0)


@given(count=st.integers(1, 200))
def test_the_wait_doubles_to_its_greatest(count: int) -> None:
    history = exits(count, was_ready=True)
    decision = decide_restart(history, POLICY, now_s=history.last_exit_at_s or 0)
    assert decision == StartAfter(min(0.2 * 2 ** min(count - 1, 30), 30.0))


@given(count=st.integers(0, 100), ran_s=st.floats(0, 1000))
def test_one_that_was_ready_is_never_given_up(count: int, ran_s: float) -> None:
    history = exits(count, was_ready=True, ran_s=ran_s)
    assert isinstance(decide_restart(history, POLICY, now_s=1e6), StartAfter)


@given(count=st.integers(0, 10))
def test_one_that_never_was_gets_three_attempts(count: int) -> None:
    decision = decide_restart(exits(count, was_ready=False), POLICY, now_s=1e6)
    assert isinstance(decision, GiveUp) == (count >= 3)


@given(count=st.integers(1, 50))
def test_one_that_ran_long_begins_a_new_row(count: int) -> None:
    history = exits(count, was_ready=True)
    settled = record_exit(history, POLICY, started_at_s=1e5, ended_at_s=1e5 + 60)
    assert decide_restart(settled, POLICY, now_s=1e5 + 60) == StartAfter(0.2)


@given(count=st.integers(1, 50), later_s=st.floats(0, 1e4))
def test_waiting_is_never_negative_nor_longer_than_the_greatest(count: int, later_s: float) -> None:
    history = exits(count, was_ready=True)
    assert history.last_exit_at_s is not None
    decision = decide_restart(history, POLICY, now_s=history.last_exit_at_s + later_s)
    assert isinstance(decision, StartAfter)
    assert 0 <= decision.delay_s <= 30
    assert decision.delay_s == 0 or decision.delay_s <= 30 - later_s + 1e-6


def test_a_clock_that_went_back_does_not_wait_for_ever() -> None:
    history = exits(1, was_ready=True)
    assert decide_restart(history, POLICY, now_s=-1e9) == StartAfter(30)


# Plans ----------------------------------------------------------------------------------------


def variant(revision: str, weight_pct: float, role: str, endpoints: int = 1) -> SplitVariant:
    return SplitVariant(
        revision=revision * 8,
        version="1.0.0",
        role="stable" if role == "stable" else "candidate",
        weight_pct=weight_pct,
        endpoints=tuple(
            SplitEndpoint(replica=f"{revision}-{n}", address=f"unix:/run/{revision}-{n}.sock")
            for n in reversed(range(endpoints))
        ),
    )


def split(*variants: SplitVariant, generation: int = 3) -> TrafficSplit:
    return TrafficSplit(
        metadata=Metadata(name="fraud", environment="production", generation=generation),
        spec=TrafficSplitSpec(
            deployment="fraud", variants=variants, user_header="X-User-Id", shield=False
        ),
    )


@given(weight_pct=st.floats(0, 100))
def test_weights_are_basis_points_that_sum_to_the_total(weight_pct: float) -> None:
    plan = plan_route(
        split(variant("aaaa", 100 - weight_pct, "stable"), variant("bbbb", weight_pct, "candidate"))
    )
    assert sum(v.weight for v in plan.variants) == TOTAL_WEIGHT
    (candidate,) = plan.candidates
    assert abs(candidate.weight - weight_pct * 100) <= 0.5


@given(weights=st.lists(st.floats(0, 60), min_size=1, max_size=4))
def test_several_candidates_sum_too(weights: list[float]) -> None:
    assume(sum(weights) <= 100)
    candidates = [variant(f"{n}bbb", pct, "candidate") for n, pct in enumerate(weights)]
    plan = plan_route(split(variant("aaaa", 100 - sum(weights), "stable"), *candidates))
    assert sum(v.weight for v in plan.variants) == TOTAL_WEIGHT
    assert all(v.weight >= 0 for v in plan.variants)


def test_a_candidate_without_weight_gets_nothing() -> None:
    plan = plan_route(split(variant("aaaa", 100, "stable"), variant("bbbb", 0, "candidate", 0)))
    assert [v.weight for v in plan.variants] == [TOTAL_WEIGHT, 0]


def test_the_rest_of_the_split_is_carried_over() -> None:
    plan = plan_route(split(variant("aaaa", 100, "stable", 2)))
    assert (plan.deployment, plan.generation) == ("fraud", 3)
    assert (plan.sticky_header, plan.shield) == ("x-user-id", False)
    assert [e.replica for e in plan.stable.endpoints] == ["aaaa-0", "aaaa-1"]
    assert plan.stable.cluster == "fraud.aaaaaaaaaa"


@pytest.mark.parametrize(
    "variants",
    [
        (),
        (variant("aaaa", 100, "candidate"),),
        (variant("aaaa", 50, "stable"), variant("bbbb", 50, "stable")),
        (variant("aaaa", 60, "stable"), variant("bbbb", 60, "candidate")),
        (variant("aaaa", 90, "stable"), variant("bbbb", 10, "candidate", 0)),
        (variant("aaaa", 100, "stable"), *[variant("bbbb", 0, "candidate")] * 2),
    ],
)
def test_what_cannot_be_served_is_refused(variants: tuple[SplitVariant, ...]) -> None:
    with pytest.raises(ValueError, match=r"stable|100|endpoint|one revision"):
        plan_route(split(*variants))


@given(deployment=st.from_regex(r"[a-z]([a-z.-]{0,20}[a-z])?", fullmatch=True))
def test_cluster_names_can_be_read_back(deployment: str) -> None:
    name = cluster_name(deployment, "0123456789abcdef")
    assert split_cluster_name(name) == (deployment, "0123456789")


# Causes ---------------------------------------------------------------------------------------


@given(code=st.one_of(st.none(), st.integers(-64, 255)), log=st.text(max_size=200))
def test_every_exit_has_a_cause_in_words(code: int | None, log: str) -> None:
    cause = explain_exit(code, log, memory_bytes=None, speaks_our_codes=True)
    assert cause.reason
    assert cause.message


def test_the_memory_limit_is_named() -> None:
    cause = explain_exit(1, "MemoryError", memory_bytes=512 << 20, speaks_our_codes=True)
    assert (cause.reason, cause.final) == ("OutOfMemory", False)
    assert "512Mi" in cause.message


@pytest.mark.parametrize(
    ("log", "limit", "reason"),
    [
        ("OpenBLAS error: Memory allocation still failed after 10 retries", None, "OutOfMemory"),
        ("RuntimeError: can't start new thread", 64 << 20, "OutOfMemory"),
        ("RuntimeError: can't start new thread", None, "StartFailed"),
    ],
)
def test_what_libraries_say_when_memory_is_short(log: str, limit: int | None, reason: str) -> None:
    assert explain_exit(1, log, memory_bytes=limit, speaks_our_codes=True).reason == reason


def test_another_programs_exit_code_3_means_nothing() -> None:
    assert explain_exit(3, "", memory_bytes=None, speaks_our_codes=True).final
    assert not explain_exit(3, "", memory_bytes=None, speaks_our_codes=False).final
