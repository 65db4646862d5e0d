"""Watching: a change reaches whoever watches, once, in order, with what is needed to resume.

Over a real server, for streams are what is tested here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from modelplane.adapters.store.sqlite import StoreOptions
from modelplane.api.dependencies import ApiLimits
from modelplane.client import AsyncClient
from modelplane.errors import Conflict, TransientError, Unauthenticated
from modelplane.ports.store import Change
from modelplane.resources.meta import Metadata
from modelplane.resources.model import Model, ModelSpec
from modelplane.resources.model_deployment import ModelDeployment
from tests.api.world import ADMIN, World, make_world, serve


@pytest.fixture
async def client(world: World) -> AsyncIterator[AsyncClient]:
    async with serve(world) as url, AsyncClient(url, ADMIN) as made:
        yield made


def model(name: str, description: str = "") -> Model:
    return Model(metadata=Metadata(name=name), spec=ModelSpec(description=description))


async def take(changes: AsyncIterator[Change], count: int) -> list[tuple[str, str]]:
    """Return (type, name) of the next changes."""
    async with asyncio.timeout(10):
        taken = [await anext(changes) for _ in range(count)]
    return [(change.type, change.resource.metadata.name) for change in taken]


async def test_changes_arrive_in_order_and_a_watch_resumes_where_it_ended(
    client: AsyncClient,
) -> None:
    since = (await client.list(Model)).resource_version
    changes = client.watch(Model, since)
    await client.apply(model("a"))
    await client.apply(model("b"))
    await client.delete(Model, "a")
    async with asyncio.timeout(10):
        first = await anext(changes)
    assert (first.type, first.resource.metadata.name) == ("put", "a")
    assert await take(changes, 2) == [("put", "b"), ("delete", "a")]
    resumed = client.watch(Model, first.resource_version)
    assert await take(resumed, 2) == [("put", "b"), ("delete", "a")]


async def test_a_watch_sees_its_kind_and_environment_only(
    world: World, client: AsyncClient
) -> None:
    since = (await client.list(Model)).resource_version
    changes = client.watch(ModelDeployment, since, "staging")
    await world.push("fraud", "1.0.0")
    await world.deploy("fraud", "production")
    await world.deploy("fraud", "staging")
    async with asyncio.timeout(10):
        change = await anext(changes)
    assert change.resource.metadata.environment == "staging"


async def test_a_quiet_watch_shows_that_it_lives(client: AsyncClient) -> None:
    url = f"{client.endpoint.url}/api/v1/models?watch=1"
    headers = {"authorization": f"Bearer {ADMIN}"}
    async with httpx.AsyncClient() as http, http.stream("GET", url, headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.aiter_lines()
        async with asyncio.timeout(10):
            seen = [await anext(lines) for _ in range(3)]
    assert seen == [": watching", "", ": alive"]


async def test_watches_end_when_the_server_is_about_to_stop(
    world: World, client: AsyncClient
) -> None:
    since = (await client.list(Model)).resource_version
    changes = client.watch(Model, since)
    await client.apply(model("a"))
    await take(changes, 1)
    world.dependencies.stopping.set()
    with pytest.raises(TransientError, match="ended by the server"):
        await take(changes, 1)


async def test_a_watch_ends_when_its_token_is_revoked(world: World, client: AsyncClient) -> None:
    made = await world.ok("POST", "/tokens/ann:create", {"groups": ["analysts"]})
    since = (await client.list(Model)).resource_version
    async with AsyncClient(client.endpoint.url, made["secret"]) as other:
        changes = other.watch(Model, since)
        await client.apply(model("a"))
        await take(changes, 1)
        await world.ok("POST", "/tokens/ann:revoke", {})
        with pytest.raises(Unauthenticated):
            await take(changes, 1)


async def test_a_client_that_takes_nothing_is_dropped() -> None:
    limits = ApiLimits(idle_timeout_s=0.1, heartbeat_s=0.05)
    async with make_world(limits=limits) as world:
        stuck = asyncio.Event()

        async def receive() -> dict[str, object]:
            await stuck.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, object]) -> None:
            if message["type"] == "http.response.body":
                await stuck.wait()

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/api/v1/models",
            "query_string": b"watch=1",
            "headers": [
                (b"host", b"localhost"),
                (b"authorization", f"Bearer {ADMIN}".encode()),
            ],
        }
        async with asyncio.timeout(10):
            await world.app(scope, receive, send)  # type: ignore[arg-type]


async def test_a_watch_from_too_long_ago_says_expired() -> None:
    async with make_world(options=StoreOptions(keep_changes=3)) as world:
        for i in range(20):
            await world.ok("PUT", f"/models/m{i}", {})
        await world.store.prune()
        async with serve(world) as url, AsyncClient(url, ADMIN) as client:
            with pytest.raises(Conflict) as raised:
                await take(client.watch(Model, 1), 1)
    assert raised.value.code == "expired"
