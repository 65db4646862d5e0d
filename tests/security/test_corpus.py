"""Malicious files never pass and benign ones do: in the scan, and in the server that loads them."""

from __future__ import annotations

import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import skops.io
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer

from modelplane.resources.gate_run import Finding
from modelplane.resources.revision import ArtifactFormat
from modelplane.stages.artifact_scan import ArtifactScan
from modelplane_runtime.errors import LoadError
from modelplane_runtime.models.loading import load_model
from modelplane_runtime.pickle_scan import scan_pickle
from tests.security import benign
from tests.security.malicious import ARCHIVES, PICKLES


def errors_of(folder: Path, format: ArtifactFormat) -> list[Finding]:
    scan = ArtifactScan()
    scan.scan(folder, format)
    return [finding for finding in scan.findings if finding.severity == "error"]


def write(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", PICKLES)
def test_no_malicious_pickle_passes_or_loads(name: str, tmp_path: Path) -> None:
    content = PICKLES[name]()
    folder = write(tmp_path / "model", "model.joblib", content)

    assert scan_pickle(io.BytesIO(content)).faults
    assert errors_of(folder, "joblib")
    with pytest.raises(LoadError, match="not within the pickle allowlist"):
        load_model("joblib", folder, allow_pickle="scanned")


@pytest.mark.parametrize("name", ARCHIVES)
def test_no_archive_hides_one(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "model", "weights", ARCHIVES[name]())
    write(folder, "model.joblib", pickle.dumps(LogisticRegression()))

    assert errors_of(folder, "joblib")
    assert errors_of(folder, "mlflow")


def test_the_corpus_is_large_enough_to_mean_something() -> None:
    assert len(PICKLES) + len(ARCHIVES) >= 100
    assert len(benign.models()) >= 60


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", benign.models())
def test_usual_models_pass_and_load_and_predict_the_same(name: str, tmp_path: Path) -> None:
    model, rows = benign.train(name)
    expected = model.predict(rows)
    for protocol in (0, 2, 5):
        (tmp_path / "model.pkl").write_bytes(pickle.dumps(model, protocol))
        loaded = load_model("joblib", tmp_path / "model.pkl", allow_pickle="scanned")
        assert_same(estimator_of(loaded).predict(rows), expected)
    for number, compress in enumerate((0, 3, ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3))):
        folder = tmp_path / f"joblib-{number}"
        folder.mkdir()
        joblib.dump(model, folder / "model.joblib", compress=compress)
        assert errors_of(folder, "joblib") == []
        loaded = load_model("joblib", folder, allow_pickle="scanned")
        assert_same(estimator_of(loaded).predict(rows), expected)
    folder = tmp_path / "skops"
    folder.mkdir()
    skops.io.dump(model, folder / "model.skops")
    assert errors_of(folder, "skops") == []
    assert_same(estimator_of(load_model("skops", folder)).predict(rows), expected)


def assert_same(found: Any, expected: Any) -> None:
    """Equal, but for the last digits: where an array lies in memory decides how it is summed."""
    if found.dtype.kind == "f":
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    else:
        np.testing.assert_array_equal(found, expected)


def estimator_of(model: Any) -> Any:
    return model._estimator


def test_onnx_passes_and_its_data_stays_in_the_folder(tmp_path: Path) -> None:
    model, rows = benign.train("logistic")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = to_onnx(model, rows[:1].astype(np.float32))
    folder = write(tmp_path / "model", "model.onnx", graph.SerializeToString())
    assert errors_of(folder, "onnx") == []
    assert load_model("onnx", folder).platform == "onnxruntime"

    tensor = graph.graph.initializer.add(name="weights", data_type=1, data_location=1)
    for key, value in (("location", "../../etc/passwd"), ("length", "8")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    graph.opset_import.add(domain="com.example", version=1)
    write(folder, "model.onnx", graph.SerializeToString())
    scan = ArtifactScan()
    scan.scan(folder, "onnx")
    assert {finding.code for finding in scan.findings} == {"OutsideFile", "ForeignOperators"}

    write(folder, "model.onnx", graph.SerializeToString()[:-7])
    assert [finding.code for finding in errors_of(folder, "onnx")] == ["Unreadable"]


def test_skops_files_are_held_to_the_allowlist(tmp_path: Path) -> None:
    """A distribution of scipy executes text out of its state: being of scipy is not enough."""
    import os  # noqa: PLC0415

    import scipy.stats  # noqa: PLC0415

    for value in (scipy.stats.norm, FunctionTransformer(func=os.getcwd)):
        folder = tmp_path / type(value).__name__
        folder.mkdir()
        skops.io.dump(value, folder / "model.skops")
        assert "TypeNotTrusted" in {finding.code for finding in errors_of(folder, "skops")}
        with pytest.raises(LoadError, match="not trusted"):
            load_model("skops", folder)


@pytest.mark.parametrize(
    ("name", "content", "severity", "code"),
    [
        ("code/predict.py", b"import os\n", "warning", "Program"),
        ("lib.so", b"\x7fELF\x02\x01", "warning", "Program"),
        (
            "model.h5",
            b"\x89HDF\r\n\x1a\n\0\0" + b'{"class_name": "Lambda"}',
            "error",
            "KerasLambda",
        ),
        ("weights.ubj", b"\xff\0\xff\0\xfe", "warning", "UnknownFile"),
    ],
)
def test_other_files_of_a_folder_are_told(
    name: str, content: bytes, severity: str, code: str, tmp_path: Path
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    (tmp_path / "MLmodel").write_text("flavors: {}\n")
    scan = ArtifactScan()
    scan.scan(tmp_path, "mlflow")

    assert (severity, code) in {(finding.severity, finding.code) for finding in scan.findings}


def test_what_is_unknown_in_a_joblib_version_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "model.joblib", pickle.dumps(LogisticRegression()))
    write(tmp_path, "more", b"\xff\0\xff\0")
    assert [finding.code for finding in errors_of(tmp_path, "joblib")] == ["UnknownFile"]

    write(tmp_path, "more.pkl", pickle.dumps(1))
    assert "MainFileUnclear" in {finding.code for finding in errors_of(tmp_path, "joblib")}
