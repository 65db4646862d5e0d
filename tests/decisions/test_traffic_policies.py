"""What applying a traffic policy does, and what ends one: tables and properties."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.admission import Asked
from modelplane.decisions.inputs import input_types
from modelplane.decisions.notification_text import describe_event
from modelplane.decisions.promotion_events import event_of
from modelplane.decisions.traffic_policies import (
    MAX_POLICIES,
    PolicyAdmission,
    PolicySituation,
    admit_policy,
    choose_policy_deployment,
    end_lanes,
    lanes_of,
    obsolete_lanes,
    share_pct,
    versions_of,
)
from modelplane.decisions.traffic_policy_status import decide_status
from modelplane.errors import InvalidResource
from modelplane.resources.environment import Environment, EnvironmentSpec
from modelplane.resources.manifest import read_document
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.model import Model, ModelSpec, ModelVersion, ModelVersionSpec
from modelplane.resources.model_deployment import Lane, ModelDeployment
from modelplane.resources.promotion import FINISHED_PROMOTION, Promotion
from modelplane.resources.rollout import Rollout
from modelplane.resources.traffic_policy import TrafficPolicy
from tests.decisions.worlds import NOW, V1, deployment, metadata, revision, rollout

ASKED = Asked(Subject(name="ana"), NOW)
PRODUCTION = Environment(
    metadata=Metadata(name="production"),
    spec=EnvironmentSpec.model_validate({"stage": "production", "gateway": {"port": 7082}}),
)


def policy(name: str = "west", version: str = "2.0.0", **fields: Any) -> TrafficPolicy:
    body = {"name": name, "model_name": "delay", "version": version, **fields}
    body.setdefault("traffic_rule", {"canary": {"percentage": 10}})
    declared = read_document({key: value for key, value in body.items() if value is not None})
    assert isinstance(declared, TrafficPolicy)
    return declared


def record(version: str, signature: dict[str, Any] | None = None) -> ModelVersion:
    spec = ModelVersionSpec(
        model="delay", version=version, artifact=revision(version).artifact, signature=signature
    )
    return ModelVersion(metadata=Metadata(name=f"delay@{version}"), spec=spec)


def situation(
    of: TrafficPolicy, around: ModelDeployment | None = None, **fields: Any
) -> PolicySituation:
    versions = {written: record(written) for written in versions_of(of)}
    around = around or deployment(promotions=1, promotion="delay-1")
    return PolicySituation(PRODUCTION, around, **{"versions": versions, **fields})


def admit(of: TrafficPolicy, **fields: Any) -> PolicyAdmission:
    explicit = fields.pop("explicit", False)
    return admit_policy(of, situation(of, **fields), ASKED, explicit=explicit)


def promotion(admission: PolicyAdmission, phase: str) -> dict[str, Promotion]:
    """What the lanes of an admission hold later on."""
    return {p.spec.lane: p.with_status(phase=phase) for p in admission.promotions}


def test_a_version_gets_a_lane_and_a_promotion_and_the_deployment_s_own_stays() -> None:
    admission = admit(policy())
    (made,) = admission.promotions
    assert (made.metadata.name, made.spec.lane, made.spec.ordinal) == ("delay-2", "west/2.0.0", 2)
    status = admission.deployment.status
    assert (status.promotion, status.promotions) == ("delay-1", 2)
    assert status.lanes == {"west/2.0.0": Lane(promotion="delay-2")}
    assert admission.policy.spec.deployment == "delay"
    assert admission.policy.metadata.labels == {"deployment": "delay"}


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize(
    "phase", ["Requested", "RollingOut", "Done", "RolledBack", "Superseded", "Refused"]
)
def test_only_an_explicit_wish_tries_again_what_is_over(phase: str, explicit: bool) -> None:
    first = admit(policy())
    again = admit(
        policy(),
        around=first.deployment,
        existing=first.policy,
        latest=promotion(first, phase),
        explicit=explicit,
    )
    assert bool(again.promotions) == (explicit and phase in FINISHED_PROMOTION)
    assert (again.result == "unchanged") == (not again.promotions)


def test_a_revision_that_has_changed_is_promoted_anew() -> None:
    first = admit(policy())
    changed = first.deployment.with_spec(env={"THREADS": "2"})
    latest = promotion(first, "RolledBack")
    again = admit(policy(), around=changed, existing=first.policy, latest=latest)
    assert [p.spec.ordinal for p in again.promotions] == [3]


def test_arms_that_go_are_ended_and_arms_that_come_are_promoted() -> None:
    def test_of(*versions: str) -> TrafficPolicy:
        arms = [{"version": version, "percentage": 10} for version in versions]
        return policy(version=None, traffic_rule={"ab": {"arms": arms}})  # type: ignore[arg-type]

    first = admit(test_of("2.0.0", "3.0.0"))
    assert [p.spec.lane for p in first.promotions] == ["west/2.0.0", "west/3.0.0"]
    assert [p.metadata.name for p in first.promotions] == ["delay-2", "delay-3"]
    began = rollout(lane="west/2.0.0")
    lanes = first.deployment.status.lanes
    entry = lanes["west/2.0.0"].with_(rollout=began.metadata.name)
    around = first.deployment.with_status(lanes={**lanes, "west/2.0.0": entry})
    again = admit(
        test_of("3.0.0", "4.0.0"),
        around=around,
        existing=first.policy,
        latest=promotion(first, "RollingOut"),
        running=[began],
    )
    assert [p.spec.lane for p in again.promotions] == ["west/4.0.0"]
    (asked,) = again.ended
    assert asked.spec.request is not None
    assert asked.spec.request.action == "rollback"
    assert again.deployment.status.lanes == {
        "west/2.0.0": Lane(promotion="", rollout="delay-2"),
        "west/3.0.0": Lane(promotion="delay-3"),
        "west/4.0.0": Lane(promotion="delay-4"),
    }


def test_a_predicate_may_name_the_inputs_of_stable_and_of_the_version() -> None:
    def signature(name: str) -> dict[str, Any]:
        return {"inputs": [{"name": name, "datatype": "FP64", "shape": [-1]}]}

    rule = {"canary": {"percentage": 10, "predicate": "input.amount > 5 && input.age > 18"}}
    declared = policy(traffic_rule=rule)
    known = {"serving": record("1.0.0", signature("amount"))}
    admit(declared, versions={"2.0.0": record("2.0.0", signature("age"))}, **known)
    admit(declared)
    with pytest.raises(InvalidResource) as raised:
        admit(declared, versions={"2.0.0": record("2.0.0", signature("aje"))}, **known)
    (fault,) = raised.value.fields
    assert fault.path == "spec.trafficRule.canary.predicate"
    assert "line 1, column 21" in fault.message


@pytest.mark.parametrize("count", [MAX_POLICIES - 1, MAX_POLICIES])
def test_policies_of_one_deployment_are_bounded(count: int) -> None:
    others = [policy(f"p{i}", traffic_rule={"shadow": {}}) for i in range(count)]
    if count < MAX_POLICIES:
        assert admit(policy(), others=others).promotions
    else:
        with pytest.raises(InvalidResource, match="the most there can be"):
            admit(policy(), others=others)


PREDICATES = st.sampled_from(["", "user.region == 'w'", "user.region == 'e'"])


@given(st.lists(st.tuples(st.integers(1, 99), PREDICATES), min_size=1, max_size=6))
def test_nobody_is_ever_promised_more_users_than_there_are(
    wanted: list[tuple[int, str]],
) -> None:
    admitted: list[TrafficPolicy] = []
    for index, (percentage, predicate) in enumerate(wanted):
        rule = {"canary": {"percentage": percentage, "predicate": predicate}}
        declared = policy(f"p{index}", f"2.0.{index}", traffic_rule=rule)
        try:
            admitted.append(admit(declared, others=list(admitted)).policy)
        except InvalidResource:
            continue
    for predicate in {"", *(p.spec.traffic_rule.predicate for p in admitted)}:
        rules = [p.spec.traffic_rule for p in admitted]
        assert sum(share_pct(r) for r in rules if r.predicate in {predicate, ""}) <= 100
    assert admitted, "the first one always fits"


LANES = ["west/2.0.0", "west/3.0.0", "east/4.0.0"]
ROLLOUTS = st.fixed_dictionaries(
    {lane: st.sampled_from([None, "Ramping", "RolledBack"]) for lane in LANES}
)


@given(ROLLOUTS, st.sets(st.sampled_from(LANES)))
def test_ending_lanes_asks_back_what_runs_and_twice_is_once(
    found: dict[str, str | None], ended: set[str]
) -> None:
    rollouts = {
        lane: rollout(phase, lane=lane).with_(metadata=metadata(f"r{index}"))
        for index, (lane, phase) in enumerate(found.items())
        if phase is not None
    }
    lanes = {
        lane: Lane(
            promotion="p", rollout=rollouts[lane].metadata.name if lane in rollouts else None
        )
        for lane in LANES
    }
    before = deployment(lanes=lanes)
    running = [r for r in rollouts.values() if not r.finished]
    left, asked = end_lanes(before, ended, running, why="gone", now=NOW)
    assert {r.spec.lane for r in asked} == {r.spec.lane for r in running} & ended
    assert {lane: left.status.lanes[lane] for lane in LANES if lane not in ended} == {
        lane: lanes[lane] for lane in LANES if lane not in ended
    }, "the others are left alone"
    assert {lane for lane in ended if lane in left.status.lanes} == {r.spec.lane for r in asked}
    known = {r.metadata.name: r for r in asked}
    now_running = [known.get(r.metadata.name, r) for r in running]
    assert end_lanes(left, ended, now_running, why="gone", now=NOW) == (left, ())


def test_lanes_of_policies_that_are_declared_are_not_obsolete() -> None:
    lanes = {lane: Lane(promotion="p") for lane in LANES}
    declared = [policy("west", "3.0.0")]
    assert lanes_of(declared[0]) == ("west/3.0.0",)
    assert obsolete_lanes(deployment(lanes=lanes), declared) == ["west/2.0.0", "east/4.0.0"]


def test_a_policy_says_which_deployment_it_means_or_which_there_are() -> None:
    delay, other = deployment(), deployment()
    other = other.with_(metadata=metadata("delay-eu"))
    assert choose_policy_deployment(policy(), [delay]) == delay
    assert choose_policy_deployment(policy(deployment="delay-eu"), [delay, other]) == other
    for declared, deployments, says in (
        (policy(), [delay, other], "delay, delay-eu"),
        (policy(), [], "served are: none"),
        (policy(deployment="dely"), [delay], "there are: delay"),
        (policy(deployment="delay", model_name="fraud"), [delay], "serves 'delay'"),
    ):
        with pytest.raises(InvalidResource) as raised:
            choose_policy_deployment(declared, deployments)
        assert says in str(raised.value)


def test_types_of_inputs_come_from_the_first_signature_that_tells() -> None:
    def of(name: str, datatype: str) -> dict[str, Any]:
        return {"inputs": [{"name": name, "datatype": datatype}]}

    signatures = [None, of("a", "BYTES"), of("a", "FP32"), of("b", "BOOL"), {"inputs": "x"}]
    assert input_types(signatures) == {"a": "text", "b": "truth"}


@pytest.mark.parametrize(
    ("promotion_phase", "rollout_phase", "phase"),
    [
        ("Requested", None, "Waiting"),
        ("AwaitingApproval", None, "Waiting"),
        ("RollingOut", "Deploying", "Active"),
        ("RollingOut", "Ramping", "Active"),
        ("RolledBack", "RolledBack", "Ended"),
        ("Superseded", "Superseded", "Ended"),
        ("Done", "Concluded", "Ended"),
        ("Refused", None, "Refused"),
        ("Rejected", None, "Refused"),
    ],
)
def test_the_phase_of_a_policy(promotion_phase: str, rollout_phase: str | None, phase: str) -> None:
    admission = admit(policy())
    (made,) = admission.promotions
    began: dict[str, Rollout] = {}
    if rollout_phase is not None:
        began = {"delay-2": rollout(rollout_phase, lane="west/2.0.0")}
    made = made.with_status(phase=promotion_phase, rollout=next(iter(began), None))
    status = decide_status(
        admission.policy,
        admission.deployment,
        {made.metadata.name: made},
        began,
        None,
        now=NOW,
    )
    assert status.phase == phase
    (arm,) = status.arms
    assert arm.promotion == "delay-2"
    assert arm.phase == (rollout_phase or promotion_phase)
    shown = admission.policy.with_(status=status)
    again = decide_status(
        shown, admission.deployment, {made.metadata.name: made}, began, None, now=NOW
    )
    assert again == status


def test_a_version_that_serves_ends_its_policy() -> None:
    admission = admit(policy(version="1.0.0"))
    assert admission.promotions == ()
    status = decide_status(admission.policy, deployment(V1), {}, {}, None, now=NOW)
    assert (status.phase, status.message) == ("Ended", "1.0.0 serves everybody")


def test_a_policy_whose_version_served_and_was_replaced_has_ended() -> None:
    applied = admit(policy(version="1.0.0")).policy
    served = decide_status(applied, deployment(V1), {}, {}, None, now=NOW)
    other = deployment(revision("2.0.0"))
    replaced = decide_status(applied.with_(status=served), other, {}, {}, None, now=NOW)
    assert replaced.phase == "Ended"
    assert "apply the policy again" in replaced.message
    again = decide_status(applied.with_(status=replaced), other, {}, {}, None, now=NOW)
    assert again == replaced


def test_people_are_told_which_policy_asked() -> None:
    (made,) = admit(policy()).promotions
    done = made.with_status(phase="Done", reason="TestOver", message="the test is over, pass")
    model = Model(metadata=Metadata(name="delay"), spec=ModelSpec())
    event = event_of(made, done, model, NOW)
    assert event is not None
    assert ("Traffic policy", "west") in describe_event(event).facts
    own = made.with_spec(lane="")
    event = event_of(own, own.with_status(phase="Done"), model, NOW)
    assert event is not None
    assert "trafficPolicy" not in event.data
