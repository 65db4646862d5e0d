"""token, audit, status, version."""

from __future__ import annotations

import json
from pathlib import Path

from modelplane.resources.meta import Condition
from modelplane.resources.replica import Replica, ReplicaSpec, ReplicaStatus
from modelplane.resources.traffic_split import SplitVariant, TrafficSplit, TrafficSplitSpec
from tests.cli.conftest import Run
from tests.cli.fakes import FakeClient, deployment, environment, metadata, revision, rollout


def test_a_tokens_secret_is_alone_on_stdout(run: Run, client: FakeClient) -> None:
    result = run("token", "create", "anna", "--group", "admin", "--expires-in", "90d")
    assert result.stdout == "mp_secret\n"
    assert "not shown again" in result.stderr
    assert client.asked == [("create_token", "anna", ("admin",), "90d")]
    assert json.loads(run("token", "create", "b", "-o", "json").stdout)["secret"] == "mp_secret"


def test_tokens_are_listed_and_revoked(run: Run, client: FakeClient) -> None:
    made, _, _ = client.create_token("anna", ("admin",))
    client.resources[made.key] = made
    assert run("token", "list").stdout == (
        "NAME  GROUPS  EXPIRES  AGE\nanna  admin   never    3h\n"
    )
    assert run("token", "revoke", "anna").stdout == "token/anna revoked\n"


def test_audit_list_filters_by_what_was_changed(run: Run, client: FakeClient) -> None:
    text = run("audit", "list", "deployment/fraud", "-e", "production", "--after", "5").stdout
    assert "1         2025-03-01 12:00:00  anna     apply   ModelDeployment prod" in text
    assert client.asked[-1] == (
        "audit", 5, 100, {"kind": "ModelDeployment", "name": "fraud", "environment": "production"},
    )  # fmt: skip


def test_audit_list_shows_the_newest_unless_told_where_to_begin(
    run: Run, client: FakeClient
) -> None:
    assert json.loads(run("audit", "list", "-o", "json").stdout)["items"][0]["sequence"] == 1
    result = run("audit", "list", "--limit", "1")
    everything = {"kind": None, "name": None, "environment": None}
    assert client.asked == [
        ("audit", 0, 100, {"last": 100, **everything}),
        ("audit", 0, 100, {"last": 1, **everything}),
    ]
    assert "these are the newest; --after 0 begins with the oldest" in result.stderr
    assert "--after 1" in run("audit", "list", "--after", "0", "--limit", "1").stderr


def test_audit_verify_names_the_fault_and_exits_7(run: Run, client: FakeClient) -> None:
    assert run("audit", "verify").stdout == (
        "verified: 12 records, unbroken up to the signed head\n"
    )
    client.verification = {
        "verified": False,
        "records": 12,
        "faults": [{"sequence": 4, "kind": "altered", "message": "was altered"}],
    }
    broken = run("audit", "verify")
    assert broken.exit_code == 7
    assert "record 4: was altered" in broken.stderr
    as_json = run("audit", "verify", "-o", "json")
    assert (as_json.exit_code, json.loads(as_json.stdout)["verified"]) == (7, False)


def test_audit_export_writes_a_whole_file_or_none(run: Run, tmp_path: Path) -> None:
    assert run("audit", "export").stdout == '{"sequence": 1}\n{"head": 1}\n'
    file = tmp_path / "audit.jsonl"
    assert run("audit", "export", "--to", str(file)).exit_code == 0
    assert file.read_text().splitlines() == ['{"sequence": 1}', '{"head": 1}']
    assert run("audit", "export", "--to", str(file)).exit_code == 2
    assert list(tmp_path.iterdir()) == [file]


def test_status_shows_what_serves_moves_and_is_wrong(run: Run, client: FakeClient) -> None:
    broken = Replica(
        metadata=metadata("fraud-2-0"),
        spec=ReplicaSpec(deployment="fraud", revision=revision("1.1.0"), index=0),
        status=ReplicaStatus(phase="NotReady", reason="OutOfMemory"),
    )
    variants = (
        SplitVariant(revision="a", version="1.0.0", role="stable", weight_pct=75),
        SplitVariant(revision="b", version="1.1.0", role="candidate", weight_pct=25),
    )
    split = TrafficSplit(
        metadata=metadata("fraud"),
        spec=TrafficSplitSpec(deployment="fraud", variants=variants),
    )
    for resource in (
        environment(), environment("staging", 7081, 10), deployment(rollout="fraud-2"), rollout(),
        broken, split,
    ):  # fmt: skip
        client.resources[resource.key] = resource
    assert run("status").stdout == (
        "staging  gateway http://127.0.0.1:7081\n"
        "nothing is deployed here\n"
        "\n"
        "production  gateway http://127.0.0.1:7082\n"
        "DEPLOYMENT  SERVING  TRAFFIC                 READY  MOVING         "
        "TROUBLE\n"
        "fraud       1.0.0    1.0.0 75 %, 1.1.0 25 %  1/1    1.1.0 Ramping  "
        "fraud-2-0 NotReady: OutOfMemory\n"
    )


def test_status_tells_conditions_and_what_to_do_first(run: Run, client: FakeClient) -> None:
    place = environment()
    client.resources[place.key] = place
    assert run("status").stdout.endswith(
        "Next: modelplane push NAME --version 1.0.0 --artifact PATH\n"
    )
    condition = Condition(type="MetricUnavailable", status="True", reason="x", message="precision")
    good = Condition(type="Available", status="True", reason="Ready", message="1 of 1 ready")
    found = deployment(conditions=(good, condition))
    client.resources[found.key] = found
    data = json.loads(run("status", "-o", "json").stdout)
    (shown,) = data["environments"][0]["deployments"]
    assert shown["trouble"] == "MetricUnavailable: precision"


def test_version_names_what_it_runs_on(run: Run) -> None:
    found = json.loads(run("version", "-o", "json").stdout)
    assert set(found) == {"modelplane", "envoy", "pydantic", "uv", "python"}
    assert "not installed" not in found.values()
