"""Predictions and labels over HTTP: what is kept, what is refused, and who may."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from modelplane.errors import TransientError
from modelplane.testing.clock import ManualClock
from modelplane.testing.predictions import InMemoryPredictions
from tests.api.world import ADMIN, AGENT, READER, World, make_world

BATCH = "application/cloudevents-batch+json"
AT = "2026-01-05T09:00:00Z"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with make_world(predictions=InMemoryPredictions(ManualClock())) as made:
        await made.push("fraud", "1.0.0")
        log = {"joinKey": "input.order", "redact": ["name"], "slices": ["input.country"]}
        await made.deploy("fraud", model="fraud", version="1.0.0", predictions=log)
        yield made


def tensor(name: str, *data: Any) -> dict[str, Any]:
    return {"name": name, "datatype": "FP64", "shape": [len(data)], "data": list(data)}


def events(id: str = "r-1", **attributes: Any) -> list[dict[str, Any]]:
    """Both halves of a request of two rows, as an agent sends them."""
    common = {
        "specversion": "1.0",
        "id": id,
        "inferenceservicename": "fraud",
        "namespace": "production",
        "endpoint": "aaaa",
        "modelversion": "1.0.0",
        "time": AT,
        **attributes,
    }
    kind = "org.kubeflow.serving.inference"
    request = {"inputs": [tensor("amount", 1.0, 2.5), tensor("name", "ann", "bob")]}
    response = {
        "outputs": [
            tensor("predictions", 0, 1),
            {"name": "probabilities", "shape": [2, 2], "data": [[0.9, 0.1], [0.2, 0.8]]},
        ]
    }
    return [
        {**common, "type": f"{kind}.request", "data": request},
        {**common, "type": f"{kind}.response", "latencyus": 1500, "data": response},
    ]


async def send(
    world: World, body: Any, *, media_type: str = BATCH, token: str = AGENT, **query: Any
) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {token}", "content-type": media_type}
    path = "/api/v1/predictions"
    return await world.http.post(path, content=content, headers=headers, params=query or None)


async def send_binary(
    world: World, half: str, body: Any, *, service: str = "fraud", **query: Any
) -> httpx.Response:
    """Send one half as KServe's logger does."""
    headers = {
        "authorization": f"Bearer {AGENT}",
        "content-type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": "k-1",
        "ce-type": f"org.kubeflow.serving.inference.{half}",
        "ce-time": AT,
        "ce-inferenceservicename": service,
        "ce-namespace": "models",
        "ce-component": "predictor",
        "ce-endpoint": "default",
    }
    content = json.dumps(body).encode()
    path = "/api/v1/predictions"
    return await world.http.post(path, content=content, headers=headers, params=query or None)


async def stored(world: World) -> list[dict[str, Any]]:
    path = "/model-deployments/fraud/predictions/rows"
    found = await world.ok("GET", path, since="2026-01-01T00:00:00Z", until="2026-02-01T00:00:00Z")
    items: list[dict[str, Any]] = found["items"]
    return items


async def test_an_agents_page_becomes_rows_and_the_same_page_nothing(world: World) -> None:
    for kept in (2, 0):
        answer = await send(world, events())
        assert answer.status_code == 202
        assert (answer.json()["kept"], answer.json()["faults"]) == (kept, [])
    first, second = await stored(world)
    assert (first["predicted"], first["score"], first["latencyS"]) == (0, 0.1, 0.0015)
    assert (second["predicted"], second["score"], second["row"]) == (1, 0.8, 1)
    assert second["inputs"] == {"amount": 2.5}  # `name` is redacted
    assert (second["version"], second["revision"], second["mirrored"]) == ("1.0.0", "aaaa", False)


async def test_kserve_sends_halves_in_either_order(world: World) -> None:
    request = {"instances": [{"order": 7, "country": "de"}, {"order": 8, "country": "at"}]}
    response = {"predictions": [1, 0]}
    answer = await send_binary(world, "response", response, environment="production")
    assert answer.json() == {"kept": 0, "known": 0, "ignored": 0, "waiting": 1, "faults": []}
    answer = await send_binary(world, "request", request, environment="production")
    assert (answer.json()["kept"], answer.json()["waiting"]) == (2, 0)
    rows = await stored(world)
    assert [row["key"] for row in rows] == ["7", "8"]
    assert [row["parts"] for row in rows] == [["input.country=de"], ["input.country=at"]]
    assert [row["predicted"] for row in rows] == [1, 0]
    assert rows[0]["revision"] == "default"


