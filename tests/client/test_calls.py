"""The shared core: what answers mean, and when a request is sent again."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.api.problems import problem_of
from modelplane.client import AsyncClient, Client
from modelplane.client.answers import EventReader, error_of
from modelplane.errors import (
    Conflict,
    FieldError,
    Forbidden,
    InvalidResource,
    ModelplaneError,
    NoSpace,
    NotFound,
    TerminalError,
    TransientError,
    Unauthenticated,
)
from modelplane.resources.environment import Environment
from modelplane.resources.meta import Metadata
from modelplane.resources.model import Model, ModelSpec
from modelplane.resources.telemetry import TelemetryBatch

URL = "http://127.0.0.1:7080"
Handler = Callable[[httpx.Request], httpx.Response]


@pytest.mark.parametrize(
    "error",
    [
        InvalidResource("no", [FieldError("spec.replicas", "must be 1 or more")], hint="h"),
        NotFound("gone", hint="h"),
        Conflict("taken", hint="h"),
        Unauthenticated("who?", hint="h"),
        Forbidden("no", hint="h"),
        TransientError("later", hint="h"),
        NoSpace("full", hint="h"),
        TerminalError("never", hint="h"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_arrives_as_it_was_raised(error: ModelplaneError) -> None:
    arrived = error_of(error.status, json.dumps(problem_of(error)).encode(), "/x")
    assert type(arrived) is type(error)
    assert (arrived.message, arrived.hint) == (error.message, error.hint)
    assert arrived.exit_code == error.exit_code
    assert getattr(arrived, "fields", ()) == getattr(error, "fields", ())


@given(status=st.integers(400, 599), body=st.binary(max_size=100))
def test_any_other_answer_is_an_error_too(status: int, body: bytes) -> None:
    error = error_of(status, body, "/x")
    assert isinstance(error, ModelplaneError)
    assert error.exit_code != 0


def counting(statuses: list[int]) -> tuple[Handler, list[httpx.Request]]:
    """A server that answers with each status in turn, the last for ever."""
    seen: list[httpx.Request] = []
    answers = itertools.chain(statuses, itertools.repeat(statuses[-1]))

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        status = next(answers)
        if status == 0:
            raise httpx.ConnectError("refused", request=request)
        if status == 1:
            raise httpx.ReadTimeout("slow", request=request)
        return httpx.Response(status, json=MODEL.to_dict())

    return handle, seen


MODEL = Model(metadata=Metadata(name="m"), spec=ModelSpec())


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelplane.client.connection.time.sleep", lambda _: None)

    async def at_once(_: float) -> None:
        return None

    monkeypatch.setattr("modelplane.client.asynchronous.asyncio.sleep", at_once)


@pytest.mark.parametrize(
    ("statuses", "attempts", "raised"),
    [
        ([200], 1, None),
        ([503, 0, 200], 3, None),
        ([0], 4, TransientError),
        ([503], 4, TransientError),
        ([404], 1, NotFound),
        ([409], 1, Conflict),
        ([507], 1, TerminalError),
        ([1], 1, TransientError),
    ],
)
async def test_reading_is_tried_again_when_that_may_help(
    statuses: list[int], attempts: int, raised: type[ModelplaneError] | None
) -> None:
    handle, seen = counting(statuses)
    client = Client(URL, "t", transport=httpx.MockTransport(handle))
    if raised is None:
        assert client.get(Model, "m") == MODEL
    else:
        with pytest.raises(raised):
            client.get(Model, "m")
    assert len(seen) == attempts
    handle, seen = counting(statuses)
    async with AsyncClient(URL, "t", transport=httpx.MockTransport(handle)) as other:
        if raised is None:
            assert await other.get(Model, "m") == MODEL
        else:
            with pytest.raises(raised):
                await other.get(Model, "m")
    assert len(seen) == attempts


def test_an_action_is_never_sent_twice() -> None:
    handle, seen = counting([503])
    client = Client(URL, "t", transport=httpx.MockTransport(handle))
    with pytest.raises(TransientError):
        client.rollback("fraud")
    assert len(seen) == 1


def test_nobody_answering_says_what_to_do() -> None:
    handle, _ = counting([0])
    client = Client(URL, "t", transport=httpx.MockTransport(handle))
    with pytest.raises(TransientError, match="nobody answers") as raised:
        client.list(Model)
    assert "modelplane up" in raised.value.hint


def test_the_apis_token_never_reaches_a_gateway() -> None:
    environment = Environment.model_validate(
        {
            "metadata": {"name": "production"},
            "spec": {"stage": "production", "gateway": {"host": "0.0.0.0", "port": 7082}},
        }
    )
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if request.url.port == 7080:
            return httpx.Response(200, json=environment.to_dict())
        headers = {"x-modelplane-version": "1.0.0", "x-request-id": "r"}
        return httpx.Response(200, json={"outputs": []}, headers=headers)

    client = Client(URL, "secret", transport=httpx.MockTransport(handle))
    answer = client.predict("fraud", {"inputs": []}, user_id="u1")
    assert (answer.version, answer.assigned, answer.request_id) == ("1.0.0", "1.0.0", "r")
    to_api, to_gateway = seen
    assert to_api.headers["authorization"] == "Bearer secret"
    assert "authorization" not in to_gateway.headers
    assert to_gateway.headers["x-user-id"] == "u1"
    assert str(to_gateway.url) == "http://127.0.0.1:7082/v2/models/fraud/infer"


@pytest.mark.parametrize(
    ("status", "body", "raised"),
    [
        (400, {"error": "age: expected FP64"}, InvalidResource),
        (404, {"error": "no model"}, NotFound),
        (500, {"error": "ZeroDivisionError"}, TerminalError),
        (503, None, TransientError),
        (200, None, TerminalError),
    ],
)
def test_a_models_refusal_is_an_error_with_its_words(
    status: int, body: Any, raised: type[ModelplaneError]
) -> None:
    def handle(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json=body) if body else httpx.Response(status, content=b"x")

    client = Client(URL, "t", transport=httpx.MockTransport(handle))
    with pytest.raises(raised) as error:
        client.predict("fraud", {}, gateway="http://127.0.0.1:7082")
    if body:
        assert body["error"] in str(error.value)


def test_events_become_changes_and_ends_become_errors() -> None:
    reader = EventReader(Model, 5)
    lines = [": alive", "", "id: 7", "event: put", f"data: {MODEL.model_dump_json()}"]
    assert [reader.read(line) for line in lines] == [None] * 5
    change = reader.read("")
    assert change is not None
    assert (change.resource_version, change.type, change.resource) == (7, "put", MODEL)
    assert reader.read("") is None
    error = Conflict("the log no longer reaches back so far")
    error.code = "expired"
    reader.read("event: expired")
    reader.read(f"data: {json.dumps(problem_of(error))}")
    with pytest.raises(Conflict) as raised:
        reader.read("")
    assert raised.value.code == "expired"


async def test_telemetry_is_sent_again_because_batches_have_names() -> None:
    seen: list[bytes] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request.content)
        return httpx.Response(503 if len(seen) == 1 else 200, json={"confirmedSequence": 4})

    batch = TelemetryBatch.model_validate(
        {
            "environment": "production",
            "proxy": "production/local",
            "bootId": "b",
            "sequence": 5,
            "at": "2026-03-01T12:00:00Z",
            "seconds": 1.0,
        }
    )
    async with AsyncClient(URL, "t", transport=httpx.MockTransport(handle)) as client:
        receipt = await client.post_telemetry(batch)
    assert receipt.confirmed_sequence == 4
    assert len(seen) == 2
    assert TelemetryBatch.model_validate_json(seen[1]) == batch


@pytest.mark.slow
def test_importing_the_package_is_light_and_gives_the_clients(tmp_path: Path) -> None:
    code = (
        "import sys, modelplane; heavy = {'httpx', 'pydantic', 'asyncio'} & set(sys.modules); "
        "assert not heavy, heavy; from modelplane import Client; assert Client.__name__; "
        "assert modelplane.__version__"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 0
