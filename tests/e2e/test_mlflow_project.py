"""A training that is an MLflow project, run by a real MLflow in an agent's Job."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from modelplane.resources.manifest import read_document
from modelplane.resources.model import ModelVersion
from modelplane.resources.training import TrainingRun
from tests.e2e.conftest import Modelplane, wait_for
from tests.mlflow_server import PYTHON, require_mlflow

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

PROJECT = """
    name: fraud
    entry_points:
      main:
        parameters:
          epochs: {type: int, default: 1}
        command: "python train.py {epochs}"
"""
SCRIPT = """
    import json, os, sys
    from pathlib import Path
    from modelplane import Client

    assert os.environ["MLFLOW_RUN_ID"], "MLflow runs it"
    cause = json.loads(Path(os.environ["MODELPLANE_CAUSE"]).read_text())
    epochs = sys.argv[1]
    Path("model.onnx").write_text(f"{cause['run']} {epochs}")
    with Client() as client:
        client.push("fraud", f"1.{epochs}.0", "model.onnx", format="onnx")
"""


@pytest.fixture
def mlflow_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the agent run in an environment that has an `mlflow`: a door to the tests' own."""
    require_mlflow()
    venv, door = tmp_path / "venv", tmp_path / "door" / "mlflow"
    command = [sys.executable, "-m", "venv", "--without-pip", str(venv)]
    subprocess.run(command, check=True, timeout=60)
    door.mkdir(parents=True)
    (door / "__init__.py").touch()
    start = f"[{str(PYTHON)!r}, '-m', 'mlflow', *sys.argv[1:]]"
    (door / "__main__.py").write_text(f"import os, sys\nos.execv({str(PYTHON)!r}, {start})\n")
    [packages] = venv.glob("lib/python*/site-packages")
    found = [door.parent, *(path for path in sys.path if path and Path(path).is_dir())]
    (packages / "beside.pth").write_text("".join(f"{path}\n" for path in found))
    monkeypatch.setattr(sys, "executable", str(venv / "bin" / "python"))


@pytest.mark.usefixtures("mlflow_beside")
def test_an_mlflow_project_registers_a_version(tmp_path: Path, modelplane: Modelplane) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "MLproject").write_text(textwrap.dedent(PROJECT))
    (project / "train.py").write_text(textwrap.dedent(SCRIPT))
    mlflow = {"uri": str(project), "parameters": {"epochs": "3"}}
    document = {
        "apiVersion": "modelplane.dev/v1",
        "kind": "TrainingTrigger",
        "metadata": {"name": "retrain"},
        "spec": {"model": "fraud", "run": {"mlflow": mlflow}, "timeout": "1m"},
    }
    client = modelplane.client
    client.apply(read_document(document))
    client.start_training("retrain")

    def ended() -> TrainingRun | None:
        run = client.get(TrainingRun, "retrain-1")
        return run if run.finished else None

    run = wait_for("the end of the training", ended, 60)
    logs = modelplane.cli("training", "logs", "retrain-1").stdout
    assert (run.status.phase, run.status.versions) == ("Succeeded", ("fraud@1.3.0",)), logs
    version = client.get(ModelVersion, "fraud@1.3.0")
    assert version.spec.training.training_run == "retrain-1"
