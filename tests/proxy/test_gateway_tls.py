"""TLS on the gateway: which versions and protocols, and how a new certificate is taken up."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.x509.oid import NameOID

from modelplane.adapters.proxy.tls import certificate_secret, check_certificate
from modelplane.adapters.proxy.xds import SECRET, XdsResource
from tests.proxy.certificates import Authority
from tests.proxy.gateway import Gateway, until
from tests.proxy.load import load
from tests.proxy.plans import split_plan

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

AUTHORITY = Authority()


def secret(name: str) -> XdsResource:
    return certificate_secret(check_certificate(*AUTHORITY.issue(name), datetime.now(UTC)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secure() -> AsyncIterator[Gateway]:
    """A gateway with a certificate, and one deployment."""
    one = Gateway(tls=True)
    try:
        await one.start_proxy()
        one.proxy.renew(SECRET, secret("first"))
        await one.start_envoy()
        await until(one.proxy.is_ready)
        replica = await one.upstream("secure")
        assert (await one.publish(split_plan("secure", stable=(replica,)))).accepted
        yield one
    finally:
        await one.stop()


def connect(secure: Gateway, context: ssl.SSLContext) -> tuple[str | None, str | None, str]:
    """Return protocol, TLS version and the name in the certificate of a new connection."""
    with (
        socket.create_connection(("127.0.0.1", secure.config.port), 5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
    ):
        shown = x509.load_der_x509_certificate(wrapped.getpeercert(binary_form=True) or b"")
        name = shown.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        return wrapped.selected_alpn_protocol(), wrapped.version(), str(name)


async def show(secure: Gateway, *protocols: str) -> tuple[str | None, str | None, str]:
    return await asyncio.to_thread(connect, secure, AUTHORITY.context(*protocols))


async def test_clients_choose_http_2_or_1_1_over_tls_1_3_or_1_2(secure: Gateway) -> None:
    assert await show(secure, "h2", "http/1.1") == ("h2", "TLSv1.3", "first")
    assert await show(secure, "http/1.1") == ("http/1.1", "TLSv1.3", "first")
    older = AUTHORITY.context("http/1.1")
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    assert (await asyncio.to_thread(connect, secure, older))[1] == "TLSv1.2"
    url = f"https://127.0.0.1:{secure.config.port}"
    async with httpx.AsyncClient(verify=AUTHORITY.context(), base_url=url) as client:
        answer = await client.post("/v2/models/secure/infer")
    assert answer.status_code == 200


async def test_http_2_requests_are_answered(secure: Gateway) -> None:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", secure.config.port, ssl=AUTHORITY.context("h2")
    )
    path = b"/v2/health/ready"
    # HPACK: ":method: GET" and ":scheme: https" from its static table, two literals of ours.
    fields = b"\x82\x87" + b"\x04" + bytes([len(path)]) + path + b"\x01\x07gateway"
    frames = _frame(4, 0, 0) + _frame(1, 5, 1, fields)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frames)
    async with asyncio.timeout(10):
        kind, payload = 0, b""
        while kind != 1:
            head = await reader.readexactly(9)
            kind, payload = head[3], await reader.readexactly(int.from_bytes(head[:3]))
    writer.close()
    assert b"\x88" in payload[:4]  # ":status: 200" in the static table


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_old_tls_and_plain_http_are_refused(secure: Gateway) -> None:
    ancient = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ancient.check_hostname = False
    ancient.verify_mode = ssl.CERT_NONE
    ancient.set_ciphers("ALL:@SECLEVEL=0")
    ancient.minimum_version = ssl.TLSVersion.TLSv1
    ancient.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match="alert protocol version"):
        await asyncio.to_thread(connect, secure, ancient)
    with pytest.raises(httpx.TransportError):
        await secure.client.get("/v2/health/ready")


async def test_who_connects_and_does_not_speak_tls_is_hung_up_on(secure: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", secure.config.port)
    async with asyncio.timeout(60):
        assert await reader.read() == b""
    writer.close()


async def test_a_new_certificate_closes_no_connection_and_fails_no_request(
    secure: Gateway,
) -> None:
    async def shows(name: str) -> bool:
        return (await show(secure))[2] == name

    context = AUTHORITY.context()
    async with load(secure.config.port, "secure", connections=4, tls=context) as answers:
        for number in range(5):
            secure.proxy.renew(SECRET, secret(f"renewed-{number}"))
            await until(lambda wanted=f"renewed-{number}": shows(wanted))  # type: ignore[misc]
            await answers.grow(50)
    assert answers.failures == 0, answers.problems
    assert answers.connections == 4


async def test_an_agent_that_has_not_read_the_certificate_yet_leaves_envoy_the_one_it_has(
    secure: Gateway,
) -> None:
    secure.proxy.renew(SECRET, secret("kept"))

    async def is_kept() -> bool:
        return (await show(secure))[2] == "kept"

    await until(is_kept)
    await secure.stop_proxy()
    await secure.start_proxy([split_plan("secure", stable=(secure.upstreams[0],))])
    await until(secure.proxy.is_ready)
    assert await is_kept()
