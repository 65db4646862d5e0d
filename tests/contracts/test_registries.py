"""What every registry elsewhere does for the controllers: the one in memory, and a real MLflow."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
import pytest_asyncio

from modelplane.adapters.registry.mlflow import MlflowRegistry
from modelplane.adapters.registry.mlflow_http import Credentials
from modelplane.errors import ModelplaneError
from modelplane.ports.registries import ArtifactUnavailable, ModelRegistry
from modelplane.testing.registries import FakeRegistry
from tests.mlflow_server import MlflowServer, temporary_mlflow_server

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]


class People(Protocol):
    """What its users do in a registry."""

    async def register(self, model: str, **tags: str) -> int:
        """Register a version with one file and tags; return its number."""

    async def lose_files(self, model: str, number: int) -> None:
        """Remove a version's files behind the registry's back."""

    async def delete_version(self, model: str, number: int) -> None:
        """Delete a version."""

    async def change(self, model: str, number: int, description: str, stage: str) -> None:
        """Change a version's description and stage."""


@dataclass
class FakePeople:
    registry: FakeRegistry

    async def register(self, model: str, **tags: str) -> int:
        return self.registry.register(model, tags=tags).number

    async def lose_files(self, model: str, number: int) -> None:
        self.registry.files[model, number] = {}

    async def delete_version(self, model: str, number: int) -> None:
        self.registry.delete_version(model, number)

    async def change(self, model: str, number: int, description: str, stage: str) -> None:
        self.registry.change(model, number, description=description, stage=stage)


@dataclass
class MlflowPeople:
    """Speaks MLflow's REST API, as its clients do."""

    http: httpx.AsyncClient
    folder: Path

    async def call(self, method: str, path: str, **body: Any) -> Any:
        response = await self.http.request(method, f"/api/2.0/mlflow/{path}", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    async def register(self, model: str, **tags: str) -> int:
        found = await self.http.get("/api/2.0/mlflow/registered-models/get", params={"name": model})
        if found.status_code == 404:
            await self.call("POST", "registered-models/create", name=model)
        run = (await self.call("POST", "runs/create", experiment_id="0"))["run"]["info"]
        source = f"{run['artifact_uri']}/model"
        path = source.removeprefix("mlflow-artifacts:/")
        uploaded = await self.http.put(
            f"/api/2.0/mlflow-artifacts/artifacts/{path}/model.skops", content=b"content"
        )
        assert uploaded.status_code == 200, uploaded.text
        answer = await self.call(
            "POST",
            "model-versions/create",
            name=model,
            source=source,
            run_id=run["run_id"],
            tags=[{"key": key, "value": value} for key, value in tags.items()],
        )
        return int(answer["model_version"]["version"])

    async def lose_files(self, model: str, number: int) -> None:
        response = await self.http.get(
            "/api/2.0/mlflow/model-versions/get", params={"name": model, "version": number}
        )
        path = response.json()["model_version"]["source"].removeprefix("mlflow-artifacts:/")
        await asyncio.to_thread(shutil.rmtree, self.folder / "artifacts" / path)

    async def delete_version(self, model: str, number: int) -> None:
        await self.call("DELETE", "model-versions/delete", name=model, version=str(number))

    async def change(self, model: str, number: int, description: str, stage: str) -> None:
        version = str(number)
        await self.call(
            "PATCH", "model-versions/update", name=model, version=version, description=description
        )
        await self.call(
            "POST", "model-versions/transition-stage", name=model, version=version, stage=stage,
            archive_existing_versions=False,
        )  # fmt: skip


@dataclass
class World:
    registry: ModelRegistry
    people: People


@pytest.fixture(scope="module")
def server() -> Iterator[MlflowServer]:
    with temporary_mlflow_server() as server:
        yield server


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[
        "fake",
        pytest.param("mlflow", marks=[pytest.mark.e2e, pytest.mark.beside, pytest.mark.slow]),
    ],
)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "fake":
        fake = FakeRegistry()
        yield World(fake, FakePeople(fake))
        return
    server: MlflowServer = request.getfixturevalue("server")
    registry = MlflowRegistry(server.url, Credentials(), 30.0)
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        yield World(registry, MlflowPeople(http, server.folder))
    await registry.close()


async def download(world: World, model: str, number: int) -> dict[str, bytes]:
    version = await world.registry.find_version(model, number)
    assert version is not None
    into = Path(tempfile.mkdtemp(prefix="mp-registries-"))
    try:
        files = await world.registry.download(version, into)
        assert files.format == "skops"
        return {p.name: p.read_bytes() for p in into.rglob("*") if p.is_file()}
    finally:
        shutil.rmtree(into)


