"""Artifacts by the API: whose they are, whether they are whole, and mending what is not."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest

from modelplane.resources.model import version_id
from tests.api.world import READER, World, digest_of


def tree_of(world: World, digest: str) -> Path:
    return world.directory / "artifacts" / digest.removeprefix("sha256:")


def record_of(world: World, unique_id: str) -> Path:
    return world.directory / "artifacts" / ".versions" / f"{unique_id}.json"


def add_orphan(world: World, content: str) -> str:
    """Store an old tree that no version has; its name need not be true."""
    digest = digest_of(content)
    tree_of(world, digest).mkdir()
    (tree_of(world, digest) / "model").write_text(content)
    os.utime(tree_of(world, digest), (0, 0))
    return digest


async def pushed(world: World, version: str = "1.0.0", **more: str) -> tuple[str, str]:
    """Push a version and return its digest and unique id."""
    spec = (await world.push("fraud", version, **more))["resource"]["spec"]
    return spec["artifact"]["digest"], spec["id"]


async def test_the_version_is_found_from_the_files(world: World) -> None:
    digest, unique_id = await pushed(world)
    record = json.loads(record_of(world, unique_id).read_text())
    assert record == {
        "id": version_id("fraud", "1.0.0", digest),
        "model": "fraud",
        "version": "1.0.0",
        "digest": digest,
        "created_at": world.clock.now().isoformat(),
    }


async def test_pushing_again_writes_a_lost_record_again(world: World) -> None:
    _, unique_id = await pushed(world)
    before = json.loads(record_of(world, unique_id).read_text())
    record_of(world, unique_id).unlink()
    world.clock.step(100)
    await pushed(world)
    assert json.loads(record_of(world, unique_id).read_text()) == before


async def test_a_push_that_is_refused_leaves_no_record(world: World) -> None:
    await pushed(world)
    kept = list((world.directory / "artifacts/.versions").iterdir())
    file = world.directory / "other"
    file.write_text("other bytes")
    with pytest.raises(AssertionError, match="exists with other bytes"):
        await world.push("fraud", "1.0.0", content="other bytes")
    assert list((world.directory / "artifacts/.versions").iterdir()) == kept


async def test_artifacts_are_listed_with_their_versions(world: World) -> None:
    digest, unique_id = await pushed(world, content="same")
    same, _ = await pushed(world, "1.0.1", content="same")
    assert same == digest
    await world.ok("DELETE", "/model-versions/fraud@1.0.1")
    orphan = add_orphan(world, "x")
    items = (await world.ok("GET", "/artifacts"))["items"]
    assert {item["digest"]: item["versions"] for item in items} == {
        digest: [{"name": "fraud@1.0.0", "id": unique_id}],
        orphan: [],
    }
    info = await world.ok("GET", f"/artifacts/{digest}/info")
    assert info in items
    assert (info["sizeBytes"], info["files"], info["whole"]) == (4, 1, True)
    assert (await world.call("GET", "/artifacts", token=READER)).status_code == 200
    missing = await world.call("GET", f"/artifacts/{digest_of('nothing')}/info")
    assert missing.status_code == 404


async def test_verifying_reads_the_bytes(world: World) -> None:
    digest, _ = await pushed(world)
    answer = await world.ok("POST", f"/artifacts/{digest}:verify")
    assert answer == {"digest": digest, "sizeBytes": 11, "whole": True, "difference": ""}
    (tree_of(world, digest) / "model").write_text("other")
    answer = await world.ok("POST", f"/artifacts/{digest}:verify")
    assert (answer["whole"], answer["difference"]) == (False, "model has other bytes")
    gone = await world.call("POST", f"/artifacts/{digest_of('nothing')}:verify")
    assert gone.status_code == 404


async def test_the_check_names_every_fault(world: World) -> None:
    missing, _ = await pushed(world, "1.0.0")
    unrecorded, lost_id = await pushed(world, "1.0.1")
    _, well_id = await pushed(world, "1.0.2")
    for file in (*tree_of(world, missing).iterdir(), tree_of(world, missing)):
        file.unlink() if file.is_file() else file.rmdir()
    record_of(world, lost_id).unlink()
    orphan = add_orphan(world, "x")
    record_of(world, "mv-0").write_text(record_of(world, well_id).read_text())
    found = await world.ok("GET", "/artifacts:check")
    assert [(f["kind"], f["digest"], f["versions"]) for f in found["faults"]] == [
        ("missing", missing, ["fraud@1.0.0"]),
        ("orphaned", orphan, []),
        ("stray", "", ["mv-0"]),
        ("unrecorded", unrecorded, ["fraud@1.0.1"]),
    ]
    assert found["versions"] == 3
    assert len(found["artifacts"]) == 2


@pytest.mark.parametrize("grace", ["", "soon", "-1s", "9" * 30 + "d"])
async def test_a_grace_that_is_no_time_is_refused(world: World, grace: str) -> None:
    asked = await world.call("GET", "/artifacts:check", grace=grace)
    assert asked.status_code == 422
    body = {"grace": grace}
    assert (await world.call("POST", "/artifacts:repair", body)).status_code == 422


async def test_repairing_writes_records_and_removes_only_what_is_named(world: World) -> None:
    _, lost_id = await pushed(world)
    record_of(world, lost_id).unlink()
    one, two = add_orphan(world, "one"), add_orphan(world, "two")
    record_of(world, "mv-0").write_text("{}")
    done = await world.ok("POST", "/artifacts:repair", {"remove": [one, "mv-0", "nothing"]})
    assert done == {"recorded": ["fraud@1.0.0"], "removed": [one, "mv-0"]}
    assert not tree_of(world, one).exists()
    assert not record_of(world, "mv-0").exists()
    found = await world.ok("GET", "/artifacts:check")
    assert [(f["kind"], f["digest"]) for f in found["faults"]] == [("orphaned", two)]


async def test_repairing_is_audited(world: World) -> None:
    orphan = add_orphan(world, "x")
    body = {"remove": [orphan], "reason": "tidy"}
    await world.ok("POST", "/artifacts:repair", body)
    last = (await world.store.audit(last=1))[0]
    assert (last.subject, last.action, last.reason) == ("admin", "remove", "tidy")
    assert last.details["artifact"] == orphan
    sequence = last.sequence
    assert await world.ok("POST", "/artifacts:repair", body) == {"recorded": [], "removed": []}
    assert (await world.store.audit(last=1))[0].sequence == sequence


async def test_nothing_that_a_version_has_can_be_removed(world: World) -> None:
    digest, unique_id = await pushed(world)
    os.utime(tree_of(world, digest), (0, 0))
    world.clock.step(10 * 86_400)
    body = {"remove": [digest, unique_id], "grace": "0s"}
    assert await world.ok("POST", "/artifacts:repair", body) == {"recorded": [], "removed": []}
    await world.ok("DELETE", "/model-versions/fraud@1.0.0")
    assert await world.ok("POST", "/artifacts:repair", body) == {"recorded": [], "removed": []}
    found = await world.ok("GET", "/artifacts:check")
    assert (found["faults"], found["unused"]) == ([], {"artifacts": 1, "sizeBytes": 11})


async def test_what_is_being_pushed_is_no_orphan(world: World) -> None:
    digest = add_orphan(world, "x")
    os.utime(tree_of(world, digest))
    assert (await world.ok("GET", "/artifacts:check", grace="1h"))["faults"] == []
    world.clock.step(timedelta(days=3650).total_seconds())
    assert (await world.ok("GET", "/artifacts:check", grace="1h"))["faults"] != []


async def test_too_many_names_and_other_things_are_refused(world: World) -> None:
    for remove in (["x"] * 1001, [1], "x"):
        answer = await world.call("POST", "/artifacts:repair", {"remove": remove})
        assert answer.status_code == 422
