"""What the log of predictions costs a request on our model server.

Run by ``python -m bench`` and alone (``python bench/predictions.py``). One real model server on
its Unix socket, a logistic regression over 20 named columns, one row a request (a tensor for each
column), sent from 4 connections one after the other. The log is switched on that same process as
the agent does it, in turn: off; read each second; read, with two columns redacted; never read,
so that the oldest go; asked for by a reader that then takes nothing. Measures only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import psutil
import skops.io
from sklearn.linear_model import LogisticRegression

from modelplane_runtime.predictions import PREDICTIONS_PATH

COLUMNS = tuple(f"column_{number:02d}" for number in range(20))
CONNECTIONS = 4
ROUNDS = 5
WARM_UP_S = 1.0
LOAD_S = 3.0
_READY_TIMEOUT_S = 60.0
_LOG: dict[str, Any] = {"sampling": 100, "inputs": True}
_SETTINGS: dict[str, dict[str, Any] | None] = {
    "off": None,
    "read": _LOG,
    "read_redacted": {**_LOG, "redact": list(COLUMNS[:2])},
    "never_read": _LOG,
    "hanging_reader": _LOG,
}


def _train(path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(2000, len(COLUMNS)))
    labels = (rows[:, 0] + rows[:, 1] > 0).astype(np.int64)
    skops.io.dump(LogisticRegression().fit(pd.DataFrame(rows, columns=list(COLUMNS)), labels), path)


def _request() -> bytes:
    values = np.random.default_rng(2).normal(size=len(COLUMNS)).round(6).tolist()
    inputs = [
        {"name": name, "datatype": "FP64", "shape": [1], "data": [value]}
        for name, value in zip(COLUMNS, values, strict=True)
    ]
    body = json.dumps({"inputs": inputs}).encode()
    head = (
        "POST /v2/models/m/infer HTTP/1.1\r\nhost: m\r\nx-modelplane-rule: default\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _drive(path: Path, request: bytes, until: float) -> list[float]:
    """Send one request after the other; return how long each took, in seconds."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    taken: list[float] = []
    while (started := time.perf_counter()) < until:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 200"):
            raise RuntimeError(head.decode())
        await reader.readexactly(int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]))
        taken.append(time.perf_counter() - started)
    writer.close()
    return taken


async def _page(client: httpx.AsyncClient, after: str, log: dict[str, Any] | None) -> Any:
    answer = await client.post(PREDICTIONS_PATH, json={"after": after, "log": log})
    # Only the head: what the agent does with the rest costs no model server anything.
    return json.loads(answer.content.partition(b',"events":')[0] + b"}")


async def _read(client: httpx.AsyncClient, log: dict[str, Any] | None) -> None:
    cursor = ""
    while True:
        page = await _page(client, cursor, log)
        cursor = page["next"]
        if not page["more"]:
            await asyncio.sleep(1.0)


async def _hang(path: Path) -> None:
    question = json.dumps({"after": "", "log": _LOG}).encode()
    head = f"POST {PREDICTIONS_PATH} HTTP/1.1\r\nhost: m\r\ncontent-length: {len(question)}\r\n\r\n"
    while True:
        _, writer = await asyncio.open_unix_connection(str(path), limit=1)
        writer.write(head.encode() + question)
        try:
            await asyncio.sleep(1.0)
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def _reader(variant: str, path: Path, client: httpx.AsyncClient) -> AsyncIterator[None]:
    """Have the log as `variant` says, and its reader run."""
    await _page(client, "", None)  # what was kept before is forgotten
    await _page(client, "", _SETTINGS[variant])
    tasks: list[asyncio.Task[None]] = []
    if variant.startswith("read"):
        tasks.append(asyncio.create_task(_read(client, _SETTINGS[variant])))
    elif variant == "hanging_reader":
        tasks.append(asyncio.create_task(_hang(path)))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _measure(
    variant: str, path: Path, process: psutil.Process, client: httpx.AsyncClient
) -> dict[str, float]:
    request = _request()
    async with _reader(variant, path, client):

        async def load(seconds: float) -> list[float]:
            until = time.perf_counter() + seconds
            drives = (_drive(path, request, until) for _ in range(CONNECTIONS))
            return sorted(t for taken in await asyncio.gather(*drives) for t in taken)

        await load(WARM_UP_S)
        before = process.cpu_times()
        taken = await load(LOAD_S)
        after = process.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    return {
        "cpu_ms_per_request": 1000 * cpu_s / len(taken),
        "p50_ms": 1000 * taken[len(taken) // 2],
        "p99_ms": 1000 * taken[int(len(taken) * 0.99)],
        "requests_per_s": len(taken) / LOAD_S,
    }


async def _measure_all(path: Path, process: psutil.Process) -> dict[str, list[dict[str, float]]]:
    transport = httpx.AsyncHTTPTransport(uds=str(path))
    async with httpx.AsyncClient(transport=transport, base_url="http://m", timeout=10) as client:
        until = time.monotonic() + _READY_TIMEOUT_S
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get("/v2/health/ready")).status_code == 200:
                    break
            if time.monotonic() > until:
                raise RuntimeError("the model server did not get ready")
            await asyncio.sleep(0.02)
        rounds: dict[str, list[dict[str, float]]] = {variant: [] for variant in _SETTINGS}
        for _ in range(ROUNDS):
            for variant in _SETTINGS:
                rounds[variant].append(await _measure(variant, path, process, client))
    return rounds


def _median(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(r[name] for r in rounds), 4) for name in rounds[0]}


def run() -> dict[str, Any]:
    """Measure each way in turn.

    Returns
    -------
    dict
        By way the medians of ``cpu_ms_per_request`` (of the model server), ``p50_ms``, ``p99_ms``
        and ``requests_per_s``; ``ratios_to_off``: medians of the rounds' ratios of the same.
    """
    folder = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
    _train(folder / "model.skops")
    options = ["--uds", str(folder / "s"), "--model-name", "m", "--model-version", "1"]
    options += ["--format", "skops", "--artifact", str(folder / "model.skops")]
    command = [sys.executable, "-m", "modelplane_runtime", *options]
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        rounds = asyncio.run(_measure_all(folder / "s", psutil.Process(process.pid)))
    finally:
        process.terminate()
        process.wait(timeout=15)
        shutil.rmtree(folder, ignore_errors=True)
    # By round, so that a busy moment of the machine hits both sides of a ratio.
    ratios = {
        variant: _median(
            [
                {name: one[name] / off[name] for name in off}
                for one, off in zip(found, rounds["off"], strict=True)
            ]
        )
        for variant, found in rounds.items()
        if variant != "off"
    }
    ways = {variant: _median(found) for variant, found in rounds.items()}
    return {"ways": ways, "ratios_to_off": ratios}


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
