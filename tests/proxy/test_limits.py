"""What the gateway itself refuses: large bodies, missing tokens, a port that is taken."""

from __future__ import annotations

import asyncio
import socket
import stat
import struct
import time

import pytest

from tests.proxy.gateway import Gateway, gateway, until
from tests.proxy.plans import split_plan

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

MIB = 1024 * 1024


async def test_a_body_up_to_the_limit_passes_and_a_larger_one_gets_413(running: Gateway) -> None:
    replica = await running.upstream("large")
    assert (await running.publish(split_plan("large", stable=(replica,)))).accepted
    answer = await running.client.post("/v2/models/large/infer", content=b"x" * (8 * MIB))
    assert answer.json()["bytes"] == 8 * MIB
    answer = await running.client.post("/v2/models/large/infer", content=b"x" * (8 * MIB + 1))
    assert answer.status_code == 413
    assert answer.json()["status"] == 413
    assert len(replica.requests) == 1


async def test_a_large_body_is_shielded_too(running: Gateway) -> None:
    stable, candidate = await running.upstream("lb-s"), await running.upstream("lb-c", "500")
    plan = split_plan("large-shield", stable=(stable,), candidate=(candidate,), weight=10_000)
    assert (await running.publish(plan)).accepted
    answer = await running.client.post("/v2/models/large-shield/infer", content=b"x" * (7 * MIB))
    assert answer.json() == {
        "served_by": "lb-s",
        "target": "/v2/models/large-shield/infer",
        "bytes": 7 * MIB,
    }


async def test_a_gateway_with_a_token_wants_it_and_keeps_it_to_itself() -> None:
    async with gateway(token="s3cret-token") as guarded:
        replica = await guarded.upstream("guarded")
        assert (await guarded.publish(split_plan("guarded", stable=(replica,)))).accepted
        path = "/v2/models/guarded/infer"
        right = {"authorization": "Bearer s3cret-token"}
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "s3cret"}):
            answer = await guarded.client.post(path, headers=headers)
            assert answer.status_code == 401
            assert answer.json()["status"] == 401
        assert not replica.requests
        assert (await guarded.client.post(path, headers=right)).status_code == 200
        assert "authorization" not in replica.requests[-1][2]
        assert (await guarded.client.post("/v2/models/other/infer")).status_code == 401
        assert (await guarded.client.get("/v2/health/ready")).status_code == 200
        assert "s3cret" not in guarded.config.bootstrap_path.read_text()
        assert "s3cret" not in repr(guarded.config)


async def test_one_connection_of_http_2_has_a_hundred_requests_at_a_time(running: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.config.port)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    async with asyncio.timeout(10):
        head = await reader.readexactly(9)
        payload = await reader.readexactly(int.from_bytes(head[:3]))
    writer.close()
    settings = dict(struct.iter_unpack(">HI", payload))
    assert head[3] == 4
    assert settings[3] == 100  # SETTINGS_MAX_CONCURRENT_STREAMS


async def test_the_sockets_are_private(running: Gateway) -> None:
    for path in (running.config.ads_socket, running.config.admin_socket):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_port_in_use_is_reported_and_the_gateway_not_ready() -> None:
    taken = Gateway()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", taken.config.port))
        holder.listen()
        try:
            await taken.start_proxy()
            await taken.start_envoy()

            async def refused() -> bool:
                return taken.proxy.listener_fault is not None

            await until(refused)
            assert "Address already in use" in (taken.proxy.listener_fault or "")
            assert not await taken.proxy.is_ready()
        finally:
            await taken.stop()


async def test_draining_lets_requests_in_flight_end() -> None:
    async with gateway() as leaving:
        replica = await leaving.upstream("slow", "slow", slow_s=0.5)
        assert (await leaving.publish(split_plan("slow", stable=(replica,)))).accepted
        request = asyncio.create_task(leaving.client.post("/v2/models/slow/infer"))
        await until(replica.was_asked)
        started = time.monotonic()
        await leaving.proxy.drain(timeout_s=10)
        assert request.done() or time.monotonic() - started > 0.2
        assert (await request).status_code == 200
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection("127.0.0.1", leaving.config.port)


async def test_draining_ends_at_its_time_limit() -> None:
    async with gateway() as leaving:
        replica = await leaving.upstream("hang", "hang")
        assert (await leaving.publish(split_plan("hang", stable=(replica,)))).accepted
        request = asyncio.create_task(leaving.client.post("/v2/models/hang/infer"))
        await until(replica.was_asked)
        await asyncio.wait_for(leaving.proxy.drain(timeout_s=0.3), 5)
        assert not request.done()
        request.cancel()
