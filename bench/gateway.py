"""What the gateway costs: against no proxy, a hand-written Envoy, and a proxy in Python.

`run` measures, with 32 connections that always have one request in flight, the same upstream
reached four ways: directly; through our gateway (sticky split, shield, counting, request id);
through an Envoy with a hand-written static split and nothing else; and through an aiohttp proxy
that does the same sticky split. Upstream, client and proxy are processes of their own on one
machine; rounds are interleaved and the median round is reported. The upstream answers in about
0.1 ms, which makes every ratio look worse than with a real model.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, cast

import psutil
import uvloop

from bench.propagation import free_port, until
from modelplane.adapters.proxy.bootstrap import (
    GatewayConfig,
    envoy_binary,
    envoy_command,
    write_bootstrap,
)
from modelplane.adapters.proxy.envoy import EnvoyProxy
from modelplane.decisions.routing import Endpoint, RoutePlan, Variant

_CONNECTIONS = 32
_ROUNDS = 3
_ROUND_S = 2.0
_PATH = "/v2/models/bench/infer"
_BODY = json.dumps(
    {"inputs": [{"name": "x", "shape": [1, 8], "datatype": "FP64", "data": [0.5] * 8}]}
).encode()
_ANSWER_BODY = json.dumps(
    {"outputs": [{"name": "y", "shape": [1], "datatype": "FP64", "data": [0.25]}]}
).encode()
_ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: "
    + str(len(_ANSWER_BODY)).encode()
    + b"\r\n\r\n"
    + _ANSWER_BODY
)


def run() -> dict[str, Any]:
    """Return latency, rate and CPU per way to the upstream, and ratios to the direct way."""
    return asyncio.run(_compare())


async def _compare() -> dict[str, Any]:
    directory = Path(tempfile.mkdtemp(prefix="mpb", dir="/tmp"))
    children: list[asyncio.subprocess.Process] = []

    async def child(*command: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(*command)
        children.append(process)
        return process

    config = GatewayConfig("bench", "127.0.0.1", free_port(), directory)
    proxy = EnvoyProxy(config)
    try:
        sockets = [str(directory / "a.sock"), str(directory / "b.sock")]
        ports = {"direct": free_port(), "gateway": config.port}
        ports |= {"bare_envoy": free_port(), "aiohttp": free_port()}
        me = (sys.executable, "-m", "bench.gateway")
        upstream = await child(*me, "upstream", str(ports["direct"]), *sockets)
        await proxy.start()
        write_bootstrap(config)
        pids = {"direct": upstream.pid, "gateway": (await child(*envoy_command(config))).pid}
        bare = directory / "bare.json"
        bare.write_text(json.dumps(_bare_envoy(ports["bare_envoy"], sockets)))
        command = (str(envoy_binary()), "-c", str(bare), "--concurrency", "1")
        quiet = ("--use-dynamic-base-id", "--log-level", "error")
        pids["bare_envoy"] = (await child(*command, *quiet)).pid
        pids["aiohttp"] = (await child(*me, "aiohttp", str(ports["aiohttp"]), *sockets)).pid
        await until(proxy.is_ready)
        await proxy.publish(_plan(sockets))
        for port in ports.values():
            await until(partial(_answers, port))
        rounds: dict[str, list[dict[str, float]]] = {way: [] for way in ports}
        for _ in range(_ROUNDS):
            for way, port in ports.items():
                rounds[way].append(await _round(me, port, psutil.Process(pids[way])))
        return _summary(rounds)
    finally:
        await proxy.stop()
        for process in children:
            process.kill()
            await process.wait()
        shutil.rmtree(directory, ignore_errors=True)


async def _round(me: tuple[str, ...], port: int, process: psutil.Process) -> dict[str, float]:
    """Run the client once and return its figures with the CPU the proxy used."""
    before = process.cpu_times()
    client = await asyncio.create_subprocess_exec(
        *me, "client", str(port), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(client.communicate(), _ROUND_S + 20)
    after = process.cpu_times()
    figures: dict[str, float] = json.loads(output)
    used_s = after.user + after.system - before.user - before.system
    figures["cpu_us"] = used_s * 1e6 / figures.pop("requests_in_all")
    return figures


def _summary(rounds: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    middle = {
        way: {key: round(statistics.median(r[key] for r in some), 1) for key in some[0]}
        for way, some in rounds.items()
    }
    for figures in middle.values():
        figures["p50_ratio"] = round(figures["p50_us"] / middle["direct"]["p50_us"], 2)
    return {"connections": _CONNECTIONS, "rounds": _ROUNDS, "ways": middle}


def _plan(sockets: list[str]) -> RoutePlan:
    stable, candidate = (
        (Endpoint(f"r{name}", f"unix:{path}"),) for name, path in zip("ab", sockets, strict=True)
    )
    variants = (
        Variant("bench.a", "1.0.0", "stable", 9_000, stable),
        Variant("bench.b", "1.1.0", "candidate", 1_000, candidate),
    )
    return RoutePlan("bench", 1, variants)


def _bare_envoy(port: int, sockets: list[str]) -> dict[str, Any]:
    """Return the least configuration that splits traffic 90 to 10 by the user's name."""
    names = ("a", "b")
    kind = "type.googleapis.com/envoy.extensions.filters"
    route = {
        "weighted_clusters": {
            "clusters": [{"name": n, "weight": w} for n, w in zip(names, (90, 10), strict=True)],
            "use_hash_policy": True,
        },
        "hash_policy": [{"header": {"header_name": "x-user-id"}}],
    }
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bare",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "v",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": route}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{kind}.http.router.v3.Router"},
            }
        ],
    }
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}],
    }
    clusters = [
        {
            "name": name,
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [
                    {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": path}}}}]}
                ],
            },
        }
        for name, path in zip(names, sockets, strict=True)
    ]
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}


