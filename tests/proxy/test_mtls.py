"""Mutual TLS between the gateway and the model servers, with real Envoys and Python's own TLS."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.adapters.clock import SystemClock
from modelplane.adapters.identity.authority import FolderAuthority
from modelplane.adapters.proxy.inbound import inbound_process
from modelplane.decisions.routing import Endpoint, Remote
from modelplane.ports.inbound import InboundRoute
from modelplane.resources.certificates import Workload
from modelplane.resources.environment import GatewayMesh
from modelplane.resources.meta import check_name
from tests.ports import free_port
from tests.proxy.gateway import Gateway, until
from tests.proxy.inbound import (
    GATEWAY,
    INBOUND,
    Refused,
    ask_in_plaintext,
    ask_over_tls,
    credentials,
    secure_gateway,
)
from tests.proxy.load import load
from tests.proxy.plans import split_plan

OK = "HTTP/1.1 200 X"
pytestmark = pytest.mark.timeout(90)


@given(st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9._]{0,20}[A-Za-z0-9])?", fullmatch=True))
def test_no_gateway_has_the_sockets_of_an_inbound_proxy(name: str) -> None:
    """Gateways are named as environments are; neither process may configure the other."""
    check_name(name)
    inbound = inbound_process(name, Path("/run"))
    with pytest.raises(ValueError, match="not a name"):
        check_name(inbound.name)


async def test_requests_arrive_and_are_counted_by_replica() -> None:
    async with secure_gateway() as inbound:
        gateway = inbound.gateway
        one = await inbound.endpoint(await gateway.upstream("one"))
        two = await inbound.endpoint(await gateway.upstream("two"))
        assert (await gateway.publish(split_plan("m", stable=(one, two)))).accepted
        for _ in range(20):
            assert await gateway.status("/v2/models/m/infer") == 200
        reading = await gateway.read_counts({"m.a": 20})
        counts = reading.variants["m.a"]
        assert counts.failures == 0
        assert set(counts.replica_attempts) == {"one", "two"}
        assert sum(counts.replica_attempts.values()) == 20


async def test_only_the_gateway_is_admitted(tmp_path: Path) -> None:
    async with secure_gateway() as inbound:
        upstream = await inbound.gateway.upstream("one")
        address = (await inbound.endpoint(upstream)).address
        ours, others = inbound.authority, FolderAuthority(tmp_path / "other", SystemClock())
        gateway = credentials(ours, GATEWAY)

        answer = await ask_over_tls(address, gateway, trusted=gateway.trusted)
        assert answer == OK
        asked = len(upstream.requests)
        for refused in (
            credentials(ours, INBOUND),  # another workload of the same environment
            credentials(ours, Workload(environment="other", role="gateway")),
            credentials(others, GATEWAY),  # the same name, certified by somebody else
            None,  # no certificate
        ):
            with pytest.raises(Refused):
                await ask_over_tls(address, refused)
        with pytest.raises(Refused):
            await ask_in_plaintext(address)
        with pytest.raises(Refused):
            await ask_over_tls(address, gateway, version=ssl.TLSVersion.TLSv1_2)
        assert len(upstream.requests) == asked


async def test_secrets_that_are_empty_or_broken_admit_nobody(tmp_path: Path) -> None:
    async with secure_gateway() as inbound:
        address = (await inbound.endpoint(await inbound.gateway.upstream("one"))).address
        own = credentials(inbound.authority, GATEWAY)
        stranger = credentials(FolderAuthority(tmp_path / "other", SystemClock()), GATEWAY)
        good = credentials(inbound.authority, INBOUND)
        for bad in (
            replace(good, trusted=""),
            replace(good, trusted="-----BEGIN CERTIFICATE-----\n"),
            replace(good, private_key=own.private_key),
        ):
            await inbound.proxy.present(bad)
            await asyncio.sleep(0.2)
            assert await ask_over_tls(address, own) == OK, "what it had before holds"
            with pytest.raises(Refused):
                await ask_over_tls(address, stranger)
        await inbound.kill_envoy()  # one that had nothing before
        await inbound.proxy.present(replace(good, trusted=""))
        await inbound.start_envoy()
        for one in (own, stranger):
            with pytest.raises(Refused):
                await ask_over_tls(address, one)


async def test_an_expired_certificate_is_refused() -> None:
    async with secure_gateway() as inbound:
        address = (await inbound.endpoint(await inbound.gateway.upstream("one"))).address
        brief = FolderAuthority(inbound.gateway.dir / "ca", SystemClock(), life_s=1.5)
        own = credentials(brief, GATEWAY)
        assert await ask_over_tls(address, own) == OK
        await asyncio.sleep(2.0)
        with pytest.raises(Refused):
            await ask_over_tls(address, own)


async def test_the_gateway_speaks_to_the_right_workload_only(tmp_path: Path) -> None:
    """Who listens at a replica's address with another certificate gets no request."""
    async with secure_gateway() as inbound:
        gateway = inbound.gateway
        upstream = await gateway.upstream("one")
        real = await inbound.endpoint(upstream)
        elsewhere = real.identity.replace("/local/", "/elsewhere/")
        impostor = Endpoint("one", real.address, elsewhere)
        await gateway.publish(split_plan("m", stable=(impostor,)))
        assert await gateway.status("/v2/models/m/infer") == 503
        assert upstream.requests == []

        others = FolderAuthority(tmp_path / "other", SystemClock())
        await inbound.proxy.present(credentials(others, INBOUND))
        await gateway.publish(split_plan("n", stable=(real,)))

        async def refused() -> bool:
            return await gateway.status("/v2/models/n/infer") == 503

        await until(refused)
        await inbound.renew()

        async def answered() -> bool:
            return await gateway.status("/v2/models/n/infer") == 200

        await until(answered)


