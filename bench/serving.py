"""What serving one model costs: ours against MLServer and the KServe SDK, in one run.

Run by ``python -m bench`` and alone (``python bench/serving.py CACHE_DIRECTORY``). Each server
runs in an environment of its own, built into the cache directory, with the same scikit-learn,
the same logistic regression over 20 columns as a scikit-learn and as an ONNX file, one thread for
numerical libraries, one row a request, labels only, from 16 connections of one load process.
The peers listen on loopback, ours on its Unix socket, as each is used. Measures only.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import skops.io
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression

from modelplane.adapters.runtime.environments import (
    EnvironmentFailed,
    EnvironmentSpec,
    build,
    child_environment,
)

HERE = Path(__file__).resolve().parent
FEATURES = 20
CONNECTIONS = 16
ROUNDS = 2
WARM_UP_S = 1.0
LOAD_S = 4.0
READY_TIMEOUT_S = 120.0
_MODEL_PACKAGES = ("numpy", "onnxruntime", "scikit-learn", "skops")
SERVERS = {
    "modelplane": EnvironmentSpec("skops", None),
    "mlserver": EnvironmentSpec("command", "mlserver>=1.7\nmlserver-sklearn>=1.7\n"),
    "kserve": EnvironmentSpec("command", "kserve>=0.21\n"),
}


@dataclass(frozen=True, slots=True)
class Target:
    """A running server: where it listens and what it answers to."""

    process: psutil.Process
    address: str  # host:port, or the path of a Unix socket
    infer_body: bytes
    ready_s: float


@dataclass(frozen=True, slots=True)
class Files:
    """The model as each server reads it."""

    skops: Path
    joblib: Path
    onnx: Path


def make_files(folder: Path) -> Files:
    """Train the model and write it in three formats."""
    import joblib  # noqa: PLC0415 - a package of its own only here

    rows = np.random.default_rng(1).normal(size=(2000, FEATURES))
    model = LogisticRegression().fit(rows, (rows[:, 0] + rows[:, 1] > 0).astype(np.int64))
    files = Files(folder / "model.skops", folder / "model.joblib", folder / "model.onnx")
    skops.io.dump(model, files.skops)
    joblib.dump(model, files.joblib)
    graph = to_onnx(model, rows[:1].astype(np.float32), options={"zipmap": False})
    files.onnx.write_bytes(graph.SerializeToString())
    return files


def _body(format: str, server: str) -> bytes:
    datatype = "FP32" if format == "onnx" else "FP64"
    values = np.random.default_rng(2).normal(size=FEATURES).round(6).tolist()
    tensor = {"name": "X", "shape": [1, FEATURES], "datatype": datatype, "data": values}
    document: dict[str, Any] = {"inputs": [tensor]}
    if server == "modelplane":  # the others answer with labels alone by themselves
        document["outputs"] = [{"name": "label" if format == "onnx" else "predictions"}]
    return json.dumps(document).encode()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _command(
    server: str, python: Path, format: str, files: Files, folder: Path
) -> tuple[list[str], str]:
    """Return how to start a server and the address it will have."""
    artifact = files.onnx if format == "onnx" else files.skops
    if server == "modelplane":
        path = str(folder / "s")
        options = ["--uds", path, "--model-name", "m", "--model-version", "1"]
        options += ["--format", format, "--artifact", str(artifact)]
        return [str(python), "-m", "modelplane_runtime", *options], path
    port = _free_port()
    if server == "kserve":
        script = str(HERE / "serving_kserve.py")
        return [str(python), script, format, str(artifact), str(port)], f"127.0.0.1:{port}"
    _write_mlserver_settings(folder, format, files, port)
    return [str(python.parent / "mlserver"), "start", str(folder)], f"127.0.0.1:{port}"


def _write_mlserver_settings(folder: Path, format: str, files: Files, port: int) -> None:
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": _free_port(),
        "metrics_port": _free_port(),
        "parallel_workers": 0,  # in the server's own process: least CPU a request
        "debug": False,
    }
    implementation = "mlserver_sklearn.SKLearnModel"
    if format == "onnx":
        implementation = "serving_mlserver.OnnxRuntime"
        shutil.copy(HERE / "serving_mlserver.py", folder)
    artifact = files.onnx if format == "onnx" else files.joblib
    model = {"name": "m", "implementation": implementation, "parameters": {"uri": str(artifact)}}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))


def _client(address: str) -> httpx.Client:
    if address.startswith("/"):
        transport = httpx.HTTPTransport(uds=address)
        return httpx.Client(transport=transport, base_url="http://localhost", timeout=10)
    return httpx.Client(base_url=f"http://{address}", timeout=10)


def _wait_until_ready(process: subprocess.Popen[bytes], address: str, started: float) -> float:
    with _client(address) as client:
        while time.monotonic() - started < READY_TIMEOUT_S:
            if process.poll() is not None:
                break
            try:
                if client.get("/v2/models/m/ready").status_code == 200:
                    return time.monotonic() - started
            except httpx.TransportError:
                pass
            time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} did not get ready")


@contextmanager
def _running(server: str, python: Path, format: str, files: Files) -> Iterator[Target]:
    folder = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
    command, address = _command(server, python, format, files, folder)
    started = time.monotonic()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=child_environment(), cwd=folder, stdout=log, stderr=log
        )
    try:
        ready_s = _wait_until_ready(process, address, started)
        yield Target(psutil.Process(process.pid), address, _body(format, server), ready_s)
    except RuntimeError as error:
        tail = (folder / "log").read_text(errors="replace")[-1500:]
        raise RuntimeError(f"{error}:\n{tail}") from error
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _tree(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _cpu_s(process: psutil.Process) -> float:
    times = [member.cpu_times() for member in _tree(process)]
    return float(sum(time.user + time.system for time in times))


def _load(target: Target, seconds: float) -> dict[str, float]:
    """Run the load process; return its requests and seconds."""
    script = str(HERE / "serving_load.py")
    command = [sys.executable, script, target.address, str(CONNECTIONS), str(seconds)]
    done = subprocess.run(
        command, input=target.infer_body, capture_output=True, timeout=seconds + 60, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"the load process failed: {done.stderr.decode()[-500:]}")
    result: dict[str, float] = json.loads(done.stdout)
    return result


def _measure(target: Target) -> dict[str, float]:
    _load(target, WARM_UP_S)
    cpu_before = _cpu_s(target.process)
    load = _load(target, LOAD_S)
    cpu_s = _cpu_s(target.process) - cpu_before
    memory = sum(member.memory_info().rss for member in _tree(target.process))
    return {
        "cpu_ms_per_request": 1000 * cpu_s / load["requests"],
        "requests_per_s": load["requests"] / load["seconds"],
        "ready_s": target.ready_s,
        "memory_mb": memory / 2**20,
    }


def _median(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(r[name] for r in rounds), 3) for name in rounds[0]}


def _measure_all(pythons: dict[str, Path], format: str, files: Files) -> dict[str, Any]:
    """Measure each server in turn, `ROUNDS` times, so that a busy moment hits all alike."""
    rounds: dict[str, list[dict[str, float]]] = {server: [] for server in pythons}
    failures: dict[str, str] = {}
    for number in range(ROUNDS + 1):
        for server, python in pythons.items():
            if server in failures:
                continue
            try:
                with _running(server, python, format, files) as target:
                    if number:  # the first start compiles bytecode: not counted
                        rounds[server].append(_measure(target))
            except RuntimeError as error:
                failures[server] = str(error)
    result: dict[str, Any] = {s: _median(r) for s, r in rounds.items() if r}
    result |= {server: {"failed": text} for server, text in failures.items()}
    ours = result["modelplane"]
    result["ratios_to_modelplane"] = {
        server: {name: round(values[name] / ours[name], 2) for name in ours}
        for server, values in result.items()
        if server != "modelplane" and "failed" not in values
    }
    return result


async def _build_all(cache: Path) -> dict[str, Path | EnvironmentFailed]:
    pins = "".join(f"{name}=={version(name)}\n" for name in _MODEL_PACKAGES)
    results: dict[str, Path | EnvironmentFailed] = {}
    for server, spec in SERVERS.items():
        pinned = EnvironmentSpec(spec.format, (spec.requirements or "") + pins)
        result = await build(pinned, cache)
        results[server] = result if isinstance(result, EnvironmentFailed) else result.python
    return results


def run(cache: Path) -> dict[str, Any]:
    """Measure the three servers.

    Parameters
    ----------
    cache
        Directory for the environments; built when they are not there (about 1.5 GB).

    Returns
    -------
    dict
        ``formats``: for ``skops`` and ``onnx``, by server the medians of ``cpu_ms_per_request``,
        ``requests_per_s``, ``ready_s`` and ``memory_mb`` (whole process tree), and
        ``ratios_to_modelplane``. ``not_installed``: servers whose packages could not be
        installed, with the end of the installer's log. ``setup``: what was compared.
    """
    built = asyncio.run(_build_all(cache))
    failed = {s: r.log_tail for s, r in built.items() if isinstance(r, EnvironmentFailed)}
    if "modelplane" in failed:
        raise RuntimeError(f"our own environment cannot be built: {failed['modelplane']}")
    pythons = {s: r for s, r in built.items() if isinstance(r, Path)}
    folder = Path(tempfile.mkdtemp(prefix="mp-serving-"))
    try:
        files = make_files(folder)
        formats = {name: _measure_all(pythons, name, files) for name in ("skops", "onnx")}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    setup = {"connections": CONNECTIONS, "features": FEATURES, "rounds": ROUNDS, "load_s": LOAD_S}
    return {"formats": formats, "not_installed": failed, "setup": setup}


if __name__ == "__main__":
    os.nice(5)
    print(json.dumps(run(Path(sys.argv[1])), indent=2))
