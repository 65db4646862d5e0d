"""``alert …`` as people type it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from modelplane.decisions.alerts import alert_name, fingerprint
from modelplane.resources.alerting import (
    Alert,
    AlertChange,
    AlertSpec,
    AlertStatus,
    Matcher,
    Silence,
    SilenceSpec,
)
from modelplane.resources.meta import Metadata
from tests.cli.conftest import Run
from tests.cli.fakes import NOW, FakeClient


def alert(name: str = "ReplicaDown", phase: str = "Firing", **status: Any) -> Alert:
    labels = {"alertname": name, "deployment": "fraud", "replica": "fraud-1a2b3c4d5e-0"}
    began = NOW - timedelta(minutes=5)
    history = [AlertChange(at=began, phase="Pending"), AlertChange(at=began, phase="Firing")]
    if phase == "Resolved":
        history.append(AlertChange(at=NOW, phase="Resolved", message="it rests"))
    fields = {
        "phase": phase,
        "episode": 3,
        "value": 0.25,
        "active_at": began,
        "fired_at": began,
        "resolved_at": NOW if phase == "Resolved" else None,
        "annotations": {"summary": "A model server of fraud 2.0.0 in production is down."},
        "history": tuple(history),
        **status,
    }
    return Alert(
        metadata=Metadata(name=alert_name(name, labels)),
        spec=AlertSpec(
            alert=name, source="modelplane", rules="own", labels=labels,
            fingerprint=fingerprint(labels),
        ),
        status=AlertStatus(**fields),
    )  # fmt: skip


def put(client: FakeClient, *resources: Alert | Silence) -> None:
    for one in resources:
        client.resources[one.key] = one


def test_list_shows_what_is_wrong_now_within_a_hundred_columns(
    run: Run, client: FakeClient
) -> None:
    put(client, alert(), alert("Drift", "Pending"), alert("Old", "Resolved"))
    result = run("alert", "list")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["NAME", "PHASE", "SINCE", "SILENCED", "SUMMARY"]
    assert [line.split()[1] for line in lines[1:]] == ["Firing", "Pending"]
    assert "5m" in lines[1]
    # The summary is last and is what a narrow terminal cuts.
    assert lines[1].index("A model server") <= 60
    assert all(len(line.rstrip()) <= 113 for line in lines)
    items = json.loads(run("alert", "list", "--all", "-o", "json").stdout)["items"]
    assert len(items) == 3


def test_list_narrows_down_by_matchers(run: Run, client: FakeClient) -> None:
    put(client, alert(), alert("Drift"))
    shown = run("alert", "list", 'alertname=~"Dr.*"', "-o", "name").stdout
    assert shown.startswith("alert/Drift-")
    assert len(shown.splitlines()) == 1
    wrong = run("alert", "list", "alertname=Drift")
    assert wrong.exit_code == 2
    assert 'write severity="page"' in wrong.stderr


def test_nothing_wrong_is_no_table(run: Run, client: FakeClient) -> None:
    put(client, alert("Old", "Resolved"))
    result = run("alert", "list")
    assert (result.stdout, result.stderr) == ("", "nothing is wrong\n")


def test_show_finds_an_alert_by_how_its_name_begins(run: Run, client: FakeClient) -> None:
    told: dict[str, Any] = {
        "notified": "flapping",
        "notified_episode": 3,
        "flapping": True,
        "run": "restart-7",
    }
    put(client, alert(**told), alert("Resting"))
    text = run("alert", "show", "Replica").stdout
    for part in (
        "Firing (flaps) for 5m", "modelplane, rules own", "restart-7", "A model server",
        "not again until it rests", "deployment=fraud",
    ):  # fmt: skip
        assert part in text
    several = run("alert", "show", "Re")
    assert several.exit_code == 2
    assert "2 alerts begin with 'Re'" in several.stderr
    assert run("alert", "show", "No").exit_code != 0


def test_history_tells_every_change_in_order(run: Run, client: FakeClient) -> None:
    put(client, alert("Old", "Resolved"), alert())
    lines = run("alert", "history").stdout.splitlines()
    assert lines[-1].endswith("it rests")
    changes = json.loads(run("alert", "history", "Old", "-o", "json").stdout)
    assert [one["phase"] for one in changes] == ["Pending", "Firing", "Resolved"]


def test_silence_and_unsilence(run: Run, client: FakeClient) -> None:
    result = run(
        "alert", "silence", 'deployment="fraud"', 'severity!="critical"',
        "--for", "2h", "--comment", "new disks",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    name = f"silence-{NOW:%Y%m%d-%H%M%S}"
    until = NOW + timedelta(hours=2)
    assert result.stdout == f"silence/{name} until {until:%Y-%m-%d %H:%M:%S}Z\n"
    made = Silence(
        metadata=Metadata(name=name),
        spec=SilenceSpec(
            matchers=(Matcher(name="deployment", value="fraud"),), ends_at=until, comment="x"
        ),
    )
    put(client, made)
    assert run("alert", "unsilence", name).stdout == f"silence/{name} ended\n"
    over = made.with_spec(ends_at=NOW - timedelta(hours=1))
    put(client, over)
    assert "over already" in run("alert", "unsilence", name).stdout


def test_a_silence_of_everything_is_refused(run: Run) -> None:
    for words, why in (
        (['alertname=~".*"'], "hold for every alert"),
        (['alertname="X"', "--for", "soon"], "--for"),
    ):
        result = run("alert", "silence", *words, "--comment", "x")
        assert result.exit_code == 2
        assert why in result.stderr