async def test_a_replica_that_dies_rests_and_costs_no_request() -> None:
    async with secure_gateway() as inbound:
        gateway = inbound.gateway
        live = await inbound.endpoint(await gateway.upstream("live"))
        address, child = await gateway.upstream_process("dying")
        port = f"127.0.0.1:{free_port()}"
        route = InboundRoute("dying", port, address.removeprefix("unix:"))
        assert await inbound.proxy.expose(route) == ""
        dying = Endpoint("dying", route.address, inbound.identity)
        await gateway.publish(split_plan("m", stable=(live, dying)))
        async with load(gateway.config.port, "m") as answers:
            await answers.grow(300)
            child.kill()
            await child.wait()
            await answers.grow(2000)
        assert answers.failures == 0, answers.problems
        counts = (await gateway.proxy.read_traffic()).variants["m.a"]
        # It rests most of the time: without that, it would fail about every second request.
        assert 0 < counts.replica_failures["dying"] < 200


async def test_renewals_lose_no_request() -> None:
    async with secure_gateway() as inbound:
        gateway = inbound.gateway
        one = await inbound.endpoint(await gateway.upstream("one"))
        two = await inbound.endpoint(await gateway.upstream("two"))
        await gateway.publish(split_plan("m", stable=(one,), candidate=(two,), weight=5000))
        async with load(gateway.config.port, "m", connections=16) as answers:
            for _ in range(20):
                await inbound.renew()
                await answers.grow(150)
        assert answers.failures == 0, answers.problems
        reading = await gateway.read_counts({})
        assert sum(counts.failures for counts in reading.variants.values()) == 0


async def test_a_change_of_authority_loses_no_request() -> None:
    """Through all phases, each as short as it can be: joining, signing, leaving, gone."""
    async with secure_gateway() as inbound:
        gateway = inbound.gateway
        brief = FolderAuthority(gateway.dir / "ca", SystemClock(), life_s=3600.0, joining_s=1.0)
        inbound.authority = brief
        one = await inbound.endpoint(await gateway.upstream("one"))
        two = await inbound.endpoint(await gateway.upstream("two"))
        await gateway.publish(split_plan("m", stable=(one, two)))
        async with load(gateway.config.port, "m", connections=16) as answers:
            first = credentials(brief, GATEWAY)
            brief.rotate()
            await inbound.renew()  # both are trusted, the old one signs
            await answers.grow(300)
            await asyncio.sleep(1.1)
            await inbound.gateway.proxy.present(credentials(brief, GATEWAY))
            await answers.grow(300)  # one side is ahead of the other
            await inbound.renew()
            await answers.grow(300)
            new = credentials(brief, GATEWAY)
            newest = new.trusted[new.trusted.rindex("-----BEGIN") :]
            for workload, proxy in ((INBOUND, inbound.proxy), (GATEWAY, gateway.proxy)):
                only_new = credentials(brief, workload)
                # As once the old one is gone.
                await proxy.present(replace(only_new, trusted=newest))
            await answers.grow(300)
        assert answers.failures == 0, answers.problems
        await asyncio.sleep(0.2)
        with pytest.raises(Refused):
            await ask_over_tls(one.address, first)
        assert await ask_over_tls(one.address, new) == OK


