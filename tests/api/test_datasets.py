"""Registering data over HTTP, and model versions that are linked to it in one transaction."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from modelplane.errors import Conflict
from modelplane.resources.dataset import Dataset, DatasetVersion
from modelplane.resources.model import ModelVersion
from tests.api.world import READER, World, digest_of

MARCH = {
    "name": "tx",
    "digest": "sha256:march",
    "rows": 5,
    "sizeBytes": 90,
    "files": 1,
    "format": "parquet",
    "uri": "s3://key:secret@lake/march.parquet",
    "columns": [{"name": "id", "type": "int64"}],
}


async def push_data(world: World, digest: str = "sha256:march", **body: Any) -> Any:
    return await world.ok("POST", "/dataset-versions", {"data": MARCH | {"digest": digest}, **body})


async def test_data_is_registered_once(world: World) -> None:
    first = await push_data(world, description="card payments")
    assert (first["result"], first["resource"]["metadata"]["name"]) == ("created", "tx@1")
    spec = first["resource"]["spec"]
    assert (spec["rows"], spec["uri"], spec["author"]) == (5, "s3://lake/march.parquet", "admin")
    dataset = await world.store.get(Dataset, "tx")
    assert (dataset.spec.description, dataset.status.last_number) == ("card payments", 1)
    before = await world.store.audit()
    again = await push_data(world)
    assert (again["result"], again["resource"]["metadata"]["name"]) == ("unchanged", "tx@1")
    assert await world.store.audit() == before
    assert [record.action for record in before if record.name.startswith("tx")] == ["push", "push"]


async def test_other_data_gets_the_next_number_or_the_name_it_asks_for(world: World) -> None:
    await push_data(world)
    named = await push_data(world, "sha256:april", version="2026-04")
    assert named["resource"]["spec"]["version"] == "2026-04"
    next_ = await push_data(world, "sha256:may")
    assert next_["resource"]["metadata"]["name"] == "tx@3"
    body = {"data": MARCH | {"digest": "sha256:june"}, "version": "2026-04"}
    refused = await world.call("POST", "/dataset-versions", body)
    assert refused.status_code == 409
    assert "it has digest sha256:april" in refused.json()["detail"]


async def test_data_registered_at_once_gets_different_numbers(world: World) -> None:
    digests = [f"sha256:{n}" for n in range(4)]
    pushed = await asyncio.gather(*(push_data(world, digest) for digest in digests))
    assert sorted(one["resource"]["spec"]["number"] for one in pushed) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "data"),
        ({"data": {"name": "tx"}}, "digest"),
        ({"data": MARCH | {"name": "a/b"}}, "name"),
        ({"data": MARCH | {"rows": -1}}, "data.rows"),
        ({"data": MARCH, "verson": "1"}, "verson"),
        ({"data": MARCH, "version": "a b"}, "version"),
    ],
)
async def test_what_cannot_be_registered_is_told(
    world: World, body: dict[str, Any], path: str
) -> None:
    response = await world.call("POST", "/dataset-versions", body)
    assert response.status_code == 422
    assert [field["path"] for field in response.json()["fields"]] == [path]
    assert await world.store.find(Dataset, "tx") is None


async def test_a_reader_registers_no_data(world: World) -> None:
    response = await world.call("POST", "/dataset-versions", {"data": MARCH}, token=READER)
    assert response.status_code == 403


async def test_pushing_a_model_registers_its_data_and_links_to_it(world: World) -> None:
    await push_data(world)
    other = {"name": "s3://lake/images", "digest": "md5:abc.dir", "context": "evaluation"}
    unknown = {"name": "lost"}
    pushed = await world.push("fraud", "1.0.0", datasets=[MARCH, other, unknown])
    recorded = pushed["resource"]["spec"]["datasets"]
    assert [(one["name"], one.get("version")) for one in recorded] == [
        ("tx", "1"), ("s3-lake-images", "1"), ("lost", None),
    ]  # fmt: skip
    assert recorded[0]["uri"] == "s3://lake/march.parquet"
    found = await world.store.get(DatasetVersion, "s3-lake-images@1")
    assert (found.spec.digest, found.spec.author) == ("md5:abc.dir", "admin")
    assert await world.store.find(Dataset, "lost") is None
    again = await world.push("fraud", "1.0.0", datasets=[MARCH, other, unknown])
    assert (again["result"], again["warnings"]) == ("unchanged", [])


async def test_data_of_a_push_that_is_refused_is_not_registered(world: World) -> None:
    artifact = {"format": "skops", "digest": digest_of("nowhere")}
    body = {"model": "fraud", "version": "1.0.0", "artifact": artifact, "datasets": [MARCH]}
    assert (await world.call("POST", "/model-versions", body)).status_code == 422
    await world.push("fraud", "1.0.0")
    told = await world.push("fraud", "1.0.0", datasets=[MARCH])
    assert "datasets" in told["warnings"][0]
    assert await world.store.find(Dataset, "tx") is None


async def test_model_and_data_are_written_together_or_not_at_all(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, commit = await _store_bytes(world), world.store.commit

    async def fail(transaction: Any) -> Any:
        kinds = {type(resource) for resource, *_ in transaction.puts}
        assert {ModelVersion, Dataset, DatasetVersion} <= kinds
        raise Conflict("somebody was faster")

    monkeypatch.setattr(world.store, "commit", fail)
    body = {
        "model": "fraud",
        "version": "1.0.0",
        "artifact": artifact,
        "datasets": [MARCH],
    }
    assert (await world.call("POST", "/model-versions", body)).status_code == 409
    monkeypatch.setattr(world.store, "commit", commit)
    assert await world.store.find(Dataset, "tx") is None
    assert (await world.ok("POST", "/model-versions", body))["result"] == "created"


async def _store_bytes(world: World) -> dict[str, str]:
    other = await world.push("other", "1.0.0")
    return {"format": "skops", "digest": other["resource"]["spec"]["artifact"]["digest"]}


async def test_models_pushed_at_once_with_the_same_new_data_share_it(world: World) -> None:
    pushed = await asyncio.gather(
        *(world.push(f"model-{n}", "1.0.0", datasets=[MARCH]) for n in range(4))
    )
    assert {one["resource"]["spec"]["datasets"][0]["version"] for one in pushed} == {"1"}
    versions, _ = await world.store.list(DatasetVersion, prefix="tx@")
    assert [one.metadata.name for one in versions] == ["tx@1"]


async def test_a_dataset_is_declared_and_its_versions_are_not(world: World) -> None:
    body = {"metadata": {"labels": {"team": "risk"}}, "spec": {"description": "payments"}}
    await world.ok("PUT", "/datasets/tx", body)
    await push_data(world, description="is kept as it was declared")
    shown = await world.ok("GET", "/datasets/tx")
    assert (shown["spec"]["description"], shown["status"]["lastNumber"]) == ("payments", 1)
    assert (await world.call("PUT", "/dataset-versions/tx@1", {})).status_code == 405
    assert (await world.call("DELETE", "/dataset-versions/tx@1")).status_code == 405
