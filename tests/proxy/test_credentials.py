"""The certificate and the keys of a gateway: what is taken, what is refused, and when."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwk

from modelplane.adapters.proxy.credentials import GatewayCredentials
from modelplane.adapters.proxy.keys import MAX_BYTES, fetch_keys, read_keys
from modelplane.adapters.proxy.tls import check_certificate
from modelplane.adapters.proxy.xds import EXTENSION, SECRET, XdsResource
from modelplane.errors import InvalidResource, TransientError
from modelplane.resources.environment import Gateway
from modelplane.resources.manifest import read_document
from modelplane.testing.clock import ManualClock
from tests.proxy.certificates import Authority

AUTHORITY = Authority()
RSA = jwk.RSAKey.generate_key(2048, {"kid": "rsa"})
SMALL = {"kty": "RSA", "n": "x" * 171, "e": "AQAB"}
EC = jwk.ECKey.generate_key("P-256", {"kid": "ec"})
SECRET_KEY = jwk.OctKey.generate_key(256)


def key_set(*keys: Any) -> str:
    return json.dumps({"keys": [key if isinstance(key, dict) else key.as_dict() for key in keys]})


# Keys ---------------------------------------------------------------------------------------------


def test_only_the_public_parts_of_usable_keys_are_kept() -> None:
    private = RSA.as_dict(private=True)
    other = {"kty": "from-the-future", "kid": "x"}
    encryption = {**EC.as_dict(private=False), "use": "enc"}
    kept = json.loads(read_keys(key_set(private, other, SECRET_KEY, encryption, SMALL, EC)))
    assert kept == {"keys": [RSA.as_dict(private=False), EC.as_dict(private=False)]}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"keys": {}}',
        '{"keys": []}',
        '{"keys": [1, null, {}]}',
        "[" * 100_000,
        key_set(SECRET_KEY),
        key_set(SMALL),
        key_set({"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"}),
        key_set({"kty": "EC", "crv": ["P-256"], "x": "AAAA", "y": "AAAA"}),
        key_set({"kty": "OKP", "crv": "Ed25519", "x": "short"}),
        key_set(*[EC.as_dict(private=False)] * 101),
    ],
    ids=lambda text: f"{len(text)}-characters",
)
def test_what_holds_no_usable_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidResource):
        read_keys(text)


@given(
    st.recursive(
        st.none() | st.text() | st.integers(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(st.sampled_from(["keys", "kty", "crv", "x", "y", "n", "e", "use"]), x)
        ),
    )
)
def test_any_json_is_read_or_refused(value: Any) -> None:
    with contextlib.suppress(InvalidResource):
        assert json.loads(read_keys(json.dumps(value)))["keys"]


# Certificates -------------------------------------------------------------------------------------


def test_a_certificate_is_refused_for_a_reason_that_holds_nothing_of_the_key() -> None:
    now = datetime.now(UTC)
    chain, key = AUTHORITY.issue()
    other_chain, other_key = AUTHORITY.issue()
    cases = {
        "not PEM": ("nonsense", key),
        "does not belong": (chain, other_key),
        "cannot be read": (chain, key.replace("PRIVATE", "PUBLIC")),
        "valid from": AUTHORITY.issue(ends_in=timedelta(seconds=-1)),
    }
    for reason, (one, other) in cases.items():
        with pytest.raises(InvalidResource, match=reason) as refused:
            check_certificate(one, other, now)
        assert not any(line in str(refused.value) for line in other.splitlines()[1:-1])
    with pytest.raises(InvalidResource, match="does not belong"):
        check_certificate(other_chain + chain, key, now)  # the server's own is not the first
    whole = check_certificate(chain + other_chain, key, now)
    assert whole.chain.count("BEGIN") == 2
    assert key not in repr(whole)


def test_a_certificate_with_a_key_of_a_kind_that_nobody_knows_is_refused() -> None:
    chain, key = AUTHORITY.issue()
    der = x509.load_pem_x509_certificate(chain.encode()).public_bytes(Encoding.DER)
    known, unknown = bytes.fromhex("2a8648ce3d0201"), bytes.fromhex("2a8648ce3d0209")
    assert der.count(known) == 1
    body = base64.encodebytes(der.replace(known, unknown)).decode()
    odd = f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n"
    with pytest.raises(InvalidResource, match="kind that is not known"):
        check_certificate(odd, key, datetime.now(UTC))


# Following ----------------------------------------------------------------------------------------


class World:
    """Credentials that are followed on a clock of the test's own."""

    def __init__(self, folder: Path, **declared: Any) -> None:
        self.clock = ManualClock(datetime.now(UTC))
        self.secrets: dict[str, str] = {}
        self.answer: str | Exception = TransientError("nobody answers")
        self.fetches = 0
        self.used: list[tuple[str, XdsResource]] = []
        gateway = Gateway.model_validate({"port": 1, **declared})
        self.credentials = GatewayCredentials(
            gateway,
            self.secrets.get,
            folder / "kept",
            lambda kind, resource: self.used.append((kind, resource)),
            clock=self.clock,
            fetch=self._fetch,
        )

    async def _fetch(self, url: str) -> str:
        assert url.startswith("https://")
        self.fetches += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.credentials.follow())
        try:
            await self.pass_s(0)
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def pass_s(self, seconds: float) -> None:
        await self.clock.advance(seconds)
        for _ in range(5):
            await asyncio.sleep(0)


