"""Lists: searched, ordered, in pages, with aliases filled in; the clients give whole lists."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from modelplane.api import listing
from modelplane.api.answers import EncodedResources, encode, show
from modelplane.client import AsyncClient, Client
from modelplane.errors import InvalidResource
from modelplane.ports.store import Transaction
from modelplane.resources.meta import Metadata
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.token import Token
from tests.api.world import ADMIN, SYSTEM, World, serve


async def fill(world: World) -> None:
    await world.push("fraud", "1.0.0", metrics={"auc": 0.9}, tags={"team": "risk"})
    await world.push("fraud", "1.10.0", metrics={"auc": 0.95}, tags={"team": "risk"})
    await world.push("fraud", "1.9.0", metrics={"f1": 0.7}, tags={"team": "ads"})
    await world.push("delay", "1.0.0", metrics={"auc": 0.8})
    await world.ok("POST", "/model-versions/fraud@1.10.0:alias", {"alias": "champion"})


async def names(world: World, path: str = "/model-versions", **query: Any) -> list[str]:
    return [item["metadata"]["name"] for item in (await world.ok("GET", path, **query))["items"]]


async def test_versions_are_found_by_what_they_are_like(world: World) -> None:
    await fill(world)
    query: dict[str, Any] = {"filter": "metrics.auc >= 0.9 and tags.team = 'risk'"}
    assert await names(world, **query) == ["fraud@1.0.0", "fraud@1.10.0"]
    query["orderBy"] = "metrics.auc DESC"
    assert await names(world, **query) == ["fraud@1.10.0", "fraud@1.0.0"]
    assert await names(world, filter="alias = 'champion'") == ["fraud@1.10.0"]
    assert await names(world, filter="name = 'fraud'", orderBy="version DESC") == [
        "fraud@1.10.0", "fraud@1.9.0", "fraud@1.0.0",
    ]  # fmt: skip
    assert await names(world, filter="metrics.auc > 2") == []


async def test_without_an_order_versions_come_by_model_and_number(world: World) -> None:
    await fill(world)
    assert await names(world) == ["delay@1.0.0", "fraud@1.0.0", "fraud@1.10.0", "fraud@1.9.0"]


async def test_what_was_just_written_is_found(world: World) -> None:
    await fill(world)
    await world.ok("POST", "/model-versions/fraud@1.0.0:tag", {"tags": {"team": "ads"}})
    assert await names(world, filter="tags.team = 'ads'") == ["fraud@1.0.0", "fraud@1.9.0"]
    await world.ok("POST", "/model-versions/fraud@1.0.0:alias", {"alias": "champion"})
    (item,) = (await world.ok("GET", "/model-versions", filter="alias = 'champion'"))["items"]
    assert item["metadata"]["name"] == "fraud@1.0.0"


async def test_aliases_are_shown_and_move_in_lists_and_single_answers(world: World) -> None:
    await fill(world)

    async def shown() -> dict[str, list[str]]:
        items = (await world.ok("GET", "/model-versions"))["items"]
        return {i["metadata"]["name"]: i["status"].get("aliases", []) for i in items}

    assert (await shown())["fraud@1.10.0"] == ["champion"]
    one = await world.ok("GET", "/model-versions/fraud@1.10.0")
    assert one["status"]["aliases"] == ["champion"]
    await world.ok("POST", "/model-versions/fraud@1.9.0:alias", {"alias": "champion"})
    aliases = await shown()
    assert (aliases["fraud@1.10.0"], aliases["fraud@1.9.0"]) == ([], ["champion"])


async def test_deleted_versions_are_listed_only_when_asked_for(world: World) -> None:
    await fill(world)
    await world.ok("DELETE", "/model-versions/fraud@1.9.0")
    assert "fraud@1.9.0" not in await names(world)
    assert await names(world, filter="deleted = true") == ["fraud@1.9.0"]
    single = await world.ok("GET", "/model-versions/fraud@1.9.0")
    assert single["status"]["deletedAt"]


async def test_models_and_moves_are_searched(world: World) -> None:
    await fill(world)
    await world.ok("PUT", "/models/fraud", {"metadata": {"labels": {"tier": "1"}}})
    assert await names(world, "/models", filter="labels.tier = '1'") == ["fraud"]
    assert await names(world, "/models", orderBy="name DESC") == ["fraud", "delay"]
    assert await names(world, "/models", filter="alias = 'champion'") == ["fraud"]
    moves = await world.ok("GET", "/alias-moves", filter="model = 'fraud' and alias = 'champion'")
    assert [move["spec"]["after"] for move in moves["items"]] == ["1.10.0"]
    assert await names(world, "/alias-moves", filter="model = 'delay'") == []
    assert await names(world, labelSelector="modelplane.dev/model=delay") == ["delay@1.0.0"]


@pytest.mark.parametrize(
    ("path", "query", "says"),
    [
        ("/model-versions", {"filter": "auc > 1"}, "a metric is written metrics.auc"),
        ("/model-versions", {"filter": "name = 'x"}, "not closed"),
        ("/model-versions", {"orderBy": "alias"}, "many values"),
        ("/models", {"filter": "metrics.auc > 1"}, "a Model has no field metrics.auc"),
        ("/model-versions", {"continue": "x"}, "the last page"),
        ("/model-versions", {"filter": "number > 1", "watch": "1"}, "takes no filter"),
        ("/rollouts", {"filter": "name = 'x'"}, "unknown parameter"),
        ("/model-versions", {"limit": "0"}, "1"),
    ],
)
async def test_bad_queries_are_told(
    world: World, path: str, query: dict[str, Any], says: str
) -> None:
    response = await world.call("GET", path, **query)
    assert response.status_code == 422
    assert says in response.text


async def add_models(world: World, count: int) -> None:
    for start in range(0, count, 200):
        transaction = Transaction(SYSTEM)
        for number in range(start, min(start + 200, count)):
            transaction.create(Model(metadata=Metadata(name=f"m{number:04}")))
        await world.store.commit(transaction)


async def test_pages_hold_while_models_are_added_and_deleted(world: World) -> None:
    await add_models(world, 9)
    query: dict[str, Any] = {"limit": 4, "orderBy": "name DESC"}
    first = await world.ok("GET", "/models", **query)
    await world.ok("PUT", "/models/m9999", {})
    await world.ok("DELETE", "/models/m0005")
    query["continue"] = first["metadata"]["continue"]
    second = await world.ok("GET", "/models", **query)
    assert [item["metadata"]["name"] for item in second["items"]] == [
        "m0004", "m0003", "m0002", "m0001",
    ]  # fmt: skip
    other = await world.call("GET", "/models", **{**query, "orderBy": "name"})
    assert other.status_code == 422
    assert "another list" in other.text


async def test_the_clients_give_the_whole_list(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_models(world, listing.DEFAULT_LIMIT + 3)
    page = await world.ok("GET", "/models")
    assert len(page["items"]) == listing.DEFAULT_LIMIT
    everything = {f"m{number:04}" for number in range(listing.DEFAULT_LIMIT + 3)}
    monkeypatch.setattr("modelplane.client.asynchronous.LARGEST_PAGE", 200)
    async with serve(world) as url:

        def list_all() -> tuple[set[str], int, list[str]]:
            with Client(url, ADMIN) as client:
                listed = client.list(Model)
                best = client.list(
                    Model, filter_string="name LIKE 'm%9'", order_by="name DESC", limit=2
                )
                with pytest.raises(InvalidResource):
                    client.list(Model, filter_string="nme = 'x'")
                found = [model.metadata.name for model in best.items]
                return {m.metadata.name for m in listed.items}, listed.resource_version, found

        named, version, best = await asyncio.to_thread(list_all)
        assert (named, version) == (everything, page["metadata"]["resourceVersion"])
        assert best == ["m0499", "m0489"]
        async with AsyncClient(url, ADMIN) as client:
            models, version = await client.list(Model)
        assert {model.metadata.name for model in models} == everything


async def test_a_watch_from_a_list_sees_what_came_after_its_first_page(world: World) -> None:
    await fill(world)
    listed = await world.ok("GET", "/models")
    await world.ok("PUT", "/models/late", {})
    page = await world.store.changes(listed["metadata"]["resourceVersion"], [Model])
    assert [change.resource.metadata.name for change in page.changes] == ["late"]


async def test_what_was_encoded_is_never_shown_stale_and_is_bounded(world: World) -> None:
    await fill(world)
    version = await world.store.get(ModelVersion, "fraud@1.0.0")
    encoded = EncodedResources(max_bytes=2 * len(encode(version)))
    for changed in (
        version,
        version.with_status(aliases=("champion",)),
        version.with_(metadata=version.metadata.with_(resource_version=99)),
    ):
        assert encoded.encode(changed) == encode(changed)
        assert encoded.encode(changed) == encode(changed)
    for name in ("fraud@1.9.0", "fraud@1.10.0", "delay@1.0.0", "fraud@1.0.0"):
        other = await world.store.get(ModelVersion, name)
        assert encoded.encode(other) == encode(other)
    token = await world.store.get(Token, "admin")
    assert token.spec.digest.encode() not in EncodedResources().encode(show(token))


async def test_a_list_over_http_is_what_it_is_in_process(world: World) -> None:
    await fill(world)
    async with serve(world) as url, httpx.AsyncClient(base_url=url) as http:
        answer = await http.get(
            "/api/v1/model-versions",
            params={"filter": "params.`a b` IS NULL and name LIKE 'fr%'", "limit": 2},
            headers={"authorization": f"Bearer {ADMIN}"},
        )
    assert [item["spec"]["version"] for item in answer.json()["items"]] == ["1.0.0", "1.10.0"]
    assert answer.json()["metadata"]["continue"]
