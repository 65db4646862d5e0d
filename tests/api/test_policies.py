"""Policies through the API: what may be applied, what they refuse whichever way a version comes,
and what they would have decided."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from modelplane.controllers.loop import LEASE_NAME, Fence
from modelplane.controllers.promotion import PromotionController
from modelplane.resources.meta import API_VERSION
from modelplane.resources.promotion import Promotion
from modelplane.resources.rollout import Rollout
from tests.api.world import READER, World
from tests.decisions.gates import approval_policy, pipeline, policy

POLICY = {"apiVersion": API_VERSION, "kind": "PromotionPolicy"}


async def apply(world: World, resource: Any) -> httpx.Response:
    path = f"/{resource.plural}/{resource.metadata.name}"
    body = {"metadata": {"name": resource.metadata.name}, "spec": resource.spec.to_dict()}
    return await world.call("PUT", path, body)


async def decide(world: World) -> None:
    """Let the promotion controller do all it can."""
    lease = await world.store.claim(LEASE_NAME, "test", 3600)
    fence = Fence()
    fence.set(lease)
    controller = PromotionController(world.store, fence, world.clock)
    for _ in range(4):
        for promotion in (await world.store.list(Promotion))[0]:
            await controller.reconcile(promotion.key)


async def faults(world: World, resource: Any) -> dict[str, str]:
    response = await apply(world, resource)
    assert response.status_code == 422, response.text
    return {fault["path"]: fault["message"] for fault in response.json()["fields"]}


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        (
            {"conditions": ["metrics.acuracy >= 0.9"]},
            "spec.conditions[0].expression",
            ["no stage of its pipelines measures 'acuracy'", "'accuracy'", "accuracy, rows"],
        ),
        ({"conditions": ["metrics.accuracy"]}, "spec.conditions[0].expression", ["a number"]),
        ({"conditions": ["version.autor == 'x'"]}, "spec.conditions[0].expression",
         ["line 1, column 1", "did you mean 'version.author'?"]),
        ({"conditions": ["data.flihgts.rows > 1"]}, "spec.conditions[0].expression",
         ["did you mean 'data.flights.rows'?"]),
        ({"conditions": ["true", "1 +"]}, "spec.conditions[1].expression", ["Syntax error"]),
        ({"pipelines": ["check"]}, "spec.pipelines[0]", ["there are: checks"]),
        ({"environments": ["prod"]}, "spec.environments[0]", ["production, staging"]),
        ({"freezes": [{"days": ["sat"], "timezone": "Europe/Berlyn"}]},
         "spec.freezes[0].timezone", ["no time zone"]),
        ({"aliases": ["v3"]}, "spec.aliases[0]", ["mistaken for a version"]),
    ],
)  # fmt: skip
async def test_a_policy_that_cannot_mean_anything_is_refused_with_the_place(
    world: World, changes: dict[str, Any], path: str, words: list[str]
) -> None:
    await apply(world, pipeline())
    await world.ok("PUT", "/datasets/flights", {"metadata": {"name": "flights"}})
    wanted = {"pipelines": ["checks"], **changes}
    found = await faults(world, policy(**wanted))
    assert set(found) == {path}
    for word in words:
        assert word in found[path]


async def test_a_metric_without_a_pipeline_says_what_to_do(world: World) -> None:
    found = await faults(world, policy(conditions=["metrics.accuracy > 0.9"]))
    assert "version.metrics.accuracy" in found["spec.conditions[0].expression"]


async def test_two_stages_that_measure_the_same_must_be_told_apart(world: World) -> None:
    await apply(world, pipeline(day={"accuracy": {}}, night={"accuracy": {}}))
    wanted = policy(pipelines=["checks"], conditions=["metrics.accuracy > 0.9"])
    message = (await faults(world, wanted))["spec.conditions[0].expression"]
    assert "stages.day.accuracy, stages.night.accuracy" in message
    told = policy(pipelines=["checks"], conditions=["stages.day.accuracy > 0.9"])
    assert (await apply(world, told)).status_code == 200


async def test_an_approval_policy_with_an_unknown_metric_is_refused(world: World) -> None:
    await apply(world, pipeline())
    assert (await apply(world, approval_policy(threshold={"accuracy": "92%"}))).status_code == 200
    assert "spec.threshold.recall" in await faults(world, approval_policy(threshold={"recall": 1}))


async def test_a_pipeline_that_a_policy_rests_on_stays_what_it_needs(world: World) -> None:
    await apply(world, pipeline())
    await apply(world, policy(pipelines=["checks"], conditions=["metrics.accuracy > 0.9"]))
    found = await faults(world, pipeline(quality={"latency": {}}))
    assert "PromotionPolicy guard needs it" in found["spec.stages"]
    assert (await apply(world, pipeline(other={"accuracy": {}}))).status_code == 200
    response = await world.call("DELETE", "/validation-pipelines/checks")
    assert response.status_code == 409
    assert "required by PromotionPolicy guard" in response.text
    await world.ok("DELETE", "/promotion-policies/guard")
    await world.ok("DELETE", "/validation-pipelines/checks")


async def _by_apply(world: World) -> None:
    await world.deploy("fraud", version="2.0.0")


async def _by_promote(world: World) -> None:
    body = {"version": "2.0.0", "to": "production"}
    await world.ok("POST", "/model-deployments/fraud:promote", body)


async def _by_publishing(world: World) -> None:
    body = {"id": "fraud@2.0.0", "status": "production"}
    assert (await world.call("PUT", "/v1/models", body)).status_code == 202


async def _by_mlflow(world: World) -> None:
    body = {"name": "fraud", "version": "2", "stage": "Production"}
    response = await world.http.post(
        "/api/2.0/mlflow/model-versions/transition-stage", json=body,
        headers={"authorization": "Bearer secret-of-admin"},
    )  # fmt: skip
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("way", [_by_apply, _by_promote, _by_publishing, _by_mlflow])
async def test_no_way_in_leads_past_a_policy(world: World, way: Any) -> None:
    await world.push("fraud", "1.0.0")
    await world.deploy("fraud", version="1.0.0")
    await decide(world)
    rollouts = (await world.store.list(Rollout))[0]
    await apply(world, policy(conditions=["version.tags['risk'] == 'low'"]))
    await world.push("fraud", "2.0.0")
    await way(world)
    await decide(world)
    promotion = await world.store.get(Promotion, "fraud-2", "production")
    assert (promotion.spec.revision.version, promotion.status.phase) == ("2.0.0", "Refused")
    assert "version.tags['risk'] == 'low' is not true" in promotion.status.message
    assert (await world.store.list(Rollout))[0] == rollouts


async def test_trying_says_what_would_be_decided_and_changes_nothing(world: World) -> None:
    await world.push("fraud", "1.0.0")
    await apply(world, pipeline())
    await apply(world, policy(pipelines=["checks"]))
    before = world.store.newest_version()
    ask = {"version": "fraud@latest", "environment": "production"}
    tried = await world.ok("POST", "/policies:test", ask)
    assert (tried["phase"], tried["gates"][0]["pipeline"]) == ("Validating", "checks")
    proposed = {
        **POLICY, "metadata": {"name": "guard"},
        "spec": {"environments": ["production"], "conditions": [{"expression": "false"}]},
    }  # fmt: skip
    tried = await world.ok("POST", "/policies:test", {**ask, "documents": [proposed]})
    assert (tried["phase"], tried["reason"]) == ("Refused", "PolicyRefused")
    open_ = {**proposed, "spec": {"environments": ["staging"]}}
    tried = await world.ok("POST", "/policies:test", {**ask, "documents": [open_]})
    assert tried["phase"] == "Approved"
    assert world.store.newest_version() == before


async def test_replay_shows_what_would_flip_and_changes_nothing(world: World) -> None:
    for version, risk in (("1.0.0", "low"), ("2.0.0", "high")):
        await world.push("fraud", version, tags={"risk": risk})
        await world.deploy("fraud", version=version)
        await decide(world)
    before = world.store.newest_version()
    proposed = {
        **POLICY, "metadata": {"name": "low-risk"},
        "spec": {
            "environments": ["production"],
            "conditions": [{"expression": "version.tags['risk'] == 'low'"}],
        },
    }  # fmt: skip
    found = await world.ok("POST", "/policies:replay", {"documents": [proposed]})
    assert {i["version"]: (i["was"], i["would"], i["flips"]) for i in found["items"]} == {
        "1.0.0": ("allowed", "allowed", False),
        "2.0.0": ("allowed", "refused", True),
    }
    assert (found["flips"], found["promotions"]) == (1, 2)
    assert found["counts"] == {"allowed-allowed": 1, "allowed-refused": 1}
    assert world.store.newest_version() == before
    since = world.clock.now().replace(year=2100).isoformat()
    later = await world.ok("POST", "/policies:replay", {"documents": [proposed], "since": since})
    assert later["items"] == []


@pytest.mark.parametrize("path", ["/policies:replay", "/policies:test"])
async def test_what_is_no_policy_is_refused(world: World, path: str) -> None:
    await world.push("fraud", "1.0.0")
    body = {"version": "fraud@1.0.0", "environment": "production"} if "test" in path else {}
    wrong: list[Any] = [
        {"apiVersion": API_VERSION, "kind": "Model", "metadata": {"name": "x"}},
        {**POLICY, "metadata": {"name": "x"}, "spec": {}},
        {**POLICY, "metadata": {"name": "x"},
         "spec": {"environments": ["production"], "conditions": [{"expression": "nope"}]}},
    ]  # fmt: skip
    for document in wrong:
        response = await world.call("POST", path, {**body, "documents": [document]})
        assert response.status_code == 422, response.text


async def test_who_may_read_promotions_may_try_policies(world: World) -> None:
    response = await world.call("POST", "/policies:replay", {}, token=READER)
    assert response.status_code == 200
    assert (await world.call("POST", "/policies:replay", {}, token=None)).status_code == 401
