"""auth can-i, auth whoami; what token create says of roles."""

from __future__ import annotations

import json

import pytest

from modelplane.client.authorization import Permission
from tests.cli.conftest import Run
from tests.cli.fakes import FakeClient

NO = Permission(
    allowed=False,
    rule="default-deny",
    message="'ann' may not steer Rollout in production (rule default-deny): that takes role "
    "operator (rule steer)",
)


def test_can_i_says_yes_and_by_which_rule(run: Run, client: FakeClient) -> None:
    client.permission = Permission(allowed=True, rule="operator/steer@operator")
    result = run("auth", "can-i", "steer", "rollout", "-e", "staging", "--as", "ann")
    assert (result.stdout, result.exit_code) == ("yes (rule operator/steer@operator)\n", 0)
    assert client.asked == [("can_i", "steer", "rollout", "staging", None, "ann")]


def test_can_i_says_no_and_what_it_would_take(run: Run, client: FakeClient) -> None:
    client.permission = NO
    result = run("auth", "can-i", "apply", "ModelVersion", "--model", "fraud")
    assert (result.stdout, result.exit_code) == ("no\n", 1)
    assert "that takes role operator (rule steer)" in result.stderr
    assert client.asked == [("can_i", "apply", "ModelVersion", None, "fraud", None)]
    as_json = run("auth", "can-i", "apply", "ModelVersion", "-o", "json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)["rule"] == "default-deny"


def test_whoami_shows_the_roles_and_where_they_hold(run: Run, client: FakeClient) -> None:
    client.me = {
        "name": "ann",
        "groups": ["devs", "ops"],
        "roles": [
            {"binding": "devs", "role": "developer", "groups": ["devs"], "models": {}},
            {
                "binding": "risk-ops",
                "role": "operator",
                "groups": ["ops"],
                "environments": ["staging"],
                "models": {"names": ["fraud"], "labels": {"team": "risk"}},
            },
        ],
    }
    lines = run("auth", "whoami").stdout.splitlines()
    assert lines[0] == "ann (groups: devs, ops)"
    assert [line.split() for line in lines[1:]] == [
        ["ROLE", "BINDING", "ENVIRONMENTS", "MODELS"],
        ["developer", "devs", "all", "all"],
        ["operator", "risk-ops", "staging", "fraud,team=risk"],
    ]
    assert json.loads(run("auth", "whoami", "-o", "json").stdout) == client.me


def test_whoami_tells_those_who_may_do_nothing(run: Run, client: FakeClient) -> None:
    client.me = {"name": "ann", "groups": [], "roles": []}
    result = run("auth", "whoami")
    assert result.stdout == "ann (groups: none)\n"
    assert "may do nothing" in result.stderr


@pytest.mark.parametrize("group", [(), ("--group", "developer")])
def test_a_new_token_without_a_role_is_warned_of(run: Run, group: tuple[str, ...]) -> None:
    result = run("token", "create", "ann", *group)
    assert result.stdout == "mp_secret\n"
    assert ("ann may do nothing yet" in result.stderr) == (not group)
