"""A client that never stops asking: keeps requests in flight and notes every answer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

_TIMEOUT_S = 20.0


@dataclass(slots=True)
class Answers:
    """What the client saw.

    Attributes
    ----------
    statuses
        Answers by HTTP status; 0 for no answer.
    served, assigned
        Answers by ``x-modelplane-version`` and ``x-modelplane-assigned``.
    connections
        How many were opened.
    problems
        The first few answers that were not 200, whole.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    assigned: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """How many requests ended."""
        return self.statuses.total()

    @property
    def failures(self) -> int:
        """How many did not end in 200."""
        return self.total - self.statuses[200]

    def note(self, status: int, headers: dict[str, str], problem: str = "") -> None:
        """Add one answer."""
        self.statuses[status] += 1
        self.served[headers.get("x-modelplane-version", "")] += 1
        self.assigned[headers.get("x-modelplane-assigned", "")] += 1
        if status != 200 and len(self.problems) < 5:
            self.problems.append(f"{status} {headers} {problem}")

    async def grow(self, requests: int, *, timeout_s: float = 30.0) -> None:
        """Wait until `requests` more have ended."""
        goal = self.total + requests
        async with asyncio.timeout(timeout_s):
            while self.total < goal:  # noqa: ASYNC110 - many workers, no one to signal
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def load(
    port: int,
    deployment: str,
    *,
    connections: int = 8,
    pause_s: float = 0.0,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Answers]:
    """Keep `connections` requests in flight within the block; end with the last one's answer."""
    answers = Answers()
    users = itertools.count()
    stopping = asyncio.Event()
    extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())

    def request() -> bytes:
        return (
            f"POST /v2/models/{deployment}/infer HTTP/1.1\r\nhost: gateway\r\n{extra}"
            f"x-user-id: user-{next(users)}\r\ncontent-length: 2\r\n\r\n{{}}"
        ).encode()

    async def connection() -> None:
        while not stopping.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
                answers.connections += 1
            except OSError as error:
                answers.note(0, {}, repr(error))
                await asyncio.sleep(0.01)
                continue
            try:
                reusable = True
                while reusable and not stopping.is_set():
                    reusable = await _ask(reader, writer, request(), answers)
                    await asyncio.sleep(pause_s)
            finally:
                writer.close()

    tasks = [asyncio.create_task(connection()) for _ in range(connections)]
    try:
        yield answers
    finally:
        stopping.set()
        await asyncio.gather(*tasks)


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, answers: Answers
) -> bool:
    """Send one request, note its answer, return whether the connection may be used again."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.rstrip().split("\r\n")
            headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines)}
            body = await reader.readexactly(int(headers["content-length"]))
    except (OSError, EOFError, TimeoutError) as error:
        answers.note(0, {}, repr(error))
        return False
    answers.note(int(first.split(" ")[1]), headers, body.decode())
    return headers.get("connection") != "close"
