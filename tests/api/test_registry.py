"""Pushing versions: what is immutable, what is refused, what may change with history."""

from __future__ import annotations

import asyncio
from pathlib import Path

from modelplane.client.artifacts import digest_tree, tar_stream
from modelplane.resources.model import AliasMove, Model, ModelVersion
from tests.api.world import World, digest_of


async def test_a_push_makes_the_model_and_numbers_its_versions(world: World) -> None:
    first = await world.push("fraud", "v1.0", metrics={"auc": 0.91}, tags={"team": "risk"})
    second = await world.push("fraud", "2.0.0")
    assert first["resource"]["metadata"]["name"] == "fraud@1.0.0"
    assert first["resource"]["spec"]["author"] == "admin"
    assert first["resource"]["spec"]["artifact"]["sizeBytes"] == len("fraud v1.0")
    assert [a["resource"]["spec"]["number"] for a in (first, second)] == [1, 2]
    assert await world.store.find(Model, "fraud") is not None


async def test_pushing_the_same_again_changes_nothing(world: World) -> None:
    await world.push("fraud", "1.0.0", metrics={"auc": 0.9})
    before = await world.store.audit()
    again = await world.push("fraud", "v1.0.0", content="fraud 1.0.0", metrics={"auc": 0.8})
    assert again["result"] == "unchanged"
    assert again["resource"]["spec"]["metrics"] == {"auc": 0.9}
    assert "metrics" in again["warnings"][0]
    assert await world.store.audit() == before


async def test_other_bytes_under_a_version_are_refused_with_both_digests(world: World) -> None:
    first = await world.push("fraud", "1.0.0")
    other = (await world.push("other", "1.0.0", content="different"))["resource"]["spec"]
    artifact = {"format": "skops", "digest": other["artifact"]["digest"]}
    body = {"model": "fraud", "version": "1.0.0", "artifact": artifact}
    response = await world.call("POST", "/model-versions", body)
    assert response.status_code == 409
    detail = response.json()["detail"]
    assert first["resource"]["spec"]["artifact"]["digest"] in detail
    assert other["artifact"]["digest"] in detail


async def test_a_version_cannot_name_bytes_that_are_not_stored(world: World) -> None:
    artifact = {"format": "skops", "digest": digest_of("nowhere")}
    body = {"model": "fraud", "version": "1.0.0", "artifact": artifact}
    response = await world.call("POST", "/model-versions", body)
    assert response.status_code == 422
    assert response.json()["fields"][0]["path"] == "artifact.digest"
    assert "upload it first" in response.json()["hint"]


async def test_what_the_registry_gives_cannot_be_pushed(world: World) -> None:
    artifact = {"format": "skops", "digest": digest_of("x")}
    body = {"model": "f", "version": "1.0.0", "artifact": artifact, "number": 7, "author": "me"}
    response = await world.call("POST", "/model-versions", body)
    assert [field["path"] for field in response.json()["fields"]] == ["author", "number"]


async def test_versions_pushed_at_once_get_different_numbers(world: World) -> None:
    pushed = await asyncio.gather(*(world.push("fraud", f"1.{i}.0") for i in range(4)))
    assert sorted(a["resource"]["spec"]["number"] for a in pushed) == [1, 2, 3, 4]


async def test_latest_a_number_and_a_semantic_version_can_be_deployed(world: World) -> None:
    for version in ("1.0.0", "1.1.0", "1.0.1", "2.0.0-rc.1"):
        await world.push("fraud", version)
    for wanted, found in (("latest", "1.1.0"), ("v1.0", "1.0.0"), ("2.0.0-rc.1",) * 2):
        answer = await world.deploy("fraud", version=wanted)
        assert answer["resource"]["spec"]["version"] == found
    promoted = await world.ok("POST", "/model-deployments/fraud:promote", {"version": "3"})
    assert promoted["resource"]["spec"]["version"] == "1.0.1"


async def test_an_unknown_version_names_those_that_exist(world: World) -> None:
    await world.push("fraud", "1.2.0")
    body = {"spec": {"version": "1.3.0"}}
    response = await world.call("PUT", "/model-deployments/fraud", body)
    assert response.status_code == 404
    assert "1.2.0" in response.json()["hint"]
    body = {"spec": {"model": "spam"}}
    response = await world.call("PUT", "/model-deployments/fraud", body)
    assert "modelplane push spam" in response.json()["hint"]


async def test_tags_and_description_change_and_are_audited(world: World) -> None:
    await world.push("fraud", "1.0.0", tags={"team": "risk", "old": "yes"})
    path = "/model-versions/fraud@1.0.0"
    await world.ok("POST", f"{path}:tag", {"tags": {"old": None, "tier": "1"}})
    await world.ok("POST", f"{path}:describe", {"description": "with weather", "reason": "docs"})
    version = await world.store.get(ModelVersion, "fraud@1.0.0")
    assert version.status.tags == {"team": "risk", "tier": "1"}
    assert version.status.description == "with weather"
    records = await world.store.audit(kind="ModelVersion", name="fraud@1.0.0")
    assert [record.action for record in records] == ["push", "tag", "describe"]
    assert records[-1].reason == "docs"


