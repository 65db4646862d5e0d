"""``notification …`` as people type it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from modelplane.resources.meta import Metadata
from modelplane.resources.notification import Event, Notification, NotificationSpec
from tests.cli.conftest import Run
from tests.cli.fakes import NOW, FakeClient


def notification(name: str, phase: Any = "Pending", **status: Any) -> Notification:
    event = Event(
        type="gate.failed", subject=f"GateRun {name}", at=NOW - timedelta(hours=len(name))
    )
    return Notification(
        metadata=Metadata(name=name, labels={"channel": "team"}, created_at=NOW),
        spec=NotificationSpec(channel="team", event=event, id=name),
    ).with_status(phase=phase, **status)


class Sending(FakeClient):
    """Replays and tests, and remembers it in `asked`."""

    def replay_notification(self, name: str) -> Notification:
        self.asked.append(("replay", name))
        return notification(name)

    def test_channel(self, name: str) -> Notification:
        self.asked.append(("test", name))
        return notification("n-test")


@pytest.fixture
def client() -> FakeClient:
    return Sending(
        notification("n-done", "Delivered", attempts=1),
        notification("n-dead", "Dead", attempts=5, message="the receiver answered 404"),
        notification("n-dead-too", "Dead", attempts=9),
    )


def test_lists_and_dead_letters(run: Run) -> None:
    everything = run("notification", "list")
    assert everything.exit_code == 0, everything.output
    assert "n-done" in everything.output
    dead = json.loads(run("notification", "list", "--dead", "-o", "json").stdout)
    assert [item["metadata"]["name"] for item in dead["items"]] == ["n-dead-too", "n-dead"]
    assert "nothing was sent" in run("notification", "list", "--channel", "other").output


def test_replay_one_or_all(run: Run, client: FakeClient) -> None:
    assert run("notification", "replay", "n-dead").exit_code == 0
    result = run("notification", "replay", "--all")
    assert "n-dead-too goes to team again" in result.output
    assert [name for _, name in client.asked] == ["n-dead", "n-dead", "n-dead-too"]
    for words in ((), ("n-dead", "--all")):
        assert run("notification", "replay", *words).exit_code == 2
    assert len(client.asked) == 3


@pytest.mark.parametrize(
    ("outcome", "code", "says"),
    [
        ({"phase": "Delivered", "attempts": 1}, 0, "team: delivered"),
        ({"phase": "Pending", "attempts": 1, "message": "no connection"}, 1, "no connection"),
        ({"phase": "Dead", "attempts": 5, "message": "answered 404"}, 1, "answered 404"),
        ({"phase": "Pending"}, 1, "not tried within 30 s"),
    ],
)
def test_a_test_says_whether_it_arrived(
    run: Run, client: FakeClient, outcome: dict[str, Any], code: int, says: str
) -> None:
    client.play("Notification", notification("n-test"), notification("n-test", **outcome))
    result = run("notification", "test", "team")
    assert result.exit_code == code, result.output
    assert says in result.output
    assert client.asked == [("test", "team")]
