"""PUT /v1/models: what scripts send, and what comes of it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from modelplane.ports.store import Transaction
from modelplane.resources.model import Model, ModelVersion, Serving
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import Promotion
from tests.api.world import ADMIN, READER, SYSTEM, World


async def publish(world: World, content_type: str | None = None, **body: Any) -> httpx.Response:
    """Send what a script sends, with the content type its tool makes up."""
    headers = {"authorization": f"Bearer {ADMIN}"}
    if content_type is not None:
        headers["content-type"] = content_type
    content = json.dumps(body).encode()
    return await world.http.put("/v1/models", content=content, headers=headers)


async def deployed(world: World, environment: str = "production", name: str = "fraud") -> None:
    """Have versions 1.0.0 and 2.0.0, the first of them serving."""
    for version in ("1.0.0", "2.0.0"):
        await world.push("fraud", version)
    await world.deploy(name, environment, model="fraud", version="1.0.0")
    await finish(world, name, environment)


async def finish(world: World, name: str, environment: str = "production") -> None:
    """Let the latest promotion succeed, as the controllers would."""
    deployment = await world.store.get(ModelDeployment, name, environment)
    assert deployment.status.promotion is not None
    promotion = await world.store.get(Promotion, deployment.status.promotion, environment)
    transaction = Transaction(SYSTEM)
    transaction.update(promotion.with_status(phase="Done"))
    transaction.update(deployment.with_status(stable=promotion.spec.revision))
    await world.store.commit(transaction)


async def id_of(world: World, version: str = "2.0.0") -> str:
    return (await world.store.get(ModelVersion, f"fraud@{version}")).spec.id


@pytest.mark.parametrize(
    "content_type",
    [None, "application/json", "application/x-www-form-urlencoded", "text/plain; charset=utf-8"],
)
async def test_it_is_json_whatever_the_content_type_says(
    world: World, content_type: str | None
) -> None:
    await deployed(world)
    unique_id = await id_of(world)
    response = await publish(
        world, content_type, id=unique_id, status="production", reason="good in tests"
    )
    assert response.status_code == 202
    assert response.json() == {
        "id": unique_id, "name": "fraud", "version": "2.0.0", "status": "production",
        "environment": "production", "deployment": "fraud", "promotion": "fraud-2",
        "result": "changed", "warnings": [
            "fraud 2.0.0 goes to production without having been in staging"
        ],
    }  # fmt: skip
    promotion = await world.store.get(Promotion, "fraud-2", "production")
    assert promotion.spec.revision.version == "2.0.0"
    assert (promotion.spec.subject.name, promotion.spec.reason) == ("admin", "good in tests")


async def test_repeating_changes_nothing(world: World) -> None:
    await deployed(world)
    wanted = {"id": await id_of(world), "status": "production"}
    await publish(world, **wanted)
    before = await world.store.audit()
    again = await publish(world, **wanted)
    assert (again.status_code, again.json()["result"]) == (202, "unchanged")
    assert again.json()["promotion"] == "fraud-2"
    assert await world.store.audit() == before
    await finish(world, "fraud")
    before = await world.store.audit()
    after = await publish(world, **wanted)
    assert (after.status_code, after.json()["result"]) == (200, "unchanged")
    assert after.json()["promotion"] is None
    assert await world.store.audit() == before


@pytest.mark.parametrize(
    "named",
    [
        {"id": "fraud@2.0.0"},
        {"id": "fraud@2"},
        {"id": "fraud@latest"},
        {"name": "fraud", "version": "2.0.0"},
        {"name": "fraud", "version": 2},
    ],
)
async def test_a_version_can_be_named_in_several_ways(world: World, named: dict[str, Any]) -> None:
    await deployed(world)
    response = await publish(world, status="Production", **named)
    assert (response.status_code, response.json()["version"]) == (202, "2.0.0")


async def test_a_stage_stands_for_its_only_environment(world: World) -> None:
    await deployed(world)
    await add_environment(world, "live", 30, 7083)
    by_name = await publish(world, id="fraud@2.0.0", status="production")
    assert by_name.status_code == 202, "a name goes before a stage"
    several = await publish(world, id="fraud@2.0.0", status="PRODUCTION")
    assert several.status_code == 409
    assert "live, production" in several.json()["detail"]
    unknown = await publish(world, id="fraud@2.0.0", status="archived")
    assert unknown.status_code == 422
    assert "live, production, staging" in unknown.json()["fields"][0]["message"]


async def add_environment(world: World, name: str, order: int, port: int) -> None:
    spec = {"stage": "production", "order": order, "gateway": {"port": port}}
    await world.ok("PUT", f"/environments/{name}", {"spec": spec})


async def test_the_deployment_of_an_environment_before_is_copied(world: World) -> None:
    await deployed(world, "staging", "fraud-eu")
    response = await publish(world, id="fraud@2.0.0", status="production")
    assert (response.status_code, response.json()["result"]) == (202, "created")
    made = await world.store.get(ModelDeployment, "fraud-eu", "production")
    assert (made.spec.model, made.spec.version) == ("fraud", "2.0.0")


async def test_without_a_deployment_it_says_how_to_declare_one(world: World) -> None:
    await world.push("fraud", "2.0.0")
    response = await publish(world, id="fraud@2.0.0", status="production")
    assert (response.status_code, response.json()["code"]) == (404, "no-deployment")
    assert "modelplane apply -f FILE" in response.json()["hint"]
    assert "model fraud" in response.json()["hint"]


async def test_of_several_deployments_one_must_be_named(world: World) -> None:
    await deployed(world)
    await world.deploy("fraud-eu", model="fraud", version="1.0.0")
    response = await publish(world, id="fraud@2.0.0", status="production")
    assert response.status_code == 409
    assert "fraud, fraud-eu" in response.json()["detail"]
    named = await publish(world, id="fraud@2.0.0", status="production", deployment="fraud-eu")
    assert named.json()["deployment"] == "fraud-eu"
    other = await publish(world, id="fraud@2.0.0", status="production", deployment="fraud-us")
    assert other.status_code == 404


async def test_a_name_that_another_model_has_there_is_not_taken_over(world: World) -> None:
    await deployed(world, "staging", "score")
    await world.push("spam", "1.0.0")
    await world.deploy("score", "production", model="spam")
    response = await publish(world, id="fraud@2.0.0", status="production")
    assert response.status_code == 409
    assert "'spam'" in response.json()["detail"]


async def test_what_the_environment_refuses_is_refused_with_the_reason(world: World) -> None:
    await deployed(world)
    production = await world.ok("GET", "/environments/production")
    production["spec"]["allowPickle"] = "never"
    await world.ok("PUT", "/environments/production", production)
    await world.push("fraud", "3.0.0", format="joblib")
    before = await world.store.audit()
    response = await publish(world, id="fraud@3.0.0", status="production")
    assert response.status_code == 422
    assert "pickle" in response.json()["detail"]
    assert await world.store.audit() == before


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"status": "production"}, 422),
        ({"id": "fraud@2.0.0"}, 422),
        ({"id": "fraud@2.0.0", "version": "2.0.0", "status": "production"}, 422),
        ({"name": "fraud", "status": "production"}, 422),
        ({"id": 7, "status": "production"}, 422),
        ({"id": "fraud@2.0.0", "status": "production", "force": True}, 422),
        ({"id": "mv-none", "status": "production"}, 404),
        ({"id": "fraud@9.0.0", "status": "production"}, 404),
        ({"id": "fraud@", "status": "production"}, 422),
        ({"id": "a/b@1.0.0", "status": "production"}, 422),
        ({"id": "spam@1.0.0", "status": "production"}, 404),
    ],
)
async def test_bad_requests_say_what_is_wrong(
    world: World, body: dict[str, Any], status: int
) -> None:
    await deployed(world)
    response = await publish(world, "application/x-www-form-urlencoded", **body)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_deleted_version_cannot_be_published(world: World) -> None:
    await deployed(world)
    unique_id = await id_of(world)
    await world.ok("DELETE", "/model-versions/fraud@2.0.0")
    for wanted in (unique_id, "fraud@2.0.0"):
        response = await publish(world, id=wanted, status="production")
        assert response.status_code == 404
        assert "was deleted" in response.json()["detail"]


async def test_it_takes_the_rights_that_promoting_takes(world: World) -> None:
    await deployed(world)
    body = {"id": "fraud@2.0.0", "status": "production"}
    assert (await world.call("PUT", "/v1/models", body, token=READER)).status_code == 403
    assert (await world.call("PUT", "/v1/models", body, token=None)).status_code == 401
    assert (await world.call("GET", "/v1/models/fraud@2.0.0", token=READER)).status_code == 200


async def test_one_can_ask_where_a_version_serves_and_what_became_of_it(world: World) -> None:
    await deployed(world)
    model = await world.store.get(Model, "fraud")
    serving = Serving(
        environment="production", deployment="fraud", champion="1.0.0", challenger="2.0.0"
    )
    transaction = Transaction(SYSTEM)
    transaction.update(model.with_status(serving=(serving,)))
    await world.store.commit(transaction)
    await publish(world, id="fraud@2.0.0", status="production")
    unique_id = await id_of(world)
    answer = await world.ok("GET", f"/v1/models/{unique_id}")
    place = {"environment": "production", "deployment": "fraud"}
    assert answer == {
        "id": unique_id,
        "name": "fraud",
        "version": "2.0.0",
        "number": 2,
        "serving": [{**place, "role": "challenger"}],
        "promotions": [
            {**place, "promotion": "fraud-2", "phase": "Requested", "reason": "", "message": ""}
        ],
    }
    first = await world.ok("GET", "/v1/models/fraud@1.0.0")
    assert first["serving"] == [{**place, "role": "champion"}]
    assert first["promotions"] == []
