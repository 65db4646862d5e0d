"""What an Alertmanager posts becomes alerts here, once, and only from those who may report."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from modelplane.api import alertmanager
from modelplane.decisions.alert_delivery import SOURCE_LABEL
from modelplane.resources.alerting import Alert
from tests.api.world import READER, World, make_world

PATH = "/alertmanager"


def alert(status: str = "firing", name: str = "DiskFull", **labels: str) -> dict[str, Any]:
    return {
        "status": status,
        "labels": {"alertname": name, "severity": "page", **labels},
        "annotations": {"summary": "no space"},
        "startsAt": "2026-01-01T00:00:00.5Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus/graph",
        "fingerprint": "0011",
    }


def message(*alerts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"version": "4", "receiver": "modelplane", "alerts": list(alerts), **changes}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with make_world() as world:
        yield world


async def stored(world: World) -> list[Alert]:
    alerts, _ = await world.store.list(Alert)
    return list(alerts)


async def test_a_group_becomes_alerts_and_its_repetition_nothing(world: World) -> None:
    group = message(alert(), alert(name="Slow"))
    assert (await world.ok("POST", PATH, group))["changed"] == 2
    before = await stored(world)
    assert {(a.spec.alert, a.spec.source, a.status.phase) for a in before} == {
        ("DiskFull", "alertmanager", "Firing"),
        ("Slow", "alertmanager", "Firing"),
    }
    assert before[0].status.annotations == {"summary": "no space"}
    assert before[0].status.generator_url == "http://prometheus/graph"
    assert (await world.ok("POST", PATH, group))["changed"] == 0
    assert await stored(world) == before


async def test_an_end_is_taken_and_the_next_beginning_is_the_next_episode(world: World) -> None:
    for status in ("firing", "resolved", "resolved", "firing"):
        await world.ok("POST", PATH, message(alert(status)))
        await world.clock.advance(60)
    [again] = await stored(world)
    assert (again.status.phase, again.status.episode) == ("Firing", 2)


async def test_what_modelplane_posted_there_itself_is_left_out(world: World) -> None:
    answer = await world.ok("POST", PATH, message(alert(**{SOURCE_LABEL: "ours"})))
    assert (answer["own"], answer["changed"]) == (1, 0)
    assert await stored(world) == []


async def test_truncated_alerts_are_noted(world: World) -> None:
    assert (await world.ok("POST", PATH, message(alert(), truncatedAlerts=12)))["truncated"] == 12


async def test_one_that_cannot_be_taken_keeps_no_other_out(world: World) -> None:
    answer = await world.ok("POST", PATH, message(alert(**{"a.b": "dotted"}), alert()))
    assert answer["changed"] == 1
    assert len(answer["refused"]) == 1
    assert [a.spec.alert for a in await stored(world)] == ["DiskFull"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"not json", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b"", "no message of an Alertmanager"),
        (b'{"version": "3", "alerts": []}', "no message of an Alertmanager"),
        (b'{"ref": "refs/heads/main", "commits": []}', "no message of an Alertmanager"),
    ],
)
async def test_what_no_alertmanager_sends_is_refused_with_what_is_wrong(
    world: World, body: bytes, words: str
) -> None:
    answer = await world.call("POST", PATH, body)
    assert answer.status_code == 400
    problem = answer.json()
    assert problem["code"] == "not-alertmanager"
    assert words in problem["detail"]
    assert await stored(world) == []


async def test_only_those_who_may_report_alerts_are_heard(world: World) -> None:
    assert (await world.call("POST", PATH, message(), token=None)).status_code == 401
    assert (await world.call("POST", PATH, message(), token=READER)).status_code == 403
    role = {"rules": [{"name": "tell", "verbs": ["report"], "kinds": ["Alert"]}]}
    await world.ok(
        "PUT", "/roles/alertmanager", {"metadata": {"name": "alertmanager"}, "spec": role}
    )
    binding = {"role": "alertmanager", "groups": ["analysts"]}
    body = {"metadata": {"name": "alertmanager"}, "spec": binding}
    await world.ok("PUT", "/role-bindings/alertmanager", body)
    assert (await world.call("POST", PATH, message(alert()), token=READER)).status_code == 200


async def test_what_nobody_ends_does_not_grow_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alertmanager, "MAX_GOING_ON", 2)
    answer = await world.ok("POST", PATH, message(alert(name="A"), alert(name="B")))
    assert answer["changed"] == 2
    answer = await world.ok("POST", PATH, message(alert(name="C"), alert(name="A")))
    assert (answer["received"], answer["changed"], len(answer["refused"])) == (2, 0, 1)
    assert "C: 2 alerts" in answer["refused"][0]
    answer = await world.ok("POST", PATH, message(alert("resolved", name="A"), alert(name="C")))
    assert answer["changed"] == 2, "an end makes room"


@pytest.mark.parametrize(
    "odd",
    [
        {"labels": {"alertname": "\ud800"}},
        {"annotations": {"summary": "\ud800"}},
        {"annotations": {"summary": "\x00"}},
        {"startsAt": "0001-01-01T00:00:00Z"},
        {"startsAt": "9999-12-31T23:59:59-14:00"},
        {"generatorURL": 3},
    ],
)
async def test_what_is_odd_is_taken_or_refused_and_no_failure(
    world: World, odd: dict[str, Any]
) -> None:
    body = message({**alert(), **odd})
    answer = await world.call("POST", PATH, json.dumps(body).encode())
    assert answer.status_code in {200, 400}, answer.text
