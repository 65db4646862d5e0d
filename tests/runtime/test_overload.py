"""A full replica refuses at once, a slow one keeps answering health checks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any

import httpx
import numpy as np
import pytest

from modelplane_runtime.app import Identity, RuntimeApp
from modelplane_runtime.signature import Signature, TensorSpec
from modelplane_runtime.tensors import Array
from modelplane_runtime.workers import PredictionWorkers, QueueFullError

INFER = "/v2/models/slow/infer"
BODY = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1.0]}]}


class HeldModel:
    """A model whose predictions wait until they are let go."""

    platform = "test"
    signature = Signature((TensorSpec("x", "FP64", (-1,)),))

    def __init__(self) -> None:
        self.go = threading.Event()
        self.running = 0
        self.most_running = 0
        self._lock = threading.Lock()

    def prepare(self, tensors: Mapping[str, Array]) -> Any:
        return tensors["x"]

    def predict(self, prepared: Any, wanted: Collection[str]) -> dict[str, Array]:
        with self._lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        self.go.wait(timeout=30)
        with self._lock:
            self.running -= 1
        return {"y": np.asarray(prepared) * 2}


@pytest.fixture
async def held() -> AsyncIterator[tuple[RuntimeApp, HeldModel, httpx.AsyncClient]]:
    model = HeldModel()
    app = RuntimeApp(Identity("slow", "1"), workers=2, queue_limit=3)
    app.serve(model)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://runtime") as client:
        yield app, model, client
        model.go.set()


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - threads change it
            await asyncio.sleep(0.005)


async def test_requests_beyond_the_queue_are_refused_and_the_rest_answered(
    held: tuple[RuntimeApp, HeldModel, httpx.AsyncClient],
) -> None:
    app, model, client = held
    accepted = [asyncio.create_task(client.post(INFER, json=BODY)) for _ in range(5)]
    await until(lambda: model.running == 2 and app._workers.waiting == 3)

    refused = await client.post(INFER, json=BODY)
    metrics = (await client.get("/metrics")).text

    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert "wait" in refused.json()["error"]
    assert 'queue_waiting{model="slow",version="1",replica=""} 3' in metrics
    model.go.set()
    answers = await asyncio.gather(*accepted)
    assert [answer.status_code for answer in answers] == [200] * 5
    assert model.most_running == 2
    assert (await client.post(INFER, json=BODY)).status_code == 200


async def test_health_answers_while_every_thread_is_busy(
    held: tuple[RuntimeApp, HeldModel, httpx.AsyncClient],
) -> None:
    app, model, client = held
    busy = [asyncio.create_task(client.post(INFER, json=BODY)) for _ in range(4)]
    await until(lambda: model.running == 2)

    assert (await client.get("/v2/health/live")).status_code == 200
    assert (await client.get("/v2/health/ready")).status_code == 200
    model.go.set()
    await asyncio.gather(*busy)
    assert app.open_requests == 0


async def test_a_caller_that_goes_away_does_not_take_its_place_with_it() -> None:
    workers: PredictionWorkers[int] = PredictionWorkers(1, 1)
    go = threading.Event()

    def wait() -> int:
        go.wait(timeout=30)
        return 1

    first = asyncio.create_task(workers.run(wait))
    second = asyncio.create_task(workers.run(lambda: 2))
    await asyncio.sleep(0)
    with pytest.raises(QueueFullError):
        await workers.run(lambda: 3)
    first.cancel()
    go.set()

    assert await second == 2
    await until(lambda: not workers.is_full)
    assert await workers.run(lambda: 4) == 4


async def test_a_call_that_raises_leaves_its_thread_alive() -> None:
    workers: PredictionWorkers[int] = PredictionWorkers(1, 1)

    def fail() -> int:
        raise SystemExit(7)

    with pytest.raises(RuntimeError, match="SystemExit: 7"):
        await workers.run(fail)
    assert await workers.run(lambda: 5) == 5
