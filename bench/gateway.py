"""What the gateway costs: against no proxy, a hand-written Envoy, and a proxy in Python.

`run` measures, with 32 connections that always have one request in flight, the same upstream
reached in each of the ways of `gateway_ways`: directly; through an Envoy with a hand-written static
split and nothing else; through modelplane's gateway with a split alone, with the shield, with a
predicate on headers and one on the body, with verified tokens, and with mutual TLS to the inbound
proxy; and through an aiohttp proxy that does the same sticky split. Upstream, client and proxies
are processes of their own on one machine; rounds are interleaved and the median round is reported.
The upstream answers in about 0.1 ms, which makes every ratio look worse than with a real model.
CPU is that of all proxies on the way, mutual TLS being two.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from bench.gateway_load import CONNECTIONS, ROUND_S
from bench.gateway_ways import Way, ways

_ROUNDS = 3


def run(rounds: int = _ROUNDS) -> dict[str, Any]:
    """Return latency, rate and CPU per way to the upstream, and ratios to the bare Envoy."""
    return asyncio.run(_compare(rounds))


async def _compare(rounds: int) -> dict[str, Any]:
    directory = Path(tempfile.mkdtemp(prefix="mpb", dir="/tmp"))
    try:
        async with ways(directory) as found:
            figures: dict[str, list[dict[str, float]]] = {name: [] for name in found}
            for _ in range(rounds):
                for name, way in found.items():
                    figures[name].append(await _round(way))
        return _summary(figures, rounds)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _round(way: Way) -> dict[str, float]:
    """Run the client once and return its figures with the CPU that the way used."""
    before = _cpu_s(way)
    command = ("bench.gateway_load", "client", str(way.port), way.path, json.dumps(way.headers))
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *command, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(client.communicate(), ROUND_S + 20)
    used_s = _cpu_s(way) - before
    figures: dict[str, float] = json.loads(output)
    figures["cpu_us"] = used_s * 1e6 / figures.pop("requests_in_all")
    return figures


def _cpu_s(way: Way) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in way.pids]
    return sum(one.user + one.system for one in times)


def _summary(figures: dict[str, list[dict[str, float]]], rounds: int) -> dict[str, Any]:
    middle = {
        way: {key: round(statistics.median(r[key] for r in some), 1) for key in some[0]}
        for way, some in figures.items()
    }
    bare = middle["bare Envoy"]
    for way in middle.values():
        way["p50_ratio"] = round(way["p50_us"] / bare["p50_us"], 2)
        way["cpu_ratio"] = round(way["cpu_us"] / bare["cpu_us"], 2)
    return {"connections": CONNECTIONS, "rounds": rounds, "ways": middle}


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
