"""Each artifact format from training to an answer: pushed by the command line, served in staging,
and answering through the gateway as the model that was trained."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import joblib
import numpy as np
import pytest
import skops.io
from skl2onnx import to_onnx
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from modelplane.errors import NotFound
from modelplane.resources.model import ModelVersion
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.replica import Replica
from tests.e2e.conftest import MODEL, Modelplane, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.beside, pytest.mark.timeout(300)]

ROWS = np.random.default_rng(7).normal(size=(200, 3))
LABELS = (ROWS[:, 0] + ROWS[:, 1] > 0).astype(np.int64)
LINEAR = LogisticRegression().fit(ROWS, LABELS)
WITH_GAPS = np.where(np.random.default_rng(8).random(ROWS.shape) < 0.2, np.nan, ROWS)
BOOSTING = HistGradientBoostingClassifier(max_iter=5).fit(WITH_GAPS, LABELS)
SAMPLE = ROWS[:4]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mp-formats-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def artifacts(folder: Path) -> dict[str, Path]:
    """Return the artifact of each model, as training would write it."""
    found = {
        "linear-skops": folder / "linear.skops",
        "linear-onnx": folder / "linear.onnx",
        "linear-joblib": folder / "linear.joblib",
        "linear-mlflow": folder / "mlflow",
        "boosting": folder / "boosting.skops",
    }
    skops.io.dump(LINEAR, found["linear-skops"])
    skops.io.dump(BOOSTING, found["boosting"])
    joblib.dump(LINEAR, found["linear-joblib"])
    graph = to_onnx(LINEAR, ROWS[:1].astype(np.float32), options={"zipmap": False})
    found["linear-onnx"].write_bytes(graph.SerializeToString())
    found["linear-mlflow"].mkdir()
    skops.io.dump(LINEAR, found["linear-mlflow"] / "model.skops")
    flavor = {"pickled_model": "model.skops", "serialization_format": "skops"}
    text = json.dumps({"flavors": {"sklearn": flavor}, "mlflow_version": "3.17.2"})
    (found["linear-mlflow"] / "MLmodel").write_text(text)
    return found


@pytest.fixture(scope="module")
def plane(folder: Path, artifacts: dict[str, Path]) -> Iterator[Modelplane]:
    """A modelplane to whose staging every model that needs no leave was rolled out."""
    plane = Modelplane(folder / "state")
    try:
        plane.up()
        for name, artifact in artifacts.items():
            plane.cli("push", name, "--version", "1.0.0", "--artifact", str(artifact))
        command = f"{sys.executable} {MODEL} {{socket}} 1.0.0"
        plane.cli("push", "command", "--version", "1.0.0", "--command", command)
        ready = [name for name in (*artifacts, "command") if name != "linear-joblib"]
        text = "\n---\n".join(json.dumps(deployment(name)) for name in ready)
        plane.cli("apply", "-f", "-", "--wait", "--timeout", "2m", input=text)
        yield plane
    finally:
        plane.cli("down", check=False)
        wait_for("end of all processes", lambda: not plane.processes(), 20)


def deployment(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "modelplane.dev/v1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "environment": "staging"},
        "spec": {"version": "1.0.0", **spec},
    }


def request(rows: Any, name: str = "X") -> dict[str, Any]:
    data = [None if np.isnan(value) else float(value) for value in np.ravel(rows)]
    return {"inputs": [{"name": name, "datatype": "FP64", "shape": [*rows.shape], "data": data}]}


def predict(plane: Modelplane, name: str, rows: Any) -> dict[str, Any]:
    """Return the outputs of one prediction by the command line, by name, in their shapes."""
    data = json.dumps(request(rows))
    done = plane.cli("predict", name, "-e", "staging", "--data", data, "-o", "json")
    answer = json.loads(done.stdout)
    assert answer["version"] == answer["assigned"] == "1.0.0"
    assert answer["requestId"]
    return {
        output["name"]: np.array(output["data"]).reshape(output["shape"])
        for output in answer["response"]["outputs"]
    }


def infer_url(plane: Modelplane, name: str) -> str:
    return f"http://127.0.0.1:{plane.ports['staging']}/v2/models/{name}/infer"


@pytest.mark.parametrize("name", ["linear-skops", "linear-mlflow"])
def test_a_scikit_learn_model_answers_as_trained(plane: Modelplane, name: str) -> None:
    outputs = predict(plane, name, SAMPLE)
    np.testing.assert_array_equal(outputs["predictions"], LINEAR.predict(SAMPLE))
    np.testing.assert_array_equal(outputs["probabilities"], LINEAR.predict_proba(SAMPLE))


def test_an_onnx_model_answers_as_trained(plane: Modelplane) -> None:
    outputs = predict(plane, "linear-onnx", SAMPLE)
    np.testing.assert_array_equal(outputs["label"], LINEAR.predict(SAMPLE))
    # The graph computes with 32 bits.
    np.testing.assert_allclose(
        outputs["probabilities"], LINEAR.predict_proba(SAMPLE), rtol=0, atol=1e-5
    )


def test_null_is_a_missing_value_to_a_model_that_knows_them(plane: Modelplane) -> None:
    rows = SAMPLE.copy()
    rows[1, 0] = rows[3] = np.nan
    outputs = predict(plane, "boosting", rows)
    np.testing.assert_array_equal(outputs["predictions"], BOOSTING.predict(rows))
    np.testing.assert_array_equal(outputs["probabilities"], BOOSTING.predict_proba(rows))


def test_a_command_that_speaks_the_protocol_serves(plane: Modelplane) -> None:
    assert predict(plane, "command", SAMPLE)["version"].tolist() == ["1.0.0"]


def test_a_pickle_is_served_only_where_the_environment_allows_it(plane: Modelplane) -> None:
    manifest = json.dumps(deployment("linear-joblib"))
    staging = json.loads(plane.cli("get", "environment", "staging", "-o", "json").stdout)
    assert staging["spec"]["allowPickle"] == "scanned"
    staging["spec"]["allowPickle"] = "never"
    plane.cli("apply", "-f", "-", input=json.dumps(staging))
    refused = plane.cli("apply", "-f", "-", input=manifest, check=False)
    assert refused.returncode == 2
    assert "linear-joblib 1.0.0 holds a pickle" in refused.stderr
    assert "push the model as skops or ONNX, or set allowPickle: scanned in 'staging'" in (
        refused.stderr
    )
    with pytest.raises(NotFound):
        plane.client.get(ModelDeployment, "linear-joblib", "staging")

    staging["spec"]["allowPickle"] = "scanned"
    plane.cli("apply", "-f", "-", input=json.dumps(staging))
    plane.cli("apply", "-f", "-", "--wait", "--timeout", "1m", input=manifest)
    outputs = predict(plane, "linear-joblib", SAMPLE)
    np.testing.assert_array_equal(outputs["probabilities"], LINEAR.predict_proba(SAMPLE))


def test_an_answer_says_who_gave_it_and_keeps_the_callers_request_id(plane: Modelplane) -> None:
    headers = {"x-request-id": "order-4711"}
    answer = httpx.post(infer_url(plane, "linear-skops"), json=request(SAMPLE), headers=headers)
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "order-4711"
    assert answer.headers["x-modelplane-version"] == "1.0.0"
    assert answer.headers["x-modelplane-assigned"] == "1.0.0"
    assert answer.json()["model_name"] == "linear-skops"
    other = httpx.post(infer_url(plane, "linear-skops"), json=request(SAMPLE))
    assert other.headers["x-request-id"] not in {"", "order-4711"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "JSON"),
        (json.dumps(request(SAMPLE[:, :2])).encode(), "expected shape [-1, 3]"),
        (json.dumps({"inputs": []}).encode(), "inputs"),
        (
            b'{"inputs": [{"name": "X", "datatype": "BYTES", "shape": [1, 3],'
            b' "data": ["a", "b", "c"]}]}',
            "BYTES",
        ),
        (
            b'{"inputs": [{"name": "X", "datatype": "FP64", "shape": [2, 3], "data": [1, 2]}]}',
            "shape",
        ),
    ],
    ids=["no-json", "columns", "no-inputs", "strings", "shape"],
)
def test_a_request_that_does_not_fit_the_model_is_400_and_says_why(
    plane: Modelplane, body: bytes, says: str
) -> None:
    headers = {"content-type": "application/json"}
    answer = httpx.post(infer_url(plane, "linear-skops"), content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert says in answer.json()["error"]
    assert answer.headers["x-modelplane-version"] == "1.0.0"


def test_an_exception_in_the_model_is_500(plane: Modelplane) -> None:
    rows = SAMPLE.copy()
    rows[0, 0] = np.nan
    answer = httpx.post(infer_url(plane, "linear-skops"), json=request(rows))
    assert answer.status_code == 500
    assert "NaN" in answer.json()["error"]


def test_a_body_over_the_limit_is_413(plane: Modelplane) -> None:
    body = b" " * (8 * 2**20 + 1)
    answer = httpx.post(infer_url(plane, "linear-skops"), content=body)
    assert answer.status_code == 413
    assert httpx.post(infer_url(plane, "linear-skops"), json=request(SAMPLE)).status_code == 200


def test_a_version_with_requirements_runs_in_an_environment_of_its_own(
    plane: Modelplane, artifacts: dict[str, Path], folder: Path
) -> None:
    requirements = folder / "requirements.txt"
    requirements.write_text("numpy\nonnxruntime\n")
    plane.cli(
        "push", "own", "--version", "1.0.0", "--artifact", str(artifacts["linear-onnx"]),
        "--requirements", str(requirements),
    )  # fmt: skip
    manifest = json.dumps(deployment("own"))
    plane.cli("apply", "-f", "-", "--wait", "--timeout", "150s", input=manifest)
    np.testing.assert_array_equal(predict(plane, "own", SAMPLE)["label"], LINEAR.predict(SAMPLE))
    (replica,) = [r for r in plane.client.list(Replica).items if r.spec.deployment == "own"]
    assert replica.status.pid is not None
    program = Path(f"/proc/{replica.status.pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    environments = plane.state / "agent" / "environments"
    assert Path(program).is_relative_to(environments)
    names = subprocess.run(
        [program, "-c", "import importlib.util as u; print(u.find_spec('sklearn'))"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert names.stdout.strip() == "None", "it holds what was asked for and nothing of ours"


def test_a_push_from_python_records_what_made_the_version(
    plane: Modelplane, artifacts: dict[str, Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = folder / "work"
    work.mkdir()
    (work / "train.csv").write_text("a,b\n1,2\n")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "data"]):
        subprocess.run([*git, *arguments], cwd=work, check=True, capture_output=True, timeout=30)
    commit = subprocess.run(
        [*git, "rev-parse", "HEAD"], cwd=work, check=True, capture_output=True, text=True
    )
    monkeypatch.chdir(work)
    pushed = plane.client.push(
        "captured", "1.0.0", artifacts["linear-skops"],
        metrics={"accuracy": 0.93}, datasets=["train.csv"],
    )  # fmt: skip
    assert pushed.result == "created"
    spec = plane.client.get(ModelVersion, "captured@1.0.0").spec
    assert spec.metrics == {"accuracy": 0.93}
    assert spec.training.git_commit == commit.stdout.strip()
    assert spec.training.git_dirty is False
    assert spec.training.packages["scikit-learn"]
    assert spec.training.python == ".".join(map(str, sys.version_info[:3]))
    (dataset,) = spec.datasets
    assert dataset.name == "train.csv"
    assert dataset.digest.startswith("sha256:")
    (work / "train.csv").write_text("a,b\n1,3\n")
    plane.client.push("captured", "1.1.0", artifacts["linear-skops"], datasets=["train.csv"])
    later = plane.client.get(ModelVersion, "captured@1.1.0").spec
    assert later.training.git_dirty is True
    assert later.datasets[0].digest != dataset.digest

    plane.cli("push", "captured", "--version", "2.0.0", "--artifact", str(artifacts["boosting"]))
    unknown = plane.client.get(ModelVersion, "captured@2.0.0").spec.training
    assert (unknown.git_commit, unknown.python) == ("unknown", "unknown")
