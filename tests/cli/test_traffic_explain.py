"""traffic explain: what is asked, and what is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelplane.client import Client
from modelplane.decisions.assignment import Explanation, Share
from tests.cli.conftest import Run
from tests.cli.fakes import FakeClient

FOUND = Explanation(
    deployment="fraud",
    environment="production",
    acknowledged=False,
    rule="rule-1f",
    predicate="user.region == 'west'",
    reason="user",
    bucket=4312,
    version="2.0.0",
    cluster="fraud.b",
    shares=(Share(version="2.0.0", cluster="fraud.b", percentage=50),),
    why=("predicate of rule-1f holds: user.region is 'west'", "bucket 4312 of 10000 lies in …"),
    notes=("the gateway has not acknowledged these routes yet",),
)


@pytest.fixture
def asked(client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []

    def explain(self: Client, *words: Any, **named: Any) -> Explanation:
        calls.append((words, named))
        return FOUND

    monkeypatch.setattr(type(client), "explain", explain)
    return calls


def test_explain_tells_the_version_and_why(run: Run, asked: list[Any]) -> None:
    words = ("--header", "x-user-region=west", "--input", "amount=300", "--input", 'code="5"')
    result = run("traffic", "explain", "fraud", "--user", "alice", *words, "--input", "flag=true")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [
        "fraud in production: 2.0.0",
        "  predicate of rule-1f holds: user.region is 'west'",
        "  bucket 4312 of 10000 lies in …",
        "  rule-1f is: user.region == 'west'",
    ]
    assert "not acknowledged" in result.stderr
    assert asked == [
        (
            ("fraud", "alice"),
            {
                "environment": "production",
                "headers": {"x-user-region": "west"},
                "inputs": {"amount": 300, "code": "5", "flag": True},
            },
        )
    ]


def test_explain_as_json_is_the_whole_answer(run: Run, asked: list[Any]) -> None:
    told = json.loads(run("traffic", "explain", "fraud", "-o", "json").stdout)
    assert Explanation.model_validate(told) == FOUND


def test_what_is_no_pair_is_refused(run: Run, asked: list[Any]) -> None:
    result = run("traffic", "explain", "fraud", "--header", "x-user-region")
    assert result.exit_code == 2
    assert "write NAME=VALUE" in result.stderr
    assert not asked