async def test_what_no_deployment_predicted_is_never_stored(world: World) -> None:
    answer = await send_binary(world, "response", {"predictions": [1]})
    assert answer.status_code == 404  # the namespace is no environment, and none is named
    answer = await send_binary(
        world, "response", {"predictions": [1]}, service="other", environment="production"
    )
    assert answer.status_code == 404
    mixed = [*events(), *events("r-2", inferenceservicename="other")]
    answer = await send(world, mixed)
    assert answer.status_code == 404
    assert "2 predictions of others were kept" in answer.json()["detail"]
    assert len(await stored(world)) == 2


async def test_bad_events_are_named_and_spoil_no_good_ones(world: World) -> None:
    body = [*events(), {"id": "x"}, 7, {**events()[0], "time": "yesterday"}]
    answer = await send(world, body)
    assert answer.json()["kept"] == 2
    paths = [fault["path"] for fault in answer.json()["faults"]]
    assert paths == ["[2].type", "[3]", "[4].time"]
    for bad, media_type in ((b"{", BATCH), (b"{}", BATCH), (b"[7]", BATCH), (b"{}", "text/plain")):
        answer = await send(world, bad, media_type=media_type)
        assert answer.status_code == 422, bad


async def test_what_was_lost_on_the_way_is_counted(world: World) -> None:
    lost = {**events()[0], "type": "modelplane.predictions.dropped", "data": {"rows": 40}}
    assert (await send(world, [*events(), lost])).json()["kept"] == 2
    (place,) = (await world.ok("GET", "/model-deployments/fraud/predictions"))["places"]
    assert (place["predictions"], place["dropped"]) == (2, 40)


async def dropped(world: World) -> int:
    (place,) = (await world.ok("GET", "/model-deployments/fraud/predictions"))["places"]
    count: int = place["dropped"]
    return count


async def test_a_loss_that_is_told_again_is_counted_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = {**events()[0], "type": "modelplane.predictions.dropped", "data": {"rows": 40}}
    with monkeypatch.context() as context:

        async def away(*_: Any) -> None:
            raise TransientError("busy")

        context.setattr(InMemoryPredictions, "add_dropped", away)
        assert (await send(world, [lost])).status_code == 503
    for _ in range(2):
        assert (await send(world, [lost])).status_code == 202
        assert await dropped(world) == 40
    await send(world, [{**lost, "id": "another"}])
    assert await dropped(world) == 80


async def test_an_answer_that_was_too_long_is_lost_and_once(world: World) -> None:
    request, response = events()
    response = {**response, "truncated": "true", "rows": 7}
    del response["data"]
    for _ in range(2):
        answer = await send(world, [request, response])
        assert (answer.status_code, answer.json()["kept"]) == (202, 0)
        assert await dropped(world) == 7
    assert await stored(world) == []


async def test_rows_with_numbers_that_json_does_not_have_are_read_all_the_same(
    world: World,
) -> None:
    body = json.dumps(events()).replace("2.5", "NaN").encode()
    assert (await send(world, body)).json()["kept"] == 2
    path = "/model-deployments/fraud/predictions/rows"
    query = "?since=2026-01-01T00:00:00Z&until=2026-02-01T00:00:00Z"
    answer = await world.call("GET", path + query)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    items = json.loads(answer.content, parse_constant=refuse)["items"]
    assert [row["inputs"] for row in items] == [{"amount": 1.0}, {"amount": None}]


async def test_nothing_is_kept_of_a_deployment_that_keeps_nothing(world: World) -> None:
    await world.deploy("fraud", model="fraud", version="1.0.0")
    answer = await send(world, events())
    assert (answer.json()["kept"], answer.json()["ignored"]) == (0, 1)


async def test_a_store_that_is_full_says_when_to_come_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: Any) -> int:
        raise TransientError("too many wait", retry_after_s=5)

    monkeypatch.setattr(InMemoryPredictions, "add", full)
    answer = await send(world, events())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


