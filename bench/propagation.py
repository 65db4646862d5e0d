"""How long a published route takes to reach traffic, with few and with many deployments.

`run` starts a real Envoy configured by `EnvoyProxy`, fills it with synthetic deployments that
share one upstream, and measures from `publish` to the first answer that came by the new route,
as a client on a kept connection sees it: once with a split alone, and once with a rule on top of
it whose predicate is another for each deployment. Envoy, the configuration server, the upstream
and the client share the machine; the last three share one process, new for each measurement, whose
memory and CPU are told as the server's.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from modelplane.adapters.proxy.bootstrap import GatewayConfig, envoy_command, write_bootstrap
from modelplane.adapters.proxy.envoy import EnvoyProxy
from modelplane.decisions.routing import (
    TOTAL_WEIGHT,
    Endpoint,
    RoutePlan,
    Rule,
    Segment,
    Variant,
)

_SIZES = (100, 10_000)
_CHANGES = 150
_DEADLINE_S = 180.0
Plan = Callable[[str, int, int], RoutePlan]
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


def run(sizes: Sequence[int] = _SIZES) -> dict[str, Any]:
    """Return figures per number of deployments: milliseconds, megabytes, seconds."""
    found = {}
    context = multiprocessing.get_context("spawn")
    for size in sizes:
        for name, rules in (("", False), (", each with a rule", True)):
            with ProcessPoolExecutor(1, mp_context=context) as process:
                found[f"{size:,} deployments{name}"] = process.submit(measure, size, rules).result()
    return found


def measure(deployments: int, rules: bool) -> dict[str, Any]:
    """Return the figures of one gateway; runs in a process of its own."""
    return asyncio.run(_measure(deployments, rules))


async def _measure(deployments: int, rules: bool) -> dict[str, Any]:
    directory = Path(tempfile.mkdtemp(prefix="mpb", dir="/tmp"))
    config = GatewayConfig("bench", "127.0.0.1", free_port(), directory)
    upstream = await asyncio.start_unix_server(_serve, str(directory / "up.sock"), backlog=512)
    endpoint = Endpoint("replica", f"unix:{directory / 'up.sock'}")
    proxy = EnvoyProxy(config)
    own = psutil.Process()
    plan = partial(_plan, endpoint=endpoint, rules=rules)
    process: asyncio.subprocess.Process | None = None
    try:
        await proxy.start()
        write_bootstrap(config)
        process = await asyncio.create_subprocess_exec(*envoy_command(config))
        await until(proxy.is_ready)
        started = time.perf_counter()
        for number in range(deployments):
            await proxy.publish(plan(f"d{number}", 1, 0))
        await _acknowledged(proxy, {f"d{number}" for number in range(deployments)})
        loaded_s = time.perf_counter() - started
        envoy = psutil.Process(process.pid)
        client = await _Client.connect(config.port)
        before_s = _cpu_s(envoy), _cpu_s(own)
        weights = await _weight_changes(proxy, client, plan, deployments)
        used_s = _cpu_s(envoy) - before_s[0], _cpu_s(own) - before_s[1]
        additions = await _new_deployments(proxy, client, plan)
        client.close()
        return {
            "load_s": round(loaded_s, 2),
            **_quantiles("weight_change", weights),
            **_quantiles("new_deployment", additions),
            "envoy_cpu_ms_per_change": round(used_s[0] * 1_000 / _CHANGES, 2),
            "server_cpu_ms_per_change": round(used_s[1] * 1_000 / _CHANGES, 2),
            "envoy_rss_mb": round(envoy.memory_info().rss / 1e6),
            "server_rss_mb": round(own.memory_info().rss / 1e6),
        }
    finally:
        if process is not None:
            process.kill()
            await process.wait()
        await proxy.stop()
        upstream.close()
        shutil.rmtree(directory, ignore_errors=True)


async def _weight_changes(
    proxy: EnvoyProxy, client: _Client, plan: Plan, deployments: int
) -> list[float]:
    """Send all of one deployment's traffic to the other variant, again and again."""
    elapsed = []
    for change in range(_CHANGES):
        name = f"d{change // 2 * 7919 % deployments}"  # there, and back with the next change
        to_candidate = TOTAL_WEIGHT if change % 2 == 0 else 0
        version = "1.1.0" if to_candidate else "1.0.0"
        started = time.perf_counter()
        await proxy.publish(plan(name, change + 2, to_candidate))
        while (await client.ask(name)).get("x-modelplane-version") != version:
            _check(started)
        elapsed.append((time.perf_counter() - started) * 1_000)
    return elapsed


async def _new_deployments(proxy: EnvoyProxy, client: _Client, plan: Plan) -> list[float]:
    elapsed = []
    for number in range(50):
        name = f"new{number}"
        started = time.perf_counter()
        await proxy.publish(plan(name, 1, 0))
        while "x-modelplane-version" not in await client.ask(name):
            _check(started)
        elapsed.append((time.perf_counter() - started) * 1_000)
    return elapsed


def _plan(
    name: str, generation: int, to_candidate: int, *, endpoint: Endpoint, rules: bool
) -> RoutePlan:
    variants = (
        Variant(f"{name}.a", "1.0.0", "stable", TOTAL_WEIGHT - to_candidate, (endpoint,)),
        Variant(f"{name}.b", "1.1.0", "candidate", to_candidate, (endpoint,)),
    )
    plan = RoutePlan(name, generation, variants)
    if not rules:
        return plan
    (split,) = plan.all_rules
    predicate = f"user.region == 'west' && user.team != '{name}'"
    everybody = Rule("default", "", "", (Segment(f"{name}.a", TOTAL_WEIGHT),))
    return replace(plan, rules=(replace(split, name="rule-1", predicate=predicate), everybody))


class _Client:
    """One kept connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, port: int) -> _Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, deployment: str) -> dict[str, str]:
        """Return the headers of one answer."""
        head = f"GET /v2/models/{deployment} HTTP/1.1\r\nhost: g"
        who = "x-user-id: u\r\nx-user-region: west\r\nx-user-team: t"
        self._writer.write(f"{head}\r\n{who}\r\n\r\n".encode())
        async with asyncio.timeout(10):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
            headers = dict(line.split(": ", 1) for line in head.rstrip().split("\r\n")[1:])
            await self._reader.readexactly(int(headers["content-length"]))
        return headers

    def close(self) -> None:
        self._writer.close()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(_ANSWER)
    except (ConnectionError, asyncio.IncompleteReadError):
        writer.close()


async def _acknowledged(proxy: EnvoyProxy, names: set[str]) -> None:
    async with asyncio.timeout(_DEADLINE_S):
        async for ack in proxy.acks():
            if not ack.accepted:
                raise RuntimeError(f"Envoy refused {ack.deployment}: {ack.message}")
            names.discard(ack.deployment)
            if not names:
                return


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until `condition` holds."""
    started = time.perf_counter()
    while not await condition():
        _check(started)
        await asyncio.sleep(0.02)


def _check(started: float) -> None:
    if time.perf_counter() - started > _DEADLINE_S:
        raise TimeoutError("the gateway did not follow")


def _quantiles(name: str, elapsed_ms: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(elapsed_ms, n=100, method="inclusive")
    return {f"{name}_p50_ms": round(cuts[49], 2), f"{name}_p99_ms": round(cuts[98], 2)}


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def free_port() -> int:
    """Return a TCP port that the kernel just gave and nobody holds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
