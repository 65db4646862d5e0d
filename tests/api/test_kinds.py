"""Lists, single resources, apply and delete of plain kinds, status reports, tokens, audit."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from modelplane.ports.store import Transaction
from modelplane.resources.meta import Metadata
from modelplane.resources.replica import Replica, ReplicaSpec
from modelplane.resources.revision import Artifact, RuntimeSpec, make_revision
from modelplane.resources.token import Token
from tests.api.world import AGENT, READER, SYSTEM, World, digest_of


async def test_lists_are_filtered_by_label_and_environment(world: World) -> None:
    for name, team in (("a", "risk"), ("b", "risk"), ("c", "ads")):
        await world.ok("PUT", f"/models/{name}", {"metadata": {"labels": {"team": team}}})
    listing = await world.ok("GET", "/models", labelSelector="team=risk")
    assert listing["kind"] == "ModelList"
    assert [item["metadata"]["name"] for item in listing["items"]] == ["a", "b"]
    await world.push("a", "1.0.0")
    await world.deploy("a", "staging")
    assert (await world.ok("GET", "/model-deployments", environment="production"))["items"] == []
    (item,) = (await world.ok("GET", "/model-deployments"))["items"]
    assert item["metadata"]["environment"] == "staging"


async def test_pages_together_are_the_whole_list(world: World) -> None:
    names = [f"m{i:02}" for i in range(7)]
    for name in names:
        await world.ok("PUT", f"/models/{name}", {})
    seen, query = [], {"limit": 3}
    while True:
        page = await world.ok("GET", "/models", **query)
        assert len(page["items"]) <= 3
        seen += [item["metadata"]["name"] for item in page["items"]]
        if "continue" not in page["metadata"]:
            break
        query["continue"] = page["metadata"]["continue"]
    assert seen == names


async def test_apply_of_plain_kinds_is_declarative(world: World) -> None:
    body: dict[str, Any] = {"spec": {"description": "flags fraud"}}
    assert (await world.ok("PUT", "/models/fraud", body))["result"] == "created"
    assert (await world.ok("PUT", "/models/fraud", body))["result"] == "unchanged"
    body["metadata"] = {"labels": {"tier": "1"}}
    changed = await world.ok("PUT", "/models/fraud", body)
    assert changed["result"] == "changed"
    assert await world.ok("GET", "/models/fraud") == changed["resource"]
    again = await world.ok("PUT", "/models/fraud", changed["resource"])
    assert again["result"] == "unchanged", "what get shows can be applied"


async def test_a_models_count_survives_its_manifest(world: World) -> None:
    await world.push("fraud", "1.0.0")
    await world.ok("PUT", "/models/fraud", {"metadata": {"annotations": {"owner": "ann"}}})
    pushed = await world.push("fraud", "2.0.0")
    assert pushed["resource"]["spec"]["number"] == 2


async def test_two_gateways_cannot_share_a_port(world: World) -> None:
    body = {"spec": {"stage": "development", "gateway": {"port": 7081}}}
    response = await world.call("PUT", "/environments/dev", body)
    assert response.status_code == 422
    assert "staging" in response.json()["fields"][0]["message"]


async def test_what_is_in_use_cannot_be_deleted(world: World) -> None:
    await world.push("fraud", "1.0.0")
    await world.deploy("fraud", "staging")
    environment = await world.call("DELETE", "/environments/staging")
    assert environment.status_code == 409
    assert "fraud" in environment.json()["detail"]
    assert (await world.call("DELETE", "/models/fraud")).status_code == 409
    deployment = await world.call("DELETE", "/model-deployments/fraud?environment=staging", None)
    assert deployment.status_code == 200
    assert (await world.call("DELETE", "/environments/staging")).status_code == 200


async def test_a_job_never_changes_but_can_be_cancelled(world: World) -> None:
    body: dict[str, Any] = {"spec": {"command": ["python", "train.py"]}}
    await world.ok("PUT", "/jobs/train", body)
    other = {"spec": {"command": ["rm"]}}
    assert (await world.call("PUT", "/jobs/train", other)).status_code == 409
    body["spec"]["cancelled"] = True
    assert (await world.ok("PUT", "/jobs/train", body))["result"] == "changed"
    body["spec"]["cancelled"] = False
    assert (await world.call("PUT", "/jobs/train", body)).status_code == 409


async def make_replica(world: World) -> Replica:
    artifact = Artifact(format="skops", digest=digest_of("x"))
    revision = make_revision("fraud", "1.0.0", artifact, RuntimeSpec())
    spec = ReplicaSpec(deployment="fraud", revision=revision, index=0)
    transaction = Transaction(SYSTEM)
    transaction.create(
        Replica(metadata=Metadata(name="fraud-a-0", environment="staging"), spec=spec)
    )
    (replica,) = await world.store.commit(transaction)
    assert isinstance(replica, Replica)
    return replica


async def test_an_agent_reports_status_and_only_status(world: World) -> None:
    replica = await make_replica(world)
    path = "/replicas/fraud-a-0/status"
    body = {"metadata": {"uid": replica.metadata.uid}, "status": {"phase": "Ready", "pid": 7}}
    answer = await world.call("PUT", path, body, token=AGENT, environment="staging")
    assert answer.json()["status"]["phase"] == "Ready"
    assert answer.json()["spec"] == replica.spec.to_dict()
    wrong = await world.call(
        "PUT", path, {"status": {"phase": "Redy"}}, token=AGENT, environment="staging"
    )
    assert wrong.status_code == 422
    assert wrong.json()["fields"][0]["path"] == "status.phase"


async def test_a_report_for_another_resource_of_the_name_is_refused(world: World) -> None:
    replica = await make_replica(world)
    path = "/replicas/fraud-a-0/status"
    for known in (
        {"uid": "of-one-deleted-before"},
        {"resourceVersion": replica.metadata.resource_version - 1},
    ):
        body = {"metadata": known, "status": {"phase": "Ready"}}
        response = await world.call("PUT", path, body, token=AGENT, environment="staging")
        assert response.status_code == 409


async def test_a_token_works_until_it_is_revoked_and_its_digest_is_never_shown(
    world: World,
) -> None:
    made = await world.ok("POST", "/tokens/ann:create", {"groups": ["admin"]})
    secret = made["secret"]
    created = await world.call("PUT", "/models/fraud", {}, token=secret)
    assert created.status_code == 200
    assert (await world.store.audit())[-1].subject == "ann"
    for path in ("/tokens", "/tokens/ann"):
        text = (await world.call("GET", path, token=READER)).text
        stored = await world.store.get(Token, "ann")
        assert stored.spec.digest not in text
        assert secret not in text
    await world.ok("POST", "/tokens/ann:revoke", {"reason": "left"})
    assert (await world.call("GET", "/models", token=secret)).status_code == 401


async def test_a_token_expires(world: World) -> None:
    made = await world.ok("POST", "/tokens/ci:create", {"groups": ["analysts"], "expiresIn": "1h"})
    assert (await world.call("GET", "/models", token=made["secret"])).status_code == 200
    await world.clock.advance(3600)
    response = await world.call("GET", "/models", token=made["secret"])
    assert response.status_code == 401
    assert "has expired" in response.json()["detail"]


async def test_bad_tokens_are_refused(world: World) -> None:
    rows: list[tuple[str, dict[str, Any], int]] = [
        ("admin", {}, 409),
        ("ann", {"groups": [3]}, 422),
        ("ann", {"groups": "admin"}, 422),
        ("ann", {"expiresIn": "soon"}, 422),
        ("-ann", {}, 422),
    ]
    for name, body, status in rows:
        assert (await world.call("POST", f"/tokens/{name}:create", body)).status_code == status
    assert (await world.call("POST", "/tokens/nobody:revoke", {})).status_code == 404


async def test_every_change_is_in_the_audit_log_with_who_and_why(world: World) -> None:
    await world.push("fraud", "1.0.0")
    body: dict[str, Any] = {"spec": {}}
    await world.ok("PUT", "/model-deployments/fraud", body, reason="launch")
    listing = await world.ok("GET", "/audit", kind="model-deployments", name="fraud")
    (record,) = listing["items"]
    assert (record["subject"], record["action"], record["reason"]) == ("admin", "apply", "launch")
    assert (await world.ok("GET", "/audit:verify"))["faults"] == []


async def test_the_audit_log_is_read_in_pages_and_exported_whole(world: World) -> None:
    for name in "abc":
        await world.ok("PUT", f"/models/{name}", {})
    seen: list[int] = []
    after = 0
    while page := (await world.ok("GET", "/audit", after=after, limit=2))["items"]:
        seen += [record["sequence"] for record in page]
        after = seen[-1]
    lines = (await world.call("GET", "/audit:export")).text.splitlines()
    assert [json.loads(line)["sequence"] for line in lines[:-1]] == seen
    assert "signedHead" in json.loads(lines[-1])


async def test_the_audit_log_is_read_from_its_end(world: World) -> None:
    for name in "abcd":
        await world.ok("PUT", f"/models/{name}", {})
    everything = (await world.ok("GET", "/audit"))["items"]
    newest = await world.ok("GET", "/audit", last=2)
    assert newest["items"] == everything[-2:]
    assert newest["metadata"]["next"] == everything[-1]["sequence"]
    assert (await world.ok("GET", "/audit", last=5, name="a"))["items"] == [
        record for record in everything if record["name"] == "a"
    ]
    bad: list[dict[str, Any]] = [
        {"last": 2, "after": 0},
        {"last": 0},
        {"last": 1001},
        {"after": 10**30},
    ]
    for query in bad:
        assert (await world.call("GET", "/audit", **query)).status_code == 422


async def test_scraped_metrics_are_shown_with_the_version(world: World) -> None:
    await world.push("fraud", "1.0.0")
    deployed = await world.deploy("fraud")
    revision = deployed["promotion"]["spec"]["revision"]["digest"][:10]
    at = (world.clock.now() - timedelta(seconds=5)).isoformat().replace("+00:00", "Z")
    scrape = {"deployment": "fraud", "revision": revision, "at": at}
    scraped = [
        {**scrape, "replica": "r-0", "samples": {'rows_total{model="fraud"}': 7.0}},
        {**scrape, "replica": "r-1", "error": "GET /metrics was answered 404"},
    ]
    batch = {
        "environment": "production",
        "proxy": "production/local",
        "bootId": "b",
        "sequence": 1,
        "at": at,
        "seconds": 1.0,
        "scraped": scraped,
    }
    assert (await world.call("POST", "/telemetry", batch, token=AGENT)).status_code == 200
    (variant,) = (await world.ok("GET", "/model-deployments/fraud:traffic"))["variants"]
    assert (variant["revision"], variant["requests"]) == (revision, 0)
    healthy, failing = variant["metrics"]["r-0"], variant["metrics"]["r-1"]
    assert healthy == {
        "at": at, "samples": {'rows_total{model="fraud"}': 7.0}, "truncated": False, "error": "",
    }  # fmt: skip
    assert (failing["samples"], failing["error"]) == ({}, "GET /metrics was answered 404")
    scraped[0]["samples"] = {f"m{i}": 1.0 for i in range(51)}
    refused = await world.call("POST", "/telemetry", {**batch, "sequence": 2}, token=AGENT)
    assert refused.status_code == 422, "scrapes are bounded"


async def test_telemetry_comes_in_once_and_goes_out_as_totals(world: World) -> None:
    await world.push("fraud", "1.0.0")
    deployed = await world.deploy("fraud")
    revision = deployed["promotion"]["spec"]["revision"]["digest"][:10]
    sample = {
        "deployment": "fraud",
        "revision": revision,
        "requests": 40,
        "failures": 2,
        "latency": [[0.0, 1000.0, 20], [1000.0, 1000.0, 20]],
    }
    batch = {
        "environment": "production",
        "proxy": "production/local",
        "bootId": "b",
        "sequence": 1,
        "at": (world.clock.now() - timedelta(seconds=5)).isoformat(),
        "seconds": 1.0,
        "samples": [sample],
    }
    for _ in range(2):
        response = await world.call("POST", "/telemetry", batch, token=AGENT)
        assert response.status_code == 200
    traffic = await world.ok("GET", "/model-deployments/fraud:traffic")
    (variant,) = traffic["variants"]
    assert (variant["revision"], variant["requests"], variant["failures"]) == (revision, 40, 2)
    assert variant["p50Us"] == 1000.0
    assert (await world.call("POST", "/telemetry", batch, token=READER)).status_code == 403
