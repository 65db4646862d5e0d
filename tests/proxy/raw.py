"""Requests byte by byte on connections that stay: fast, and as odd as a test needs them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType

_TIMEOUT_S = 20.0


@dataclass(slots=True)
class Answer:
    """One answer; `headers` by lower-case name, `cookies` every Set-Cookie."""

    status: int
    headers: dict[str, str]
    cookies: list[str]
    body: bytes

    @property
    def assigned(self) -> str:
        """The version that the user is on."""
        return self.headers.get("x-modelplane-assigned", "")

    @property
    def served(self) -> str:
        """The version that answered."""
        return self.headers.get("x-modelplane-version", "")


@dataclass
class Connection:
    """A connection to the gateway; opened again when the gateway closes it."""

    port: int
    _streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = field(default=None)

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        if self._streams:
            self._streams[1].close()
            self._streams = None

    async def post(
        self, path: str, body: bytes = b"", headers: Iterable[tuple[str, str | bytes]] = ()
    ) -> Answer:
        """Send a request with a length."""
        lines = [f"POST {path} HTTP/1.1".encode(), b"host: gateway"]
        for name, value in (*headers, ("content-length", str(len(body)))):
            lines.append(
                name.encode() + b": " + (value if isinstance(value, bytes) else value.encode())
            )
        return await self.send(b"\r\n".join(lines) + b"\r\n\r\n" + body)

    async def send(self, request: bytes) -> Answer:
        """Send bytes and return the answer to them."""
        async with asyncio.timeout(_TIMEOUT_S):
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = self._streams
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.rstrip().split("\r\n")
            pairs = [(k.lower(), v.strip()) for k, v in (line.split(":", 1) for line in lines)]
            headers = dict(pairs)
            body = await reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection") == "close" or first.startswith("HTTP/1.0"):
            self.close()
        cookies = [value for name, value in pairs if name == "set-cookie"]
        return Answer(int(first.split(" ")[1]), headers, cookies, body)


async def ask_all(
    port: int, questions: Iterable[str], ask: Callable[[Connection, str], Awaitable[Answer]]
) -> dict[str, Answer]:
    """Ask every question on a few connections at a time and return the answers."""
    answers: dict[str, Answer] = {}
    queue = iter(questions)

    async def worker() -> None:
        async with Connection(port) as connection:
            for question in queue:
                answers[question] = await ask(connection, question)

    await asyncio.gather(*(worker() for _ in range(8)))
    return answers
