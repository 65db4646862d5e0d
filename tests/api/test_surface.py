"""The surface as a whole: every route is guarded, every error has one shape, nothing is a 500."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelplane.resources.kinds import KINDS
from tests.api.world import ADMIN, AGENT, READER, World, digest_of, make_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPEN = {
    "/healthz", "/metrics", "/api/v1/webhooks/mlflow/{source}", "/approvals/links/{token}"
}  # fmt: skip
"""What carries its own proof, a signature, or tells nothing."""

QUESTIONS = {
    f"/api/v1/{question}"
    for question in ("authorization:check", "analysis:replay", "policies:test", "policies:replay")
} | {
    "/api/v1/model-deployments/fraud:explain",
    "/api/v1/model-deployments:plan",
    "/ofrep/v1/evaluate/flags",
    "/ofrep/v1/evaluate/flags/{key}",
}
"""Sent with POST, and answered without changing anything."""


def routes_of(world: World) -> list[tuple[str, str]]:
    """Every (method, path) of the API, with names filled in."""
    schema = world.app.openapi()
    found = []
    for path, operations in schema["paths"].items():
        filled = path.replace("{digest}", digest_of("x")).replace("{verb}", "pause")
        filled = filled.replace("{name}", "fraud")
        found += [(method.upper(), filled) for method in operations]
    return found


async def test_every_route_wants_a_token(shared_world: World) -> None:
    tried = 0
    for method, path in routes_of(shared_world):
        if path in OPEN:
            continue
        response = await shared_world.http.request(method, path)
        assert response.status_code == 401, f"{method} {path}"
        assert response.headers["www-authenticate"] == "Bearer"
        wrong = await shared_world.http.request(
            method, path, headers={"authorization": "Bearer no"}
        )
        assert wrong.status_code == 401
        tried += 1
    assert tried > 40


async def test_a_reader_changes_nothing_through_any_route(shared_world: World) -> None:
    before = await shared_world.store.audit()
    for method, path in routes_of(shared_world):
        if method in {"GET", "HEAD"} or path in OPEN | QUESTIONS:
            continue
        response = await shared_world.call(method, path.removeprefix("/api/v1"), {}, token=READER)
        assert response.status_code == 403, f"{method} {path}"
        assert response.json()["code"] == "forbidden"
        rules = ("(rule default-deny)", "(rule only-admin-grants)")
        assert any(rule in response.json()["detail"] for rule in rules), path
    assert await shared_world.store.audit() == before


@pytest.mark.parametrize(
    ("method", "path", "token", "status"),
    [
        ("PUT", "/models/fraud", ADMIN, 200),
        ("PUT", "/models/fraud", READER, 403),
        ("PUT", "/models/fraud", AGENT, 403),
        ("PUT", "/replicas/r/status", ADMIN, 404),
        ("PUT", "/replicas/r/status", AGENT, 404),
        ("PUT", "/replicas/r/status", READER, 403),
        ("POST", "/tokens/x:create", AGENT, 403),
        ("GET", "/replicas", AGENT, 200),
        ("GET", "/audit", READER, 200),
        ("GET", "/tokens", READER, 200),
    ],
)
async def test_each_role_may_what_the_table_says(
    shared_world: World, method: str, path: str, token: str, status: int
) -> None:
    body: dict[str, Any] | None
    body = {"status": {}} if path.endswith("/status") else {} if method != "GET" else None
    assert (await shared_world.call(method, path, body, token=token)).status_code == status


def assert_problem(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert set(problem) == {"type", "title", "status", "detail", "code", "hint", "fields"}
    assert problem["type"] == f"https://modelplane.dev/errors/{problem['code']}"
    assert problem["status"] == response.status_code
    assert problem["title"]
    assert problem["detail"]
    return problem


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("GET", "/nothing", None, 404, "there is nothing at"),
        ("PATCH", "/models/fraud", None, 405, "does not take PATCH"),
        ("PUT", "/rollouts/r", {}, 405, "does not take PUT"),
        ("GET", "/models/fraud2", None, 404, "does not exist"),
        ("PUT", "/models/fraud", b"{", 422, "not JSON"),
        ("PUT", "/models/fraud", b"[]", 422, "JSON object"),
        ("PUT", "/models/fraud", b'{"spec": {"description": NaN}}', 422, "not JSON"),
        ("PUT", "/models/fraud", b'{"spec": {"description": 1e999}}', 422, "too large"),
        ("PUT", "/models/fraud", b'{"spec": "\\ud800"}', 422, "not JSON"),
        ("PUT", "/models/fraud", b"[" * 50_000, 422, "not JSON"),
        ("PUT", "/models/fraud", b" " * (2**20 + 1), 413, "larger than 1,048,576 bytes"),
        ("PUT", "/models/fraud", {"kind": "Environment"}, 422, "not valid"),
        ("PUT", "/models/fraud", {"metadata": {"name": "other"}}, 422, "not valid"),
        ("PUT", "/models/a@1.0.0", {}, 422, "not valid"),
        ("PUT", "/models/fraud?dryrun=1", {}, 422, "query"),
        ("PUT", "/model-deployments/f?enviroment=staging", {}, 422, "query"),
        ("GET", "/models?limit=0", None, 422, "request"),
        ("GET", "/models?limit=ten", None, 422, "request"),
        ("GET", "/models?continue=%C3%A9", None, 422, "token"),
        ("GET", "/models?labelSelector=team", None, 422, "selector"),
        ("GET", "/audit?kind=Nothing", None, 422, "kind"),
        ("GET", "/artifacts/sha256:zz", None, 422, "digest"),
        ("GET", f"/artifacts/{digest_of('x')}", None, 404, "no artifact"),
        ("POST", "/models/fraud:explode", {}, 405, "does not take POST"),
        ("POST", "/model-deployments/fraud:explode", {}, 404, "no action"),
        ("POST", "/model-deployments/fraud:pause", {"force": True}, 422, "not valid"),
        ("POST", "/model-deployments/fraud:pause", {"reason": 3}, 422, "not valid"),
        ("POST", "/model-deployments/fraud:pause", {}, 404, "no deployment"),
        ("POST", "/telemetry", {"environment": "production"}, 422, "telemetry"),
        ("POST", "/model-versions", {"model": "fraud"}, 422, "not valid"),
    ],
)
async def test_bad_requests_are_answered_with_a_problem(
    shared_world: World, method: str, path: str, body: Any, status: int, says: str
) -> None:
    response = await shared_world.call(method, path, body)
    problem = assert_problem(response)
    assert response.status_code == status, problem
    assert says in problem["detail"]
    assert response.headers["x-request-id"]


async def test_unknown_fields_and_environments_are_named(shared_world: World) -> None:
    body: dict[str, Any] = {"spec": {"replcas": 3}}
    problem = (await shared_world.call("PUT", "/model-deployments/fraud", body)).json()
    assert problem["fields"][0]["path"] == "spec.replcas"
    assert "replicas" in problem["fields"][0]["message"]
    body = {"metadata": {"namespace": "prod"}}
    problem = (await shared_world.call("PUT", "/model-deployments/fraud", body)).json()
    assert problem["fields"] == [
        {
            "path": "metadata.environment",
            "message": "unknown environment; there are: production, staging",
        }
    ]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:7080", 200),
        ("localhost", 200),
        ("LOCALHOST:9", 200),
        ("[::1]:7080", 200),
        ("modelplane.example", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example:7080", 421),
        ("", 421),
    ],
)
async def test_a_loopback_server_answers_for_its_own_names_only(host: str, status: int) -> None:
    async with make_world(allowed_hosts=("modelplane.example",)) as world:
        response = await world.http.get("/healthz", headers={"host": host})
        assert response.status_code == status


async def test_an_error_of_ours_shows_no_stack(shared_world: World, monkeypatch: Any) -> None:
    async def explode(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(shared_world.store, "find", explode)
    monkeypatch.setattr(shared_world.store, "get", explode)
    response = await shared_world.http.get(
        "/api/v1/models/fraud",
        headers={"authorization": f"Bearer {ADMIN}", "x-request-id": "mine-1"},
    )
    problem = assert_problem(response)
    assert response.status_code == 500
    assert response.headers["x-request-id"] == "mine-1"
    assert "mine-1" in problem["detail"]
    assert "secret" not in response.text
    assert "Traceback" not in response.text


async def test_the_description_of_the_surface_is_whole(shared_world: World) -> None:
    response = await shared_world.http.get("/openapi.json")
    schema = response.json()
    for kind in KINDS.values():
        assert f"/api/v1/{kind.plural}" in schema["paths"]
        assert kind.__name__ in schema["components"]["schemas"]
    for reference in set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(schema))):
        assert reference in schema["components"]["schemas"]
    assert schema["security"] == [{"bearer": []}]
    assert "HTTPValidationError" not in response.text
    identifiers = [
        operation["operationId"]
        for operations in schema["paths"].values()
        for operation in operations.values()
    ]
    assert len(set(identifiers)) == len(identifiers)
    assert (await shared_world.http.get("/docs")).status_code == 404


async def test_metrics_count_requests_by_route() -> None:
    async with make_world() as world:
        await world.call("GET", "/models/a")
        await world.call("GET", "/models/b")
        text = (await world.http.get("/metrics")).text
    line = 'code="404",method="GET",route="/api/v1/models/{name}"'
    assert f"modelplane_http_requests_total{{{line}}} 2.0" in text


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)
KNOWN_NAMES = st.sampled_from(
    ["apiVersion", "kind", "metadata", "spec", "status", "name", "environment", "labels",
     "version", "model", "replicas", "strategy", "canary", "steps", "artifact", "digest",
     "format", "tags", "groups", "reason", "alias", "description", "gateway", "port", "env"]
)  # fmt: skip
BODIES = st.dictionaries(
    KNOWN_NAMES | st.text(max_size=8),
    JSON_VALUES | st.dictionaries(KNOWN_NAMES, JSON_VALUES, max_size=5),
    max_size=6,
)
TARGETS = [
    ("PUT", "/model-deployments/fraud"),
    ("PUT", "/environments/staging"),
    ("PUT", "/models/fraud"),
    ("PUT", "/jobs/train"),
    ("PUT", "/replicas/r/status"),
    ("POST", "/model-versions"),
    ("POST", "/model-versions/fraud@1.0.0:tag"),
    ("POST", "/model-versions/fraud@1.0.0:alias"),
    ("POST", "/tokens/t:create"),
    ("POST", "/model-deployments/fraud:promote"),
    ("POST", "/model-deployments:plan"),
    ("POST", "/telemetry"),
]


@settings(max_examples=30)
@given(bodies=st.lists(st.tuples(st.sampled_from(TARGETS), BODIES), min_size=10, max_size=10))
@pytest.mark.slow
async def test_no_body_makes_an_error_of_ours(
    shared_world: World,
    bodies: list[tuple[tuple[str, str], dict[str, Any]]],
) -> None:
    for (method, path), body in bodies:
        response = await shared_world.call(method, path, json.dumps(body).encode())
        assert response.status_code < 500, (method, path, body, response.text)
        if response.status_code >= 400:
            assert_problem(response)


@given(path=st.text(min_size=1, max_size=40), query=st.text(max_size=40))
@settings(max_examples=30)
async def test_no_path_makes_an_error_of_ours(shared_world: World, path: str, query: str) -> None:
    for kind in ("models", "model-versions", "model-deployments"):
        name = quote(path, safe="")
        response = await shared_world.call("GET", f"/{kind}/{name}", environment=query)
        assert response.status_code < 500