async def test_what_is_set_up_survives_the_agent_and_the_proxy() -> None:
    async with secure_gateway() as inbound:
        gateway = inbound.gateway
        one = await inbound.endpoint(await gateway.upstream("one"))
        await gateway.publish(split_plan("m", stable=(one,)))
        async with load(gateway.config.port, "m") as answers:
            await answers.grow(100)
            await inbound.proxy.stop()  # the agent is away
            await answers.grow(200)
            await inbound.start_proxy()
            await until(inbound.proxy.is_ready)
            await answers.grow(200)
        assert answers.failures == 0, answers.problems
        await inbound.kill_envoy()
        await inbound.start_envoy()

        async def answered() -> bool:
            return await gateway.status("/v2/models/m/infer") == 200

        await until(answered)


async def test_a_port_in_use_is_said_and_holds_up_no_other() -> None:
    async with secure_gateway() as inbound:
        upstream = await inbound.gateway.upstream("one")
        taken = InboundRoute("taken", inbound.gateway.url.removeprefix("http://"), upstream.path)
        assert "cannot bind" in await inbound.proxy.expose(taken)
        endpoint = await inbound.endpoint(upstream)
        own = credentials(inbound.authority, GATEWAY)
        assert await ask_over_tls(endpoint.address, own) == OK


async def test_a_withdrawn_replica_is_reached_no_more() -> None:
    async with secure_gateway() as inbound:
        endpoint = await inbound.endpoint(await inbound.gateway.upstream("one"))
        await inbound.proxy.withdraw("one")
        own = credentials(inbound.authority, GATEWAY)

        async def refused() -> bool:
            try:
                await ask_over_tls(endpoint.address, own)
            except Refused:
                return True
            return False

        await until(refused)


async def test_an_endpoint_moves_behind_the_proxy_without_a_lost_request() -> None:
    """As when an environment becomes STRICT under load, and when it is no more."""
    async with secure_gateway() as inbound:
        gateway = inbound.gateway
        upstream = await gateway.upstream("one")
        behind = await inbound.endpoint(upstream)
        peers = (inbound.identity,)
        await gateway.publish(split_plan("m", stable=(upstream,)))
        async with load(gateway.config.port, "m") as answers:
            await answers.grow(100)
            for generation in range(2, 22, 2):
                await gateway.publish(split_plan("m", generation, stable=(upstream,), peers=peers))
                await answers.grow(50)
                await gateway.publish(split_plan("m", generation, stable=(behind,), peers=peers))
                await answers.grow(50)
                plan = split_plan("m", generation + 1, stable=(upstream,), peers=peers)
                await gateway.publish(plan)
                await answers.grow(50)
                await gateway.publish(split_plan("m", generation + 1, stable=(upstream,)))
                await answers.grow(50)
        assert answers.failures == 0, answers.problems


async def test_no_key_is_written_by_the_proxies() -> None:
    async with secure_gateway() as inbound:
        await inbound.endpoint(await inbound.gateway.upstream("one"))
        files = [f for f in inbound.gateway.dir.iterdir() if f.is_file()]
        assert files
        assert not any("PRIVATE KEY" in file.read_text(errors="replace") for file in files)


async def test_gateways_of_allowed_environments_come_in() -> None:
    port = free_port()
    mesh = GatewayMesh(port=port, allow=("staging", "spiffe://elsewhere/gateway"))
    async with secure_gateway(mesh=mesh) as inbound:
        gateway, authority = inbound.gateway, inbound.authority
        endpoint = await inbound.endpoint(await gateway.upstream("one"))
        await gateway.publish(split_plan("m", stable=(endpoint,)))
        address = f"127.0.0.1:{port}"
        staging = credentials(authority, Workload(environment="staging", role="gateway"))
        assert await ask_over_tls(address, staging, trusted=staging.trusted) == "HTTP/1.1 200 OK"
        own_inbound = Workload(environment="staging", role="inbound", node="local")
        for refused in (
            credentials(authority, Workload(environment="development", role="gateway")),
            credentials(authority, GATEWAY),
            credentials(authority, own_inbound),
            None,
        ):
            with pytest.raises(Refused):
                await ask_over_tls(address, refused)
        with pytest.raises(Refused):
            await ask_in_plaintext(address)
        assert await gateway.status("/v2/models/m/infer") == 200, "the first listener is as ever"


