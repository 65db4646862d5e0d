"""Webhooks of watched registries: only the signed ones count, each once, and they only wake."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from modelplane.ports.store import Transaction
from modelplane.resources.meta import Metadata
from modelplane.resources.model import Model
from modelplane.resources.model_source import ModelSource, ModelSourceSpec
from tests.api.world import READER, SYSTEM, World, make_world

SECRET = "s3cret-of-the-hook"
CREATED = {
    "entity": "model_version",
    "action": "created",
    "data": {"name": "fraud model", "version": "7", "source": "models:/m-1", "run_id": None},
}


@dataclass
class Hooks:
    world: World
    woken: list[tuple[str, str | None, int | None]] = field(default_factory=list)

    async def send(
        self,
        event: Any = CREATED,
        *,
        source: str = "tracker",
        secret: str = SECRET,
        delivery: str = "d-1",
        at_s: float | None = None,
        **changed: str,
    ) -> httpx.Response:
        """Send a delivery as MLflow does; `changed` headers are sent instead of the right ones."""
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        timestamp = str(int(self.world.clock.now().timestamp() if at_s is None else at_s))
        content = f"{delivery}.{timestamp}.".encode() + body
        digest = hmac.new(secret.encode(), content, hashlib.sha256).digest()
        headers = {
            "x-mlflow-delivery-id": delivery,
            "x-mlflow-timestamp": timestamp,
            "x-mlflow-signature": f"v1,{base64.b64encode(digest).decode()}",
            "content-type": "application/json",
            **{name.replace("_", "-"): value for name, value in changed.items()},
        }
        path = f"/api/v1/webhooks/mlflow/{source}"
        return await self.world.http.post(path, content=body, headers=headers)

    async def refusals(self) -> list[str]:
        records = await self.world.store.audit()
        return [r.details["fault"] for r in records if r.action == "webhook.refused"]


@pytest.fixture
async def hooks() -> AsyncIterator[Hooks]:
    woken: list[tuple[str, str | None, int | None]] = []
    secrets = {"hook": SECRET}
    async with make_world(
        secret=secrets.get, wake_source=lambda *hint: woken.append(hint)
    ) as world:
        transaction = Transaction(SYSTEM)
        for name, secret in (("tracker", "hook"), ("silent", None), ("unset", "no-such")):
            spec = ModelSourceSpec(url="http://mlflow:5000", webhook_secret=secret)
            transaction.create(ModelSource(metadata=Metadata(name=name), spec=spec))
        await world.store.commit(transaction)
        yield Hooks(world, woken)


async def test_a_signed_delivery_wakes_the_source_for_its_version(hooks: Hooks) -> None:
    response = await hooks.send()
    assert (response.status_code, response.json()) == (202, {"status": "accepted"})
    assert hooks.woken == [("tracker", "fraud model", 7)]
    assert await hooks.refusals() == []


@pytest.mark.parametrize(
    ("event", "hint"),
    [
        ({**CREATED, "entity": "model_version_tag", "action": "set"}, ("fraud model", None)),
        ({"entity": "registered_model", "data": {"name": "fraud"}}, ("fraud", None)),
        ({**CREATED, "data": {"name": "fraud", "version": "latest"}}, ("fraud", None)),
        ({"data": {"name": 3}}, (None, None)),
        ([], (None, None)),
        (b"no json", (None, None)),
        (b"[" * 100_000, (None, None)),
    ],
)
async def test_whatever_is_signed_wakes(hooks: Hooks, event: Any, hint: Any) -> None:
    assert (await hooks.send(event)).status_code == 202
    assert hooks.woken == [("tracker", *hint)]


@pytest.mark.parametrize(
    "changed",
    [
        {"secret": "guessed"},
        {"x_mlflow_signature": ""},
        {"x_mlflow_signature": "v1,"},
        {"x_mlflow_delivery_id": "another"},
        {"x_mlflow_delivery_id": ""},
        {"x_mlflow_timestamp": "1767600001"},
        {"at_s": 0},
        {"source": "nowhere"},
        {"source": "silent"},
        {"source": "unset"},
    ],
)
async def test_a_forged_delivery_is_refused(hooks: Hooks, changed: dict[str, Any]) -> None:
    response = await hooks.send(**changed)
    assert response.status_code == 401
    assert "webhook is refused" in response.json()["detail"]
    assert SECRET not in response.text
    assert hooks.woken == []
    assert len(await hooks.refusals()) == 1


async def test_an_unknown_source_is_answered_as_a_wrong_signature(hooks: Hooks) -> None:
    unknown = await hooks.send(source="nowhere", secret="guessed")
    known = await hooks.send(source="tracker", secret="guessed")
    assert unknown.json() == known.json()


@pytest.mark.parametrize(("off_s", "status"), [(-301, 401), (-299, 202), (299, 202), (301, 401)])
async def test_a_delivery_counts_for_five_minutes(hooks: Hooks, off_s: int, status: int) -> None:
    at_s = hooks.world.clock.now().timestamp() + off_s
    assert (await hooks.send(at_s=at_s)).status_code == status


async def test_a_replayed_delivery_is_refused(hooks: Hooks) -> None:
    assert (await hooks.send()).status_code == 202
    again = await hooks.send()
    assert again.status_code == 409
    assert "was taken before" in again.json()["detail"]
    assert (await hooks.send(delivery="d-2")).status_code == 202
    assert len(hooks.woken) == 2


async def test_many_forged_deliveries_make_one_note_a_minute(hooks: Hooks) -> None:
    for _ in range(5):
        await hooks.send(secret="guessed")
    assert await hooks.refusals() == ["its signature is wrong"]
    await hooks.world.clock.advance(61)
    await hooks.send(secret="guessed")
    assert len(await hooks.refusals()) == 2


async def test_a_body_is_bounded(hooks: Hooks) -> None:
    assert (await hooks.send(b" " * (2**20 + 1))).status_code == 413


async def test_a_source_is_looked_at_when_asked(hooks: Hooks) -> None:
    response = await hooks.world.call("POST", "/model-sources/tracker:sync")
    assert response.status_code == 202
    assert hooks.woken == [("tracker", None, None)]
    assert (await hooks.world.call("POST", "/model-sources/none:sync")).status_code == 404
    refused = await hooks.world.call("POST", "/model-sources/tracker:sync", token=READER)
    assert refused.status_code == 403


async def test_a_model_that_comes_from_a_source_takes_no_push(hooks: Hooks) -> None:
    transaction = Transaction(SYSTEM)
    transaction.create(Model(metadata=Metadata(name="fraud")).with_status(source="tracker"))
    transaction.create(Model(metadata=Metadata(name="left")).with_status(source="gone"))
    await hooks.world.store.commit(transaction)
    await hooks.world.push("left", "1.0.0")
    with pytest.raises(AssertionError, match="come from the source 'tracker'"):
        await hooks.world.push("fraud", "1.0.0")