TLS = {"tls": {"certificate": "chain", "key": "key"}}


def jwt(**where: str) -> dict[str, Any]:
    return {"jwt": {"issuer": "https://issuer", **where}}


async def test_a_certificate_is_taken_up_when_it_changes_and_a_bad_one_is_not(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, **TLS)
    async with world.following():
        assert "no secret 'chain'" in world.credentials.fault
        assert "does not listen" in world.credentials.fault
        world.secrets["chain"], world.secrets["key"] = AUTHORITY.issue()
        await world.pass_s(2)
        assert world.credentials.fault == ""
        assert [kind for kind, _ in world.used] == [SECRET]
        await world.pass_s(60)
        assert len(world.used) == 1  # nothing changed
        chain, key = AUTHORITY.issue(ends_in=timedelta(hours=3))
        world.secrets["chain"] = chain  # its key has not been written yet
        await world.pass_s(2)
        assert "does not belong" in world.credentials.fault
        assert "the one before serves on" in world.credentials.fault
        assert len(world.used) == 1
        world.secrets["key"] = key
        await world.pass_s(2)
        assert world.credentials.fault == ""
        assert len(world.used) == 2
        del world.secrets["key"]
        await world.pass_s(2)
        assert "no secret 'key'" in world.credentials.fault
        assert len(world.used) == 2


async def test_a_certificate_that_ends_while_it_serves_is_told(tmp_path: Path) -> None:
    world = World(tmp_path, **TLS)
    world.secrets["chain"], world.secrets["key"] = AUTHORITY.issue(ends_in=timedelta(minutes=5))
    async with world.following():
        assert world.credentials.fault == ""
        world.clock.step(3600)
        await world.pass_s(2)
        assert "expired" in world.credentials.fault


