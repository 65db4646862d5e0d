"""What a rollout promises, as tables and as properties over generated worlds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
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
    ramp_steps,
)
from modelplane.resources.meta import Metadata
from modelplane.resources.replica import Replica, ReplicaSpec, ReplicaStatus
from modelplane.resources.revision import Artifact, Revision, RuntimeSpec, make_revision
from modelplane.resources.rollout import (
    FINISHED_ROLLOUT,
    Judgement,
    RolloutRequest,
    RolloutSpec,
    RolloutStatus,
    RolloutStep,
)
from modelplane.resources.strategy import AllAtOnceStrategy, Analysis, CanaryStrategy, Strategy

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
UID = "rollout-1"


def revision(version: str) -> Revision:
    return make_revision(
        "delay", version, Artifact(format="skops", digest=f"sha256:{version}"), RuntimeSpec()
    )


V1, V2 = revision("1.0.0"), revision("2.0.0")


def spec(**changes: Any) -> RolloutSpec:
    fields = {
        "deployment": "delay", "promotion": "delay-2", "ordinal": 2, "stable": V1, "candidate": V2,
    }  # fmt: skip
    return RolloutSpec(**{**fields, **changes})


def replica(phase: str = "Ready", index: int = 0) -> Replica:
    return Replica(
        metadata=Metadata(name=f"delay-{index}", environment="production"),
        spec=ReplicaSpec(deployment="delay", revision=V2, index=index),
        status=ReplicaStatus.model_validate(
            {"phase": phase, "address": "unix:/r.sock", "message": "exit code 3", "logTail": "boom"}
        ),
    )


def ramping(weight_pct: float = 5.0, step_id: int = 2, **changes: Any) -> RolloutStatus:
    started = NOW - timedelta(minutes=10)
    fields: dict[str, Any] = {
        "phase": "Ramping", "weight_pct": weight_pct, "step_id": step_id, "started_at": started,
        "ramp_started_at": started, "reason": "NeedsEvidence",
        "steps": (RolloutStep(id=step_id, weight_pct=weight_pct, started_at=started),),
    }  # fmt: skip
    return RolloutStatus(**{**fields, **changes})


def judged(step_id: int = 2, **changes: Any) -> Judgement:
    fields: dict[str, Any] = {
        "step_id": step_id, "at": NOW - timedelta(seconds=1), "warm": True, "stable_rps": 100.0,
        "sentence": "errors 1.0 % against 1.0 %",
    }  # fmt: skip
    return Judgement(**{**fields, **changes})


def observed(**changes: Any) -> RolloutObservation:
    fields: dict[str, Any] = {
        "uid": UID,
        "strategy": Strategy(canary=CanaryStrategy()),
        "replicas_wanted": 1,
        "replicas": (replica(),),
        "split": AppliedSplit({UID: 2}, NOW - timedelta(minutes=5)),
        "judgement": judged(),
    }
    return RolloutObservation(**{**fields, **changes})


def decide(
    status: RolloutStatus | None = None, spec_: RolloutSpec | None = None, **world: Any
) -> RolloutDecision:
    return decide_rollout(spec_ or spec(), status or ramping(), observed(**world), now=NOW)


SOON = NOW - timedelta(seconds=9)
STARTING = RolloutStatus(phase="Deploying", started_at=NOW - timedelta(seconds=30))
ASKED = {"subject": "ana", "reason": "known bug", "at": NOW}


@pytest.mark.parametrize(
    ("status", "spec_", "world", "verdict", "reason"),
    [
        (STARTING, spec(), {"replicas": ()}, "hold", "Starting"),
        (STARTING, spec(), {"replicas": (replica("Preparing"),)}, "hold", "Starting"),
        (STARTING, spec(), {"replicas": (replica("Failed"),)}, "fail", "StartFailed"),
        (STARTING, spec(stable=None), {"judgement": None}, "promote", "FirstDeployment"),
        (STARTING, spec(), {"judgement": judged(-1, warm=False)}, "hold", "WarmingUp"),
        (STARTING, spec(), {"judgement": None}, "advance", "FirstStep"),
        (
            STARTING, spec(), {"judgement": judged(-1, warm=False, stable_rps=0.2)},
            "advance", "FirstStep",
        ),
        (STARTING, spec(paused=True), {}, "hold", "Paused"),
        (STARTING, spec(), {}, "advance", "FirstStep"),
        (
            STARTING, spec(), {"strategy": Strategy(all_at_once=AllAtOnceStrategy())},
            "promote", "AllAtOnce",
        ),
        (ramping(), spec(superseded_by="delay-3"), {}, "supersede", "Superseded"),
        (ramping(), spec(), {"judgement": judged(harm=True)}, "rollback", "Harm"),
        (ramping(), spec(paused=True), {"judgement": judged(harm=True)}, "rollback", "Harm"),
        (ramping(), spec(paused=True), {}, "hold", "Paused"),
        (
            ramping(), spec(request=RolloutRequest(action="rollback", **ASKED)), {},
            "rollback", "RollbackRequested",
        ),
        (
            ramping(), spec(request=RolloutRequest(action="promote", **ASKED)), {},
            "promote", "PromoteRequested",
        ),
        (
            ramping(), spec(request=RolloutRequest(action="promote", **ASKED)),
            {"judgement": judged(harm=True)}, "rollback", "Harm",
        ),
        (ramping(), spec(), {"split": AppliedSplit()}, "hold", "WeightNotApplied"),
        (ramping(), spec(), {"split": AppliedSplit({UID: 1}, NOW)}, "hold", "WeightNotApplied"),
        (ramping(), spec(), {"split": AppliedSplit({"other": 2}, NOW)}, "hold", "WeightNotApplied"),
        (ramping(), spec(), {"split": AppliedSplit(refusal="bad")}, "fail", "GatewayRefused"),
        (
            ramping(steps=(RolloutStep(id=2, weight_pct=5, started_at=SOON),)),
            spec(), {"split": AppliedSplit(refusal="bad")}, "hold", "GatewayRefused",
        ),
        (ramping(), spec(), {"judgement": None}, "hold", "WaitingForTraffic"),
        (ramping(), spec(), {"judgement": judged(1)}, "hold", "WaitingForTraffic"),
        (
            ramping(), spec(), {"judgement": judged(at=NOW - timedelta(minutes=1), passes=True)},
            "hold", "EvidenceStale",
        ),
        (ramping(), spec(), {"judgement": judged(bad_replica="r1")}, "hold", "BadReplica"),
        (ramping(), spec(), {"judgement": judged(allowed_weight_pct=4)}, "hold", "NeedsEvidence"),
        (
            ramping(), spec(), {"judgement": judged(allowed_weight_pct=30)},
            "advance", "WithinRiskBudget",
        ),
        (
            ramping(), spec(),
            {"judgement": judged(allowed_weight_pct=30), "split": AppliedSplit({UID: 2}, NOW)},
            "hold", "Interval",
        ),
        (ramping(50), spec(), {"judgement": judged(passes=True)}, "promote", "WithinMargins"),
        (
            ramping(50, ramp_started_at=NOW - timedelta(seconds=100)), spec(),
            {"judgement": judged(passes=True)}, "hold", "Baking",
        ),
        (
            ramping(50), spec(), {"judgement": judged(unavailable=("precision",))},
            "hold", "MetricUnavailable",
        ),
        (
            ramping(50), spec(), {"strategy": Strategy(canary=CanaryStrategy(steps=(10,)))},
            "advance", "StrategyChanged",
        ),
    ],
)  # fmt: skip
def test_decision_table(
    status: RolloutStatus, spec_: RolloutSpec, world: dict[str, Any], verdict: str, reason: str
) -> None:
    decision = decide(status, spec_, **world)
    assert (decision.verdict.value, decision.reason.value) == (verdict, reason)
    assert decision.status.message


@pytest.mark.parametrize(
    ("choice", "verdict"), [("hold", "hold"), ("rollback", "rollback"), ("promote", "promote")]
)
def test_the_deadline_ends_an_inconclusive_rollout_as_declared(choice: Any, verdict: str) -> None:
    analysis = Analysis(on_inconclusive=choice)
    strategy = Strategy(canary=CanaryStrategy(deadline_s=300, analysis=analysis))
    assert decide(strategy=strategy).verdict.value == verdict


def test_a_candidate_that_cannot_start_ends_with_the_tail_of_its_log() -> None:
    decision = decide(STARTING, replicas=(replica("Failed"),))
    assert decision.status.phase == "Failed"
    assert "boom" in decision.status.message


def test_declared_steps_are_taken_one_by_one_even_when_everything_passes() -> None:
    strategy = Strategy(canary=CanaryStrategy(steps=(5, 20, 40)))
    decision = decide(strategy=strategy, judgement=judged(passes=True))
    assert decision.status.weight_pct == 20


def test_one_judgement_never_advances_twice() -> None:
    first = decide(judgement=judged(allowed_weight_pct=100))
    assert first.verdict is Verdict.ADVANCE
    again = decide_rollout(
        spec(), first.status, observed(judgement=judged(allowed_weight_pct=100)), now=NOW
    )
    assert again.verdict is Verdict.HOLD
    assert again.status.step_id == first.status.step_id


def test_a_hold_for_the_same_reason_writes_nothing_new() -> None:
    first = decide(judgement=judged(requests_needed=900))
    later = decide(first.status, judgement=judged(requests_needed=800))
    assert later.status == first.status


phases = st.sampled_from(["Pending", "Deploying", "Ramping", "Paused", *sorted(FINISHED_ROLLOUT)])
weights = st.sampled_from([0.0, 1.0, 5.0, 25.0, 50.0])


@st.composite
def worlds(draw: st.DrawFn) -> tuple[RolloutSpec, RolloutStatus, RolloutObservation]:
    phase = draw(phases)
    began = phase in {"Ramping", "Paused"}
    status = RolloutStatus.model_validate(
        {
            "phase": phase,
            "weightPct": draw(weights) if began else 0.0,
            "stepId": draw(st.integers(0, 4)),
            "startedAt": NOW - timedelta(seconds=draw(st.integers(0, 200_000))),
            "rampStartedAt": NOW - timedelta(seconds=draw(st.integers(0, 900))) if began else None,
            "steps": [{"id": 0, "weightPct": 0, "startedAt": NOW}],
        }
    )
    judgement = draw(
        st.none()
        | st.builds(
            judged,
            st.integers(0, 4),
            at=st.integers(0, 60).map(lambda s: NOW - timedelta(seconds=s)),
            warm=st.booleans(),
            harm=st.booleans(),
            passes=st.booleans(),
            allowed_weight_pct=st.floats(0, 100),
            stable_rps=st.floats(0, 1000),
            bad_replica=st.none() | st.just("r1"),
        )
    )
    request = draw(st.none() | st.sampled_from(["promote", "rollback"]))
    spec_ = spec(
        stable=draw(st.sampled_from([V1, None])) if not began else V1,
        paused=draw(st.booleans()),
        superseded_by=draw(st.none() | st.just("delay-9")),
        request=RolloutRequest(action=request, **ASKED) if request else None,
    )
    steps = draw(st.sampled_from(["auto", (10.0,), (1.0, 20.0, 60.0)]))
    canary = Strategy(canary=CanaryStrategy(steps=steps))
    world = observed(
        strategy=draw(st.sampled_from([canary, Strategy(all_at_once=AllAtOnceStrategy())])),
        replicas=tuple(
            replica(phase, i)
            for i, phase in enumerate(
                draw(st.lists(st.sampled_from(["Ready", "Starting", "Failed"]), max_size=2))
            )
        ),
        split=AppliedSplit({draw(st.sampled_from([UID, "other"])): draw(st.integers(-1, 4))}, NOW),
        judgement=judgement,
    )
    return spec_, status, world


@given(worlds())
def test_harm_means_weight_zero(world: Any) -> None:
    spec_, status, seen = world
    decision = decide_rollout(spec_, status, seen, now=NOW)
    judged_harmful = seen.judgement is not None and seen.judgement.harm
    if judged_harmful and status.phase not in FINISHED_ROLLOUT:
        assert decision.status.weight_pct == 0
        assert decision.status.phase in {"RolledBack", "Superseded"}


@given(worlds())
def test_the_weight_grows_only_on_fresh_evidence_of_an_acknowledged_step(world: Any) -> None:
    spec_, status, seen = world
    decision = decide_rollout(spec_, status, seen, now=NOW)
    grew = decision.status.weight_pct > status.weight_pct
    if not grew or status.weight_pct == 0:
        return  # the first step, also of a shadow that became a canary
    by_hand = decision.reason in {
        Reason.PROMOTE_REQUESTED, Reason.ALL_AT_ONCE, Reason.DEADLINE_PROMOTE,
    }  # fmt: skip
    if not by_hand:
        assert seen.split.steps.get(UID) == status.step_id
        assert seen.judgement is not None
        assert seen.judgement.step_id == status.step_id
        assert (NOW - seen.judgement.at).total_seconds() <= 15
        assert seen.judgement.passes or seen.judgement.allowed_weight_pct >= min(
            step for step in ramp_steps(seen.strategy.canary) if step > status.weight_pct
        )


@given(worlds())
def test_a_finished_rollout_never_moves(world: Any) -> None:
    spec_, status, seen = world
    if status.phase in FINISHED_ROLLOUT:
        decision = decide_rollout(spec_, status, seen, now=NOW)
        assert decision.status == status
        assert decision.requeue_after_s is None


@given(worlds())
def test_every_decision_explains_itself_and_unfinished_ones_look_again(world: Any) -> None:
    spec_, status, seen = world
    decision = decide_rollout(spec_, status, seen, now=NOW)
    if decision.status.phase in FINISHED_ROLLOUT:
        assert decision.requeue_after_s is None
    else:
        assert decision.requeue_after_s is not None
        assert decision.requeue_after_s > 0
        assert decision.status.reason == decision.reason.value
