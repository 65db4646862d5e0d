"""Plans through the API: from the telemetry there is, for deployments and traffic policies."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.telemetry import TelemetryBatch, VariantSample
from tests.api.test_traffic_policies import posted, serve_fraud
from tests.api.world import READER, World

PLAN = "/model-deployments:plan"
CANARY = {"canary": {"minBake": "10s", "analysis": {"metrics": ["errors"]}}}


def manifest(**spec: Any) -> dict[str, Any]:
    return {
        "kind": "ModelDeployment",
        "metadata": {"name": "fraud"},
        "spec": {"version": "2.0.0", "strategy": CANARY, **spec},
    }


async def answer_requests(world: World, requests: int, seconds: int = 120) -> None:
    """Have stable answer so many requests in each of the last seconds."""
    deployment = await world.store.get(ModelDeployment, "fraud", "production")
    assert deployment.status.stable is not None
    now = world.clock.now()
    for second in range(1, seconds + 1):
        sample = VariantSample(
            deployment="fraud",
            revision=deployment.status.stable.short,
            requests=requests,
            failures=0,
            latency=((20_000.0, 1_000.0, requests),),
        )
        world.metrics.record(
            TelemetryBatch(
                environment="production",
                proxy="production/local",
                boot_id="boot",
                sequence=second,
                at=now - timedelta(seconds=seconds - second),
                seconds=1,
                samples=(sample,),
            )
        )


async def test_a_plan_is_made_of_the_traffic_there_is_and_changes_nothing(world: World) -> None:
    await serve_fraud(world, "2.0.0")
    await answer_requests(world, 200)
    before = await world.ok("GET", "/model-deployments/fraud")
    plan = await world.ok("POST", PLAN, manifest())
    assert (plan["deployment"], plan["environment"]) == ("fraud", "production")
    assert (plan["stable"], plan["candidate"], plan["strategy"]) == ("1.0.0", "2.0.0", "canary")
    assert plan["requestRateRps"] == pytest.approx(200, rel=0.01)
    assert plan["steps"][0]["weightPct"] == 1
    assert 10 <= plan["typicalS"] < 300
    assert [metric["name"] for metric in plan["metrics"]] == ["errors"]
    assert plan["warnings"] == []
    assert await world.ok("GET", "/model-deployments/fraud") == before


async def test_a_policy_is_planned_by_its_own_rule(world: World) -> None:
    await serve_fraud(world, "2.0.0")
    await answer_requests(world, 200)
    plan = await world.ok("POST", PLAN, posted())
    assert [step["weightPct"] for step in plan["steps"]] == [10]
    assert "is not known yet" in plan["notes"][0]
    assert {metric["name"] for metric in plan["metrics"]} >= {"errors", "latency"}


async def test_where_nothing_serves_or_nobody_asks_it_says_so(world: World) -> None:
    await world.push("fraud", "1.0.0")
    first = await world.ok("POST", PLAN, manifest(version="1.0.0"))
    assert "nothing serves yet" in first["notes"][0]
    await serve_fraud(world, "2.0.0")
    assert "no requests" in (await world.ok("POST", PLAN, manifest()))["warnings"][0]


async def test_the_query_may_say_where_and_what_is_none_is_refused(world: World) -> None:
    await serve_fraud(world, "2.0.0")
    there = await world.ok("POST", PLAN, manifest(), environment="staging")
    assert there["environment"] == "staging"
    twice = manifest()
    twice["metadata"]["environment"] = "production"
    assert (await world.call("POST", PLAN, twice, environment="staging")).status_code == 422
    nowhere = await world.call("POST", PLAN, manifest(), environment="nowhere")
    assert nowhere.status_code == 404
    model = {"kind": "Model", "metadata": {"name": "fraud"}, "spec": {}}
    refused = await world.call("POST", PLAN, model)
    assert refused.status_code == 422
    assert "a plan is of" in refused.text
    assert (await world.call("POST", PLAN, manifest(), token=None)).status_code == 401
    assert (await world.call("POST", PLAN, manifest(), token=READER)).status_code == 200


async def test_apply_warns_where_the_traffic_cannot_answer_the_margins(world: World) -> None:
    await serve_fraud(world, "2.0.0", "3.0.0")
    slow = {"canary": {"deadline": "1m", "analysis": {"metrics": ["errors"]}}}
    silent = await world.deploy("fraud", version="2.0.0", strategy=slow)
    assert not any("typically pass" in warning for warning in silent["warnings"])
    await answer_requests(world, 5)
    warned = await world.deploy("fraud", version="3.0.0", strategy=slow)
    assert any("errors will typically pass in about" in w for w in warned["warnings"])
    unchanged = await world.deploy("fraud", version="3.0.0", strategy=slow)
    assert not any("typically pass" in warning for warning in unchanged["warnings"])