async def test_versions_are_listed_once_with_what_is_said_of_them(world: World) -> None:
    for _ in range(3):
        await world.people.register("listed model", k="v")
    await world.people.register("other's")
    everything = await world.registry.versions()
    assert len({(v.model, v.number) for v in everything}) == len(everything)
    of_one = await world.registry.versions("listed model")
    assert sorted(v.number for v in of_one) == [1, 2, 3]
    assert {v.tags["k"] for v in of_one} == {"v"}
    assert all(v.is_ready and v.stage == "None" and v.source for v in of_one)
    assert [v.model for v in await world.registry.versions("other's")] == ["other's"]
    assert list(await world.registry.versions("no such")) == []
    assert {"listed model", "other's"} <= {m.name for m in await world.registry.models()}


async def test_one_version_is_the_same_alone_and_in_the_list(world: World) -> None:
    number = await world.people.register("alone")
    listed = next(v for v in await world.registry.versions() if v.model == "alone")
    assert await world.registry.find_version("alone", number) == listed
    found = await world.registry.find_model("alone")
    assert found in list(await world.registry.models())


async def test_what_is_not_there_is_none(world: World) -> None:
    await world.people.register("there")
    assert await world.registry.find_model("not there") is None
    assert await world.registry.find_version("not there", 1) is None
    assert await world.registry.find_version("there", 9) is None


async def test_a_deleted_version_is_gone(world: World) -> None:
    first = await world.people.register("deleted")
    await world.people.register("deleted")
    await world.people.delete_version("deleted", first)
    assert [v.number for v in await world.registry.versions("deleted")] == [2]
    assert await world.registry.find_version("deleted", first) is None


async def test_a_change_moves_the_time_of_update(world: World) -> None:
    number = await world.people.register("changed")
    before = await world.registry.find_version("changed", number)
    await asyncio.sleep(0.01)
    await world.people.change("changed", number, "words", "Staging")
    after = await world.registry.find_version("changed", number)
    assert before is not None
    assert after is not None
    assert (after.description, after.stage) == ("words", "Staging")
    assert after.updated_at > before.updated_at
    assert after.created_at == before.created_at


async def test_aliases_are_set_moved_and_taken_away(world: World) -> None:
    registry = world.registry
    for _ in range(2):
        await world.people.register("aliased")

    async def aliases() -> dict[str, int]:
        found = await registry.find_model("aliased")
        assert found is not None
        return dict(found.aliases)

    await registry.set_alias("aliased", "champion", 1)
    await registry.set_alias("aliased", "challenger", 2)
    assert await aliases() == {"champion": 1, "challenger": 2}
    await registry.set_alias("aliased", "champion", 2)
    await registry.delete_alias("aliased", "challenger")
    await registry.delete_alias("aliased", "challenger")
    assert await aliases() == {"champion": 2}
    with pytest.raises(ModelplaneError):
        await registry.set_alias("aliased", "champion", 7)


async def test_tags_of_a_version_are_set_and_taken_away(world: World) -> None:
    number = await world.people.register("tagged", k="v")
    await world.registry.set_tag("tagged", number, "modelplane.promotion", "production/a-1")
    await world.registry.set_tag("tagged", number, "k", None)
    await world.registry.set_tag("tagged", number, "never", None)
    found = await world.registry.find_version("tagged", number)
    assert found is not None
    assert found.tags == {"modelplane.promotion": "production/a-1"}
    with pytest.raises(ModelplaneError):
        await world.registry.set_tag("tagged", 9, "k", "v")


async def test_files_arrive_or_are_told_to_be_missing(world: World) -> None:
    number = await world.people.register("files")
    assert list(await download(world, "files", number)) == ["model.skops"]
    await world.people.lose_files("files", number)
    with pytest.raises(ArtifactUnavailable) as caught:
        await download(world, "files", number)
    assert caught.value.reason == "ArtifactMissing"


async def test_a_run_is_described(world: World) -> None:
    number = await world.people.register("described")
    version = await world.registry.find_version("described", number)
    assert version is not None
    run = await world.registry.describe(version)
    assert run.id == version.run_id


async def test_a_webhook_is_registered_once(world: World) -> None:
    first = await world.registry.ensure_webhook("mp-a", "http://127.0.0.1:1/hook", "s1")
    again = await world.registry.ensure_webhook("mp-a", "http://127.0.0.1:2/hook", "s2")
    other = await world.registry.ensure_webhook("mp-b", "http://127.0.0.1:1/hook", "s1")
    assert first == again != other
