"""Who moved what, when and why, over the API; and corrections of records."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from modelplane.client.calls import Call
from modelplane.client.history import fetch_moves, history_call, read_named
from modelplane.decisions.aliases import Mover, move_alias
from modelplane.ports.store import Transaction
from modelplane.resources.model import AliasMove, Model, ModelVersion
from tests.api.world import READER, SYSTEM, World

PATH = "/models/fraud/history"


async def alias(world: World, version: str, name: str = "champion", **more: Any) -> None:
    body = {"alias": name, **more}
    await world.ok("POST", f"/model-versions/fraud@{version}:alias", body)
    world.clock.step(60)


async def with_history(world: World) -> None:
    """Champion: 1.0.0, a minute later 2.0.0, a minute later nothing; best: 1.0.0."""
    for version in ("1.0.0", "2.0.0"):
        await world.push("fraud", version)
    await alias(world, "1.0.0", reason="first")
    await alias(world, "2.0.0", reason="better recall")
    await alias(world, "2.0.0", remove=True)
    await alias(world, "1.0.0", "best")


async def named_at(world: World, minutes_ago: float, **query: str) -> dict[str, str]:
    at = world.clock.now() - timedelta(minutes=minutes_ago)
    answer = await world.ok("GET", PATH, at=at.isoformat(), **query)
    return {item["alias"]: item["version"] for item in answer["items"]}


async def test_what_was_named_at_a_moment_and_who_did_it(world: World) -> None:
    await with_history(world)
    assert await named_at(world, 5) == {}
    assert await named_at(world, 3.5) == {"champion": "1.0.0"}
    assert await named_at(world, 2.5) == {"champion": "2.0.0"}
    assert await named_at(world, 1.5) == {}
    assert await named_at(world, 0) == {"best": "1.0.0"}
    at = (world.clock.now() - timedelta(minutes=2.5)).isoformat()
    answer = await world.ok("GET", PATH, at=at)
    assert (answer["kind"], answer["model"]) == ("ModelHistory", "fraud")
    (item,) = answer["items"]
    since = (world.clock.now() - timedelta(minutes=3)).isoformat().replace("+00:00", "Z")
    assert item == {
        "alias": "champion",
        "version": "2.0.0",
        "before": "1.0.0",
        "since": since,
        "subject": "admin",
        "reason": "better recall",
        "origin": "request",
    }


async def test_moves_come_newest_first_and_in_pages(world: World) -> None:
    await with_history(world)
    seen, token = [], ""
    while True:
        query = {"limit": 3, **({"continue": token} if token else {})}
        answer = await world.ok("GET", PATH, **query)
        seen += [item["metadata"]["name"] for item in answer["items"]]
        token = answer["metadata"].get("continue", "")
        if not token:
            break
    assert seen == [f"fraud@0000000{number}" for number in (4, 3, 2, 1)]
    only = await world.ok("GET", PATH, alias="best")
    assert [item["spec"]["after"] for item in only["items"]] == ["1.0.0"]
    assert (await world.ok("GET", PATH, environment="production"))["items"] == []


async def test_the_client_follows_the_pages(world: World) -> None:
    await with_history(world)
    sent: list[Call] = []
    bodies = [(await world.call("GET", PATH, limit=3)).content]
    bodies.append((await world.call("GET", PATH, limit=3, **{"continue": "2"})).content)

    def send(call: Call) -> bytes:
        sent.append(call)
        return bodies[len(sent) - 1]

    moves = fetch_moves(send, "fraud", 100, {"alias": None})
    assert [m.metadata.name[-1] for m in moves] == ["4", "3", "2", "1"]
    assert [call.query.get("continue") for call in sent] == [None, "2"]
    call = history_call("my fraud", {"environment": "staging"}, at=world.clock.now())
    assert call.path == "/api/v1/models/my%20fraud/history"
    body = (await world.call("GET", PATH, at=world.clock.now().isoformat())).content
    assert [item.alias for item in read_named(body)] == ["best"]


async def test_a_deleted_model_has_a_history_and_one_made_again_goes_on_with_it(
    world: World,
) -> None:
    await with_history(world)
    for version in ("1.0.0", "2.0.0"):
        await world.ok("DELETE", f"/model-versions/fraud@{version}", reason="leaks data")
    await world.ok("DELETE", "/models/fraud")
    assert await world.store.find(Model, "fraud") is None
    newest = (await world.ok("GET", PATH))["items"][0]["spec"]
    assert (newest["alias"], newest["reason"]) == ("best", "leaks data")
    assert await named_at(world, 0) == {}
    await world.ok("PUT", "/models/fraud", {})
    await world.push("fraud", "3.0.0")
    await alias(world, "3.0.0")
    assert (await world.ok("GET", PATH))["items"][0]["metadata"]["name"] == "fraud@00000006"


async def test_moves_found_outside_are_shown_as_such(world: World) -> None:
    await world.push("fraud", "1.0.0")
    model = await world.store.get(Model, "fraud")
    mover = Mover("mlflow", world.clock.now(), "moved outside modelplane", "outside")
    transaction = Transaction(SYSTEM)
    for written in move_alias(model, "champion", "1.0.0", mover).written:
        transaction.put(written, "alias")
    await world.store.commit(transaction)
    (item,) = (await world.ok("GET", PATH, at=world.clock.now().isoformat()))["items"]
    assert (item["origin"], item["subject"]) == ("outside", "mlflow")


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("/models/nothing/history", {}, 404),
        (PATH, {"at": "tuesday"}, 422),
        (PATH, {"limit": 0}, 422),
        (PATH, {"continue": "x"}, 422),
        (PATH, {"continue": "²"}, 422),
        (PATH, {"since": "1"}, 422),
    ],
)
async def test_bad_questions_are_refused(
    world: World, path: str, query: dict[str, Any], status: int
) -> None:
    await world.push("fraud", "1.0.0")
    assert (await world.call("GET", path, **query)).status_code == status


async def test_readers_may_look(world: World) -> None:
    await with_history(world)
    assert (await world.call("GET", PATH, token=READER)).status_code == 200


async def test_a_correction_stands_beside_the_record_and_is_audited(world: World) -> None:
    pushed = await world.push("fraud", "1.0.0", metrics={"accuracy": 0.93})
    path = "/model-versions/fraud@1.0.0:correct"
    body = {"field": "metrics.accuracy", "value": 0.91, "reason": "wrong test set"}
    answer = await world.ok("POST", path, body)
    assert answer["result"] == "changed"
    assert (await world.ok("POST", path, body))["result"] == "unchanged"
    removed = await world.ok("POST", path, {**body, "value": None})
    assert removed["resource"]["spec"] == pushed["resource"]["spec"]
    version = await world.store.get(ModelVersion, "fraud@1.0.0")
    corrections = [(c.field, c.value, c.subject, c.reason) for c in version.status.corrections]
    assert corrections == [
        ("metrics.accuracy", 0.91, "admin", "wrong test set"),
        ("metrics.accuracy", None, "admin", "wrong test set"),
    ]
    records = await world.store.audit(kind="ModelVersion", name="fraud@1.0.0")
    assert [(r.action, r.reason) for r in records][1:] == [("correct", "wrong test set")] * 2


@pytest.mark.parametrize(
    "body",
    [
        {"field": "metrics.accuracy", "value": 0.91},
        {"field": "metrics.accuracy", "reason": "forgot the value"},
        {"value": 0.91, "reason": "forgot the field"},
        {"field": "metrics.accuracy", "value": "high", "reason": "x"},
        {"field": "artifact.digest", "value": "sha256:0", "reason": "x"},
        {"field": 3, "value": 0.91, "reason": "x"},
        {"field": "metrics.accuracy", "value": 0.9, "reason": "x", "at": "now"},
    ],
)
async def test_corrections_that_are_none_are_refused(world: World, body: dict[str, Any]) -> None:
    await world.push("fraud", "1.0.0", metrics={"accuracy": 0.93})
    response = await world.call("POST", "/model-versions/fraud@1.0.0:correct", body)
    assert response.status_code == 422
    assert response.json()["fields"]
    version = await world.store.get(ModelVersion, "fraud@1.0.0")
    assert version.status.corrections == ()


async def test_moves_are_never_written_by_people(world: World) -> None:
    await with_history(world)
    before = await world.store.list(AliasMove)
    for method in ("PUT", "DELETE", "POST"):
        response = await world.call(method, "/alias-moves/fraud@00000001", {})
        assert response.status_code == 405
    assert await world.store.list(AliasMove) == before
