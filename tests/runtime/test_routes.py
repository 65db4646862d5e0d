"""Every route of the protocol and every way to get it wrong, in process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from modelplane_runtime.app import Identity, Phase, RuntimeApp
from modelplane_runtime.models import Model
from modelplane_runtime.models.loading import load_model

from .conftest import COLUMNS

IDENTITY = Identity("flights", "1.2.0", "flights-0")
INFER = "/v2/models/flights/infer"


async def make_client(app: RuntimeApp) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app)
    return httpx.AsyncClient(transport=transport, base_url="http://runtime")


@pytest.fixture
def column_model(artifacts: Path) -> Model:
    return load_model("skops", artifacts / "columns.skops")


@pytest.fixture
async def client(column_model: Model) -> AsyncIterator[httpx.AsyncClient]:
    app = RuntimeApp(IDENTITY, max_body_bytes=4096)
    app.serve(column_model)
    async with await make_client(app) as client:
        yield client


def columns_body(*values: float | None, **extra: Any) -> dict[str, Any]:
    """A request with one tensor per column, one row for each value."""
    inputs = [
        {"name": name, "datatype": "FP64", "shape": [len(values)], "data": list(values)}
        for name in COLUMNS
    ]
    return {"inputs": inputs, **extra}


async def test_live_answers_before_the_model_is_loaded_and_ready_does_not(
    column_model: Model,
) -> None:
    app = RuntimeApp(IDENTITY)
    async with await make_client(app) as client:
        assert (await client.get("/v2/health/live")).status_code == 200
        assert (await client.get("/v2/health/ready")).status_code == 503
        assert (await client.get("/v2/models/flights/ready")).status_code == 503
        early = await client.post(INFER, json=columns_body(1.0))
        assert early.status_code == 503
        assert early.headers["retry-after"] == "1"

        app.serve(column_model)

        assert (await client.get("/v2/health/ready")).status_code == 200
        assert (await client.post(INFER, json=columns_body(1.0))).status_code == 200


async def test_draining_turns_ready_off_and_still_answers(column_model: Model) -> None:
    app = RuntimeApp(IDENTITY)
    app.serve(column_model)
    app.drain()
    async with await make_client(app) as client:
        assert (await client.get("/v2/health/ready")).status_code == 503
        assert (await client.get("/v2/health/live")).status_code == 200
        answer = await client.post(INFER, json=columns_body(1.0))
    assert answer.status_code == 200
    assert answer.headers["connection"] == "close"


async def test_a_drain_that_began_while_loading_is_not_undone(column_model: Model) -> None:
    app = RuntimeApp(IDENTITY)
    app.drain()
    app.serve(column_model)
    assert app.phase is Phase.DRAINING


async def test_metadata(client: httpx.AsyncClient) -> None:
    server = (await client.get("/v2")).json()
    assert server["name"] == "modelplane-runtime"

    for path in ("/v2/models/flights", "/v2/models/flights/versions/1.2.0"):
        answer = await client.get(path)
        document = answer.json()
        assert document["name"] == "flights"
        assert document["versions"] == ["1.2.0"]
        assert [tensor["name"] for tensor in document["inputs"]] == list(COLUMNS)
        assert [tensor["name"] for tensor in document["outputs"]] == [
            "predictions",
            "probabilities",
        ]
        assert answer.headers["x-modelplane-version"] == "1.2.0"


@pytest.mark.parametrize(
    "path", ["/v2/models/flights/ready", "/v2/models/flights/versions/1.2.0/ready"]
)
async def test_a_models_readiness(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.status_code == 200
    assert answer.json() == {"name": "flights", "ready": True}


async def test_infer_answers_with_the_models_predictions(
    client: httpx.AsyncClient, column_classifier: Any
) -> None:
    answer = await client.post(INFER, json=columns_body(-1.0, 1.0, id="request-7"))

    assert answer.status_code == 200
    assert answer.headers["x-modelplane-version"] == "1.2.0"
    document = answer.json()
    assert document["model_name"] == "flights"
    assert document["model_version"] == "1.2.0"
    assert document["id"] == "request-7"
    labels, probabilities = document["outputs"]
    rows = np.array([[-1.0] * 3, [1.0] * 3])
    assert labels == {
        "name": "predictions",
        "datatype": "INT64",
        "shape": [2],
        "data": column_classifier.predict(rows).tolist(),
    }
    assert probabilities["shape"] == [2, 2]
    assert probabilities["data"] == column_classifier.predict_proba(rows).reshape(-1).tolist()


async def test_a_versioned_path_and_a_matrix_do_the_same(client: httpx.AsyncClient) -> None:
    matrix = {"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [[1.0, 1.0, 1.0]]}

    by_matrix = await client.post(
        "/v2/models/flights/versions/1.2.0/infer", json={"inputs": [matrix]}
    )
    by_column = await client.post(INFER, json=columns_body(1.0))

    assert by_matrix.json() == by_column.json()


async def test_null_is_a_missing_value_that_the_model_sees(client: httpx.AsyncClient) -> None:
    assert (await client.post(INFER, json=columns_body(None))).status_code == 200


async def test_outputs_selects(client: httpx.AsyncClient) -> None:
    body = columns_body(1.0, outputs=[{"name": "probabilities"}])

    document = (await client.post(INFER, json=body)).json()

    assert [tensor["name"] for tensor in document["outputs"]] == ["probabilities"]


async def test_the_request_id_is_the_callers_or_a_new_one(client: httpx.AsyncClient) -> None:
    body = columns_body(1.0)
    by_header = await client.post(INFER, json=body, headers={"x-request-id": "edge-1"})
    by_id = await client.post(INFER, json={**body, "id": "mine"})
    fresh = [(await client.post(INFER, json=body)).headers["x-request-id"] for _ in range(2)]
    unfit = await client.post(INFER, json={**body, "id": "two\r\nlines"})

    assert by_header.headers["x-request-id"] == "edge-1"
    assert by_id.headers["x-request-id"] == "mine"
    assert fresh[0] != fresh[1]
    assert len(unfit.headers["x-request-id"]) == 32
    assert unfit.json()["id"] == "two\r\nlines"


ROW = {"datatype": "FP64", "shape": [1], "data": [1.0]}
BAD_REQUESTS: list[tuple[bytes, str]] = [
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b"[" * 3000, "not JSON"),
    (b"\xff\xfe", "not JSON"),
    (b"[]", "must be a JSON object"),
    (b"{}", '"inputs" must be a list'),
    (b'{"inputs": []}', '"inputs" must be a list'),
    (b'{"inputs": [1]}', "inputs[0] must be an object with a name"),
    (b'{"id": 7, "inputs": [1]}', '"id" must be a string'),
    (b'{"inputs": [{"name": "x", "data": [NaN]}]}', "NaN is not JSON: send null"),
    (
        b'{"inputs": [{"name": "x", "parameters": {"binary_data_size": 8}}]}',
        "binary tensor data is not supported",
    ),
    (json.dumps({"inputs": [{"name": "delay", **ROW}] * 2}).encode(), "stands twice"),
    (json.dumps({"inputs": [{"name": "delay", **ROW}]}).encode(), 'missing input "distance"'),
    (
        json.dumps({"inputs": [{"name": "dealy", **ROW}]}).encode(),
        'unknown input "dealy"; did you mean "delay"?',
    ),
    (
        json.dumps(columns_body(1.0, outputs=[{"name": "score"}])).encode(),
        'unknown output "score"; the model gives "predictions", "probabilities"',
    ),
    (json.dumps(columns_body(1.0, outputs="all")).encode(), '"outputs" must be a list'),
    (json.dumps(columns_body(1.0, outputs=["x"])).encode(), "outputs[0] must be an object"),
    (
        json.dumps(
            {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 2], "data": [1, 2]}]}
        ).encode(),
        'input "x": expected shape [-1, 3]',
    ),
]


@pytest.mark.parametrize(("body", "message"), BAD_REQUESTS)
async def test_a_request_that_does_not_fit_is_400_and_says_why(
    client: httpx.AsyncClient, body: bytes, message: str
) -> None:
    answer = await client.post(INFER, content=body)

    assert answer.status_code == 400
    assert message in answer.json()["error"]
    assert answer.headers["x-request-id"]


async def test_the_binary_extension_is_refused_in_words(client: httpx.AsyncClient) -> None:
    headers = {"inference-header-content-length": "10"}
    answer = await client.post(INFER, content=b"{}\x00\x01", headers=headers)

    assert answer.status_code == 400
    assert "binary tensor data is not supported" in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/models", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/flights/versions/9.9.9", 404),
        ("GET", "/v2/models/flights/versions", 404),
        ("GET", "/v2/models/flights/nonsense", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/models/flights/versions/9.9.9/infer", 404),
        ("POST", "/v2/models/flights/nonsense/infer", 404),
        ("GET", "/v2/models/flights/infer", 405),
        ("POST", "/v2/health/live", 405),
    ],
)
async def test_what_is_not_there(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await client.request(method, path)

    assert answer.status_code == status
    assert answer.json()["error"]


async def test_a_body_that_is_too_long_is_413_whether_announced_or_not(
    client: httpx.AsyncClient,
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * 1000

    announced = await client.post(INFER, content=b" " * 5000)
    chunked = await client.post(INFER, content=pieces())

    assert (announced.status_code, chunked.status_code) == (413, 413)


async def test_an_exception_in_the_model_is_500_without_its_trace(
    artifacts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = RuntimeApp(IDENTITY)
    app.serve(load_model("skops", artifacts / "matrix.skops"))  # refuses NaN
    tensor = {"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [None, 1.0, 1.0]}
    async with await make_client(app) as client:
        first = await client.post(INFER, json={"id": "r1", "inputs": [tensor]})
        second = await client.post(INFER, json={"inputs": [tensor]})

    assert (first.status_code, second.status_code) == (500, 500)
    message = first.json()["error"]
    assert message.startswith("the model failed: ValueError: Input X contains NaN")
    assert "Traceback" not in message
    assert first.headers["x-request-id"] == "r1"
    traces = [r for r in caplog.records if "Traceback" in r.getMessage()]
    assert len(traces) == 1, "the same failure is not logged for each request"


async def test_metrics_count_what_happened(client: httpx.AsyncClient) -> None:
    await client.post(INFER, json=columns_body(1.0, 2.0))
    await client.post(INFER, content=b"{")

    answer = await client.get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    labels = 'model="flights",version="1.2.0",replica="flights-0"'
    lines = answer.text.splitlines()
    assert f'modelplane_runtime_requests_total{{{labels},code="200"}} 1' in lines
    assert f'modelplane_runtime_requests_total{{{labels},code="400"}} 1' in lines
    assert f"modelplane_runtime_rows_total{{{labels}}} 2" in lines
    assert f"modelplane_runtime_request_seconds_count{{{labels}}} 2" in lines
    assert f"modelplane_runtime_predict_seconds_count{{{labels}}} 1" in lines
    assert f'modelplane_runtime_request_seconds_bucket{{{labels},le="+Inf"}} 2' in lines


async def test_metrics_are_read_by_a_prometheus_parser(client: httpx.AsyncClient) -> None:
    await client.post(INFER, json=columns_body(1.0))
    text = (await client.get("/metrics")).text

    families = {family.name: family.type for family in text_string_to_metric_families(text)}

    assert families["modelplane_runtime_requests"] == "counter"
    assert families["modelplane_runtime_predict_seconds"] == "histogram"
