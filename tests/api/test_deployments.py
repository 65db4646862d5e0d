"""Applying, promoting and undoing deployments through the API, as people do."""

from __future__ import annotations

from typing import Any

import pytest

from modelplane.ports.store import Transaction
from modelplane.resources.meta import Metadata
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import Promotion
from modelplane.resources.rollout import Rollout, RolloutSpec
from tests.api.world import SYSTEM, World


async def finish(world: World, name: str, phase: str, environment: str = "production") -> None:
    """Play the controllers: end the deployment's latest promotion with a rollout in `phase`."""
    deployment = await world.store.get(ModelDeployment, name, environment)
    assert deployment.status.promotion
    promotion = await world.store.get(Promotion, deployment.status.promotion, environment)
    ordinal = deployment.status.rollouts + 1
    rollout_name = f"{name}-{ordinal}"
    spec = RolloutSpec(
        deployment=name,
        promotion=promotion.metadata.name,
        ordinal=ordinal,
        stable=deployment.status.stable,
        candidate=promotion.spec.revision,
    )
    rollout = Rollout(metadata=Metadata(name=rollout_name, environment=environment), spec=spec)
    ends = {"Promoted": "Done", "Ramping": "RollingOut"}
    status: dict[str, Any] = {"rollouts": ordinal, "rollout": rollout_name}
    if phase == "Promoted":
        status["stable"] = promotion.spec.revision
    transaction = Transaction(SYSTEM)
    transaction.create(rollout.with_status(phase=phase))
    transaction.update(promotion.with_status(phase=ends.get(phase, phase)))
    transaction.update(deployment.with_status(**status))
    await world.store.commit(transaction)


async def test_a_first_apply_stores_the_deployment_and_asks_for_its_version(world: World) -> None:
    await world.push("fraud", "1.2.0")
    answer = await world.deploy("fraud", replicas=2)
    assert answer["result"] == "created"
    assert answer["resource"]["spec"]["version"] == "1.2.0"
    annotations = answer["resource"]["metadata"]["annotations"]
    assert annotations["modelplane.dev/requested-version"] == "latest"
    promotion = await world.store.get(Promotion, "fraud-1", "production")
    assert promotion.spec.revision.version == "1.2.0"
    assert promotion.spec.subject.name == "admin"
    assert promotion.spec.requested_version == "latest"
    assert answer["warnings"] == list(promotion.spec.warnings)
    assert "without having been in staging" in answer["warnings"][0]


async def test_applying_the_same_again_does_nothing_even_after_a_rollback(world: World) -> None:
    await world.push("fraud", "1.0.0")
    await world.deploy("fraud", version="1.0.0")
    await finish(world, "fraud", "Promoted")
    await world.push("fraud", "2.0.0")
    await world.deploy("fraud", version="2.0.0")
    await finish(world, "fraud", "RolledBack")
    before = await world.store.audit()
    answer = await world.deploy("fraud", version="2.0.0")
    assert answer["result"] == "unchanged"
    assert answer["promotion"] is None
    assert await world.store.audit() == before, "nothing was written"


async def test_replicas_and_strategy_change_in_place(world: World) -> None:
    await world.push("fraud", "1.0.0")
    await world.deploy("fraud", version="1.0.0")
    answer = await world.deploy("fraud", version="1.0.0", replicas=3, canaryTraffic="10%")
    assert (answer["result"], answer["promotion"]) == ("changed", None)
    stored = await world.store.get(ModelDeployment, "fraud", "production")
    assert stored.spec.replicas == 3
    assert stored.status.promotions == 1
    assert stored.metadata.generation == 2


