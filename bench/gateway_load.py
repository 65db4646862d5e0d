"""The processes around the gateways that `gateway` measures: client, upstream, a proxy in Python.

Each is a process of its own: ``python -m bench.gateway_load client PORT PATH HEADERS``, where
HEADERS is a JSON object, ``… upstream PORT SOCKET...`` or ``… aiohttp PORT SOCKET...``. The client
keeps `CONNECTIONS` connections that always have one request in flight.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import statistics
import sys
import time
from functools import partial
from typing import cast

import uvloop

CONNECTIONS = 32
ROUND_S = 2.0
_WARM_UP_S = 0.5

_AMOUNT = {"name": "amount", "shape": [1], "datatype": "FP64", "data": [250.0]}
_ROW = {"name": "x", "shape": [1, 8], "datatype": "FP64", "data": [0.5] * 8}
_BODY = json.dumps({"inputs": [_AMOUNT, _ROW]}).encode()
_ANSWER_BODY = json.dumps(
    {"outputs": [{"name": "y", "shape": [1], "datatype": "FP64", "data": [0.25]}]}
).encode()
_ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: "
    + str(len(_ANSWER_BODY)).encode()
    + b"\r\n\r\n"
    + _ANSWER_BODY
)


async def answers(port: int, path: str, headers: dict[str, str]) -> bool:
    """Whether a request to `port` gets a good answer."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        head, tail = _request(path, headers)
        writer.write(head + b"0" + tail)
        return b" 200 " in await asyncio.wait_for(reader.readline(), 5)
    finally:
        writer.close()


def _request(path: str, headers: dict[str, str]) -> tuple[bytes, bytes]:
    """Return what comes before and after the user's name."""
    extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {path} HTTP/1.1\r\nhost: bench\r\n{extra}x-user-id: user-"
    tail = f"\r\ncontent-type: application/json\r\ncontent-length: {len(_BODY)}\r\n\r\n"
    return head.encode(), tail.encode() + _BODY


# The client


class _Asker(asyncio.Protocol):
    """One connection with always one request in flight."""

    def __init__(self, number: int, request: tuple[bytes, bytes], elapsed_us: list[float]) -> None:
        self._users = number * 1_000_000
        self._head, self._tail = request
        self._elapsed_us = elapsed_us
        self._received = b""
        self.requests = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._received.endswith(_ANSWER_BODY):
            return
        self._elapsed_us.append((time.perf_counter() - self._asked) * 1e6)
        if not self._received.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"not a good answer: {self._received[:200]!r}")
        self._ask()

    def _ask(self) -> None:
        self._received = b""
        self.requests += 1
        self._users += 1
        self._asked = time.perf_counter()
        self._transport.write(self._head + str(self._users).encode() + self._tail)


async def _client(port: int, path: str, headers: dict[str, str]) -> None:
    """Measure for a while after a warm-up and print the figures."""
    loop = asyncio.get_running_loop()
    elapsed_us: list[float] = []
    request = _request(path, headers)
    askers = []
    for number in range(CONNECTIONS):
        _, asker = await loop.create_connection(
            partial(_Asker, number, request, elapsed_us), "127.0.0.1", port
        )
        askers.append(asker)
    await asyncio.sleep(_WARM_UP_S)
    elapsed_us.clear()
    started = time.perf_counter()
    await asyncio.sleep(ROUND_S)
    lasted_s = time.perf_counter() - started
    cuts = statistics.quantiles(elapsed_us, n=100)
    figures = {
        "p50_us": cuts[49],
        "p99_us": cuts[98],
        "requests_s": len(elapsed_us) / lasted_s,
        "requests_in_all": sum(asker.requests for asker in askers),
    }
    print(json.dumps(figures))


# The upstream


class _Upstream(asyncio.Protocol):
    """Answers every request with the same prediction."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._received.endswith(_BODY):
            self._received = b""
            self._transport.write(_ANSWER)


async def _upstream(port: int, sockets: list[str]) -> None:
    loop = asyncio.get_running_loop()
    # Kept: a server that nothing refers to may be collected, and listens no more.
    servers = [await loop.create_server(_Upstream, "127.0.0.1", port)]
    servers += [await loop.create_unix_server(_Upstream, path) for path in sockets]
    await asyncio.gather(*(server.serve_forever() for server in servers))


# The proxy in Python


async def _aiohttp_proxy(port: int, sockets: list[str]) -> None:
    """Serve the same sticky split with aiohttp's server and client."""
    from aiohttp import ClientSession, UnixConnector, web  # noqa: PLC0415 - this process only

    sessions = [ClientSession(connector=UnixConnector(path, limit=0)) for path in sockets]

    async def forward(request: web.Request) -> web.Response:
        user = request.headers.get("x-user-id", "").encode()
        bucket = int.from_bytes(hashlib.blake2b(user, digest_size=8).digest()) % 10_000
        session = sessions[1 if bucket < 1_000 else 0]
        body = await request.read()
        url = f"http://upstream{request.path_qs}"
        async with session.request(request.method, url, data=body) as answer:
            return web.Response(
                body=await answer.read(), status=answer.status, content_type=answer.content_type
            )

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


def _main(role: str, port: int, rest: list[str]) -> None:
    if role == "client":
        uvloop.run(_client(port, rest[0], json.loads(rest[1])))
    elif role == "upstream":
        uvloop.run(_upstream(port, rest))
    else:
        uvloop.run(_aiohttp_proxy(port, rest))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
