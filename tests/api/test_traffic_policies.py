"""Traffic policies through the API: the form that people post, what is refused, what ends."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from modelplane.ports.store import Transaction
from modelplane.resources.model_deployment import ModelDeployment, WarmRevision
from modelplane.resources.promotion import Promotion
from modelplane.resources.rollout import Judgement, Rollout
from modelplane.resources.traffic_policy import TrafficPolicy
from modelplane.resources.traffic_split import TrafficSplit
from tests.api.test_authorization import bind, make_member
from tests.api.test_deployments import finish
from tests.api.world import SYSTEM, World

SIGNATURE = {"inputs": [{"name": "amount", "datatype": "FP64", "shape": [-1, 1]}]}


def posted(version: str = "2.0.0", **fields: Any) -> dict[str, Any]:
    """The form of the issue."""
    return {
        "model_name": "fraud",
        "version": version,
        "traffic_rule": {"canary": {"percentage": 10, "predicate": "user.region == 'west'"}},
        "monitoring_hooks": ["latency_alert>95th", "drift_detection/enabled"],
        **fields,
    }


def rule(percentage: float, predicate: str = "") -> dict[str, Any]:
    return {"traffic_rule": {"canary": {"percentage": percentage, "predicate": predicate}}}


async def serve_fraud(world: World, *versions: str) -> None:
    """Have 1.0.0 serve in production, and further versions registered."""
    await world.push("fraud", "1.0.0", signature=SIGNATURE)
    await world.deploy("fraud", version="1.0.0")
    await finish(world, "fraud", "Promoted")
    for version in versions:
        await world.push("fraud", version, signature=SIGNATURE)


async def lanes(world: World) -> dict[str, str]:
    deployment = await world.store.get(ModelDeployment, "fraud", "production")
    return {lane: entry.promotion for lane, entry in deployment.status.lanes.items()}


async def begin_rollout(world: World, lane: str, phase: str = "Ramping") -> Rollout:
    """Play the controllers: begin the rollout of a lane's promotion."""
    deployment = await world.store.get(ModelDeployment, "fraud", "production")
    entry = deployment.status.lanes[lane]
    promotion = await world.store.get(Promotion, entry.promotion, "production")
    ordinal = deployment.status.rollouts + 1
    made = Rollout.model_validate(
        {
            "kind": "Rollout",
            "metadata": {"name": f"fraud-{ordinal}", "environment": "production"},
            "spec": {
                "deployment": "fraud",
                "promotion": entry.promotion,
                "ordinal": ordinal,
                "stable": deployment.status.stable,
                "candidate": promotion.spec.revision,
                "lane": lane,
            },
        }
    ).with_status(phase=phase)
    transaction = Transaction(SYSTEM)
    transaction.create(made)
    transaction.update(promotion.with_status(phase="RollingOut", rollout=made.metadata.name))
    begun = {**deployment.status.lanes, lane: entry.with_(rollout=made.metadata.name)}
    transaction.update(deployment.with_status(lanes=begun, rollouts=ordinal))
    await world.store.commit(transaction)
    return await world.store.get(Rollout, made.metadata.name, "production")


async def test_the_form_of_the_issue_asks_for_a_promotion_in_a_lane_of_its_own(
    world: World,
) -> None:
    await serve_fraud(world, "2.0.0")
    response = await world.call("POST", "/traffic-policies", posted())
    assert response.status_code == 201, response.text
    answer = response.json()
    assert answer["result"] == "created"
    policy = answer["resource"]
    assert policy["metadata"]["name"] == "fraud-2.0.0"
    assert policy["metadata"]["environment"] == "production"
    assert policy["spec"]["deployment"] == "fraud"
    assert policy["spec"]["trafficRule"]["canary"]["steps"] == [10]
    assert policy["spec"]["monitoringHooks"] == ["latency_alert>95th", "drift_detection/enabled"]
    assert answer["promotion"]["spec"]["lane"] == "fraud-2.0.0/2.0.0"
    assert await lanes(world) == {"fraud-2.0.0/2.0.0": "fraud-2"}
    assert any("drift" in warning for warning in answer["warnings"])
    deployment = await world.store.get(ModelDeployment, "fraud", "production")
    assert (deployment.status.promotion, deployment.status.promotions) == ("fraud-1", 2)


async def test_posting_it_again_changes_nothing_while_it_is_under_way(world: World) -> None:
    await serve_fraud(world, "2.0.0")
    await world.ok("POST", "/traffic-policies", posted())
    before = await world.store.audit()
    response = await world.call("POST", "/traffic-policies", posted())
    assert (response.status_code, response.json()["result"]) == (200, "unchanged")
    assert await world.store.audit() == before