@pytest.mark.parametrize(
    "change",
    [
        {"version": "2.0.0"},
        {"env": {"THRESHOLD": "0.7"}},
        {"requirements": "scikit-learn==1.6.1"},
        {"resources": {"memory": "1Gi"}},
        {"metricsEndpoint": "/metrics"},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_whatever_changes_behaviour_takes_a_promotion(
    world: World, change: dict[str, Any]
) -> None:
    await world.push("fraud", "1.0.0")
    await world.push("fraud", "2.0.0")
    await world.deploy("fraud", version="1.0.0")
    await finish(world, "fraud", "Promoted")
    answer = await world.deploy("fraud", **{"version": "1.0.0", **change})
    assert answer["promotion"]["metadata"]["name"] == "fraud-2"


async def test_promote_copies_the_deployment_from_the_environment_before(world: World) -> None:
    await world.push("fraud", "1.0.0")
    await world.deploy("fraud", "staging", version="1.0.0", replicas=2)
    await finish(world, "fraud", "Promoted", "staging")
    answer = await world.ok(
        "POST",
        "/model-deployments/fraud:promote",
        {"version": "v1.0.0", "to": "production", "reason": "passed review"},
    )
    assert answer["result"] == "created"
    assert answer["warnings"] == [], "it has been in staging"
    assert answer["resource"]["spec"]["replicas"] == 2
    assert answer["resource"]["metadata"]["environment"] == "production"
    assert answer["promotion"]["spec"]["reason"] == "passed review"
    again = await world.ok(
        "POST", "/model-deployments/fraud:promote", {"version": "1.0.0", "to": "production"}
    )
    assert again["result"] == "unchanged"
    assert "already on its way" in again["warnings"][0]


async def test_promote_without_a_version_takes_what_serves_before(world: World) -> None:
    await world.push("fraud", "1.0.0")
    await world.deploy("fraud", "staging", version="1.0.0")
    await finish(world, "fraud", "Promoted", "staging")
    await world.push("fraud", "2.0.0")
    answer = await world.ok("POST", "/model-deployments/fraud:promote", {"to": "production"})
    assert answer["resource"]["spec"]["version"] == "1.0.0"


async def test_promote_tries_again_what_was_rolled_back(world: World) -> None:
    await world.push("fraud", "1.0.0")
    await world.deploy("fraud", version="1.0.0")
    await finish(world, "fraud", "Promoted")
    await world.push("fraud", "2.0.0")
    await world.deploy("fraud")
    await finish(world, "fraud", "RolledBack")
    answer = await world.ok("POST", "/model-deployments/fraud:promote", {"version": "2.0.0"})
    assert answer["promotion"]["metadata"]["name"] == "fraud-3"


async def test_promoting_what_exists_nowhere_says_so(world: World) -> None:
    response = await world.call("POST", "/model-deployments/fraud:promote", {"to": "production"})
    assert response.status_code == 404
    assert "modelplane apply" in response.json()["hint"]


async def test_undo_goes_back_and_the_manifest_does_not_bring_it_again(world: World) -> None:
    for version in ("1.0.0", "2.0.0"):
        await world.push("fraud", version)
        await world.deploy("fraud", version=version)
        await finish(world, "fraud", "Promoted")
    answer = await world.ok("POST", "/model-deployments/fraud:undo", {"reason": "wrong sums"})
    assert answer["promotion"]["spec"]["revision"]["version"] == "1.0.0"
    twice = await world.ok("POST", "/model-deployments/fraud:undo")
    assert twice["result"] == "unchanged"
    await finish(world, "fraud", "Promoted")
    assert (await world.deploy("fraud", version="2.0.0"))["result"] == "unchanged"


async def test_undo_with_nothing_before_is_a_conflict(world: World) -> None:
    await world.push("fraud", "1.0.0")
    await world.deploy("fraud", version="1.0.0")
    await finish(world, "fraud", "Promoted")
    response = await world.call("POST", "/model-deployments/fraud:undo")
    assert response.status_code == 409
    assert "no other version" in response.json()["detail"]


async def test_people_pause_resume_and_end_a_rollout(world: World) -> None:
    await world.push("fraud", "1.0.0")
    await world.deploy("fraud", version="1.0.0")
    await finish(world, "fraud", "Ramping")
    path = "/model-deployments/fraud"
    assert (await world.ok("POST", f"{path}:pause"))["resource"]["spec"]["paused"] is True
    assert (await world.ok("POST", f"{path}:pause"))["result"] == "unchanged"
    assert (await world.ok("POST", "/rollouts/fraud-1:resume"))["result"] == "changed"
    asked = await world.ok("POST", f"{path}:rollback", {"reason": "odd scores"})
    request = asked["resource"]["spec"]["request"]
    assert (request["action"], request["subject"], request["reason"]) == (
        "rollback",
        "admin",
        "odd scores",
    )
    refused = await world.call("POST", f"{path}:promote-rollout")
    assert refused.status_code == 409


async def test_of_several_rollouts_one_has_to_be_named(world: World) -> None:
    await world.push("fraud", "1.0.0")
    await world.deploy("fraud", version="1.0.0")
    await finish(world, "fraud", "Ramping")
    (own,) = (await world.store.list(Rollout))[0]
    beside = Rollout(
        metadata=Metadata(name="fraud-2", environment="production"),
        spec=own.spec.with_(
            ordinal=2, lane="west/2.0.0", candidate=own.spec.candidate.with_(version="2.0.0")
        ),
        status=own.status,
    )
    transaction = Transaction(SYSTEM)
    transaction.create(beside)
    await world.store.commit(transaction)
    path = "/model-deployments/fraud:pause"
    refused = await world.call("POST", path)
    assert refused.status_code == 422
    assert "fraud-1 (1.0.0), fraud-2 (2.0.0)" in str(refused.json())
    for which, name in (
        ({"version": "2.0.0"}, "fraud-2"),
        ({"rollout": "fraud-1"}, "fraud-1"),
    ):
        paused = await world.ok("POST", path, which)
        assert paused["resource"]["metadata"]["name"] == name
    unknown = await world.call("POST", path, {"version": "9.9.9"})
    assert unknown.status_code == 404
    assert "fraud-2 (2.0.0)" in unknown.json()["hint"]


async def test_a_test_between_versions_is_refused_as_a_strategy(world: World) -> None:
    await world.push("fraud", "1.0.0")
    ab = {"ab": {"arms": [{"version": "1.0.0", "percentage": 10}]}}
    body = {"metadata": {"name": "fraud"}, "spec": {"strategy": ab}}
    response = await world.call("PUT", "/model-deployments/fraud", body)
    assert response.status_code == 422
    assert "TrafficPolicy" in str(response.json())
    place = await world.ok("GET", "/environments/production")
    changed = {**place, "spec": {**place["spec"], "strategy": ab}}
    response = await world.call("PUT", "/environments/production", changed)
    assert response.status_code == 422
    assert "spec.strategy.ab" in str(response.json())


async def test_a_finished_rollout_takes_no_wishes(world: World) -> None:
    await world.push("fraud", "1.0.0")
    await world.deploy("fraud", version="1.0.0")
    await finish(world, "fraud", "Promoted")
    response = await world.call("POST", "/model-deployments/fraud:rollback")
    assert response.status_code == 409
    assert "rollout undo" in response.json()["hint"]


async def test_a_pickle_is_refused_where_the_environment_forbids_it(world: World) -> None:
    await world.push("fraud", "1.0.0", format="joblib")
    place = await world.ok("GET", "/environments/production")
    spec = {**place["spec"], "allowPickle": "never"}
    await world.ok("PUT", "/environments/production", {**place, "spec": spec})
    body = {"metadata": {"name": "fraud"}, "spec": {}}
    response = await world.call("PUT", "/model-deployments/fraud", body)
    assert response.status_code == 422
    assert "allowPickle" in response.json()["hint"]
    assert await world.store.find(ModelDeployment, "fraud", "production") is None


async def test_a_dry_run_says_what_would_happen_and_writes_nothing(world: World) -> None:
    await world.push("fraud", "1.0.0")
    before = await world.store.audit()
    body = {"metadata": {"name": "fraud"}, "spec": {"version": "1.0.0"}}
    answer = await world.ok("PUT", "/model-deployments/fraud", body, dryRun=1)
    assert answer["result"] == "created"
    assert answer["promotion"]["spec"]["revision"]["version"] == "1.0.0"
    assert await world.store.audit() == before


async def test_a_metric_without_labels_is_a_condition(world: World) -> None:
    await world.push("fraud", "1.0.0")
    canary = {"traffic": "10%", "analysis": {"metrics": ["latency", "precision"]}}
    answer = await world.deploy("fraud", strategy={"canary": canary})
    (condition,) = answer["resource"]["status"]["conditions"]
    assert (condition["type"], condition["status"]) == ("MetricUnavailable", "True")
    assert "precision" in condition["message"]
    again = await world.deploy("fraud", strategy={"canary": canary})
    assert again["result"] == "unchanged"


async def test_a_deployment_made_again_numbers_its_promotions_on(world: World) -> None:
    await world.push("fraud", "1.0.0")
    await world.deploy("fraud", version="1.0.0")
    await world.ok("DELETE", "/model-deployments/fraud")
    answer = await world.deploy("fraud", version="1.0.0")
    assert answer["promotion"]["metadata"]["name"] == "fraud-2"