async def test_keys_from_a_file_follow_it_and_outlive_a_bad_one(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    world = World(tmp_path, **jwt(jwksFile=str(file)))
    async with world.following():
        assert "does not listen" in world.credentials.fault
        file.write_text(key_set(RSA))
        await world.pass_s(2)
        assert world.credentials.fault == ""
        assert [kind for kind, _ in world.used] == [EXTENSION]
        for bad in ("{", "x" * (MAX_BYTES + 1)):
            file.write_text(bad)
            await world.pass_s(2)
            assert "those it has stay" in world.credentials.fault
        file.unlink()
        await world.pass_s(2)
        assert "those it has stay" in world.credentials.fault
        file.write_text(key_set(RSA))
        await world.pass_s(2)
        assert world.credentials.fault == ""
        assert len(world.used) == 1
        file.write_text(key_set(RSA, EC))
        await world.pass_s(2)
        assert len(world.used) == 2
        assert base64.b64encode(b"BEGIN").decode() not in str(world.used)


async def test_keys_from_a_url_are_asked_for_now_and_then_and_kept(tmp_path: Path) -> None:
    where = jwt(jwksUrl="https://issuer/keys")
    world = World(tmp_path, **where)
    async with world.following():
        assert "nobody answers" in world.credentials.fault
        world.answer = key_set(RSA)
        for _ in range(5):
            await world.pass_s(2)
        assert world.credentials.fault == ""
        assert len(world.used) == 1
        fetches = world.fetches
        for _ in range(100):
            await world.pass_s(2)
        assert world.fetches == fetches  # not due for five minutes
        world.answer = TransientError("it is down")
        for _ in range(100):
            await world.pass_s(2)
        assert "those it has stay: it is down" in world.credentials.fault
    # It is still down when the gateway is started anew.
    again = World(tmp_path, **where)
    async with again.following():
        assert [resource.version for _, resource in again.used] == [world.used[0][1].version]
        assert "those it has stay" in again.credentials.fault
    elsewhere = World(tmp_path, **jwt(jwksUrl="https://other/keys"))
    async with elsewhere.following():
        assert not elsewhere.used  # kept keys are of one place


async def test_a_gateway_without_either_follows_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    await asyncio.wait_for(world.credentials.follow(), 10)
    assert not world.used


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n", "answers 404"),
        (b"HTTP/1.1 302 X\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n", "answers 302"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_BYTES + 1), "more than"),
        (b"nonsense\r\n\r\n", "does not answer"),
    ],
)
async def test_a_url_that_answers_badly_is_told(answer: bytes, reason: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(TransientError, match=reason):
            await fetch_keys(f"http://127.0.0.1:{port}/keys")
    with pytest.raises(TransientError, match="does not answer"):
        await fetch_keys(f"http://127.0.0.1:{port}/keys")


@contextlib.asynccontextmanager
async def issuer_at(*parts: bytes) -> AsyncIterator[str]:
    """Yield the URL of a server that answers `parts`, the last one again and again."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"".join(parts))
            while len(parts) > 1:
                await writer.drain()
                await asyncio.sleep(0.02)
                writer.write(parts[-1])
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"


async def test_a_url_that_answers_drop_by_drop_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelplane.adapters.proxy.keys._TIMEOUT_S", 0.2)
    async with issuer_at(b"HTTP/1.1 200 OK\r\n\r\n", b" ") as url:
        with pytest.raises(TransientError, match="does not answer: TimeoutError"):
            await asyncio.wait_for(fetch_keys(url), 10)


async def test_an_answer_that_unpacks_to_gigabytes_is_not_unpacked() -> None:
    packed = gzip.compress(gzip.compress(bytes(100 * 2**20)))
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip, gzip\r\ncontent-length: %d\r\n\r\n"
    async with issuer_at(head % len(packed) + packed) as url:
        with pytest.raises(InvalidResource, match="not JSON"):
            read_keys(await fetch_keys(url))


async def test_a_place_that_cannot_be_is_told_and_ends_nothing(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="does not answer"):
        await fetch_keys("http://xn--/keys")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for place in ("/keys\0.json", str(pipe)):
        world = World(tmp_path, **jwt(jwksFile=place))
        async with world.following():
            assert "does not listen" in world.credentials.fault


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("https://issuer", True),
        ("https://issuer:8443/realms/a@b/keys?tenant=c@d", True),
        ("http://127.0.0.1:8080", True),
        ("https://user:password@issuer/keys", False),  # it would stand in faults and logs
        ("https://", False),
        ("https://exa mple/keys", False),
        ("file:///keys", False),
    ],
)
def test_the_place_of_keys_holds_no_secret(url: str, taken: bool) -> None:
    gateway = {"port": 1, **jwt(jwksUrl=url)}
    manifest = {
        "apiVersion": "modelplane.dev/v1",
        "kind": "Environment",
        "metadata": {"name": "production"},
        "spec": {"stage": "production", "gateway": gateway},
    }
    if taken:
        read_document(manifest)
        return
    with pytest.raises(InvalidResource) as refused:
        read_document(manifest)
    assert "password" not in str(refused.value)
