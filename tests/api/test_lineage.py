"""Lineage over HTTP: one query each way, and events that a collector can follow."""

from __future__ import annotations

from typing import Any

from modelplane.ports.store import Transaction
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.model import AliasMove, AliasMoveSpec
from tests.api.world import READER, World

TX = {"name": "tx", "digest": "sha256:1"}


async def events(world: World, **query: Any) -> tuple[list[str], int]:
    """The versions in a page of events, and where to go on."""
    page = await world.ok("GET", "/lineage/events", **query)
    named = [
        f"{output['name']}@{output['facets']['version']['datasetVersion']}"
        for event in page["items"]
        for output in event["outputs"]
    ]
    return named, page["metadata"].get("next", -1)


async def test_which_deployments_depend_on_this_data_is_one_query(world: World) -> None:
    await world.push("fraud", "1.0.0", datasets=[TX], training={"runId": "r1"})
    await world.push("spam", "1.0.0", datasets=[TX])
    await world.push("other", "1.0.0")
    for model in ("fraud", "spam", "other"):
        await world.deploy(model, "staging")
    graph = await world.ok("GET", "/lineage", of="dataset/tx@1", direction="down")
    places = [node["id"] for node in graph["nodes"] if node["kind"] == "ModelDeployment"]
    assert places == ["deployment/staging/fraud", "deployment/staging/spam"]
    assert graph["roots"] == ["dataset/tx@1"]
    (edge,) = [e for e in graph["edges"] if e["target"] == "deployment/staging/spam"]
    assert (edge["source"], edge["relation"]) == ("version/spam@1.0.0", "deployed")
    back = await world.ok("GET", "/lineage", of="staging/fraud", direction="up")
    assert [node["id"] for node in back["nodes"]] == [
        "dataset/tx@1", "run/r1", "version/fraud@1.0.0", "deployment/staging/fraud",
    ]  # fmt: skip


async def test_what_was_just_written_is_in_the_answer(world: World) -> None:
    assert (await world.call("GET", "/lineage", of="fraud")).status_code == 404
    await world.push("fraud", "1.0.0", datasets=[TX])
    graph = await world.ok("GET", "/lineage", of="fraud@latest")
    assert [node["id"] for node in graph["nodes"]] == ["dataset/tx@1", "version/fraud@1.0.0"]
    await world.ok("DELETE", "/model-versions/fraud@1.0.0")
    graph = await world.ok("GET", "/lineage", of="tx@1")
    assert graph["nodes"][-1]["deleted"] is True


async def test_questions_that_make_no_sense_are_told_why(world: World) -> None:
    for query, status in (
        ({}, 422),
        ({"of": "x"}, 404),
        ({"of": "a/b/c"}, 422),
        ({"of": "x", "direction": "sideways"}, 422),
        ({"of": "x", "depth": 11}, 422),
        ({"of": "x", "depht": 1}, 422),
    ):
        response = await world.call("GET", "/lineage", **query)
        assert response.status_code == status, query
        assert response.json()["detail"]


async def test_a_collector_that_comes_again_misses_nothing(world: World) -> None:
    for number in range(3):
        await world.push("fraud", f"1.{number}.0", datasets=[TX])
    seen, after = await events(world, limit=2)
    assert seen == ["models/fraud@1.0.0", "models/fraud@1.1.0"]
    more, after = await events(world, limit=2, after=after)
    assert more == ["models/fraud@1.2.0"]
    assert await events(world, after=after) == ([], after)
    world.clock.step(5.123457)
    await world.ok("POST", "/model-versions/fraud@1.0.0:tag", {"tags": {"a": "b"}})
    unchanged, after = await events(world, after=after)
    assert unchanged == []  # a tag is no registration
    world.clock.step(5.123457)
    await world.push("spam", "1.0.0")
    assert (await events(world, after=after))[0] == ["models/spam@1.0.0"]
    assert (await events(world))[0] == [*seen, *more, "models/spam@1.0.0"]


async def test_the_events_of_one_lineage(world: World) -> None:
    await world.push("fraud", "1.0.0", datasets=[TX])
    await world.push("other", "1.0.0")
    assert await events(world, of="dataset/tx@1") == (["models/fraud@1.0.0"], -1)
    assert await events(world, of="tx@1", direction="up") == ([], -1)
    page = await world.ok("GET", "/lineage/events", namespace="risk-team", limit=1)
    (event,) = page["items"]
    assert {event["job"]["namespace"], event["inputs"][0]["namespace"]} == {"risk-team"}
    both = await world.call("GET", "/lineage/events", of="fraud", after=1)
    assert both.status_code == 422


async def move(world: World, number: int, version: str, **changes: Any) -> None:
    """Record that a deployment of fraud came to serve a version."""
    fields = {
        "model": "fraud", "alias": "champion", "environment": "staging", "deployment": "fraud",
        "after": version, "at": world.clock.now(), "subject": "anna",
    }  # fmt: skip
    transaction = Transaction(Subject(name="system:serving"))
    name = f"fraud@{number:08d}"
    spec = AliasMoveSpec.model_validate({**fields, **changes})
    transaction.create(AliasMove(metadata=Metadata(name=name), spec=spec))
    await world.store.commit(transaction)


async def test_collectors_hear_what_went_live_where(world: World) -> None:
    await world.push("fraud", "1.0.0", datasets=[TX])
    await world.deploy("fraud", "staging")
    await move(world, 1, "1.0.0")
    await move(world, 2, "1.0.0", alias="challenger")
    await world.push("fraud", "1.1.0")
    await move(world, 3, "1.1.0")
    live, trained = "deployments/staging/fraud@1", "models/fraud@1"
    assert (await events(world))[0] == [
        f"{trained}.0.0", f"{live}.0.0", f"{trained}.1.0", f"{live}.1.0",
    ]  # fmt: skip
    first, after = await events(world, limit=2)
    assert first == [f"{trained}.0.0", f"{live}.0.0"]
    assert (await events(world, after=after))[0] == [f"{trained}.1.0", f"{live}.1.0"]
    # one lineage: only what came of that data, and where
    assert await events(world, of="dataset/tx@1") == ([f"{trained}.0.0", f"{live}.0.0"], -1)
    assert await events(world, of="dataset/tx@1", depth=1) == ([f"{trained}.0.0"], -1)


async def test_a_reader_may_look(world: World) -> None:
    await world.push("fraud", "1.0.0")
    for path, query in (("/lineage", {"of": "fraud"}), ("/lineage/events", {})):
        assert (await world.call("GET", path, token=READER, **query)).status_code == 200
