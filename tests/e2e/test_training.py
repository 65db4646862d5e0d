"""Training end to end: a file that changes, a real command, and the version that it registers."""

from __future__ import annotations

import json
import os
import signal
import sys
import textwrap
from pathlib import Path

import pytest

from modelplane.decisions.training_names import token_name
from modelplane.resources.job import Job
from modelplane.resources.manifest import read_document
from modelplane.resources.model import ModelVersion
from modelplane.resources.token import Token
from modelplane.resources.training import TrainingRun, TrainingTrigger
from tests.e2e.conftest import Modelplane, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SCRIPT = """
    import json, os, sys, time
    from pathlib import Path
    from modelplane import Client

    cause = json.loads(Path(os.environ["MODELPLANE_CAUSE"]).read_text())
    Path(os.environ["MODELPLANE_JOB_PROGRESS"]).write_text('{"progress": 0.5, "message": "half"}')
    until = Path(sys.argv[1])
    while not until.exists():
        time.sleep(0.1)
    Path("model.onnx").write_text(cause["data"]["digest"])
    with Client() as client:
        client.push("fraud", "1.1.0", "model.onnx", format="onnx")
        try:
            client.push("other", "1.0.0", "model.onnx", format="onnx")
        except Exception as error:
            print("refused:", error)
"""


def test_new_data_trains_a_version_over_a_crash_of_the_control_plane(
    modelplane: Modelplane, tmp_path: Path
) -> None:
    client, go_on = modelplane.client, tmp_path / "go-on"
    data, script = tmp_path / "may.csv", tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT))
    spec = {
        "model": "fraud",
        "on": {"data": [{"uri": str(data), "every": "1s", "dataset": "payments"}]},
        "run": {"command": {"command": [sys.executable, str(script), str(go_on)]}},
    }
    document = {
        "apiVersion": "modelplane.dev/v1",
        "kind": "TrainingTrigger",
        "metadata": {"name": "retrain"},
        "spec": spec,
    }
    client.apply(read_document(document))

    def has_looked() -> bool | None:
        return bool(client.get(TrainingTrigger, "retrain").status.seen) or None

    wait_for("a look at data that is not there yet", has_looked, 60)
    data.write_text("amount,label\n1,0\n")

    def is_half() -> TrainingRun | None:
        run = client.find(TrainingRun, "retrain-1")
        return run if run is not None and run.status.progress == 0.5 else None

    wait_for("the training's own word of its progress", is_half, 120)
    os.kill(modelplane.pid("control-plane"), signal.SIGKILL)
    go_on.touch()

    def ended() -> TrainingRun | None:
        run = client.find(TrainingRun, "retrain-1")
        return run if run is not None and run.finished else None

    run = wait_for("the end of the training", ended, 120)
    logs = modelplane.cli("training", "logs", "retrain-1").stdout
    assert run.status.phase == "Succeeded", (run.status.to_dict(), logs)
    assert "refused:" in logs
    version = client.get(ModelVersion, "fraud@1.1.0")
    assert version.spec.training.training_run == "retrain-1"
    assert [data.version for data in version.spec.datasets] == ["1"]
    assert client.find(Token, token_name("retrain-1")) is None
    assert not client.list(Job).items
    lineage = client.lineage("fraud@1.1.0", direction="up")
    assert {node.id for node in lineage.nodes} >= {"run/retrain-1", "dataset/payments@1"}
    assert json.loads(modelplane.cli("training", "list", "-o", "json").stdout)
    assert len(client.list(TrainingRun).items) == 1