async def test_only_agents_report_and_rows_are_not_for_everybody(world: World) -> None:
    assert (await send(world, events(), token=READER)).status_code == 403
    assert (await send(world, events(), token="nobody")).status_code == 401
    rows = "/model-deployments/fraud/predictions/rows"
    assert (await world.call("GET", rows, token=AGENT)).status_code == 403
    assert (await world.call("GET", rows, token=READER)).status_code == 200


async def test_pages_of_rows_go_on_where_the_last_one_ended(world: World) -> None:
    for number in range(3):
        await send(world, events(f"r-{number}"))
    path = "/model-deployments/fraud/predictions/rows"
    query: dict[str, Any] = {"since": AT, "until": "2026-01-06T00:00:00Z", "limit": 4}
    page = await world.ok("GET", path, **query)
    rest = await world.ok("GET", path, **{**query, **page["next"]})
    names = [(row["requestId"], row["row"]) for row in [*page["items"], *rest["items"]]]
    assert names == [(f"r-{n}", row) for n in range(3) for row in range(2)]
    assert "next" not in rest


def label(**fields: Any) -> dict[str, Any]:
    return {"requestId": "r-1", **fields}


async def tell(world: World, *labels: Any, token: str = ADMIN) -> httpx.Response:
    body = {"deployment": "fraud", "labels": list(labels)}
    return await world.call("POST", "/feedback", body, token=token)


async def test_labels_join_late_early_and_once(world: World) -> None:
    first = await tell(world, label(row=1, label=1))
    assert first.json()["fates"] == {"waiting": 1, "invalid": 0}
    await send(world, events())
    answer = await tell(world, label(label=0), label(row=1, label=1), label(row=1, label=0))
    assert answer.json()["fates"] == {"joined": 1, "known": 1, "contradicts": 1, "invalid": 0}
    (fault,) = answer.json()["faults"]
    assert fault["path"] == "labels[2]"
    assert fault["message"].startswith("contradicts: something else was said before")
    assert [row["label"] for row in await stored(world)] == [0, 1]


@pytest.mark.parametrize(
    ("bad", "path"),
    [
        (7, "labels[1]"),
        ({}, "labels[1]"),
        ({"requestId": "r", "key": "k", "label": 1}, "labels[1]"),
        ({"requestId": 5, "label": 1}, "labels[1].requestId"),
        (label(), "labels[1]"),
        (label(label=[1]), "labels[1].label"),
        (label(label=1, reward="2"), "labels[1].reward"),
        (label(reward=True), "labels[1].reward"),
        (label(label=1, row=-1), "labels[1].row"),
        (label(label=1, at="soon"), "labels[1].at"),
        (label(label=1, lable=1), "labels[1].lable"),
    ],
)
async def test_a_bad_label_is_named_and_spoils_no_good_one(
    world: World, bad: Any, path: str
) -> None:
    answer = await tell(world, label(label=1), bad)
    assert answer.status_code == 200
    assert answer.json()["fates"] == {"waiting": 1, "invalid": 1}
    assert [fault["path"] for fault in answer.json()["faults"]] == [path]
    assert (await tell(world, bad)).status_code == 422


async def test_a_label_of_a_regression_is_a_number(world: World) -> None:
    log: dict[str, Any] = {}
    await world.deploy(
        "fraud", model="fraud", version="1.0.0", predictions=log, labels={"task": "regression"}
    )
    answer = await tell(world, label(label="late"), label(row=1, label="3.5"), label(reward=1))
    assert answer.json()["fates"] == {"waiting": 2, "invalid": 1}
    (fault,) = answer.json()["faults"]
    assert fault["path"] == "labels[0].label"
    assert (await tell(world, label(label=2))).json()["fates"]["waiting"] == 1, "nothing stands"


async def test_feedback_needs_a_deployment_that_there_is(world: World) -> None:
    body = {"deployment": "other", "labels": [label(label=1)]}
    assert (await world.call("POST", "/feedback", body)).status_code == 404
    bodies: list[Any] = [
        {"labels": []},
        {"deployment": "fraud"},
        {"deployment": "fraud", "labels": {}},
    ]
    for bad in bodies:
        assert (await world.call("POST", "/feedback", bad)).status_code == 422
    assert (await tell(world, label(label=1), token=AGENT)).status_code == 403
