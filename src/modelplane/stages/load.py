"""Load on a model server's Unix socket, and how long each answer took.

Called by the latency check. A closed loop: each connection sends its next request when it has the
answer to the one before, so what is measured is the server at the throughput that this many
clients get out of it. Sends one request over and over; judges nothing.

The HTTP is as plain as it can be, since whatever the client does is measured with the server: a
general HTTP client takes several times as long as a small model.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httptools
import numpy as np
from numpy.typing import NDArray

REQUEST_TIMEOUT_S = 60.0
_MAX_WORDS = 300


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked.

    Attributes
    ----------
    socket
        The server's Unix socket.
    path
        Of the request.
    body
        JSON.
    """

    socket: Path
    path: str
    body: bytes

    def request_bytes(self) -> bytes:
        """Return the request as it goes over the wire."""
        head = (
            f"POST {self.path} HTTP/1.1\r\nhost: model-server\r\naccept: application/json\r\n"
            f"content-type: application/json\r\ncontent-length: {len(self.body)}\r\n\r\n"
        )
        return head.encode() + self.body


@dataclass(slots=True)
class Answers:
    """How a number of requests were answered.

    Attributes
    ----------
    latencies_s
        Of the good answers (status 200), from the first byte sent to the last received, float64,
        in the order in which they came.
    failures
        What the other requests got, and how often.
    duration_s
        From the first request to the last answer.
    """

    latencies_s: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    failures: Counter[str] = field(default_factory=Counter)
    duration_s: float = 0.0

    @property
    def throughput_rps(self) -> float:
        """Good answers a second."""
        return len(self.latencies_s) / self.duration_s if self.duration_s > 0 else 0.0


def combine(blocks: list[Answers]) -> Answers:
    """Return the answers of several blocks as those of one."""
    failures: Counter[str] = Counter()
    for block in blocks:
        failures.update(block.failures)
    latencies_s = [block.latencies_s for block in blocks] or [np.empty(0)]
    duration_s = sum(block.duration_s for block in blocks)
    return Answers(np.concatenate(latencies_s), failures, duration_s)


async def run_load(target: Target, *, requests: int, concurrency: int) -> Answers:
    """Send `requests` requests over `concurrency` connections, and wait for every answer.

    A request that is not answered within a minute, or whose connection breaks, is a failure; its
    connection is made anew.
    """
    left = iter(range(requests))
    latencies_s: list[float] = []
    failures: Counter[str] = Counter()
    data = target.request_bytes()

    async def ask_on_and_on() -> None:
        connection: _Connection | None = None
        for _ in left:
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    if connection is None or connection.closed:
                        connection = await _connect(target.socket)
                    sent_s = time.perf_counter()
                    status, words = await connection.ask(data)
            except (OSError, TimeoutError, httptools.HttpParserError) as error:
                failures[_name(error)] += 1
                if connection is not None:
                    connection.close()
                continue
            if status == 200:
                latencies_s.append(time.perf_counter() - sent_s)
            else:
                failures[f"{status}: {words}"] += 1
        if connection is not None:
            connection.close()

    collecting = gc.isenabled()
    gc.disable()  # a collection in here would show as the server's tail
    started_s = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, requests)):
                group.create_task(ask_on_and_on())
    finally:
        if collecting:
            gc.enable()
    return Answers(np.array(latencies_s), failures, time.perf_counter() - started_s)


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection with one request in flight."""

    def __init__(self) -> None:
        self.closed = False
        self._transport: asyncio.WriteTransport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[tuple[int, str]] | None = None
        self._body = bytearray()

    async def ask(self, data: bytes) -> tuple[int, str]:
        """Send a request and return the answer's status, and its words unless it is good."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._body.clear()
        self._transport.write(data)
        return await self._answer

    def close(self) -> None:
        """Close the connection."""
        self.closed = True
        if self._transport is not None:
            self._transport.close()

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(error)
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._fail(error if isinstance(error, OSError) else ConnectionResetError("closed"))

    # Called by the parser

    def on_body(self, piece: bytes) -> None:
        if len(self._body) < _MAX_WORDS:
            self._body += piece[:_MAX_WORDS]

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        words = "" if status == 200 else " ".join(self._body.decode(errors="replace").split())
        if not self._parser.should_keep_alive():
            self.close()
        self._parser = httptools.HttpResponseParser(self)
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((status, words[:_MAX_WORDS]))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


async def _connect(socket: Path) -> _Connection:
    _, connection = await asyncio.get_running_loop().create_unix_connection(
        _Connection, str(socket)
    )
    return connection


def _name(error: Exception) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
