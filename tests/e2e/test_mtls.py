"""An environment with mutual TLS, as a user has it: turned on under load, rolled out through while
the agent dies, turned off again; no request is lost.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
from typing import Any

import pytest

from modelplane.resources.environment import Environment
from modelplane.resources.manifest import read_document
from modelplane.resources.traffic_split import TrafficSplit
from tests.e2e.conftest import Modelplane, wait_for
from tests.e2e.load import Load
from tests.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

CANARY = {
    "steps": [50],
    "minBake": "1s",
    "analysis": {"interval": "1s", "metrics": [{"name": "errors", "margin": 0.1}]},
}


def declare(modelplane: Modelplane, kind: str, spec: dict[str, Any], **metadata: str) -> None:
    document = {"apiVersion": "modelplane.dev/v1", "kind": kind, "metadata": metadata}
    modelplane.client.apply(read_document(document | {"spec": spec}))


def set_mtls(modelplane: Modelplane, mode: str) -> None:
    found = modelplane.client.get(Environment, "production")
    declare(modelplane, "Environment", found.spec.to_dict() | {"mtls": mode}, name="production")


def endpoints(modelplane: Modelplane) -> list[tuple[str, str]]:
    split = modelplane.client.get(TrafficSplit, "test", "production")
    return [(e.address, e.identity) for v in split.spec.variants for e in v.endpoints]


def all_secure(modelplane: Modelplane, *, secure: bool) -> bool:
    split = modelplane.client.get(TrafficSplit, "test", "production")
    accepted = split.status.accepted_generation == split.metadata.generation
    found = endpoints(modelplane)
    return accepted and bool(found) and all(bool(i) == secure for _, i in found)


def restart(modelplane: Modelplane, name: str) -> None:
    before = modelplane.pid(name)
    os.kill(before, signal.SIGKILL)
    wait_for(f"another {name}", lambda: modelplane.pid(name) != before)


async def test_an_environment_with_mutual_tls(modelplane: Modelplane) -> None:
    modelplane.serve(canary=CANARY)
    assert not (modelplane.state / "ca").exists()
    async with Load(f"{modelplane.url}/test/infer", rate_per_s=60) as load:
        await asyncio.sleep(1)
        await asyncio.to_thread(set_mtls, modelplane, "STRICT")
        await asyncio.to_thread(wait_for, "mutual TLS", lambda: all_secure(modelplane, secure=True))
        address, identity = endpoints(modelplane)[0]
        assert identity.endswith("/environments/production/nodes/local/inbound")
        refuses_strangers(address)

        await asyncio.to_thread(modelplane.push, "2.0.0")
        await asyncio.to_thread(modelplane.apply, "2.0.0", CANARY)
        await asyncio.sleep(1)
        await asyncio.to_thread(restart, modelplane, "agent")
        rollout = await asyncio.to_thread(modelplane.wait_until_finished, "2.0.0", 90.0)
        assert rollout.status.phase == "Promoted", rollout.status.message
        assert all(identity for _, identity in endpoints(modelplane))

        status = (await asyncio.to_thread(modelplane.cli, "ca", "rotate")).stdout
        assert "joining" in status
        await asyncio.to_thread(set_mtls, modelplane, "DISABLED")
        await asyncio.to_thread(
            wait_for, "plain sockets", lambda: all_secure(modelplane, secure=False)
        )
        await asyncio.sleep(1)
        assert load.failures == []
        assert load.sent > 200
    assert "PRIVATE KEY" not in modelplane.cli("audit", "list", "-o", "json").stdout
    wait_for(
        "end of the inbound proxy",
        lambda: not any("production+in" in line for line in modelplane.processes()),
    )


def refuses_strangers(address: str) -> None:
    """Neither plain text nor TLS without a certificate gets an answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as plain:
        assert b"HTTP" not in ask(plain)
    with (
        socket.create_connection((host, int(port)), timeout=5) as raw,
        context.wrap_socket(raw) as secured,
    ):
        assert b"HTTP" not in ask(secured)


def ask(connection: socket.socket) -> bytes:
    """Return what comes back for a request; nothing when the connection is cut."""
    try:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        return connection.recv(1000)
    except (ssl.SSLError, ConnectionError):
        return b""


def test_production_shows_its_requests_to_staging(modelplane: Modelplane) -> None:
    """From gateway to gateway over mutual TLS, as the guide has it."""
    client = modelplane.client
    staging = client.get(Environment, "staging").spec.to_dict()
    staging["gateway"]["mesh"] = {"port": free_port(), "allow": ["production"]}
    declare(modelplane, "Environment", staging, name="staging")
    set_mtls(modelplane, "STRICT")
    modelplane.push("1.0.0")
    declare(modelplane, "ModelDeployment", {"version": "1.0.0"}, name="test", environment="staging")
    wait_for("staging", lambda: all_accepted(modelplane, "staging"))
    copying = {"version": "1.0.0", "mirrorTo": [{"environment": "staging"}]}
    declare(modelplane, "ModelDeployment", copying, name="test", environment="production")
    wait_for("production", lambda: all_accepted(modelplane, "production"))
    body = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1.0]}]}
    for _ in range(20):
        assert client.predict("test", body, environment="production").version == "1.0.0"
    wait_for("counts", lambda: counts(modelplane, "production") == (20, 0))
    wait_for("counts of copies", lambda: counts(modelplane, "staging") == (20, 0))


def all_accepted(modelplane: Modelplane, environment: str) -> bool:
    split = modelplane.client.get(TrafficSplit, "test", environment)
    return split.status.accepted_generation == split.metadata.generation


def counts(modelplane: Modelplane, environment: str) -> tuple[int, int]:
    """Return how many requests an environment answered lately, and how many failed."""
    told = modelplane.client.traffic("test", environment)["variants"]
    return sum(v["requests"] for v in told), sum(v["failures"] for v in told)