async def test_a_changed_share_changes_the_policy_and_needs_no_promotion(world: World) -> None:
    await serve_fraud(world, "2.0.0")
    await world.ok("POST", "/traffic-policies", posted())
    answer = await world.ok("POST", "/traffic-policies", posted(**rule(25, "user.plan == 'a'")))
    assert (answer["result"], answer["promotion"]) == ("changed", None)
    assert answer["resource"]["spec"]["trafficRule"]["canary"]["steps"] == [25]
    assert await lanes(world) == {"fraud-2.0.0/2.0.0": "fraud-2"}


async def test_another_version_ends_the_lane_of_the_one_before(world: World) -> None:
    await serve_fraud(world, "2.0.0", "3.0.0")
    await world.ok("POST", "/traffic-policies", posted(name="west"))
    running = await begin_rollout(world, "west/2.0.0")
    answer = await world.ok("POST", "/traffic-policies", posted("latest", name="west"))
    assert answer["resource"]["spec"]["version"] == "3.0.0"
    assert await lanes(world) == {"west/2.0.0": "", "west/3.0.0": "fraud-3"}
    asked = await world.store.get(Rollout, running.metadata.name, "production")
    assert asked.spec.request is not None
    assert (asked.spec.request.action, asked.spec.request.subject) == (
        "rollback",
        "system:traffic-policy",
    )


async def test_deleting_a_policy_asks_its_rollout_back_in_the_same_transaction(
    world: World,
) -> None:
    await serve_fraud(world, "2.0.0")
    await world.ok("POST", "/traffic-policies", posted(name="west"))
    running = await begin_rollout(world, "west/2.0.0")
    deleted = await world.ok("DELETE", "/traffic-policies/west")
    assert (deleted["kind"], deleted["metadata"]["name"]) == ("TrafficPolicy", "west")
    asked = await world.store.get(Rollout, running.metadata.name, "production")
    assert asked.spec.request is not None
    assert asked.spec.request.reason == "traffic policy west was deleted by admin"
    assert await lanes(world) == {"west/2.0.0": ""}, "it stays known until it is over"
    assert await world.store.find(TrafficPolicy, "west", "production") is None


async def test_deleting_a_policy_that_only_waits_leaves_nothing(world: World) -> None:
    await serve_fraud(world, "2.0.0")
    await world.ok("POST", "/traffic-policies", posted(name="west"))
    await world.ok("DELETE", "/traffic-policies/west")
    assert await lanes(world) == {}


async def test_what_ended_stays_ended_when_applied_and_is_tried_again_when_posted(
    world: World,
) -> None:
    await serve_fraud(world, "2.0.0")
    await world.ok("POST", "/traffic-policies", posted(name="west"))
    promotion = await world.store.get(Promotion, "fraud-2", "production")
    transaction = Transaction(SYSTEM)
    transaction.update(promotion.with_status(phase="RolledBack"))
    await world.store.commit(transaction)
    answer = await world.ok("PUT", "/traffic-policies/west", posted())
    assert (answer["result"], answer["promotion"]) == ("unchanged", None)
    assert any("ended as RolledBack" in warning for warning in answer["warnings"])
    answer = await world.ok("POST", "/traffic-policies", posted(name="west"))
    assert answer["promotion"]["metadata"]["name"] == "fraud-3"
    assert await lanes(world) == {"west/2.0.0": "fraud-3"}


async def test_a_version_that_serves_already_needs_nothing(world: World) -> None:
    await serve_fraud(world)
    answer = await world.ok("POST", "/traffic-policies", posted("1.0.0"))
    assert (answer["result"], answer["promotion"]) == ("created", None)
    assert "1.0.0 already serves" in answer["warnings"]


async def test_each_arm_of_an_ab_test_has_a_promotion(world: World) -> None:
    await serve_fraud(world, "2.0.0", "3.0.0")
    arms = {"2.0": 10, "latest": "20%"}
    body = {"model_name": "fraud", "traffic_rule": {"A/B": {"arms": arms}}}
    answer = await world.ok("POST", "/traffic-policies", body)
    assert answer["resource"]["metadata"]["name"] == "fraud-ab"
    assert [a["version"] for a in answer["resource"]["spec"]["trafficRule"]["ab"]["arms"]] == [
        "2.0.0",
        "3.0.0",
    ]
    assert await lanes(world) == {"fraud-ab/2.0.0": "fraud-2", "fraud-ab/3.0.0": "fraud-3"}