async def test_who_lost_the_way_in_while_no_agent_ran_stays_out() -> None:
    mesh = GatewayMesh(port=free_port(), allow=("staging",))
    async with secure_gateway(mesh=mesh) as inbound:
        gateway, authority = inbound.gateway, inbound.authority
        plan = split_plan("m", stable=(await inbound.endpoint(await gateway.upstream("one")),))
        await gateway.publish(plan)
        address = f"127.0.0.1:{mesh.port}"
        staging = credentials(authority, Workload(environment="staging", role="gateway"))
        assert await ask_over_tls(address, staging) == "HTTP/1.1 200 OK"

        await gateway.stop_proxy()
        gateway.config = replace(gateway.config, mesh=None)
        await gateway.start_proxy([plan])
        await gateway.proxy.present(credentials(authority, GATEWAY))
        await until(gateway.proxy.is_ready)

        async def refused() -> bool:
            try:
                await ask_over_tls(address, staging)
            except Refused:
                return True
            return False

        await until(refused)
        assert await gateway.status("/v2/models/m/infer") == 200


async def test_of_another_trust_domain_others_come_in(tmp_path: Path) -> None:
    """As after a restored backup: there is another authority, and all names are others."""
    mesh = GatewayMesh(port=free_port(), allow=("staging",))
    async with secure_gateway(mesh=mesh) as inbound:
        gateway, staging = inbound.gateway, Workload(environment="staging", role="gateway")
        await gateway.publish(split_plan("m", stable=(await gateway.upstream("one"),)))
        address = f"127.0.0.1:{mesh.port}"
        before = credentials(inbound.authority, staging)
        assert await ask_over_tls(address, before) == "HTTP/1.1 200 OK"
        other = FolderAuthority(tmp_path / "other", SystemClock())
        await gateway.proxy.present(credentials(other, GATEWAY))

        async def admitted() -> bool:
            try:
                return await ask_over_tls(address, credentials(other, staging)) != ""
            except Refused:
                return False

        await until(admitted)
        with pytest.raises(Refused):
            await ask_over_tls(address, before)


async def test_requests_are_copied_to_the_gateway_of_another_environment() -> None:
    port = free_port()
    staging = Workload(environment="staging", role="gateway")
    other = Gateway(mesh=GatewayMesh(port=port, allow=("test",)))
    async with secure_gateway() as inbound:
        gateway, authority = inbound.gateway, inbound.authority
        theirs = await gateway.upstream("theirs")
        await other.start_proxy([split_plan("m", stable=(theirs,))])
        try:
            identity = credentials(authority, staging)
            await other.proxy.present(identity)
            await other.start_envoy()
            await until(other.proxy.is_ready)
            endpoint = await inbound.endpoint(await gateway.upstream("one"))
            remote = Remote("staging", f"127.0.0.1:{port}", identity.identity, 10_000)
            assert (
                await gateway.publish(split_plan("m", stable=(endpoint,), remotes=(remote,)))
            ).accepted
            for _ in range(10):
                assert await gateway.status("/v2/models/m/versions/1.0.0/infer") == 200

            async def copied() -> bool:
                return len(theirs.requests) == 10

            await until(copied)
            reading = await gateway.read_counts({"m.a": 10})
            assert set(reading.variants) == {"m.a"}
            assert reading.unrouted == 0

            await other.kill_envoy()  # whatever becomes of the other gateway
            async with load(gateway.config.port, "m") as answers:
                await answers.grow(200)
            assert answers.failures == 0, answers.problems
            impostor = replace(remote, identity=identity.identity.replace("staging", "elsewhere"))
            assert (
                await gateway.publish(split_plan("m", 2, stable=(endpoint,), remotes=(impostor,)))
            ).accepted
            assert (await gateway.publish(split_plan("m", 3, stable=(endpoint,)))).accepted
        finally:
            await other.stop()
