"""registry history, tag and correct: what is asked, and what people read."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.cli.description import describe_resource
from modelplane.cli.moments import parse_moment, show_moment
from modelplane.cli.session import Session
from modelplane.decisions.history import Named
from modelplane.errors import InvalidResource
from modelplane.resources.meta import Resource
from modelplane.resources.model import (
    AliasMove,
    AliasMoveSpec,
    Correction,
    ModelVersion,
    ModelVersionSpec,
    ModelVersionStatus,
)
from tests.cli.conftest import Run
from tests.cli.fakes import NOW, FakeClient, metadata

NAMED = Named(
    alias="champion",
    environment="production",
    deployment="fraud",
    version="1.2.0",
    since=NOW - timedelta(days=1),
    subject="anna",
    reason="better recall",
    origin="rollout",
    promotion="fraud-3",
)


class HistoryClient(FakeClient):
    """Answers with one move."""

    def history(self, model: str, *, limit: int = 500, **only: str | None) -> Any:
        self.asked.append(("history", model, limit, only))
        spec = AliasMoveSpec(
            model=model, alias="best", before="1.1.0", after="1.2.0", at=NOW, subject="mlflow",
            reason="moved outside modelplane", origin="outside",
        )  # fmt: skip
        return (AliasMove(metadata=metadata(f"{model}@00000001", None), spec=spec),)

    def history_at(self, model: str, at: datetime, **only: str | None) -> tuple[Named, ...]:
        self.asked.append(("history_at", model, at, only))
        return (NAMED,) if only["alias"] != "none" else ()

    def act(
        self,
        kind: type[Resource[Any, Any]],
        name: str,
        verb: str,
        environment: str | None = None,
        **body: Any,
    ) -> dict[str, Any]:
        self.asked.append((verb, name, body))
        return {"result": "changed"}

    def correct_version(self, name: str, field: str, value: Any, *, reason: str) -> ModelVersion:
        self.asked.append(("correct", name, field, value, reason))
        return version(Correction(field=field, value=value, subject="anna", at=NOW, reason=reason))


def version(*corrections: Correction) -> ModelVersion:
    return ModelVersion(
        metadata=metadata("fraud@1.2.0", None),
        spec=ModelVersionSpec(model="fraud", version="1.2.0", metrics={"accuracy": 0.93}),
        status=ModelVersionStatus(corrections=corrections),
    )


@pytest.fixture
def client() -> FakeClient:
    return HistoryClient()


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let local time be that of Berlin: an hour before UTC in winter, two in summer."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_one_command_says_what_was_what_then_who_moved_it_and_why(
    run: Run, client: FakeClient
) -> None:
    result = run("registry", "history", "fraud", "--at", "2025-03-01 12:30", "-e", "production")
    assert result.exit_code == 0
    assert result.stderr == "fraud at 2025-03-01 12:30:00 CET:\n"
    assert result.stdout == (
        "WHAT      WHERE             VERSION  SINCE                    BY    WHY            HOW\n"
        "champion  production/fraud  1.2.0    2025-02-28 13:00:00 CET  anna  better recall  "
        "rollout, promotion fraud-3\n"
    )
    at = datetime(2025, 3, 1, 11, 30, tzinfo=UTC)
    only = {"environment": "production", "alias": None}
    assert client.asked == [("history_at", "fraud", at, only)]


def test_nothing_named_then_is_said(run: Run) -> None:
    result = run("registry", "history", "fraud", "--at", "2h ago", "--alias", "none")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing was named then by what you asked for" in result.stderr


def test_json_has_the_moment_with_its_zone(run: Run) -> None:
    result = run("registry", "history", "fraud", "--at", "2025-03-01 12:30", "-o", "json")
    answer = json.loads(result.stdout)
    assert (answer["kind"], answer["at"]) == ("ModelHistory", "2025-03-01T12:30:00+01:00")
    assert [item["version"] for item in answer["items"]] == ["1.2.0"]


def test_without_a_moment_the_moves_are_listed_with_where_they_came_from(
    run: Run, client: FakeClient
) -> None:
    result = run("registry", "history", "fraud", "--limit", "1")
    row = result.stdout.splitlines()[1]
    assert "2025-03-01 13:00:00 CET  best  alias  1.1.0  1.2.0  mlflow" in row
    assert row.endswith("outside modelplane")
    assert "--limit shows more" in result.stderr
    assert client.asked == [("history", "fraud", 1, {"environment": None, "alias": None})]


@pytest.mark.parametrize("at", ["soon", "32:00", "tomorrow 9:00", "ago", "3 parsecs ago", ""])
def test_what_is_no_time_is_a_usage_error_with_examples(
    run: Run, client: FakeClient, at: str
) -> None:
    result = run("registry", "history", "fraud", "--at", at)
    assert result.exit_code == 2
    assert "tuesday 14:02" in result.stderr
    assert client.asked == []


SATURDAY = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)
"""13:00 in Berlin."""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("now", "2025-03-01 13:00:00 CET"),
        ("2025-02-11 14:02", "2025-02-11 14:02:00 CET"),
        ("2025-02-11T14:02:00Z", "2025-02-11 15:02:00 CET"),
        ("2024-07-01 14:02", "2024-07-01 14:02:00 CEST"),
        ("2024-07-01", "2024-07-01 00:00:00 CEST"),
        ("tuesday 14:02", "2025-02-25 14:02:00 CET"),
        ("Tue 9:05", "2025-02-25 09:05:00 CET"),
        ("last tuesday", "2025-02-25 00:00:00 CET"),
        ("saturday 12:59", "2025-03-01 12:59:00 CET"),
        ("saturday 13:01", "2025-02-22 13:01:00 CET"),
        ("today 9:30:15", "2025-03-01 09:30:15 CET"),
        ("yesterday 23:00", "2025-02-28 23:00:00 CET"),
        ("14:02", "2025-02-28 14:02:00 CET"),
        ("12:02", "2025-03-01 12:02:00 CET"),
        ("2h ago", "2025-03-01 11:00:00 CET"),
        ("1h 30m ago", "2025-03-01 11:30:00 CET"),
        ("90 minutes ago", "2025-03-01 11:30:00 CET"),
        ("2 weeks ago", "2025-02-15 13:00:00 CET"),
    ],
)
def test_moments_as_people_say_them(text: str, shown: str) -> None:
    assert show_moment(parse_moment(text, SATURDAY)) == shown


def test_a_day_before_the_clocks_changed_has_the_zone_of_then() -> None:
    monday_after = datetime(2025, 3, 31, 12, 0, tzinfo=UTC)
    assert show_moment(parse_moment("saturday 14:02", monday_after)) == "2025-03-29 14:02:00 CET"


@given(st.text(max_size=30))
def test_no_text_breaks_the_reading_of_moments(text: str) -> None:
    try:
        moment = parse_moment(text, SATURDAY)
    except InvalidResource:
        return
    assert moment.tzinfo is not None


def test_tags_are_set_and_removed(run: Run, client: FakeClient) -> None:
    result = run("registry", "tag", "fraud@1.2.0", "team=risk", "note=a=b", "old-")
    assert result.stdout == "fraud@1.2.0 tagged (changed)\n"
    tags = {"team": "risk", "note": "a=b", "old": None}
    assert client.asked == [("tag", "fraud@1.2.0", {"tags": tags, "reason": ""})]


@pytest.mark.parametrize("change", ["team", "=risk", "-", " =x"])
def test_what_is_no_change_of_a_tag_is_refused(run: Run, client: FakeClient, change: str) -> None:
    assert run("registry", "tag", "fraud@1.2.0", "--", change).exit_code == 2
    assert client.asked == []


def test_a_correction_is_sent_as_a_value_of_its_kind(run: Run, client: FakeClient) -> None:
    words = ("registry", "correct", "fraud@1.2.0")
    result = run(*words, "metrics.accuracy=0.91", "--reason", "wrong test set")
    assert result.stdout == "fraud@1.2.0 metrics.accuracy corrected (1 correction)\n"
    run(*words, "metrics.recall-", "--reason", "never measured")
    run(*words, "training.git_commit=123", "--reason", "typo")
    assert [asked[2:] for asked in client.asked] == [
        ("metrics.accuracy", 0.91, "wrong test set"),
        ("metrics.recall", None, "never measured"),
        ("training.git_commit", "123", "typo"),
    ]


def test_a_correction_needs_a_reason_and_a_field_that_can_be_corrected(
    run: Run, client: FakeClient
) -> None:
    words = ("registry", "correct", "fraud@1.2.0")
    assert run(*words, "metrics.accuracy=0.91").exit_code == 2
    refused = run(*words, "artifact.digest=x", "--reason", "x")
    assert refused.exit_code == 2
    assert "cannot be corrected" in refused.stderr
    assert client.asked == []


def test_describing_a_version_shows_its_corrections_beside_the_record() -> None:
    correction = Correction(
        field="metrics.accuracy", value=0.91, subject="anna", at=NOW, reason="wrong test set"
    )
    text = describe_resource(Session(now=lambda: NOW), version(correction))
    assert "accuracy: 0.93" in text
    assert "metrics.accuracy  0.91       2025-03-01 12:00 UTC  anna  wrong test set" in text
    assert "Corrected" not in describe_resource(Session(now=lambda: NOW), version())
