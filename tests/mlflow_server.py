"""A real MLflow in an environment of its own: a server, and scripts that use its clients.

modelplane needs no MLflow and its tests do not import it: `make test` makes ``.venv/mlflow``
from requirements-mlflow.txt, and what is run there is a process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
PYTHON = Path(os.environ.get("MODELPLANE_MLFLOW_PYTHON", ROOT / ".venv" / "mlflow" / "bin/python"))
WEBHOOK_KEY = "bW9kZWxwbGFuZS10ZXN0cy13ZWJob29rLWtleS0zMmI="
"""A Fernet key that protects webhook secrets in the test's own server."""


@dataclass
class MlflowServer:
    """One running server on the SQLite store and artifact folder in `folder`."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]

    def run(self, script: Path | str, *arguments: str) -> Any:
        """Run a script with MLflow's own Python; return the JSON that its last line is."""
        return run_script(script, *arguments, MLFLOW_TRACKING_URI=self.url)


def run_script(script: Path | str, *arguments: str, timeout_s: float = 300, **env: str) -> Any:
    """Run a script (a file, or its text) with MLflow's Python; return its last line, JSON."""
    source = [str(script)] if isinstance(script, Path) else ["-c", script]
    done = subprocess.run(
        [str(PYTHON), *source, *arguments],
        env={**environment(), **env},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode != 0:
        raise AssertionError(f"the script failed\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}")
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines else None


def require_mlflow() -> None:
    """Skip the test when MLflow's environment is not there."""
    if not PYTHON.exists():
        pytest.skip("MLflow is not installed for the tests: run `make test`, which sets it up")


def environment() -> dict[str, str]:
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("MODELPLANE_", "MLFLOW_"))}
    return {
        **kept,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "GIT_PYTHON_REFRESH": "quiet",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "PYTHONWARNINGS": "ignore",
    }


@contextmanager
def mlflow_server(
    folder: Path, *, port: int | None = None, workers: int = 1, env: Mapping[str, str] | None = None
) -> Iterator[MlflowServer]:
    """Run a server on 127.0.0.1 until the block is left; a folder that has a store keeps it."""
    require_mlflow()
    folder.mkdir(parents=True, exist_ok=True)
    number = port or free_port()
    log = (folder / "server.log").open("ab")
    command = [
        str(PYTHON), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(number),
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination", str(folder / "artifacts"), "--workers", str(workers),
    ]  # fmt: skip
    allowed = {
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": WEBHOOK_KEY,
    }
    process = subprocess.Popen(
        command,
        env={**environment(), **allowed, **(env or {})},
        cwd=folder,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{number}"
    try:
        _wait_until_healthy(url, process, folder / "server.log")
        yield MlflowServer(url, folder, process)
    finally:
        _stop(process)
        log.close()


@contextmanager
def temporary_mlflow_server(**options: Any) -> Iterator[MlflowServer]:
    """Run a server on a folder that is removed afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="mp-mlflow-", ignore_cleanup_errors=True) as folder,
        mlflow_server(Path(folder), **options) as server,
    ):
        yield server


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"mlflow server ended\n{log.read_text()[-4000:]}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"mlflow server did not start in 120 s\n{log.read_text()[-4000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and its workers: the session that this test started."""
    family = [psutil.Process(process.pid)] if process.poll() is None else []
    family += [child for parent in family for child in parent.children(recursive=True)]
    for one in family:
        try:
            one.send_signal(signal.SIGTERM)
        except psutil.Error:
            continue
    _, left = psutil.wait_procs(family, timeout=10)
    for one in left:
        try:
            one.kill()
        except psutil.Error:
            continue
    process.wait(timeout=10)