async def test_an_alias_names_one_version_and_remembers_its_moves(world: World) -> None:
    for version in ("1.0.0", "2.0.0"):
        await world.push("fraud", version)
        body = {"alias": "champion", "reason": "better"}
        await world.ok("POST", f"/model-versions/fraud@{version}:alias", body)
    assert (await world.store.get(Model, "fraud")).status.aliases == {"champion": "2.0.0"}
    away = {"alias": "champion", "remove": True}
    elsewhere = await world.ok("POST", "/model-versions/fraud@1.0.0:alias", away)
    assert elsewhere["result"] == "unchanged"
    await world.ok("POST", "/model-versions/fraud@2.0.0:alias", away)
    assert (await world.store.get(Model, "fraud")).status.aliases == {}
    moves, _ = await world.store.list(AliasMove, prefix="fraud@")
    assert [(m.spec.before, m.spec.after, m.spec.reason) for m in moves] == [
        (None, "1.0.0", "better"), ("1.0.0", "2.0.0", "better"), ("2.0.0", None, ""),
    ]  # fmt: skip


async def test_a_version_is_found_by_its_number_and_as_the_latest(world: World) -> None:
    await world.push("my fraud", "1.0.0")
    await world.push("my fraud", "1.4.0")
    for wanted in ("1.4.0", "2", "latest", "1.4"):
        found = await world.ok("GET", f"/model-versions/my fraud@{wanted}")
        assert found["metadata"]["name"] == "my fraud@1.4.0"
    await world.ok("POST", "/model-versions/my fraud@1:alias", {"alias": "old"})
    assert (await world.store.get(Model, "my fraud")).status.aliases == {"old": "1.0.0"}
    missing = await world.call("GET", "/model-versions/my fraud@3.0.0")
    assert (missing.status_code, missing.json()["hint"]) == (404, "there are: 1.0.0, 1.4.0")
    nameless = await world.call("GET", "/model-versions/fraud")
    assert (nameless.status_code, nameless.json()["hint"]) == (404, "write it MODEL@VERSION")


async def test_a_deleted_version_loses_its_aliases(world: World) -> None:
    await world.push("fraud", "1.0.0")
    await world.ok("POST", "/model-versions/fraud@1.0.0:alias", {"alias": "champion"})
    await world.ok("DELETE", "/model-versions/fraud@1.0.0", reason="leaks data")
    assert (await world.store.get(Model, "fraud")).status.aliases == {}
    moves, _ = await world.store.list(AliasMove, prefix="fraud@")
    assert (moves[-1].spec.after, moves[-1].spec.reason) == (None, "leaks data")


async def test_deletion_is_a_tombstone_and_refused_while_deployed(world: World) -> None:
    await world.push("fraud", "1.0.0")
    await world.push("fraud", "2.0.0")
    await world.deploy("fraud", version="1.0.0")
    refused = await world.call("DELETE", "/model-versions/fraud@1.0.0")
    assert refused.status_code == 409
    assert "production/fraud" in refused.json()["detail"]
    buried = await world.ok("DELETE", "/model-versions/fraud@2.0.0", reason="leaks data")
    assert buried["status"]["deletedAt"]
    gone = await world.call("PUT", "/model-deployments/fraud", {"spec": {"version": "2.0.0"}})
    assert gone.status_code == 404
    assert "was deleted" in gone.json()["detail"]
    artifact = {"format": "skops", "digest": buried["spec"]["artifact"]["digest"]}
    body = {"model": "fraud", "version": "2.0.0", "artifact": artifact}
    again = await world.call("POST", "/model-versions", body)
    assert again.status_code == 409


async def test_artifacts_go_up_and_come_down_whole(world: World) -> None:
    folder = world.directory / "tree"
    folder.mkdir()
    (folder / "weights").write_bytes(b"\0\1" * 1000)
    (folder / "MLmodel").write_text("flavors: {}")
    digest = digest_tree(folder).digest
    content = b"".join(tar_stream(folder))
    path = f"/artifacts/{digest}"
    assert (await world.call("HEAD", path)).status_code == 404
    assert (await world.call("PUT", path, content)).status_code == 201
    assert (await world.call("PUT", path, content)).status_code == 200
    assert (await world.call("HEAD", path)).headers["x-size-bytes"] == "2011"
    down = await world.call("GET", path)
    assert down.headers["content-type"] == "application/x-tar"
    assert b"flavors: {}" in down.content


async def test_artifacts_that_lie_or_are_too_large_are_refused(world: World) -> None:
    content = b"".join(tar_stream(_file(world, b"bytes")))
    response = await world.call("PUT", f"/artifacts/{digest_of('other')}", content)
    assert response.status_code == 422
    large = await world.call("PUT", f"/artifacts/{digest_of('large')}", b"x" * 100_001)
    assert large.status_code == 413
    assert await world.blobs.list() == []


def _file(world: World, content: bytes) -> Path:
    path = world.directory / "one.skops"
    path.write_bytes(content)
    return path
