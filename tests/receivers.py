"""Real servers that receive notifications: HTTP and SMTP, on ports of the kernel's choice.

They run in the test's event loop; the test that opens one closes it.
"""

from __future__ import annotations

import asyncio
import datetime
import email
import email.policy
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Literal

from aiohttp import web
from aiosmtpd.smtp import SMTP, AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Mood = Literal["well", "refusing", "failing", "hanging", "redirecting"]


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener


@dataclass
class HttpReceiver:
    """Takes POSTs; remembers headers and bodies of those it was well at."""

    mood: Mood = "well"
    port: int = 0
    received: list[tuple[Mapping[str, str], bytes]] = field(default_factory=list)
    attempts: int = 0
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/in"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/in", self._take)
        app.router.add_post("/elsewhere", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        listener = _listen(self.port)
        self.port = listener.getsockname()[1]
        await web.SockSite(self._runner, listener).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _take(self, request: web.Request) -> web.Response:
        self.attempts += 1
        body = await request.read()
        if self.mood == "hanging":
            await asyncio.sleep(30)
        if self.mood == "redirecting":
            return web.Response(status=307, headers={"location": "/elsewhere"})
        if self.mood != "well":
            status = 403 if self.mood == "refusing" else 503
            return web.Response(status=status, text="a private answer")
        self.received.append((dict(request.headers), body))
        return web.Response(status=202)


@dataclass
class SmtpReceiver:
    """Takes mail, with STARTTLS and a password if wanted."""

    tls: bool = False
    password: str = ""
    mood: Mood = "well"
    port: int = 0
    received: list[EmailMessage] = field(default_factory=list)
    attempts: int = 0
    context: ssl.SSLContext | None = None
    """What a client trusts this server by."""
    _server: asyncio.Server | None = None
    _own_context: ssl.SSLContext | None = None

    async def start(self) -> None:
        if self.tls and self.context is None:
            self._own_context, self.context = _make_contexts()
        listener = _listen(self.port)
        self.port = listener.getsockname()[1]
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._make, sock=listener)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _make(self) -> SMTP:
        more: dict[str, Any] = {}
        if self.password:
            more = {"auth_required": True, "authenticator": self._check}
        return SMTP(
            self,
            hostname="receiver.test",
            tls_context=self._own_context,
            require_starttls=self.tls,
            enable_SMTPUTF8=True,
            **more,
        )

    def _check(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> Any:
        is_right = data.password == self.password.encode()
        return AuthResult(success=is_right, handled=is_right)

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        self.attempts += 1
        if self.mood == "hanging":
            await asyncio.sleep(30)
        if self.mood == "refusing":
            return "550 a private answer"
        if self.mood == "failing":
            return "451 a private answer"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        read = email.message_from_bytes(envelope.content, policy=email.policy.default)
        self.received.append(read)
        return "250 OK"


@asynccontextmanager
async def http_receiver() -> AsyncIterator[HttpReceiver]:
    receiver = HttpReceiver()
    await receiver.start()
    try:
        yield receiver
    finally:
        await receiver.stop()


@asynccontextmanager
async def smtp_receiver(*, tls: bool = False, password: str = "") -> AsyncIterator[SmtpReceiver]:
    receiver = SmtpReceiver(tls=tls, password=password)
    await receiver.start()
    try:
        yield receiver
    finally:
        await receiver.stop()


def _make_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a server's context with a certificate of its own, and one that trusts only that."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    alternative = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(alternative, critical=False)
        .sign(key, hashes.SHA256())
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "certificate.pem"
        file.write_bytes(private + public)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(file)
    return server, ssl.create_default_context(cadata=public.decode())
