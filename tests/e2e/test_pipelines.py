"""A pipeline end to end: a real model and real data through real jobs, and the cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import skops.io
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modelplane.resources.gate_run import GateRun, StageResult
from modelplane.resources.job import Job
from modelplane.resources.manifest import read_document
from tests.e2e.conftest import Modelplane, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

COUNT = "import sys; print('cases', *sys.argv[1:])"


def test_a_pushed_version_goes_through_its_pipeline_and_a_second_run_is_reused(
    modelplane: Modelplane, tmp_path: Path
) -> None:
    client = modelplane.client
    stages = [
        {"accuracy": {"dataset": "tumours", "threshold": 0.9, "metric": "accuracy"}},
        {"command": {"run": ["{python}", "-c", COUNT, "{cases}"], "cases": ["a", "b", "c"]},
         "name": "suite", "shards": 2},
        "approve:security_scan",
    ]  # fmt: skip
    pipeline = {"name": "quality", "stages": stages, "triggers": ["on_model_push"]}
    client.apply(read_document({"pipeline": pipeline}))
    frame = load_breast_cancer(as_frame=True).frame
    features = [name for name in frame.columns if name != "target"]
    frame[400:].to_csv(tmp_path / "tumours.csv", index=False)
    client.push_dataset("tumours", tmp_path / "tumours.csv")
    estimator = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    skops.io.dump(estimator.fit(frame[features][:400], frame["target"][:400]), tmp_path / "m.skops")
    signature = {"inputs": [{"name": n, "datatype": "FP64", "shape": [-1]} for n in features]}
    client.push("tumour", "1.0.0", tmp_path / "m.skops", signature=signature)

    def ended() -> GateRun | None:
        run = client.find(GateRun, "quality-1")
        return run if run is not None and run.finished else None

    run = wait_for("end of the run that the push started", ended, 120)
    assert run.status.phase == "Passed", run.status.to_dict()
    results = {r.metadata.name: r for r in client.list(StageResult).items}
    accuracy = next(r for r in results.values() if r.spec.stage == "accuracy")
    measured = {m.name: m.value for m in accuracy.spec.outcome.measurements if not m.slice}
    assert measured["accuracy"] > 0.9
    assert accuracy.spec.evidence is not None
    client.download_artifact(accuracy.spec.evidence, tmp_path / "evidence")
    assert list((tmp_path / "evidence").rglob("*"))
    assert not client.list(Job).items

    again = client.run_pipeline("quality", "tumour@1.0.0")
    again = client.wait_for_run(again.metadata.name, timeout_s=90)
    assert [stage.cached for stage in again.status.stages] == [True] * 3
    assert all(stage.hit for stage in client.explain_cache("quality", "tumour@1.0.0"))
    shown = modelplane.cli("pipeline", "show", "quality-2").stdout
    assert "reused" in shown
    logs = modelplane.cli("pipeline", "logs", "quality-1", "suite").stdout
    assert "==> jobs/staging/quality-1.suite.0.1 <==" in logs
    assert "cases b" in logs
