"""Pipelines over HTTP: run, cancel, report, and what the cache would do."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree as Xml

import pytest

from modelplane.ports.store import Transaction
from modelplane.resources.gate_run import GateRun
from modelplane.resources.meta import Metadata
from modelplane.resources.model import ModelVersion, ModelVersionSpec
from tests.api.world import AGENT, READER, SYSTEM, World
from tests.controllers.gating import FAILED, PASSED, Gates

STAGES = [
    {"name": "tests", "command": {"run": ["true"]}},
    {"name": "scan", "role": "approve", "securityScan": {}},
]


async def declare(world: World, name: str = "quality", **spec: Any) -> Gates:
    """Declare a pipeline and give what runs it."""
    await world.ok("PUT", f"/validation-pipelines/{name}", {"spec": {"stages": STAGES, **spec}})
    gates = Gates(world.store, world.clock)
    await gates.take_lease()
    return gates


async def start(world: World, model: str = "fraud", **body: Any) -> str:
    answer = await world.ok("POST", "/validation-pipelines/quality:run", {"model": model, **body})
    name: str = answer["resource"]["metadata"]["name"]
    return name


async def refused(world: World, method: str, path: str, body: Any, status: int, **more: Any) -> str:
    response = await world.call(method, path, body, **more)
    assert response.status_code == status, response.text
    problem = response.json()
    return " ".join([problem["detail"], problem["hint"], json.dumps(problem["fields"])])


async def test_a_run_from_its_start_to_its_report(world: World) -> None:
    gates = await declare(world)
    await world.push("fraud", "1.0.0")
    name = await start(world, version="1.0.0", reason="before the release")
    assert name == "quality-1"
    await gates.settle()
    report = await world.ok("GET", f"/gate-runs/{name}/report")
    assert (report["phase"], report["requestedBy"]) == ("Passed", "admin")
    assert report["reason"] == "before the release"
    assert [stage["phase"] for stage in report["stages"]] == ["Passed", "Passed"]
    response = await world.call("GET", f"/gate-runs/{name}/report", format="junit")
    assert response.headers["content-type"] == "application/xml; charset=utf-8"
    assert Xml.fromstring(response.content).get("failures") == "0"
    page = await world.call("GET", f"/gate-runs/{name}/report", format="html")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.text.startswith("<!doctype html>")
    records = await world.store.audit(kind="GateRun", name=name)
    actions = [record.action for record in records]
    assert (actions[0], actions[-1]) == ("gate.hand", "gate.Passed")
    assert set(actions[1:-1]) == {"gate.Running"}


async def test_the_latest_version_is_meant_when_none_is_named(world: World) -> None:
    await declare(world)
    await world.push("fraud", "1.0.0")
    await world.push("fraud", "1.1.0")
    run = await world.store.get(GateRun, await start(world))
    assert run.spec.candidate.revision.version == "1.1.0"
    assert run.metadata.labels["version"] == "1.1.0"


async def test_a_run_counts_for_the_promotion_that_comes_later(world: World) -> None:
    await declare(world)
    await world.push("fraud", "1.0.0")
    await world.deploy("fraud", "staging", version="1.0.0", env={"THREADS": "2"})
    run = await world.store.get(GateRun, await start(world, version="1.0.0"))
    promotion = (await world.ok("GET", "/promotions", environment="staging"))["items"][0]
    assert run.spec.candidate.revision.digest == promotion["spec"]["revision"]["digest"]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("quality:run", {"model": "fraud", "version": "9.9.9"}, 404, "no version 9.9.9"),
        ("quality:run", {"model": "nothing"}, 404, "no versions"),
        ("quality:run", {}, 422, "required"),
        ("quality:run", {"model": "fraud", "cache": False}, 422, "unknown field"),
        ("qualty:run", {"model": "fraud"}, 404, "did you mean 'quality'"),
        ("quality:start", {"model": "fraud"}, 404, "it has: run"),
        ("other:run", {"model": "fraud"}, 422, "for other models"),
    ],
)
async def test_what_cannot_be_run_is_refused_in_words(
    world: World, path: str, body: Any, status: int, says: str
) -> None:
    await declare(world)
    await declare(world, "other", models={"names": ["churn"]})
    await world.push("fraud", "1.0.0")
    assert says in await refused(world, "POST", f"/validation-pipelines/{path}", body, status)


async def test_a_version_without_files_cannot_be_run(world: World) -> None:
    await declare(world)
    spec = ModelVersionSpec(model="fraud", version="1.0.0", number=1, source="s3://elsewhere")
    transaction = Transaction(SYSTEM)
    transaction.create(ModelVersion(metadata=Metadata(name="fraud@1.0.0"), spec=spec))
    await world.store.commit(transaction)
    path = "/validation-pipelines/quality:run"
    assert "files are not here" in await refused(world, "POST", path, {"model": "fraud"}, 422)


@pytest.mark.parametrize("token", [READER, AGENT])
async def test_who_may_not_run_pipelines(world: World, token: str) -> None:
    gates = await declare(world)
    await world.push("fraud", "1.0.0")
    name = await start(world)
    await gates.settle()
    for path in ("/validation-pipelines/quality:run", f"/gate-runs/{name}:cancel"):
        await refused(world, "POST", path, {"model": "fraud"}, 403, token=token)


async def test_cancelling_is_final_and_may_be_repeated(world: World) -> None:
    gates = await declare(world)
    await world.push("fraud", "1.0.0")
    name = await start(world)
    gates.ending = lambda job: None
    await gates.settle()
    assert (await world.ok("POST", f"/gate-runs/{name}:cancel", {}))["result"] == "changed"
    assert (await world.ok("POST", f"/gate-runs/{name}:cancel", {}))["result"] == "unchanged"
    await gates.settle()
    run = await world.store.get(GateRun, name)
    assert run.status.phase == "Cancelled"
    gates.ending = lambda job: PASSED
    other = await start(world)
    await gates.settle()
    assert "has ended" in await refused(world, "POST", f"/gate-runs/{other}:cancel", {}, 409)


async def test_the_cache_is_explained_before_anything_runs(world: World) -> None:
    gates = await declare(world)
    await world.push("fraud", "1.0.0")
    path, query = "/validation-pipelines/quality/cache", {"version": "fraud@1.0.0"}
    first = (await world.ok("GET", path, **query))["stages"]
    assert [stage["hit"] for stage in first] == [False, False]
    assert first[0]["reason"] == "it has not run for this model yet"
    gates.ending = lambda job: FAILED if job.metadata.labels["stage"] == "scan" else PASSED
    gates.place = world.dependencies.stage_place
    gates.restart()
    name = await start(world)
    await gates.settle()
    second = (await world.ok("GET", path, **query))["stages"]
    assert [(s["hit"], s["passed"], s["run"]) for s in second] == [
        (True, True, name), (True, False, name),
    ]  # fmt: skip
    await world.push("fraud", "1.1.0")
    third = (await world.ok("GET", path, version="fraud@latest"))["stages"]
    assert third[0]["changed"] == ["model"]
    assert third[0]["reason"] == f"model changed since {name}"
    runs = (await world.ok("GET", "/gate-runs"))["items"]
    assert len(runs) == 1, "asking starts nothing"


async def test_a_pipeline_with_a_bad_schedule_or_bad_shards_is_refused(world: World) -> None:
    spec: dict[str, Any] = {"stages": STAGES, "triggers": {"schedule": "now and then"}}
    told = await refused(world, "PUT", "/validation-pipelines/x", {"spec": spec}, 422)
    assert "cron" in told
    stage = {"name": "a", "accuracy": {}, "shards": 4}
    told = await refused(
        world, "PUT", "/validation-pipelines/x", {"spec": {"stages": [stage]}}, 422
    )
    assert "cases" in told
