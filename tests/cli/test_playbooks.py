"""``playbook …`` as people type it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from modelplane.errors import InvalidResource
from modelplane.resources.playbook import HeldAlert, Playbook, PlaybookRun, StepStatus
from tests.cli.conftest import Run
from tests.cli.fakes import NOW, FakeClient


def playbook() -> Playbook:
    steps = [{"name": "restart", "restartReplica": {}}]
    found = Playbook.model_validate(
        {
            "metadata": {"name": "repair", "createdAt": NOW},
            "spec": {"matchers": ['alertname="ReplicaDown"'], "steps": steps},
        }
    )
    held = HeldAlert(alert="down-2", episode=1, reason="TooOften", message="3 an hour", since=NOW)
    return found.with_status(runs=2, last_run="repair-2", held=(held,))


def playbook_run(name: str = "repair-1", **status: Any) -> PlaybookRun:
    began = NOW - timedelta(minutes=5)
    found = PlaybookRun.model_validate(
        {
            "metadata": {"name": name, "labels": {"playbook": "repair"}, "createdAt": began},
            "spec": {
                "playbook": "repair",
                "steps": [{"name": "restart", "restartReplica": {}}],
                "verify": {},
                "alert": "down-1",
            },
        }
    )
    step = StepStatus(
        name="restart",
        phase="Succeeded",
        effect="Replica production/fraud-a-0",
        message="restarted fraud-a-0",
        started_at=began,
        finished_at=began + timedelta(seconds=2),
    )
    times = {
        "breach_at": began - timedelta(seconds=4),
        "fired_at": began - timedelta(seconds=1),
        "first_step_at": began,
        "verifying_at": began + timedelta(seconds=2),
        "recovered_at": began + timedelta(seconds=3),
        "finished_at": began + timedelta(seconds=3),
    }
    ended = {"phase": "Succeeded", "reason": "Recovered", "message": "recovery verified"}
    return found.with_status(**{"steps": (step,), **times, **ended, **status})


class Repairing(FakeClient):
    """Begins runs, takes answers, and remembers both in `asked`."""

    def run_playbook(
        self,
        playbook: str,
        *,
        alert: str | None = None,
        labels: Mapping[str, str] | None = None,
        dry_run: bool = False,
        reason: str = "",
    ) -> PlaybookRun:
        self.asked.append((playbook, alert, dict(labels or {}), dry_run, reason))
        return playbook_run(phase="Pending")

    def answer_playbook(
        self, run: str, step: str, *, agrees: bool, reason: str = ""
    ) -> PlaybookRun:
        if not agrees and not reason:
            raise InvalidResource("a no needs a reason")
        self.asked.append((run, step, agrees, reason))
        return playbook_run(run)

    def cancel_playbook(self, run: str, *, reason: str = "") -> PlaybookRun:
        self.asked.append((run, reason))
        return playbook_run(run)


@pytest.fixture
def client() -> FakeClient:
    return Repairing(playbook(), playbook_run())


def test_list_and_show_say_what_holds_it_back(run: Run) -> None:
    assert "held: TooOften" in run("playbook", "list").output
    shown = run("playbook", "show", "repair").output
    assert 'alertname="ReplicaDown"' in shown
    assert "down-2: TooOften: 3 an hour" in shown
    assert "repair-1" in shown


def test_history_tells_how_long_each_leg_took(run: Run) -> None:
    listed = run("playbook", "history").output
    assert [word for word in listed.splitlines()[1].split() if word.endswith("0s")] == [
        "3.0s", "1.0s", "2.0s", "1.0s", "7.0s",
    ]  # fmt: skip
    one = run("playbook", "history", "repair-1").output
    assert "restarted fraud-a-0" in one
    assert "total 7.0s" in one
    (item,) = json.loads(run("playbook", "history", "repair", "-o", "json").stdout)["items"]
    assert item["legs"]["total"] == 7.0
    assert "no playbook was run" in run("playbook", "history", "other").output


def test_a_run_by_hand(run: Run, client: FakeClient) -> None:
    result = run("playbook", "run", "repair", "-l", "deployment=fraud", "--reason", "slow")
    assert result.exit_code == 0, result.output
    assert client.asked == [("repair", None, {"deployment": "fraud"}, False, "slow")]
    assert run("playbook", "run", "repair", "-l", "fraud").exit_code == 2


def test_a_dry_run_waits_and_says_what_would_be_done(run: Run, client: FakeClient) -> None:
    state = StepStatus(name="restart", phase="Skipped", message="would restart fraud-a-0")
    client.play("PlaybookRun", playbook_run(steps=(state,), reason="DryRun"))
    result = run("playbook", "run", "repair", "--dry-run")
    assert "would restart fraud-a-0" in result.output
    assert client.asked[0][3] is True


def test_a_run_that_was_followed_and_failed_ends_with_1(run: Run, client: FakeClient) -> None:
    client.play("PlaybookRun", playbook_run(phase="Failed", message="step restart: no"))
    result = run("playbook", "run", "repair", "--wait")
    assert (result.exit_code, "step restart: no" in result.output) == (1, True)


def test_answer_and_cancel(run: Run, client: FakeClient) -> None:
    assert run("playbook", "answer", "repair-1", "ask").exit_code == 2
    assert run("playbook", "answer", "repair-1", "ask", "--no").exit_code == 2
    assert "ask: yes" in run("playbook", "answer", "repair-1", "ask", "--yes").output
    run("playbook", "answer", "repair-1", "ask", "--no", "--reason", "not now")
    assert "asked to end" in run("playbook", "cancel", "repair-1").output
    assert client.asked == [
        ("repair-1", "ask", True, ""),
        ("repair-1", "ask", False, "not now"),
        ("repair-1", ""),
    ]
