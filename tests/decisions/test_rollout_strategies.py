"""What each strategy promises, as tables and as properties over whole courses."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.rollout import (
    AppliedSplit,
    Reason,
    RolloutDecision,
    RolloutObservation,
    Verdict,
    decide_rollout,
    promoted,
)
from modelplane.resources.rollout import (
    FINISHED_ROLLOUT,
    RolloutRequest,
    RolloutSpec,
    RolloutStatus,
)
from modelplane.resources.strategy import (
    AbStrategy,
    AllAtOnceStrategy,
    Analysis,
    Arm,
    BlueGreenStrategy,
    CanaryStrategy,
    Holdback,
    RollingStrategy,
    ShadowStrategy,
    Strategy,
)
from tests.decisions import worlds
from tests.decisions.test_rollout import (
    ASKED,
    NOW,
    STARTING,
    UID,
    decide,
    judged,
    observed,
    ramping,
    replica,
    spec,
)

ROLLING = Strategy(rolling=RollingStrategy(interval_s=5))
BLUE_GREEN = Strategy(blue_green=BlueGreenStrategy(preview_s=60, keep_warm_s=600))
SHADOW = Strategy(shadow=ShadowStrategy(percentage=50, duration_s=300, max_different=2))
HELD = Strategy(canary=CanaryStrategy(steps=(10.0,), holdback=Holdback(percentage=5, for_s=3600)))
ABN = Strategy(
    ab=AbStrategy(arms=(Arm(version="2.0.0", percentage=20), Arm(version="3", percentage=10)))
)
WESTERN = Strategy(
    canary=CanaryStrategy(steps=(10.0,), predicate="user.region == 'west'", min_bake_s=0)
)
PASSED = {"judgement": judged(passes=True)}
PROMOTE = RolloutRequest(action="promote", **ASKED)
ROLL_BACK = RolloutRequest(action="rollback", **ASKED)
BY_POLICY = ROLL_BACK.with_(subject="system:traffic-policy")


def ready(count: int) -> tuple[Any, ...]:
    return tuple(replica(index=index) for index in range(count))


def shadowing(**changes: Any) -> RolloutStatus:
    return ramping(0.0, **{"mirror_pct": 50.0, **changes})


def compared(count: int = 1000, different: int = 0, **changes: Any) -> Any:
    return judged(compared=count, different=different, **{"passes": True, **changes})


def outcome(decision: RolloutDecision) -> tuple[str, str]:
    return decision.verdict.value, decision.reason.value


@pytest.mark.parametrize(
    ("strategy", "status", "spec_", "world", "expected"),
    [
        # rolling
        (ROLLING, STARTING, spec(), {"replicas": (), "replicas_wanted": 3}, "hold Starting"),
        (ROLLING, STARTING, spec(), {"replicas_wanted": 3}, "advance ReplicaReady"),
        (ROLLING, STARTING, spec(), {}, "promote AllReplaced"),
        (ROLLING, STARTING, spec(paused=True), {"replicas_wanted": 3}, "hold Paused"),
        (ROLLING, STARTING, spec(stable=None), {"replicas_wanted": 3}, "hold Starting"),
        (ROLLING, STARTING, spec(), {"replicas": (replica("Failed"),)}, "fail StartFailed"),
        (
            ROLLING, STARTING, spec(), {"replicas_wanted": 3, "judgement": judged(-1, warm=False)},
            "advance ReplicaReady",
        ),
        # blue/green
        (BLUE_GREEN, STARTING, spec(), {"replicas_wanted": 2}, "hold Starting"),
        (BLUE_GREEN, STARTING, spec(), {}, "hold Preview"),
        (
            BLUE_GREEN, STARTING.with_(ready_at=NOW - timedelta(seconds=59)), spec(), {},
            "hold Preview",
        ),
        (
            BLUE_GREEN, STARTING.with_(ready_at=NOW - timedelta(seconds=60)), spec(), {},
            "promote Switched",
        ),
        (BLUE_GREEN, STARTING, spec(request=PROMOTE), {}, "promote PromoteRequested"),
        (BLUE_GREEN, STARTING, spec(paused=True), {}, "hold Paused"),
        (BLUE_GREEN, STARTING, spec(), {"restores_warm": True}, "promote StillWarm"),
        (HELD, STARTING, spec(), {"restores_warm": True}, "promote StillWarm"),
        (ROLLING, STARTING, spec(), {"restores_warm": True}, "promote StillWarm"),
        (
            ROLLING, STARTING, spec(), {"restores_warm": True, "replicas_wanted": 2},
            "hold Starting",
        ),
        # shadow
        (SHADOW, STARTING, spec(), {"judgement": None}, "advance FirstStep"),
        (SHADOW, shadowing(), spec(), {"split": AppliedSplit()}, "hold WeightNotApplied"),
        (SHADOW, shadowing(), spec(), {"judgement": None}, "hold WaitingForTraffic"),
        (SHADOW, shadowing(), spec(), {"judgement": compared()}, "promote Compared"),
        (
            SHADOW, shadowing(ramp_started_at=NOW - timedelta(seconds=299)), spec(),
            {"judgement": compared()}, "hold Comparing",
        ),
        (SHADOW, shadowing(), spec(), {"judgement": compared(99)}, "hold NeedsComparisons"),
        (SHADOW, shadowing(), spec(), {"judgement": compared(0)}, "hold NeedsComparisons"),
        (
            SHADOW, shadowing(), spec(), {"judgement": compared(100, 3)}, "hold NeedsComparisons",
        ),
        (SHADOW, shadowing(), spec(), {"judgement": compared(passes=False)}, "hold NeedsEvidence"),
        (
            SHADOW, shadowing(), spec(paused=True),
            {"judgement": compared(1000, 90, different_lower=0.021)}, "rollback AnswersDiffer",
        ),
        (
            SHADOW, shadowing(), spec(), {"judgement": compared(1000, 19, different_lower=0.019)},
            "promote Compared",
        ),
        (
            Strategy(shadow=ShadowStrategy(duration_s=300, then="hold")),
            shadowing(mirror_pct=100.0), spec(), {"judgement": compared()}, "hold Compared",
        ),
        (
            Strategy(shadow=ShadowStrategy(deadline_s=300)), shadowing(mirror_pct=100.0), spec(),
            {"judgement": compared(0)}, "hold DeadlineHold",
        ),
        (
            Strategy(
                shadow=ShadowStrategy(deadline_s=300, analysis=Analysis(on_inconclusive="rollback"))
            ),
            shadowing(mirror_pct=100.0), spec(), {"judgement": None}, "rollback DeadlineRollback",
        ),
        (SHADOW, shadowing(mirror_pct=20.0), spec(), {}, "advance StrategyChanged"),
        (SHADOW, ramping(5.0), spec(), {}, "advance StrategyChanged"),
        (SHADOW, shadowing(), spec(request=PROMOTE), {}, "promote PromoteRequested"),
        # a predicate that was edited: other users, about whom nothing is known
        (WESTERN, ramping(50, strategy=HELD), spec(), PASSED, "advance StrategyChanged"),
        (HELD, ramping(50, strategy=WESTERN), spec(), PASSED, "advance StrategyChanged"),
        (WESTERN, ramping(50, strategy=HELD), spec(paused=True), {}, "advance StrategyChanged"),
        (WESTERN, ramping(10, strategy=WESTERN), spec(), PASSED, "promote WithinMargins"),
        (
            WESTERN, ramping(50, strategy=HELD), spec(request=PROMOTE), {},
            "promote PromoteRequested",
        ),
        (
            WESTERN, ramping(50, strategy=HELD), spec(request=ROLL_BACK), {},
            "rollback RollbackRequested",
        ),
        (
            SHADOW, shadowing(strategy=WESTERN), spec(), {"judgement": compared()},
            "advance StrategyChanged",
        ),
        (
            ABN, ramping(20, strategy=WESTERN), spec(), {"judgement": judged(passes=True)},
            "advance StrategyChanged",
        ),
        # A/B/n
        (ABN, STARTING, spec(), {"judgement": None}, "advance FirstStep"),
        (ABN, ramping(20), spec(), {}, "hold Comparing"),
        (ABN, ramping(20), spec(), {"judgement": judged(passes=True)}, "hold Comparing"),
        (ABN, ramping(10), spec(), {}, "advance StrategyChanged"),
        (ABN, ramping(10), spec(), {"split": AppliedSplit()}, "hold WeightNotApplied"),
        (ABN, ramping(20), spec(), {"judgement": judged(harm=True)}, "rollback Harm"),
        (ABN, ramping(20), spec(request=PROMOTE), {}, "promote PromoteRequested"),
        (
            ABN, ramping(20, ramp_started_at=NOW - timedelta(days=7)), spec(), {},
            "conclude TestOver",
        ),
        (ABN, ramping(20), spec(candidate=worlds.revision("4.0.0")), {}, "conclude ArmRemoved"),
        # canary with holdback
        (HELD, ramping(10), spec(), {"judgement": judged(passes=True)}, "advance Holdback"),
        (HELD, ramping(95, holdback_at=NOW), spec(), {}, "hold Holdback"),
        (
            HELD, ramping(95, holdback_at=NOW - timedelta(hours=1)), spec(), {"judgement": None},
            "promote HoldbackOver",
        ),
        (
            HELD, ramping(95, holdback_at=NOW), spec(), {"judgement": judged(harm=True)},
            "rollback ClawedBack",
        ),
        (HELD, ramping(95, holdback_at=NOW), spec(request=PROMOTE), {}, "promote PromoteRequested"),
        (
            HELD, ramping(95, holdback_at=NOW), spec(superseded_by="delay-3"), {},
            "promote HoldbackOver",
        ),
        (
            HELD, ramping(95, holdback_at=NOW), spec(superseded_by="delay-3"),
            {"stable_changed": True}, "supersede Superseded",
        ),
        (
            HELD, ramping(95, holdback_at=NOW), spec(superseded_by="delay-3"),
            {"judgement": judged(harm=True)}, "rollback ClawedBack",
        ),
        (HELD, ramping(95, holdback_at=NOW), spec(request=ROLL_BACK), {},
         "rollback RollbackRequested"),
        (
            Strategy(canary=CanaryStrategy()), ramping(95, holdback_at=NOW), spec(), {},
            "promote HoldbackOver",
        ),
        # whatever the strategy
        (HELD, ramping(10), spec(lane="west/2.0.0"), {"policy_gone": True}, "rollback PolicyGone"),
        (
            HELD, ramping(10), spec(lane="west/2.0.0", request=BY_POLICY), {},
            "rollback PolicyGone",
        ),
        (HELD, ramping(10), spec(request=BY_POLICY), {}, "rollback RollbackRequested"),
        (HELD, shadowing(mirror_pct=0.0), spec(), {}, "advance StrategyChanged"),
        (
            Strategy(all_at_once=AllAtOnceStrategy()), ramping(33), spec(), {"replicas_wanted": 3},
            "hold Starting",
        ),
    ],
)  # fmt: skip
def test_decision_table(
    strategy: Strategy,
    status: RolloutStatus,
    spec_: RolloutSpec,
    world: dict[str, Any],
    expected: str,
) -> None:
    decision = decide(status, spec_, strategy=strategy, **world)
    assert " ".join(outcome(decision)) == expected
    assert decision.status.message


def test_a_shadow_copies_requests_and_answers_none() -> None:
    first = decide(STARTING, strategy=SHADOW)
    assert (first.status.weight_pct, first.status.mirror_pct) == (0, 50)
    edited = Strategy(shadow=ShadowStrategy(percentage=10))
    again = decide(first.status, strategy=edited, split=AppliedSplit({UID: 1}, NOW))
    assert (again.status.weight_pct, again.status.mirror_pct, again.status.step_id) == (0, 10, 2)


def test_a_shadow_whose_answers_cannot_be_compared_says_so() -> None:
    decision = decide(shadowing(), strategy=SHADOW, judgement=compared(0))
    assert "no answer could be compared" in decision.status.message
    anyway = Strategy(shadow=ShadowStrategy(percentage=50, duration_s=300, min_compared=0))
    assert decide(shadowing(), strategy=anyway, judgement=compared(0)).verdict is Verdict.PROMOTE


def test_the_end_of_a_shadow_copies_nothing_more() -> None:
    decision = decide(shadowing(), spec(request=ROLL_BACK), strategy=SHADOW)
    assert (decision.status.phase, decision.status.mirror_pct) == ("RolledBack", 0)


@pytest.mark.parametrize(("passes", "verdict"), [(True, "pass"), (False, "undecided")])
def test_an_ab_test_concludes_with_a_verdict_and_without_traffic(
    passes: bool, verdict: str
) -> None:
    over = ramping(20, ramp_started_at=NOW - timedelta(days=8))
    decision = decide(over, strategy=ABN, judgement=judged(passes=passes))
    assert (decision.status.phase, decision.status.verdict) == ("Concluded", verdict)
    assert decision.status.weight_pct == 0


def test_harm_in_an_ab_test_is_its_verdict() -> None:
    decision = decide(ramping(20), strategy=ABN, judgement=judged(harm=True))
    assert (decision.status.phase, decision.status.verdict) == ("RolledBack", "harm")


def test_the_preview_begins_anew_when_a_replica_is_lost() -> None:
    began = STARTING.with_(ready_at=NOW - timedelta(seconds=50))
    lost = decide(began, strategy=BLUE_GREEN, replicas=(replica("NotReady"),))
    assert lost.status.ready_at is None
    back = decide(lost.status, strategy=BLUE_GREEN)
    assert (back.reason, back.status.ready_at) == (Reason.PREVIEW, NOW)


def test_after_a_switch_what_served_before_stays_warm() -> None:
    deployment, rollout = worlds.deployment(), worlds.rollout("Ramping", 0)
    switched = decide(STARTING, strategy=Strategy(blue_green=BlueGreenStrategy(keep_warm_s=90)))
    after = promoted(deployment, rollout, switched.status, now=NOW)
    assert after.status.warm is not None
    assert after.status.warm.revision == worlds.V1
    assert after.status.warm.until == NOW + timedelta(seconds=90)
    canary = promoted(after, rollout, RolloutStatus(strategy=HELD), now=NOW)
    assert canary.status.warm is None


@pytest.mark.parametrize("strategy", [Strategy(all_at_once=AllAtOnceStrategy()), BLUE_GREEN, HELD])
def test_nothing_switches_while_it_is_paused(strategy: Strategy) -> None:
    paused = decide(STARTING, spec(paused=True), strategy=strategy)
    assert outcome(paused) == ("hold", "Paused")
    by_hand = decide(STARTING, spec(paused=True, request=PROMOTE), strategy=strategy)
    assert by_hand.verdict is Verdict.PROMOTE


@pytest.mark.parametrize(("is_awaited", "declared"), [(False, "2.0.0"), (True, "9.0.0")])
def test_what_a_policy_promotes_is_declared_unless_another_version_is_awaited(
    is_awaited: bool, declared: str
) -> None:
    deployment = worlds.deployment().with_spec(version="9.0.0")
    rollout = worlds.rollout("Ramping", 10, lane="west/2.0.0")
    after = promoted(deployment, rollout, RolloutStatus(), is_awaited=is_awaited, now=NOW)
    assert after.status.stable == rollout.spec.candidate
    assert after.spec.version == declared


# -- rolling, from the first replica to the last ---------------------------------------------------


class Roll:
    """A deployment that rolls: what was decided is done at once, or not yet."""

    def __init__(self, wanted: int, interval_s: float = 5) -> None:
        self.now = NOW
        self.wanted = wanted
        self.status = RolloutStatus()
        self.ready = 0
        self.applied: int | None = None
        self.applied_at = NOW
        self.strategy = Strategy(rolling=RollingStrategy(interval_s=interval_s))
        self.judgement = None

    @property
    def candidates(self) -> int:
        return self.status.candidate_replicas or self.wanted

    @property
    def stable(self) -> int:
        return self.wanted if self.status.stable_replicas is None else self.status.stable_replicas

    def look(self) -> RolloutDecision:
        count = self.wanted if self.status.phase == "Pending" else self.candidates
        seen: RolloutObservation = observed(
            strategy=self.strategy,
            replicas_wanted=self.wanted,
            replicas=ready(min(self.ready, count)),
            split=AppliedSplit({UID: self.applied} if self.applied is not None else {},
                               self.applied_at),
            judgement=self.judgement,
        )  # fmt: skip
        decision = decide_rollout(spec(), self.status, seen, now=self.now)
        self.status = decision.status
        return decision

    def acknowledge(self) -> None:
        if self.applied != self.status.step_id:
            self.applied, self.applied_at = self.status.step_id, self.now


def test_replicas_change_one_by_one_and_the_weight_follows() -> None:
    roll = Roll(3)
    course: list[tuple[int, int, int]] = []
    for _ in range(40):
        roll.look()
        if roll.status.phase in FINISHED_ROLLOUT:
            break
        roll.ready = roll.candidates
        roll.acknowledge()
        roll.now += timedelta(seconds=2)
        now = (roll.candidates, roll.stable, round(roll.status.weight_pct))
        if not course or course[-1] != now:
            course.append(now)
    assert course == [
        (1, 3, 0), (1, 3, 33), (1, 2, 33), (2, 2, 33), (2, 2, 67), (2, 1, 67), (3, 1, 67),
    ]  # fmt: skip
    assert (roll.status.phase, roll.status.weight_pct) == ("Promoted", 100)
    assert roll.status.candidate_replicas is None


def test_rolling_waits_between_two_replicas() -> None:
    roll = Roll(2, interval_s=30)
    roll.look()
    roll.ready = 1
    roll.look()
    roll.acknowledge()
    roll.now += timedelta(seconds=29)
    assert roll.look().reason is Reason.REPLICA_BY_REPLICA
    assert (roll.candidates, roll.stable) == (1, 1)
    roll.now += timedelta(seconds=1)
    assert roll.look().status.candidate_replicas == 2


def test_a_promotion_by_hand_while_rolling_waits_for_the_missing_replicas() -> None:
    status = ramping(33, candidate_replicas=1, stable_replicas=2)
    world = {"strategy": ROLLING, "replicas_wanted": 3}
    waits = decide(status, spec(request=PROMOTE), **world)
    assert (waits.reason, waits.status.candidate_replicas) == (Reason.STARTING, None)
    assert waits.status.weight_pct == 33
    done = decide(waits.status, spec(request=PROMOTE), replicas=ready(3), **world)
    assert done.reason is Reason.PROMOTE_REQUESTED


def test_a_replica_that_cannot_start_ends_the_roll() -> None:
    status = ramping(33, candidate_replicas=2, stable_replicas=2)
    broken = (replica(), replica("Failed", 1))
    decision = decide(status, strategy=ROLLING, replicas_wanted=3, replicas=broken)
    assert outcome(decision) == ("fail", "StartFailed")
    assert decision.status.weight_pct == 0


def test_a_roll_that_becomes_a_canary_has_all_its_replicas_again() -> None:
    status = ramping(33, candidate_replicas=1, stable_replicas=2)
    edited = decide(status, strategy=Strategy(canary=CanaryStrategy()), replicas_wanted=3)
    assert (edited.status.candidate_replicas, edited.status.stable_replicas) == (None, None)


steps_of_the_world = st.lists(
    st.sampled_from(["look", "look", "start", "crash", "acknowledge", "wait"]),
    max_size=60,
)


@given(st.integers(1, 5), steps_of_the_world)
def test_rolling_never_takes_away_more_than_it_has_brought(wanted: int, moves: list[str]) -> None:
    roll = Roll(wanted)
    for move in moves:
        before = roll.status
        if move == "look":
            decision = roll.look()
            if roll.status.phase in FINISHED_ROLLOUT:
                assert decision.reason is Reason.ALL_REPLACED
                assert roll.ready >= roll.wanted
                return
            grew = roll.status.weight_pct > before.weight_pct
            assert not grew or before.step_id in {0, roll.applied}, "grows only when acknowledged"
            if roll.stable < roll.wanted and roll.status != before:
                acknowledged = round(before.weight_pct * roll.wanted / 100)
                assert roll.stable + acknowledged >= roll.wanted
            assert roll.candidates <= roll.wanted
        elif move == "start":
            roll.ready = min(roll.ready + 1, roll.candidates)
        elif move == "crash":
            roll.ready = max(0, roll.ready - 1)
        elif move == "acknowledge":
            roll.acknowledge()
        elif move == "wait":
            roll.now += timedelta(seconds=5)


@given(
    st.sampled_from([ROLLING, BLUE_GREEN, SHADOW, HELD, ABN]),
    st.sampled_from([STARTING, ramping(20), shadowing(), ramping(95, holdback_at=NOW)]),
    st.booleans(),
    st.sampled_from([None, PROMOTE, ROLL_BACK]),
    st.sampled_from([None, "delay-9"]),
)
def test_harm_means_weight_zero_and_no_copies_under_every_strategy(
    strategy: Strategy, status: RolloutStatus, paused: bool, request: Any, superseded: str | None
) -> None:
    spec_ = spec(paused=paused, request=request, superseded_by=superseded)
    decision = decide(status, spec_, strategy=strategy, judgement=judged(harm=True, passes=True))
    assert decision.status.phase == "RolledBack"
    assert (decision.status.weight_pct, decision.status.mirror_pct) == (0, 0)


@given(
    st.sampled_from([ROLLING, BLUE_GREEN, SHADOW, HELD, ABN]),
    st.sampled_from([STARTING, ramping(20), shadowing(), ramping(95, holdback_at=NOW)]),
    st.sampled_from([None, judged(), judged(passes=True), judged(1), compared()]),
    st.integers(0, 3),
    st.sampled_from([{}, {UID: 2}, {UID: 1}]),
    st.booleans(),
)
def test_deciding_twice_says_the_same(
    strategy: Strategy, status: RolloutStatus, judgement: Any, count: int, steps: Any, paused: bool
) -> None:
    world = observed(
        strategy=strategy, judgement=judgement, replicas=ready(count), replicas_wanted=3,
        split=AppliedSplit(steps, NOW - timedelta(minutes=5)),
    )  # fmt: skip
    first = decide_rollout(spec(paused=paused), status, world, now=NOW)
    if first.verdict is not Verdict.HOLD:
        return
    again = decide_rollout(spec(paused=paused), first.status, world, now=NOW)
    if first.reason is Reason.STARTING and first.status.candidate_replicas != count:
        return  # more replicas are wanted now than were looked at
    assert (again.verdict, again.reason) == (first.verdict, first.reason)
    assert again.status == first.status
