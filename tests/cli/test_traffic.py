"""``traffic …`` as people type it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelplane.decisions.traffic_report import TrafficReport
from modelplane.resources.manifest import read_document
from modelplane.resources.traffic_policy import HookStatus, TrafficPolicy
from tests.cli.conftest import Run
from tests.cli.fakes import NOW, FakeClient

REPORT = TrafficReport.model_validate(
    {
        "deployment": "fraud",
        "environment": "production",
        "seconds": 300,
        "gateway": {"generation": 12, "acceptedGeneration": 12, "acceptedAt": NOW},
        "shield": {"on": True, "saved": 37, "retriesAtATime": 1024},
        "rules": [
            {
                "name": "rule-1f2e3d4c",
                "predicate": "user.region == 'west'",
                "shares": {"1.0.0": 90, "2.0.0": 10},
                "mirrors": {"3.0.0": 50},
            },
            {"name": "default", "shares": {"1.0.0": 100}},
        ],
        "versions": [
            {
                "version": "1.0.0",
                "revision": "aaaaaaaaaa",
                "role": "stable",
                "counts": {"requests": 12345, "p50Us": 1900, "p99Us": 12000},
                "rules": [
                    {"rule": "default", "sharePct": 100, "counts": {"requests": 12345}},
                ],
            },
            {
                "version": "2.0.0",
                "revision": "bbbbbbbbbb",
                "role": "candidate",
                "counts": {"requests": 1240, "failures": 38, "clientFailures": 1, "saved": 37},
                "rules": [
                    {
                        "rule": "rule-1f2e3d4c",
                        "sharePct": 10,
                        "counts": {
                            "requests": 1240,
                            "failures": 38,
                            "clientFailures": 1,
                            "saved": 37,
                            "p50Us": 2100,
                            "p99Us": 15000,
                        },
                    }
                ],
                "rollout": {
                    "rollout": "fraud-2",
                    "phase": "Ramping",
                    "policy": "west",
                    "requests": 5000,
                    "failures": 120,
                    "saved": 119,
                },
            },
        ],
    }
)


class Trafficking(FakeClient):
    """Has one report, whatever is asked."""

    report = REPORT
    window: tuple[str, str, int] | None = None

    def traffic_report(
        self, deployment: str, environment: str = "production", *, seconds: int = 300
    ) -> TrafficReport:
        self.window = (deployment, environment, seconds)
        return self.report


@pytest.fixture
def client() -> FakeClient:
    return Trafficking()


def policy(name: str = "west", **status: Any) -> TrafficPolicy:
    declared = read_document(
        {
            "name": name,
            "model_name": "fraud",
            "deployment": "fraud",
            "version": "2.0.0",
            "traffic_rule": {"canary": {"percentage": 10, "predicate": "user.region == 'west'"}},
            "monitoring_hooks": ["latency_alert>95th", "drift_detection/enabled"],
        }
    )
    assert isinstance(declared, TrafficPolicy)
    return declared.with_status(**status)


def test_show_tells_rules_shares_failures_and_what_was_saved(run: Run, client: Any) -> None:
    result = run("traffic", "show", "fraud", "-e", "staging", "--since", "10m")
    assert result.exit_code == 0, result.output
    assert client.window == ("fraud", "staging", 600)
    assert result.stdout == (
        "fraud in production: split 12, in force for 0s; the last 5m00s\n"
        "shield on: tries again at most 1,024 requests at a time\n"
        "\n"
        "RULE           WHO                    GETS\n"
        "rule-1f2e3d4c  user.region == 'west'  1.0.0 90 %, 2.0.0 10 %, copies of 50 % to 3.0.0\n"
        "default        everybody              1.0.0 100 %\n"
        "\n"
        "VERSION  ROLE       RULE           SHARE  REQUESTS  FAILED  SEEN  SAVED  P50     P99\n"
        "1.0.0    stable     default        100 %  12,345    0       0     0      -       -\n"
        "2.0.0    candidate  rule-1f2e3d4c  10 %   1,240     38      1     37     2.1 ms  15 ms\n"
        "\n"
        "saved 37 requests of 2.0.0\n"
        "2.0.0: rollout fraud-2 of policy west, Ramping: 5,000 requests since it began, "
        "120 failed, 119 of them saved\n"
    )


def test_show_as_json_is_the_report(run: Run) -> None:
    result = run("traffic", "show", "fraud", "-o", "json")
    assert TrafficReport.model_validate(json.loads(result.stdout)) == REPORT


def test_a_refusal_of_the_gateway_comes_first(run: Run, client: Any) -> None:
    refused = {"generation": 13, "accepted_generation": 12, "refusal": "no such cluster"}
    client.report = REPORT.with_(gateway=REPORT.gateway.with_(**refused))
    (first, *_) = run("traffic", "show", "fraud").stdout.splitlines()
    assert first == (
        "fraud in production: the gateway refused split 13 and goes on with 12: no such cluster"
    )


@pytest.mark.parametrize(
    ("shield", "line"),
    [
        ({"on": False}, "shield off: requests are not idempotent, so none is tried again"),
        (
            {"retries_at_a_time": None, "retry_budget_pct": 20.0},
            "shield on: tries again at most 20 % of the requests in flight at a time",
        ),
    ],
)
def test_the_shield_s_budget_is_told(
    run: Run, client: Any, shield: dict[str, Any], line: str
) -> None:
    client.report = REPORT.with_(shield=REPORT.shield.with_(**shield))
    assert line in run("traffic", "show", "fraud").stdout


def test_a_length_of_time_that_is_none_is_refused(run: Run) -> None:
    result = run("traffic", "show", "fraud", "--since", "soon")
    assert result.exit_code == 2
    assert "--since" in result.stderr


def test_list_shows_policies_with_what_watches_them(run: Run, client: Any) -> None:
    waiting = HookStatus(hook="drift_detection/enabled", state="waiting", message="later")
    west = policy(phase="Active", message="at 10 %", hooks=(waiting,))
    for one in (west, policy("east", gateway="no such cluster")):
        client.resources[one.key] = one
    result = run("traffic", "list")
    assert result.exit_code == 0, result.output
    for cell in ("west", "user.region == 'west'", "canary 10", "Active", "at 10 %"):
        assert cell in result.stdout
    assert "drift_detection/enabled (waiting)" in result.stdout
    assert "the gateway refused its routes: no such cluster" in result.stdout
    names = run("traffic", "list", "-o", "name").stdout.split()
    assert sorted(names) == ["trafficpolicy/east", "trafficpolicy/west"]
    items = json.loads(run("traffic", "list", "-o", "json").stdout)["items"]
    assert {item["metadata"]["name"] for item in items} == {"east", "west"}


def test_delete_takes_a_policy_away(run: Run, client: Any) -> None:
    client.resources[policy().key] = policy()
    result = run("traffic", "delete", "west", "--reason", "no gain")
    assert result.stdout == "trafficpolicy/west deleted\n"
    assert client.asked == [("delete", "TrafficPolicy", "west", "production", "no gain")]


def test_no_policies_are_no_table(run: Run) -> None:
    result = run("traffic", "list")
    assert (result.stdout, result.stderr) == ("", "there are no traffic policies\n")
