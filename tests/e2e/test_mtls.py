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

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

CANARY = {
    "steps": [50],
    "minBake": "1s",
    "analysis": {"interval": "1s", "metrics": [{"name": "errors", "margin": 0.1}]},
}


def set_mtls(modelplane: Modelplane, mode: str) -> None:
    found = modelplane.client.get(Environment, "production")
    spec: dict[str, Any] = found.spec.to_dict() | {"mtls": mode}
    modelplane.client.apply(
        read_document(
            {
                "apiVersion": "modelplane.dev/v1",
                "kind": "Environment",
                "metadata": {"name": "production"},
                "spec": spec,
            }
        )
    )


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
        lambda: not any("production.in" in line for line in modelplane.processes()),
    )


def refuses_strangers(address: str) -> None:
    """Neither plain text nor TLS without a certificate gets an answer."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as plain:
        plain.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"HTTP/1.1" not in read(plain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((host, int(port)), timeout=5) as raw,
        context.wrap_socket(raw) as secured,
    ):
        secured.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        with pytest.raises(ssl.SSLError, match="certificate required"):
            secured.recv(100)


def read(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1000)
    except ConnectionError:
        return b""
