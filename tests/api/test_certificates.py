"""Certificates over the API: who is certified as what, and how an authority hands over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from modelplane.adapters.identity.authority import FolderAuthority
from modelplane.adapters.identity.keys import EllipticKeys
from modelplane.testing.clock import ManualClock
from tests.api.world import ADMIN, AGENT, READER, World, make_world


@pytest.fixture
async def certifying(tmp_path: Path) -> AsyncIterator[World]:
    authority = FolderAuthority(tmp_path / "ca", ManualClock(), joining_s=60.0)
    async with make_world(authority=authority) as world:
        yield world


def request_for(environment: str = "production", **workload: str) -> dict[str, Any]:
    fields = {"environment": environment, "role": "gateway", **workload}
    return {"workload": fields, "request": EllipticKeys().make_key().request}


async def test_an_agent_is_certified_as_what_runs_in_an_environment(certifying: World) -> None:
    answer = await certifying.call("POST", "/certificates", request_for(), token=AGENT)
    assert answer.status_code == 201
    issued = answer.json()
    domain = issued["trust"]["trustDomain"]
    assert issued["identity"] == f"spiffe://{domain}/environments/production/gateway"
    trusted = await certifying.call("GET", "/authorities:trust", token=AGENT)
    assert trusted.json() == issued["trust"]
    (record,) = [r for r in await certifying.store.audit() if r.action == "certify"]
    assert record.details["identity"] == issued["identity"]
    assert "PRIVATE" not in answer.text


@pytest.mark.parametrize("token", [READER, ADMIN])
async def test_nobody_else_is(certifying: World, token: str) -> None:
    answer = await certifying.call("POST", "/certificates", request_for(), token=token)
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (request_for("nowhere"), "workload.environment"),
        (request_for("production/../staging"), "workload.environment"),
        (request_for(role="admin"), "workload.role"),
        (request_for(role="inbound"), "workload"),
        (request_for() | {"request": "nonsense"}, "request"),
        (request_for() | {"identity": "spiffe://x/y"}, "identity"),
    ],
)
async def test_what_is_not_in_order_is_refused_with_its_place(
    certifying: World, body: dict[str, Any], field: str
) -> None:
    answer = await certifying.call("POST", "/certificates", body, token=AGENT)
    assert answer.status_code == 422, answer.text
    assert field in [fault["path"] for fault in answer.json()["fields"]]


async def test_an_authority_hands_over(certifying: World) -> None:
    await certifying.call("POST", "/certificates", request_for(), token=AGENT)
    begun = await certifying.call("POST", "/authorities:rotate", {"reason": "yearly"})
    assert [one["phase"] for one in begun.json()["authorities"]] == ["signing", "joining"]
    again = await certifying.call("POST", "/authorities:rotate", {})
    assert again.status_code == 409
    (record,) = [r for r in await certifying.store.audit() if r.action == "rotate"]
    assert (record.reason, record.details["authority"]) == ("yearly", 2)
    refused = await certifying.call("POST", "/authorities:rotate", {}, token=AGENT)
    assert refused.status_code == 403


async def test_nothing_is_there_before_somebody_asks(certifying: World, tmp_path: Path) -> None:
    status = await certifying.call("GET", "/authorities")
    assert status.json()["authorities"] == []
    assert (await certifying.call("GET", "/authorities:trust")).status_code == 404
    assert not (tmp_path / "ca").exists()
