"""modelplane as an MLflow registry against `mlflow server` on SQLite: the same client calls.

Run by ``python -m bench`` and alone. Both hold 10,000 versions of 100 models; MlflowClient, one
process or eight, calls either. The client itself costs a few milliseconds of processor time a
call, on the same cores, so a lean HTTP client sends the same requests besides.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from modelplane.ports.store import Transaction
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.model import (
    Model,
    ModelStatus,
    ModelVersion,
    ModelVersionSpec,
    ModelVersionStatus,
)
from modelplane.settings import Settings
from modelplane.wiring.control_plane import open_store
from modelplane.wiring.state import prepare_state
from tests.mlflow_server import PYTHON, environment, mlflow_server
from tests.ports import free_port

MODELS, VERSIONS, TEAMS = 100, 100, 20
CALLS = ("create version", "get by alias", "set alias", "search by name", "search by tag")
CLIENTS = (1, 8)
SECONDS = 4.0
SCRIPT = Path(__file__).with_name("mlflow_registry_calls.py")


def run() -> dict[str, Any]:
    """Return calls per second of both, and their ratio."""
    with tempfile.TemporaryDirectory(prefix="mp-bench-", ignore_cleanup_errors=True) as folder:
        with _mlflow(Path(folder) / "mlflow") as url:
            mlflow = _measure(url, "")
        with _modelplane(Path(folder) / "state") as (url, token):
            ours = _measure(url, token)
    figures: dict[str, Any] = {"versions": MODELS * VERSIONS, "models": MODELS}
    for way, per_call in ours.items():
        figures[way] = {
            call: {
                "modelplane_per_s": value["per_s"],
                "mlflow_per_s": mlflow[way][call]["per_s"],
                "ratio": value["per_s"] / mlflow[way][call]["per_s"],
                "modelplane_p50_ms": value["p50_ms"],
                "mlflow_p50_ms": mlflow[way][call]["p50_ms"],
            }
            for call, value in per_call.items()
        }
    return figures


def _measure(url: str, token: str) -> dict[str, dict[str, dict[str, float]]]:
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for count in CLIENTS:
        figures[f"MlflowClient, {count}"] = _with_mlflow_clients(url, token, count)
        figures[f"lean client, {count}"] = {
            call: _with_lean_clients(url, token, call, count) for call in CALLS
        }
    return figures


# -- the clients ----------------------------------------------------------------------------


def _with_mlflow_clients(url: str, token: str, count: int) -> dict[str, dict[str, float]]:
    env = environment() | ({"MLFLOW_TRACKING_TOKEN": token} if token else {})
    workers = [
        subprocess.Popen(
            [str(PYTHON), str(SCRIPT), url, f"{count}-{number}"],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    try:
        for worker in workers:
            if _line(worker) != "ready":
                raise RuntimeError("a client did not start")
        return {call: _one_call(workers, call) for call in CALLS}
    finally:
        for worker in workers:
            if worker.stdin:
                worker.stdin.close()
            worker.wait(timeout=30)


def _one_call(workers: list[subprocess.Popen[str]], call: str) -> dict[str, float]:
    for seconds in (0.5, SECONDS):  # the first to warm up
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(f"{call} {seconds}\n")
            worker.stdin.flush()
        answers = [json.loads(_line(worker)) for worker in workers]
    return {
        "per_s": sum(a["calls"] / a["seconds"] for a in answers),
        "p50_ms": sorted(a["p50_ms"] for a in answers)[len(answers) // 2],
    }


def _line(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().strip()


def _request(call: str, number: int, own: str) -> tuple[str, str, dict[str, Any] | None]:
    """Return the request that MLflow's client sends for a call."""
    api, model = "/api/2.0/mlflow", f"model-{number % MODELS}"
    if call == "create version":
        tags = [{"key": "team", "value": "risk"}]
        body = {"name": own, "source": "s3://bucket/model", "tags": tags}
        return "POST", f"{api}/model-versions/create", body
    if call == "get by alias":
        return "GET", f"{api}/registered-models/alias?name={model}&alias=champion", None
    if call == "set alias":
        chance = random.randrange(1, VERSIONS + 1)  # elsewhere each time: it is a write
        body = {"name": model, "alias": "challenger", "version": str(chance)}
        return "POST", f"{api}/registered-models/alias", body
    wanted = f"name%20%3D%20%27{model}%27"
    if call == "search by tag":
        wanted = f"tag.team%20%3D%20%27team-{number % TEAMS}%27"
    return "GET", f"{api}/model-versions/search?filter={wanted}&max_results=100", None


