"""get, describe and delete."""

from __future__ import annotations

import json

from modelplane.errors import Conflict, TransientError
from modelplane.ports.store import Change
from modelplane.resources.manifest import read_documents
from tests.cli.conftest import Run
from tests.cli.fakes import FakeClient, deployment, environment, promotion, rollout


def fill(client: FakeClient) -> None:
    for resource in (
        environment("staging", 7081, 10),
        environment(),
        deployment(rollout="fraud-2"),
        deployment(place="staging", version="1.1.0"),
        rollout(),
        promotion(),
    ):
        client.resources[resource.key] = resource


def test_get_shows_production_and_with_all_every_environment(run: Run, client: FakeClient) -> None:
    fill(client)
    assert run("get", "deployments").stdout == (
        "NAME   ENVIRONMENT  MODEL  VERSION  SERVING  READY  STRATEGY  ROLLOUT  AGE\n"
        "fraud  production   fraud  1.0.0    1.0.0    1/1    default   fraud-2  3h\n"
    )
    assert run("get", "deployments", "-A").stdout == (
        "NAME   ENVIRONMENT  MODEL  VERSION  SERVING  READY  STRATEGY  ROLLOUT  AGE\n"
        "fraud  production   fraud  1.0.0    1.0.0    1/1    default   fraud-2  3h\n"
        "fraud  staging      fraud  1.1.0    1.0.0    1/1    default   -        3h\n"
    )


def test_every_kind_has_columns(run: Run, client: FakeClient) -> None:
    fill(client)
    for kind in (
        "environments", "models", "versions", "deployments", "promotions", "rollouts",
        "traffic-splits", "replicas", "jobs", "tokens",
    ):  # fmt: skip
        assert run("get", kind).exit_code == 0


def test_get_one_prints_what_can_be_applied_again(run: Run, client: FakeClient) -> None:
    fill(client)
    text = run("get", "deployment/fraud", "-o", "yaml").stdout
    (again,) = read_documents(text, "x")
    assert again.spec == deployment().spec
    data = json.loads(run("get", "md", "fraud", "-o", "json").stdout)
    assert data["status"]["readyReplicas"] == 1
    assert run("get", "deployment", "fraud", "-o", "name").stdout == "modeldeployment/fraud\n"


def test_get_lists_as_a_json_list(run: Run, client: FakeClient) -> None:
    fill(client)
    data = json.loads(run("get", "environments", "-o", "json").stdout)
    assert data["kind"] == "EnvironmentList"
    assert [item["metadata"]["name"] for item in data["items"]] == ["staging", "production"]


def test_nothing_found_leaves_stdout_empty(run: Run) -> None:
    result = run("get", "rollouts")
    assert (result.stdout, result.stderr) == ("", "no rollouts\n")


def test_watch_prints_changes_and_ends_on_interrupt(run: Run, client: FakeClient) -> None:
    fill(client)
    client.changes = [
        Change(8, "put", rollout("Promoted", 100)),
        Change(9, "delete", rollout("Promoted", 100)),
    ]
    result = run("get", "rollouts", "-w", "-o", "json")
    assert result.exit_code == 130
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["type"] for line in lines] == ["put", "put", "delete"]
    assert lines[1]["resource"]["status"]["phase"] == "Promoted"
    assert client.asked == [("watch", "Rollout", 7, "production")]


def test_watch_as_a_table_stays_under_its_headers(run: Run, client: FakeClient) -> None:
    fill(client)
    client.changes = [Change(9, "delete", environment())]
    lines = run("get", "environments", "-w").stdout.splitlines()
    gateway = "http://127.0.0.1:7082"
    assert lines[-1] == f"production  production  {gateway}  default   scanned  3h (deleted)"


def test_unknown_kind_and_missing_name_are_told(run: Run) -> None:
    unknown = run("get", "deploymnts")
    assert unknown.exit_code == 2
    assert unknown.stderr == (
        "error: no kind 'deploymnts'\nhint: did you mean 'model-deployments'?\n"
    )
    missing = run("get", "deployment", "none")
    assert missing.exit_code == 4
    assert "error: ModelDeployment none does not exist" in missing.stderr
    assert run("get", "environments", "-e", "staging").exit_code == 2
    assert run("describe", "deployment").exit_code == 2
    assert run("get", "deployment/a", "rollout/b").exit_code == 2


def test_describe_shows_what_hangs_on_a_deployment(run: Run, client: FakeClient) -> None:
    fill(client)
    text = run("describe", "deployment", "fraud").stdout
    assert "Name:        fraud\n" in text
    assert "Rollouts:\n  NAME     ENVIRONMENT  VERSIONS" in text
    assert "  fraud-2  production   1.0.0 → 1.1.0  Ramping  25 %" in text
    assert "Promotions:" in text
    assert "\nReplicas:" not in text


def test_describe_shows_what_model_servers_say_of_themselves(run: Run, client: FakeClient) -> None:
    fill(client)
    assert "Metrics" not in run("describe", "deployment", "fraud").stdout
    assert client.asked == [], "without an endpoint nothing is asked"
    declared = deployment()
    endpoint = declared.spec.with_(metrics_endpoint="/metrics")
    client.resources[declared.key] = declared.with_(spec=endpoint)
    told = {"at": "2025-03-01T11:59:48Z", "samples": {}, "truncated": False, "error": ""}
    healthy = {**told, "samples": {'rows_total{model="fraud"}': 1234567.0}, "truncated": True}
    failing = {**told, "error": "GET /metrics was answered 404"}
    client.variants = [
        {"version": "1.0.0", "revision": "a", "metrics": {"r-0": healthy, "r-1": told}},
        {"version": None, "revision": "b", "metrics": {"r-2": failing}},
        {"version": "1.2.0", "revision": "c", "metrics": {}},
    ]
    text = run("describe", "deployment", "fraud").stdout
    assert client.asked == [("traffic", "fraud", "production")]
    assert text.endswith(
        "Metrics of 1.0.0, r-0, 12s ago:\n"
        "  METRIC                     VALUE\n"
        '  rows_total{model="fraud"}  1234567\n'
        "  …\n"
        "\n"
        "Metrics of 1.0.0, r-1, 12s ago: none\n"
        "\n"
        "Metrics of b, r-2, 12s ago:\n"
        "  GET /metrics was answered 404\n"
        "\n"
    ), text


def test_delete_says_what_is_gone(run: Run, client: FakeClient) -> None:
    fill(client)
    result = run("delete", "deployment", "fraud", "-e", "staging", "--reason", "not needed")
    assert result.stdout == "modeldeployment/fraud deleted from staging\n"
    assert client.asked == [("delete", "ModelDeployment", "fraud", "staging", "not needed")]


def test_errors_have_their_exit_codes_and_no_traceback(run: Run, client: FakeClient) -> None:
    client.play("ModelDeployment", Conflict("changed meanwhile", hint="read it again"))
    result = run("get", "deployment", "fraud")
    assert result.exit_code == 5
    assert result.stderr == "error: changed meanwhile\nhint: read it again\n"
    client.play("ModelDeployment", TransientError("nobody answers", hint="modelplane up"))
    assert run("get", "deployment", "fraud").exit_code == 6
    for words in (("get", "deployment", "x", "--debug"), ("--debug", "get", "deployment", "x")):
        assert "Traceback" in run(*words).stderr
