"""What parallel stages, shards and the cache give: wall time of one realistic suite.

A real modelplane (control plane, agent, model servers) checks a real scikit-learn model on real
data: accuracy on two datasets, latency under load, schema, security scan, and a behavioural suite
of 40 cases. The same stages run one after the other without the cache, beside each other, with
the suite cut into shards, with the cache, and with the cache after one dataset changed.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import skops.io
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modelplane import Client
from modelplane.resources.gate_run import GateRun, StageResult
from modelplane.resources.manifest import read_document

SUITE = Path(__file__).with_name("gates_suite.py")
MODEL = "tumour"
_TIMEOUT_S = 900.0
_FEATURES = 10
_LEVELS = (1, 2, 3, 5)


def run(timeout_s: float = _TIMEOUT_S) -> dict[str, Any]:
    """Return wall times, and what each part saves against sequential and uncached."""
    folder = Path(tempfile.mkdtemp(prefix="mp-bench-"))
    state = folder / "state"
    try:
        _command(state, "up", "--detach", *_ports())
        with Client(state=state) as client:
            _prepare(client, folder)
            times = _measure(client, folder, timeout_s)
            stages = _stage_times(client)
    finally:
        _command(state, "down")
        shutil.rmtree(folder, ignore_errors=True)
    return _figures(times) | {"time of jobs by stage": stages}


def _figures(times: dict[str, float]) -> dict[str, Any]:
    slowest = times["sequential, uncached"]
    rows = {
        name: {"wall_s": round(time_s, 1), "less_pct": round(100 * (1 - time_s / slowest), 1)}
        for name, time_s in times.items()
    }
    return {"wall time": rows}


def _measure(client: Client, folder: Path, timeout_s: float) -> dict[str, float]:
    times = {}

    def measure(name: str, pipeline: str, *, no_cache: bool = False) -> None:
        started = time.perf_counter()
        begun = client.run_pipeline(pipeline, f"{MODEL}@1.0.0", no_cache=no_cache)
        ended = client.wait_for_run(begun.metadata.name, timeout_s=timeout_s)
        times[name] = time.perf_counter() - started
        if ended.status.phase != "Passed":
            raise RuntimeError(f"{name}: {ended.status.message}")

    measure("sequential, uncached", "sequential", no_cache=True)
    measure("parallel, uncached", "parallel", no_cache=True)
    measure("parallel and sharded, uncached", "sharded", no_cache=True)
    measure("nothing changed, cached", "sharded")
    _change_data(client, folder)
    measure("one dataset changed, cached", "sharded")
    return times


def _change_data(client: Client, folder: Path) -> None:
    """Register new data under the name of one of the datasets."""
    frame = load_breast_cancer(as_frame=True).frame
    frame[250:420].to_csv(folder / "clinic.csv", index=False)
    client.push_dataset("clinic", folder / "clinic.csv")


def _prepare(client: Client, folder: Path) -> None:
    frame = load_breast_cancer(as_frame=True).frame
    features = [str(name) for name in frame.columns if name != "target"]
    forest = RandomForestClassifier(n_estimators=40, random_state=0)
    estimator = make_pipeline(StandardScaler(), forest).fit(frame[features], frame["target"])
    skops.io.dump(estimator, folder / "model.skops")
    tensors = [
        {"name": name, "datatype": "FP64", "shape": [1], "data": [float(frame[name][0])]}
        for name in features
    ]
    client.push(
        MODEL,
        "1.0.0",
        folder / "model.skops",
        signature={
            "inputs": [{"name": n, "datatype": "FP64", "shape": [-1]} for n in features],
            "outputs": [{"name": "predictions", "datatype": "INT64", "shape": [-1]}],
        },
        input_example={"inputs": tensors},
    )
    for name, rows in (("hold-out", slice(400, 569)), ("clinic", slice(300, 450))):
        frame[rows].to_csv(folder / f"{name}.csv", index=False)
        client.push_dataset(name, folder / f"{name}.csv")
    shards = max(2, os.cpu_count() or 1)
    for name, parallel, parts in (
        ("sequential", 1, 1), ("parallel", 4, 1), ("sharded", 4, shards),
    ):  # fmt: skip
        client.apply(read_document(_pipeline(name, features[:_FEATURES], parallel, parts)))


def _pipeline(name: str, features: list[str], parallel: int, shards: int) -> dict[str, Any]:
    suite = {
        "run": ["{python}", "suite.py", "{model}", "{cases}"],
        "files": {"suite.py": SUITE.read_text()},
        "junit": "report.xml",
        "cases": [f"{feature}/{level}" for feature in features for level in _LEVELS],
    }
    stages = [
        {"accuracy": {"dataset": "hold-out", "threshold": 0.9}, "name": "hold-out"},
        {"accuracy": {"dataset": "clinic", "threshold": 0.9}, "name": "clinic"},
        {"latency": {"requests": 300, "warmUp": 30, "concurrency": 2}},
        "schema",
        {"command": suite, "name": "behaviour", "shards": shards},
        "approve:security_scan",
    ]
    return {"pipeline": {"name": name, "max_parallel": parallel, "stages": stages}}


def _stage_times(client: Client) -> dict[str, dict[str, float]]:
    """Return how long the jobs of each stage took, one after the other and beside each other."""
    results = {r.metadata.name: r for r in client.list(StageResult).items}
    rows: dict[str, dict[str, float]] = {}
    for name in ("sequential-1", "sharded-1"):
        for stage in client.get(GateRun, name).status.stages:
            taken = results[stage.result].spec.duration_s if stage.result else 0.0
            rows.setdefault(stage.name, {})[f"{name.partition('-')[0]}_s"] = round(taken, 1)
    return rows


def _ports() -> list[str]:
    options = []
    for name in ("api", "staging", "production"):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            options.append(f"--{name}-port={listener.getsockname()[1]}")
    return options


def _command(state: Path, *words: str) -> None:
    env = {n: v for n, v in os.environ.items() if not n.startswith("MODELPLANE_")}
    subprocess.run(
        [sys.executable, "-m", "modelplane.cli", *words],
        env={**env, "MODELPLANE_STATE": str(state)},
        check=True,
        capture_output=True,
        timeout=180,
    )


if __name__ == "__main__":
    print(run())