def _with_lean_clients(url: str, token: str, call: str, count: int) -> dict[str, float]:
    results: list[tuple[int, float, list[float]]] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(_lean(url, token, call, n)))  # type: ignore[misc]
        for n in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(results) != count:
        raise RuntimeError(f"{call}: a client failed")
    times = sorted(t for _, _, some in results for t in some)
    per_s = sum(calls / seconds for calls, seconds, _ in results)
    return {"per_s": per_s, "p50_ms": times[len(times) // 2] * 1e3}


def _lean(url: str, token: str, call: str, worker: int) -> tuple[int, float, list[float]]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    times: list[float] = []
    began = time.perf_counter()
    number = worker * 13
    while (now := time.perf_counter()) < began + SECONDS / 2:
        method, path, body = _request(call, number, f"model-{worker}")
        connection.request(method, path, json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:300]!r}")
        times.append(time.perf_counter() - now)
        number += 1
    connection.close()
    return len(times), time.perf_counter() - began, times


# -- the two servers ------------------------------------------------------------------------


@contextmanager
def _mlflow(folder: Path) -> Iterator[str]:
    with mlflow_server(folder, workers=1):
        pass  # makes the tables
    _fill_mlflow(folder / "mlflow.db")
    with mlflow_server(folder, workers=4) as server:  # four is its default
        yield server.url


def _fill_mlflow(database: Path) -> None:
    now = int(time.time() * 1e3)
    with closing(sqlite3.connect(database)) as connection, connection:
        columns = {
            table: [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            for table in ("registered_models", "model_versions", "model_version_tags")
        }

        def insert(table: str, **values: Any) -> None:
            if "workspace" in columns[table]:
                values["workspace"] = "default"
            names = ",".join(values)
            marks = ",".join("?" * len(values))
            statement = f"INSERT INTO {table} ({names}) VALUES ({marks})"
            connection.execute(statement, tuple(values.values()))

        for m in range(MODELS):
            insert("registered_models", name=f"model-{m}", creation_time=now, last_updated_time=now)
            for v in range(1, VERSIONS + 1):
                insert(
                    "model_versions", name=f"model-{m}", version=v, creation_time=now,
                    last_updated_time=now, source="s3://bucket/model", current_stage="None",
                    status="READY",
                )  # fmt: skip
                insert(
                    "model_version_tags", name=f"model-{m}", version=v, key="team",
                    value=f"team-{(m + v) % TEAMS}",
                )  # fmt: skip
            alias = {"name": f"model-{m}", "alias": "champion", "version": VERSIONS}
            columns["registered_model_aliases"] = columns["model_version_tags"]
            insert("registered_model_aliases", **alias)


@contextmanager
def _modelplane(state: Path) -> Iterator[tuple[str, str]]:
    port = free_port()
    settings = Settings(state=state, api_port=port)
    asyncio.run(_fill_modelplane(settings))
    env = {n: v for n, v in os.environ.items() if not n.startswith("MODELPLANE_")}
    env |= {"MODELPLANE_STATE": str(state), "MODELPLANE_API_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-m", "modelplane.wiring.control_plane"],
        env=env,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(lambda: urllib.request.urlopen(f"{url}/healthz", timeout=1).status == 200)
        token = (state / "admin-token").read_text().strip()
        _with_lean_clients(url, token, "get by alias", 1)  # by then the registry has been read
        yield url, token
    finally:
        process.terminate()
        process.wait(timeout=30)


async def _fill_modelplane(settings: Settings) -> None:
    prepare_state(settings.paths)
    subject = Subject(name="bench")
    async with open_store(settings) as store:
        for m in range(MODELS):
            name, transaction = f"model-{m}", Transaction(subject)
            status = ModelStatus(last_number=VERSIONS, aliases={"champion": f"{VERSIONS}.0.0"})
            transaction.create(Model(metadata=Metadata(name=name), status=status))
            for v in range(1, VERSIONS + 1):
                spec = ModelVersionSpec(
                    model=name, version=f"{v}.0.0", number=v, source="s3://bucket/model"
                )
                tags = {"team": f"team-{(m + v) % TEAMS}"}
                version = ModelVersion(
                    metadata=Metadata(name=f"{name}@{v}.0.0"),
                    spec=spec,
                    status=ModelVersionStatus(tags=tags),
                )
                transaction.create(version)
            await store.commit(transaction)


def _wait(probe: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if probe():
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("modelplane did not start in 60 s")


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
