"""A training service on the wire: what it is sent, and what each of its answers means."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook

from modelplane.adapters.clock import SystemClock
from modelplane.adapters.notify.training import HttpTrainingService, read_answer
from modelplane.decisions.training_runs import ServiceAnswer
from modelplane.resources.meta import Metadata
from modelplane.resources.training import TrainingRun, TrainingRunSpec, TrainingRunStatus

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
URL = "http://127.0.0.1:80/train"


class Trainer:
    """A service that answers what it is told to, and remembers what it was sent."""

    def __init__(self) -> None:
        self.port = 0
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        self.status, self.headers, self.body = 202, {"location": "/jobs/7"}, b""
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/train"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        await web.SockSite(self._runner, listener).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append((f"{request.method} {request.path}", headers, body))
        return web.Response(status=self.status, headers=self.headers, body=self.body)


@pytest.fixture
async def trainer() -> AsyncIterator[Trainer]:
    opened = Trainer()
    await opened.start()
    yield opened
    await opened.stop()


@pytest.fixture
async def service() -> AsyncIterator[HttpTrainingService]:
    opened = HttpTrainingService(
        {"trainer": SECRET}.get, SystemClock(), source="http://modelplane.test"
    )
    yield opened
    await opened.close()


def make_run(url: str, secret: str | None = "trainer", **status: Any) -> TrainingRun:
    spec = TrainingRunSpec.model_validate(
        {
            "trigger": "retrain",
            "model": "fraud",
            "run": {"http": {"url": url, "secret": secret}},
            "timeout": "1h",
            "cause": "dataset",
            "data": {"dataset": "payments", "version": "5"},
        }
    )
    metadata = Metadata(name="retrain-1", uid="uid-of-run")
    return TrainingRun(metadata=metadata, spec=spec, status=TrainingRunStatus(**status))


async def test_the_event_is_signed_and_names_the_run_the_same_way_each_time(
    trainer: Trainer, service: HttpTrainingService
) -> None:
    for _ in range(2):
        answer = await service.start(make_run(trainer.url))
        assert answer.outcome == "running"
        assert answer.location == f"http://127.0.0.1:{trainer.port}/jobs/7"
    (what, headers, body), (_, again, _) = trainer.received
    assert what == "POST /train"
    event = Webhook(SECRET).verify(body, headers)
    assert event["type"] == "dev.modelplane.training.start"
    assert event["data"]["data"]["version"] == "5"
    assert event["id"] == headers["webhook-id"] == again["webhook-id"] == "uid-of-run"


async def test_it_is_asked_and_cancelled_where_it_said(
    trainer: Trainer, service: HttpTrainingService
) -> None:
    run = make_run(trainer.url, location=f"http://127.0.0.1:{trainer.port}/jobs/7")
    trainer.status, trainer.body = 202, json.dumps({"progress": 0.4, "message": "e"}).encode()
    answer = await service.ask(run)
    assert (answer.outcome, answer.progress, answer.progress_message) == ("running", 0.4, "e")
    trainer.status, trainer.body = 200, b'{"version": "1.2.0"}'
    assert await service.ask(run) == ServiceAnswer("done", version="1.2.0")
    await service.cancel(run)
    assert [what for what, _, _ in trainer.received] == ["GET /jobs/7"] * 2 + ["DELETE /jobs/7"]


async def test_nobody_there_may_pass_and_a_missing_secret_does_not(
    trainer: Trainer, service: HttpTrainingService
) -> None:
    await trainer.stop()
    assert (await service.start(make_run(trainer.url))).outcome == "unavailable"
    answer = await service.start(make_run(trainer.url, secret="other"))
    assert answer.outcome == "refused"
    assert "'other'" in answer.message


async def test_a_service_that_never_stops_talking_is_cut_off(
    trainer: Trainer, service: HttpTrainingService
) -> None:
    trainer.body = b"x" * 2**20
    async with asyncio.timeout(20):
        assert (await service.start(make_run(trainer.url))).outcome == "failed"


@pytest.mark.parametrize(
    ("method", "status", "body", "location", "outcome"),
    [
        ("POST", 202, b"", "/jobs/1", "running"),
        ("POST", 201, b'{"version": "2.0.0"}', "", "done"),
        ("POST", 202, b"", "", "refused"),
        ("POST", 202, b"", "http://169.254.169.254/latest", "refused"),
        ("POST", 202, b"", "//elsewhere.test/jobs", "refused"),
        ("POST", 307, b"", "/other", "refused"),
        ("POST", 401, b'{"error": "who are you"}', "", "refused"),
        ("POST", 500, b"", "", "failed"),
        ("POST", 503, b"", "", "unavailable"),
        ("GET", 202, b"", "", "running"),
        ("GET", 200, b'{"progress": 0.5}', "", "running"),
        ("GET", 200, b'{"progress": "much"}', "", "running"),
        ("GET", 200, b"", "", "done"),
        ("GET", 200, b"<html>", "", "done"),
        ("GET", 404, b"", "", "failed"),
        ("GET", 500, b"\xff", "", "failed"),
        ("GET", 429, b"", "", "unavailable"),
    ],
)
def test_what_an_answer_means(
    method: str, status: int, body: bytes, location: str, outcome: str
) -> None:
    answer = read_answer(method, status, body, URL, location)
    assert answer.outcome == outcome
    assert answer.location in {"", "http://127.0.0.1:80/jobs/1"}


@pytest.mark.parametrize(("said", "share"), [(7, 1.0), (-1, 0.0), (True, None), ("x", None)])
def test_progress_is_a_share_or_nothing(said: object, share: float | None) -> None:
    answer = read_answer("GET", 202, json.dumps({"progress": said}).encode(), URL)
    assert answer.progress == share