REFUSALS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no such version": (posted("9.0.0"), "", "9.0.0"),
    "no such model": (posted(model_name="frod"), "model_name", "served are: fraud"),
    "no such deployment": (posted(deployment="frod"), "deployment", "there are: fraud"),
    "an unknown hook": (
        posted(monitoring_hooks=["latency_alert", "precision_alert"]),
        "monitoring_hooks[1]",
        "known are latency_alert",
    ),
    "an unknown input": (
        posted(**rule(10, "input.amuont > 5")),
        "traffic_rule.canary.predicate",
        "line 1, column",
    ),
    "a predicate of the wrong type": (
        posted(**rule(10, "input.amount == 'a'")),
        "traffic_rule.canary.predicate",
        "line 1, column",
    ),
    "no percentage": (posted(**rule(110)), "traffic_rule.canary.percentage", "between 0 and 100"),
    "an unknown strategy": (
        posted(traffic_rule={"cannary": {}}),
        "traffic_rule.cannary",
        "'canary'",
    ),
    "a strategy of deployments": (
        posted(traffic_rule="rolling"),
        "traffic_rule.rolling",
        "deployment's strategy",
    ),
    "an unknown field": (posted(colour="red"), "colour", "unknown field"),
    "another environment": (posted(environment="nowhere"), "metadata.environment", "staging"),
    "two arms of one version": (
        {
            "model_name": "fraud",
            "traffic_rule": {"ab": {"arms": {"2.0.0": 10, "2": 10}}},
        },
        "traffic_rule.ab.arms",
        "two arms mean one version",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_what_is_wrong_is_refused_in_the_words_of_the_body_and_changes_nothing(
    world: World, case: str
) -> None:
    body, path, says = REFUSALS[case]
    await serve_fraud(world, "2.0.0")
    before = await world.store.audit()
    response = await world.call("POST", "/traffic-policies", body)
    assert response.status_code in {404, 422}, response.text
    problem = response.json()
    told = {field["path"]: field["message"] for field in problem["fields"]}
    assert says in told.get(path, problem["detail"]), problem
    assert not path or path in told, problem
    assert await world.store.audit() == before, "nothing was written"


async def test_a_deployment_that_serves_nothing_yet_has_no_policies(world: World) -> None:
    await world.push("fraud", "1.0.0")
    await world.deploy("fraud", version="1.0.0")
    response = await world.call("POST", "/traffic-policies", posted("1.0.0"))
    assert response.status_code == 422
    assert "serves nothing yet" in response.text


async def test_more_than_all_users_under_one_predicate_are_refused(world: World) -> None:
    await serve_fraud(world, "2.0.0", "3.0.0", "4.0.0")
    west = "user.region == 'west'"
    await world.ok("POST", "/traffic-policies", posted(**rule(60, west)))
    response = await world.call("POST", "/traffic-policies", posted("3.0.0", **rule(50, west)))
    assert response.status_code == 422
    assert "110 %" in response.text
    await world.ok("POST", "/traffic-policies", posted("3.0.0", **rule(90, "user.region == 'n'")))
    response = await world.call("POST", "/traffic-policies", posted("4.0.0", **rule(20)))
    assert response.status_code == 422, "those without a predicate take from everybody"


async def test_one_version_is_under_way_once(world: World) -> None:
    await serve_fraud(world, "2.0.0")
    await world.ok("POST", "/traffic-policies", posted(name="west"))
    response = await world.call("POST", "/traffic-policies", posted(name="east", **rule(5)))
    assert response.status_code == 422
    assert "already under way by traffic policy west" in response.text


async def test_a_dry_run_says_what_would_happen(world: World) -> None:
    await serve_fraud(world, "2.0.0")
    before = await world.store.audit()
    answer = await world.ok("POST", "/traffic-policies", posted(), dryRun=True)
    assert answer["promotion"]["spec"]["lane"] == "fraud-2.0.0/2.0.0"
    assert await world.store.audit() == before


async def test_a_policy_is_a_promotion_so_it_takes_the_right_to_promote(world: World) -> None:
    await serve_fraud(world, "2.0.0")
    secret = await make_member(world, "dev", "devs")
    await bind(world, "devs", "developer", "devs")
    for place, status in (("production", 403), ("staging", 422)):
        response = await world.call(
            "POST", "/traffic-policies", posted(environment=place), token=secret
        )
        assert response.status_code == status, response.text


async def test_an_ab_test_is_no_strategy_of_a_deployment(world: World) -> None:
    await serve_fraud(world)
    body = {
        "metadata": {"name": "fraud"},
        "spec": {"strategy": {"ab": {"arms": [{"version": "2.0.0", "percentage": 10}]}}},
    }
    response = await world.call("PUT", "/model-deployments/fraud", body)
    assert response.status_code == 422
    assert "TrafficPolicy" in response.text


async def test_the_traffic_of_a_deployment_is_told_with_what_its_rollouts_did(
    world: World,
) -> None:
    await serve_fraud(world, "2.0.0")
    await world.ok("POST", "/traffic-policies", posted(name="west"))
    running = await begin_rollout(world, "west/2.0.0")
    stable = (await world.store.get(ModelDeployment, "fraud", "production")).status.stable
    assert stable is not None
    candidate = running.spec.candidate
    now = world.clock.now()
    split = TrafficSplit.model_validate(
        {
            "metadata": {"name": "fraud", "environment": "production"},
            "spec": {
                "deployment": "fraud",
                "variants": [
                    {"revision": of.digest, "version": of.version, "role": role, "weightPct": pct}
                    for of, role, pct in ((stable, "stable", 90), (candidate, "candidate", 10))
                ],
            },
        }
    )
    judgement = {"stepId": 1, "at": now, "candidateRequests": 500, "savedRequests": 37}
    transaction = Transaction(SYSTEM)
    transaction.create(split)
    made = Judgement.model_validate(judgement).to_dict()
    transaction.put_evidence(running.metadata.uid, {"judgement": made})
    await world.store.commit(transaction)
    sample = {
        "deployment": "fraud",
        "revision": candidate.digest[:10],
        "requests": 50,
        "failures": 9,
        "clientFailures": 1,
    }
    batch = {
        "environment": "production",
        "proxy": "production/n",
        "bootId": "b",
        "sequence": 1,
        "at": now.isoformat(),
        "seconds": 1,
        "samples": [sample],
    }
    await world.ok("POST", "/telemetry", batch)
    report = await world.ok("GET", "/model-deployments/fraud/traffic", seconds=60)
    assert report["shield"]["saved"] == 8
    versions = {version["version"]: version for version in report["versions"]}
    assert versions["2.0.0"]["counts"]["requests"] == 50
    assert versions["2.0.0"]["rollout"]["policy"] == "west"
    assert versions["2.0.0"]["rollout"]["saved"] == 37
    assert [rule["sharePct"] for rule in versions["2.0.0"]["rules"]] == [10]
    assert (report["gateway"]["generation"], report["gateway"]["acceptedGeneration"]) == (1, 0)


@pytest.mark.parametrize("kind", ["model-deployments/fraud", "environments/staging"])
async def test_a_predicate_of_any_declared_strategy_is_compiled_first(
    world: World, kind: str
) -> None:
    await serve_fraud(world)
    spec: dict[str, Any] = {"strategy": {"canary": {"predicate": "user.region == 5"}}}
    if kind.startswith("environments"):
        spec |= {"stage": "staging", "gateway": {"port": 7081}}
    response = await world.call("PUT", f"/{kind}", {"spec": spec})
    assert response.status_code == 422, response.text
    (field,) = response.json()["fields"]
    assert field["path"] == "spec.strategy.canary.predicate"
    assert "line 1, column" in field["message"]


async def test_an_environment_goes_only_after_its_policies(world: World) -> None:
    await serve_fraud(world, "2.0.0")
    await world.ok("POST", "/traffic-policies", posted())
    await world.ok("DELETE", "/model-deployments/fraud", environment="production")
    response = await world.call("DELETE", "/environments/production")
    assert response.status_code == 409, response.text
    assert "fraud-2.0.0" in response.text
    await world.ok("DELETE", "/traffic-policies/fraud-2.0.0", environment="production")
    await world.ok("DELETE", "/environments/production")


async def test_a_version_that_is_warm_is_kept(world: World) -> None:
    await serve_fraud(world, "2.0.0")
    before = await world.store.get(ModelDeployment, "fraud", "production")
    assert before.status.stable is not None
    await world.deploy("fraud", version="2.0.0")
    await finish(world, "fraud", "Promoted")
    now = world.clock.now()
    switched = await world.store.get(ModelDeployment, "fraud", "production")
    warm = WarmRevision(revision=before.status.stable, until=now + timedelta(seconds=60))
    transaction = Transaction(SYSTEM)
    transaction.update(switched.with_status(warm=warm))
    await world.store.commit(transaction)
    response = await world.call("DELETE", "/model-versions/fraud@1.0.0")
    assert response.status_code == 409, response.text
    world.clock.step(61)
    await world.ok("DELETE", "/model-versions/fraud@1.0.0")
