"""A gateway, an inbound proxy and an authority for tests: two real Envoys with mutual TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile
from collections.abc import AsyncIterator
from typing import Any

from modelplane.adapters.clock import SystemClock
from modelplane.adapters.identity.authority import FolderAuthority
from modelplane.adapters.identity.keys import EllipticKeys
from modelplane.adapters.proxy.bootstrap import envoy_command, write_bootstrap
from modelplane.adapters.proxy.inbound import EnvoyInbound, inbound_process
from modelplane.decisions.routing import Endpoint
from modelplane.ports.identity import Credentials, NewKey
from modelplane.ports.inbound import InboundRoute
from modelplane.resources.certificates import CertificateRequest, IssuedCertificate, Workload
from tests.ports import free_port
from tests.proxy.gateway import Gateway, until
from tests.proxy.upstream import Upstream

GATEWAY = Workload(environment="test", role="gateway")
INBOUND = Workload(environment="test", role="inbound", node="local")


def credentials(authority: FolderAuthority, workload: Workload) -> Credentials:
    """Return a workload's credentials, as its agent gets them."""
    key: NewKey = EllipticKeys().make_key()
    issued = authority.issue(CertificateRequest(workload=workload, request=key.request))
    return join(key, issued)


def join(key: NewKey, issued: IssuedCertificate) -> Credentials:
    return Credentials(
        identity=issued.identity,
        private_key=key.private_key,
        certificate=issued.certificate,
        trusted=issued.trust.authorities,
        not_before=issued.not_before,
        not_after=issued.not_after,
    )


class Inbound:
    """An inbound proxy beside a `Gateway`; both have what the authority gave them."""

    def __init__(self, gateway: Gateway, authority: FolderAuthority) -> None:
        self.gateway = gateway
        self.authority = authority
        self.identity = credentials(authority, INBOUND).identity
        self.process_config = inbound_process("test", gateway.dir)
        self.routes: list[InboundRoute] = []
        self.proxy: EnvoyInbound
        self.process: asyncio.subprocess.Process

    async def start_proxy(self) -> None:
        """Start serving configuration, as the agent does when it starts."""
        identity = credentials(self.authority, GATEWAY).identity
        self.proxy = EnvoyInbound(self.process_config, identity, self.routes)
        await self.proxy.present(credentials(self.authority, INBOUND))
        await self.proxy.start()

    async def start_envoy(self) -> None:
        write_bootstrap(self.process_config)
        log = (self.gateway.dir / "inbound.log").open("ab")
        self.process = await asyncio.create_subprocess_exec(
            *envoy_command(self.process_config), stdout=log, stderr=log
        )
        log.close()
        await until(self.proxy.is_ready)

    async def kill_envoy(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def endpoint(self, upstream: Upstream) -> Endpoint:
        """Return a replica behind the proxy, as a plan names it."""
        route = InboundRoute(upstream.name, f"127.0.0.1:{free_port()}", upstream.path)
        assert await self.proxy.expose(route) == ""
        self.routes.append(route)
        return Endpoint(upstream.name, route.address, self.identity)

    async def renew(self) -> None:
        """Give both proxies new certificates, as their agent does."""
        await self.proxy.present(credentials(self.authority, INBOUND))
        await self.gateway.proxy.present(credentials(self.authority, GATEWAY))

    async def stop(self) -> None:
        await self.proxy.stop()
        await self.kill_envoy()


@contextlib.asynccontextmanager
async def secure_gateway(**settings: Any) -> AsyncIterator[Inbound]:
    """Run a gateway and an inbound proxy that trust the same authority."""
    gateway = Gateway(**settings)
    authority = FolderAuthority(gateway.dir / "ca", SystemClock())
    inbound = Inbound(gateway, authority)
    await gateway.start_proxy()
    await gateway.proxy.present(credentials(authority, GATEWAY))
    try:
        await inbound.start_proxy()
        await inbound.start_envoy()
        await gateway.start_envoy()
        await until(gateway.proxy.is_ready)
        yield inbound
    finally:
        await inbound.stop()
        await gateway.stop()


class Refused(Exception):
    """A connection that brought no answer; says what ended it."""


async def ask_over_tls(
    address: str,
    own: Credentials | None,
    *,
    trusted: str | None = None,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> str:
    """Send one request over TLS by Python's own `ssl`; return the answer's first line."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = context.maximum_version = version
    context.verify_mode = ssl.CERT_NONE
    if trusted is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=trusted)
    if own is not None:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(own.private_key + own.certificate)
            file.flush()
            context.load_cert_chain(file.name)
    return await _ask(address, context)


async def ask_in_plaintext(address: str) -> str:
    """Send one request without TLS."""
    return await _ask(address, None)


async def _ask(address: str, context: ssl.SSLContext | None) -> str:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(8):
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
            try:
                writer.write(
                    b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
                )
                await writer.drain()
                line = await reader.readline()
            finally:
                writer.close()
    except (OSError, EOFError) as error:
        raise Refused(repr(error)) from error
    if not line:
        raise Refused("the connection was closed without an answer")
    return line.decode().strip()
