"""A version is made by a real training script in a real repository, and reproduced from its
record alone; then data, commit and environment are taken away, and each loss is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modelplane.resources.model import ModelVersion
from tests.e2e.conftest import Modelplane, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.beside, pytest.mark.timeout(300)]

SCRIPT = """
import sys

import joblib
import numpy as np
import skops.io
from sklearn.linear_model import LogisticRegression

from modelplane import Client

version, kind = sys.argv[1:3]
rows = np.loadtxt("data/train.csv", delimiter=",", skiprows=1)
model = LogisticRegression(C=0.5).fit(rows[:, :2], rows[:, 2])
if kind == "joblib":
    joblib.dump(model, "model.joblib")
else:
    skops.io.dump(model, "model.skops")
example = {"name": "x", "datatype": "FP64", "shape": [3, 2], "data": rows[:3, :2].ravel().tolist()}
with Client() as client:
    client.push(
        "fraud",
        version=version,
        artifact=f"model.{kind}",
        datasets={"transactions": "data/train.csv"},
        metrics={"accuracy": model.score(rows[:, :2], rows[:, 2])},
        parameters={"C": model.C},
        input_example={"inputs": [example]},
    )
"""


@dataclass
class Project:
    """A folder in a team's repository with a training script, and where it pushes to."""

    plane: Modelplane
    folder: Path

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        done = subprocess.run(
            ["git", *identity, *arguments],
            cwd=self.folder, check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout.strip()

    def write_data(self, shift: float = 0.0) -> None:
        rows = [f"{i % 7},{i % 5 + shift},{int(i % 7 + i % 5 > 5)}" for i in range(70)]
        (self.folder / "data").mkdir(exist_ok=True)
        (self.folder / "data" / "train.csv").write_text("\n".join(["a,b,label", *rows]) + "\n")

    def train(self, version: str, kind: str = "skops") -> None:
        endpoint = json.loads((self.plane.state / "endpoint.json").read_text())
        env = {
            "MODELPLANE_URL": endpoint["url"],
            "MODELPLANE_TOKEN": (self.plane.state / "admin-token").read_text().strip(),
            "PATH": "/usr/bin:/bin",
        }
        done = subprocess.run(
            [sys.executable, "train.py", version, kind],
            cwd=self.folder, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def reproduce(self, version: str, *options: str) -> tuple[int, dict[str, Any]]:
        """Return the exit code and the report; the present environment is used."""
        words = ("--yes", "--environment", "current", "--source", str(self.folder), "-o", "json")
        done = self.plane.cli("reproduce", f"fraud@{version}", *words, *options, check=False)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def worktrees(self) -> list[str]:
        return self.git("worktree", "list").splitlines()


def outcomes(report: dict[str, Any]) -> dict[str, str]:
    return {step["step"]: step["outcome"] for step in report["steps"]}


def message(report: dict[str, Any], name: str) -> str:
    return str(next(step["message"] for step in report["steps"] if step["step"] == name))


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    base = Path(tempfile.mkdtemp(prefix="mp-rep-"))
    plane = Modelplane(base / "state")
    try:
        plane.up()
        project = Project(plane, base / "team" / "fraud")
        project.folder.mkdir(parents=True)
        project.git("init", "--quiet", "..")
        (project.folder / "train.py").write_text(SCRIPT)
        (project.folder / ".gitignore").write_text("data/\nmodel.*\n")
        project.git("add", ".")
        project.git("commit", "--quiet", "-m", "first")
        yield project
    finally:
        plane.cli("down", check=False)
        wait_for("end of all processes", lambda: not plane.processes(), 30)
        shutil.rmtree(base, ignore_errors=True)


def test_what_is_still_there_gives_the_same_predictions(project: Project) -> None:
    project.write_data()
    project.train("1.0.0", "joblib")
    before = {path: path.read_bytes() for path in project.folder.glob("model.*")}
    last = project.plane.client.audit(last=1)[0].sequence

    code, report = project.reproduce("1.0.0", "--allow-pickle")

    assert report["result"] == "reproduced"
    assert report["reasons"] == []
    assert set(outcomes(report).values()) == {"match"}
    assert code == 0
    predictions = next(step for step in report["steps"] if step["step"] == "predictions")
    assert predictions["details"]["values"] == 9  # three labels, three times two probabilities
    assert predictions["details"]["maxAbsolute"] == 0
    assert {path: path.read_bytes() for path in project.folder.glob("model.*")} == before
    assert len(project.worktrees()) == 1, "the worktree was left behind"
    # Its push and everything else left the registry as it was.
    assert project.plane.client.audit(last=1)[0].sequence == last


def test_each_loss_is_named(project: Project) -> None:
    project.write_data()
    project.train("2.0.0")
    # A skops file holds its time of making: the bytes are others, the predictions are not.
    code, report = project.reproduce("2.0.0")
    assert (code, report["result"]) == (0, "reproduced with other bytes")
    assert outcomes(report)["artifact"] == "differs"
    assert outcomes(report)["data"] == "match"

    project.write_data(shift=2.5)
    code, report = project.reproduce("2.0.0")
    assert (code, report["result"]) == (1, "not reproduced")
    assert outcomes(report)["data"] == "differs"
    assert "not what was recorded" in message(report, "data")
    assert outcomes(report)["predictions"] == "differs"

    shutil.rmtree(project.folder / "data")
    code, report = project.reproduce("2.0.0")
    assert code == 1
    assert "transactions@1 is not at" in message(report, "data")
    assert outcomes(report)["command"] == "not reproducible"
    assert "train.csv" in message(report, "command")

    project.write_data()
    project.git("commit", "--quiet", "--amend", "-m", "another")
    project.git("reflog", "expire", "--expire=now", "--all")
    project.git("gc", "--quiet", "--prune=now")
    code, report = project.reproduce("2.0.0")
    assert code == 1
    assert outcomes(report)["code"] == "not reproducible"
    assert "is not in" in message(report, "code")
    assert "no code to run" in message(report, "command")


def test_a_changed_environment_and_uncommitted_code_are_named(project: Project) -> None:
    project.write_data()
    script = project.folder / "train.py"
    script.write_text(SCRIPT.replace("C=0.5", "C=0.0001"))
    try:
        project.train("3.0.0")
    finally:
        script.write_text(SCRIPT)
    made = project.plane.client.get(ModelVersion, "fraud@3.0.0").spec
    packages = {**made.training.packages, "scikit-learn": "0.0.1"}
    project.plane.client.push(
        "fraud",
        "3.1.0",
        project.folder / "model.skops",
        training=made.training.with_(packages=packages),
        datasets=made.datasets,
        parameters=made.parameters,
        input_example=made.input_example,
    )

    code, report = project.reproduce("3.1.0")

    assert (code, report["result"]) == (1, "not reproduced")
    assert outcomes(report)["code"] == "differs"
    assert "changes were not recorded" in message(report, "code")
    assert outcomes(report)["environment"] == "differs"
    assert "scikit-learn" in message(report, "environment")
    assert "recorded 0.0.1" in message(report, "environment")
    assert outcomes(report)["parameters"] == outcomes(report)["predictions"] == "differs"