async def _answers(port: int) -> bool:
    """Whether a request to `port` gets a good answer."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(_request(0))
        return b" 200 " in await asyncio.wait_for(reader.readline(), 5)
    finally:
        writer.close()


def _request(user: int) -> bytes:
    return (
        f"POST {_PATH} HTTP/1.1\r\nhost: bench\r\nx-user-id: user-{user}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(_BODY)}\r\n\r\n"
    ).encode() + _BODY


# The client process


class _Asker(asyncio.Protocol):
    """One connection with always one request in flight."""

    def __init__(self, number: int, elapsed_us: list[float]) -> None:
        self._users = number * 1_000_000
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
        self._transport.write(_request(self._users))


async def _client(port: int) -> None:
    """Measure for a while after a warm-up and print the figures."""
    loop = asyncio.get_running_loop()
    elapsed_us: list[float] = []
    askers = []
    for number in range(_CONNECTIONS):
        _, asker = await loop.create_connection(
            partial(_Asker, number, elapsed_us), "127.0.0.1", port
        )
        askers.append(asker)
    await asyncio.sleep(0.5)
    elapsed_us.clear()
    started = time.perf_counter()
    await asyncio.sleep(_ROUND_S)
    lasted_s = time.perf_counter() - started
    cuts = statistics.quantiles(elapsed_us, n=100)
    figures = {
        "p50_us": cuts[49],
        "p99_us": cuts[98],
        "requests_s": len(elapsed_us) / lasted_s,
        "requests_in_all": sum(asker.requests for asker in askers),
    }
    print(json.dumps(figures))


# The upstream process


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
    await loop.create_server(_Upstream, "127.0.0.1", port)
    for path in sockets:
        await loop.create_unix_server(_Upstream, path)
    await asyncio.Event().wait()


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


def _main(role: str, port: int, sockets: list[str]) -> None:
    if role == "client":
        uvloop.run(_client(port))
    elif role == "upstream":
        uvloop.run(_upstream(port, sockets))
    else:
        uvloop.run(_aiohttp_proxy(port, sockets))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
    else:
        print(json.dumps(run(), indent=2))
