"""The real process: socket, loading, draining, exit codes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import cloudpickle  # type: ignore[import-untyped]
import httpx
import numpy as np
import pytest

from modelplane_runtime.errors import SocketError
from modelplane_runtime.sockets import claim_socket, release_socket

INFER = "/v2/models/m/infer"


class HeldModel:
    """Says that it was asked, and predicts once it is let go: both by files beside it."""

    n_features_in_ = 1

    def __init__(self, directory: Path) -> None:
        self.asked = directory / "asked"
        self.let_go = directory / "let-go"

    def predict(self, rows: np.ndarray) -> np.ndarray:
        self.asked.touch()
        while not self.let_go.exists():
            time.sleep(0.01)
        return rows[:, 0]


@pytest.fixture
def held_artifact(short_directory: Path) -> Path:
    path = short_directory / "model.pkl"
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        path.write_bytes(cloudpickle.dumps(HeldModel(short_directory)))
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    return path


class Server:
    """One server process and a client on its socket."""

    def __init__(self, process: asyncio.subprocess.Process, path: Path) -> None:
        self.process = process
        self.path = path
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://m", timeout=20)

    async def until_ready(self) -> None:
        async with asyncio.timeout(60):
            while True:
                try:
                    if (await self.client.get("/v2/health/ready")).status_code == 200:
                        return
                except httpx.TransportError:
                    assert self.process.returncode is None, "the server ended"
                await asyncio.sleep(0.02)

    async def ask(self) -> asyncio.Task[httpx.Response]:
        """Return a request in flight, once the model has it."""
        tensor = {"name": "x", "datatype": "FP64", "shape": [1, 1], "data": [1.0]}
        asking = asyncio.create_task(self.client.post(INFER, json={"inputs": [tensor]}))
        async with asyncio.timeout(20):
            while not (self.path.parent / "asked").exists():  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.02)
        return asking

    async def until_draining(self) -> None:
        async with asyncio.timeout(20):
            while (await self.client.get("/v2/health/ready")).status_code != 503:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def spawn(path: Path, *options: str) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "modelplane_runtime", "--uds", str(path)]
    command += ["--model-name", "m", "--model-version", "1", *options]
    return await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)


@asynccontextmanager
async def running(path: Path, *options: str) -> AsyncIterator[Server]:
    server = Server(await spawn(path, *options), path)
    try:
        yield server
    finally:
        await server.client.aclose()
        if server.process.returncode is None:
            server.process.kill()
        await server.process.wait()


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str]:
    async with asyncio.timeout(60):
        _, stderr = await process.communicate()
    assert process.returncode is not None
    return process.returncode, stderr.decode()


@pytest.mark.e2e
async def test_sigterm_lets_a_request_in_flight_finish_and_exits_0(
    short_directory: Path, held_artifact: Path
) -> None:
    path = short_directory / "s"
    options = (
        "--format",
        "joblib",
        "--artifact",
        str(held_artifact),
        "--allow-pickle",
        "always",
    )
    async with running(path, *options) as server:
        await server.until_ready()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        in_flight = await server.ask()
        server.process.send_signal(signal.SIGTERM)
        await server.until_draining()
        (short_directory / "let-go").touch()
        answer = await in_flight
        code, _ = await ended(server.process)

    assert answer.status_code == 200
    assert answer.json()["outputs"][0]["data"] == [1.0]
    assert code == 0
    assert not path.exists()


@pytest.mark.e2e
async def test_a_model_that_hangs_holds_up_the_end_no_longer_than_the_drain(
    short_directory: Path, held_artifact: Path
) -> None:
    options = (
        "--format",
        "joblib",
        "--artifact",
        str(held_artifact),
        "--allow-pickle",
        "always",
    )
    async with running(short_directory / "s", *options, "--drain-s", "0.3") as server:
        await server.until_ready()
        in_flight = await server.ask()
        server.process.send_signal(signal.SIGTERM)
        code, log = await ended(server.process)
        answer = (await asyncio.gather(in_flight, return_exceptions=True))[0]

    assert code == 0
    assert "gave up on 1 requests in flight" in log
    assert isinstance(answer, httpx.Response)
    assert answer.status_code == 500


@pytest.mark.e2e
async def test_a_model_that_cannot_be_loaded_is_exit_3_with_the_reason(
    short_directory: Path, held_artifact: Path
) -> None:
    path = short_directory / "s"
    broken = short_directory / "broken.onnx"
    broken.write_bytes(b"no graph")

    refused = await spawn(path, "--format", "joblib", "--artifact", str(held_artifact))
    refused_code, refused_log = await ended(refused)
    damaged = await spawn(path, "--format", "onnx", "--artifact", str(broken))
    damaged_code, damaged_log = await ended(damaged)

    assert refused_code == 3
    assert "pickle" in refused_log
    assert damaged_code == 3
    assert "onnxruntime cannot load broken.onnx" in damaged_log
    assert not path.exists()


@pytest.mark.e2e
async def test_a_stale_socket_is_replaced_and_a_live_one_is_not(
    short_directory: Path, artifacts: Path
) -> None:
    path = short_directory / "s"
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stale.bind(str(path))
    stale.close()
    options = ("--format", "onnx", "--artifact", str(artifacts / "model.onnx"))
    async with running(path, *options) as server:
        await server.until_ready()
        second_code, second_log = await ended(await spawn(path, *options))
        still_there = (await server.client.get("/v2/health/ready")).status_code

    assert second_code == 2
    assert "another process listens" in second_log
    assert still_there == 200


def test_a_path_that_is_too_long_or_taken_by_a_file_is_refused(short_directory: Path) -> None:
    taken = short_directory / "file"
    taken.write_text("mine")

    with pytest.raises(SocketError, match="is not a socket"):
        claim_socket(taken)
    with pytest.raises(SocketError, match="the system allows 107"):
        claim_socket(short_directory / ("s" * 107))
    with pytest.raises(SocketError, match="cannot listen"):
        claim_socket(short_directory / "absent" / "s")
    assert taken.read_text() == "mine"


def test_only_its_own_socket_is_removed_at_the_end(short_directory: Path) -> None:
    path = short_directory / "s"
    first = claim_socket(path)
    inode = path.lstat().st_ino
    path.rename(short_directory / "kept")  # keeps the inode from being given out again
    second = claim_socket(path)

    release_socket(path, inode)

    assert path.exists()
    assert os.access(path, os.F_OK)
    first.close()
    second.close()
