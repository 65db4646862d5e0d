"""Each format loads to the same predictions as the model that was trained, or is refused."""

from __future__ import annotations

import json
import os
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from modelplane_runtime import pickle_scan
from modelplane_runtime.errors import LoadError, RequestError
from modelplane_runtime.models import pickle_file
from modelplane_runtime.models.loading import load_model
from modelplane_runtime.models.pickle_file import PickleRule
from modelplane_runtime.models.skops_file import is_trusted
from modelplane_runtime.signature import Signature, TensorSpec

from .conftest import COLUMNS


def column_signature(datatype: str = "FP64") -> Signature:
    return Signature(tuple(TensorSpec(name, datatype, (-1,)) for name in COLUMNS))


def by_column(rows: Any) -> dict[str, Any]:
    return {name: rows[:, i] for i, name in enumerate(COLUMNS)}


@pytest.mark.parametrize(
    ("format", "file"), [("skops", "matrix.skops"), ("joblib", "model.joblib")]
)
def test_estimators_answer_as_trained(
    artifacts: Path, matrix_classifier: Any, rows: Any, format: str, file: str
) -> None:
    model = load_model(format, artifacts / file, allow_pickle="scanned")

    outputs = model.predict(model.prepare({"anything": rows}), ())

    np.testing.assert_array_equal(outputs["predictions"], matrix_classifier.predict(rows))
    np.testing.assert_array_equal(outputs["probabilities"], matrix_classifier.predict_proba(rows))


def test_only_the_outputs_that_are_wanted_are_computed(artifacts: Path, rows: Any) -> None:
    model = load_model("skops", artifacts / "matrix.skops")
    prepared = model.prepare({"x": rows})

    assert list(model.predict(prepared, ("probabilities",))) == ["probabilities"]
    assert list(model.predict(prepared, ("predictions",))) == ["predictions"]


def test_a_model_with_named_columns_takes_columns_in_any_order_or_a_matrix(
    artifacts: Path, column_classifier: Any, rows: Any
) -> None:
    model = load_model("skops", artifacts / "columns.skops")
    expected = column_classifier.predict(pd.DataFrame(rows, columns=list(COLUMNS)))
    backwards = dict(reversed(by_column(rows).items()))

    for tensors in (by_column(rows), backwards, {"matrix": rows}):
        outputs = model.predict(model.prepare(tensors), ("predictions",))
        np.testing.assert_array_equal(outputs["predictions"], expected)


def test_a_pipeline_gets_a_frame_with_its_columns(
    text_column_classifier: Any, tmp_path: Path
) -> None:
    skops.io.dump(text_column_classifier, tmp_path / "model.skops")
    model = load_model("skops", tmp_path)
    tensors = {"wind": np.zeros(2), "carrier": np.array(["AA", "UA"], dtype=object)}

    outputs = model.predict(model.prepare(tensors), ("predictions",))

    assert outputs["predictions"].tolist() == [True, False]


def test_strings_are_refused_where_only_numbers_can_be_meant(artifacts: Path) -> None:
    words = np.array([["a", "b", "c"]], dtype=object)
    for file, tensors in (
        ("matrix.skops", {"x": words}),
        ("columns.skops", {"x": words}),
        ("columns.skops", dict.fromkeys(COLUMNS, words[0, :1])),
    ):
        with pytest.raises(RequestError, match="got BYTES"):
            load_model("skops", artifacts / file).prepare(tensors)


def test_metadata_comes_from_the_model(artifacts: Path) -> None:
    columns = load_model("skops", artifacts / "columns.skops").signature
    matrix = load_model("skops", artifacts / "matrix.skops").signature
    regressor = load_model("skops", artifacts / "regressor.skops").signature

    assert [spec.name for spec in columns.inputs] == list(COLUMNS)
    assert matrix.inputs[0].shape == (-1, 3)
    assert [(o.name, o.datatype, o.shape) for o in matrix.outputs] == [
        ("predictions", "INT64", (-1,)),
        ("probabilities", "FP64", (-1, 2)),
    ]
    assert [(o.name, o.datatype) for o in regressor.outputs] == [("predictions", "FP64")]


def test_a_declared_signature_must_be_the_models(artifacts: Path) -> None:
    wrong_names = Signature((TensorSpec("delay", "FP64", (-1,)), TensorSpec("x", "FP64", (-1,))))

    with pytest.raises(LoadError, match="they differ in distance, wind, x"):
        load_model("skops", artifacts / "columns.skops", wrong_names)
    with pytest.raises(LoadError, match="2 columns, the model takes 3"):
        load_model("skops", artifacts / "matrix.skops", wrong_names)


def test_declared_columns_are_stacked_for_a_matrix_model(
    artifacts: Path, matrix_classifier: Any, rows: Any
) -> None:
    for kind, file, output in (
        ("skops", "matrix.skops", "predictions"),
        ("onnx", "model.onnx", "label"),
    ):
        model = load_model(kind, artifacts / file, column_signature())
        outputs = model.predict(model.prepare(by_column(rows)), (output,))
        np.testing.assert_array_equal(outputs[output], matrix_classifier.predict(rows))


@pytest.mark.parametrize("file", ["model.onnx", "zipmap.onnx"])
def test_onnx_keeps_the_graphs_names_and_answers_as_trained(
    artifacts: Path, matrix_classifier: Any, rows: Any, file: str
) -> None:
    model = load_model("onnx", artifacts / file)

    outputs = model.predict(model.prepare({"X": rows}), ())  # 64 bits become the graph's 32

    names = [spec.name for spec in model.signature.outputs]
    assert list(outputs) == names
    np.testing.assert_array_equal(outputs[names[0]], matrix_classifier.predict(rows))
    np.testing.assert_allclose(outputs[names[1]], matrix_classifier.predict_proba(rows), atol=1e-5)
    with pytest.raises(RequestError, match='unknown input "Y"'):
        model.prepare({"Y": rows})


def test_pickles_are_refused_before_a_byte_of_them_is_read(tmp_path: Path) -> None:
    trap = tmp_path / "trap.joblib"
    sprung = tmp_path / "sprung"
    trap.write_bytes(pickle.dumps(_Trap(sprung)))

    with pytest.raises(LoadError, match="pickle"):
        load_model("joblib", trap)

    assert not sprung.exists()


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


def test_a_pickle_is_scanned_before_a_byte_of_it_is_loaded(tmp_path: Path) -> None:
    trap, sprung = tmp_path / "trap.joblib", tmp_path / "sprung"
    trap.write_bytes(pickle.dumps(_Trap(sprung)))

    with pytest.raises(LoadError, match=r"imports posix\.mkdir, which is not on the allowlist"):
        load_model("joblib", trap, allow_pickle="scanned")
    assert not sprung.exists()

    with pytest.raises(LoadError, match="has no predict"):
        load_model("joblib", trap, allow_pickle="always")
    assert sprung.exists(), "the trap is one"


def test_what_was_scanned_is_what_is_loaded(
    tmp_path: Path, matrix_classifier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another file put in its place after the scan is not the one that is loaded."""
    path, sprung = tmp_path / "model.joblib", tmp_path / "sprung"
    path.write_bytes(pickle.dumps(matrix_classifier))

    def scan_and_swap(file: Any) -> Any:
        found = pickle_scan.scan_pickle(file)
        (tmp_path / "other").write_bytes(pickle.dumps(_Trap(sprung)))
        (tmp_path / "other").replace(path)
        return found

    monkeypatch.setattr(pickle_file, "scan_pickle", scan_and_swap)
    load_model("joblib", path, allow_pickle="scanned")

    assert not sprung.exists()


def test_skops_types_from_elsewhere_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    skops.io.dump(FunctionTransformer(func=os.path.basename), path)

    with pytest.raises(LoadError, match=r"not trusted: .*basename"):
        load_model("skops", path)


@pytest.mark.parametrize(
    ("name", "trusted"),
    [
        ("sklearn.tree._tree.Tree", True),
        ("sklearn.feature_selection._univariate_selection.f_classif", True),
        ("numpy.mean", True),
        ("scipy.sparse._csr.csr_matrix", True),
        ("functools.partial", True),
        ("os.system", False),
        ("sklearnx.Model", False),
        ("scipy.stats._continuous_distns.norm_gen", False),
        ("sklearn.no_such_module.Thing", False),
        ("sklearn.base.warnings", False),
        ("sklearn.utils.parallel.joblib", False),
        ("sklearn.utils.parallel.Parallel.__globals__", False),
        ("sklearn.model_selection._search.product", False),
        ("numpy.load", False),
        ("numpy.lib._npyio_impl.load", False),
        ("sklearn.datasets.load_svmlight_file", False),
    ],
)
def test_a_trusted_name_is_on_the_allowlist(name: str, trusted: bool) -> None:
    assert is_trusted(name) is trusted


def test_boosting_with_categories_loads(tmp_path: Path) -> None:
    carriers = ["AA", "UA"] * 50
    frame = pd.DataFrame({"carrier": pd.Categorical(carriers), "wind": np.arange(100.0)})
    labels = [carrier == "AA" for carrier in carriers]
    boosting = HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=2).fit(frame, labels)
    skops.io.dump(boosting, tmp_path / "m.skops")

    model = load_model("skops", tmp_path / "m.skops")
    tensors = {"carrier": np.array(["AA", "UA"], dtype=object), "wind": np.array([3.0, np.nan])}
    outputs = model.predict(model.prepare(tensors), ("predictions",))

    assert outputs["predictions"].tolist() == [True, False]


@pytest.mark.parametrize("format", ["skops", "onnx", "joblib"])
def test_a_damaged_file_is_a_load_error(tmp_path: Path, format: str) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"not a model")

    with pytest.raises(LoadError, match="cannot load model"):
        load_model(format, path, allow_pickle="always")


def test_what_cannot_be_served_says_so(tmp_path: Path, artifacts: Path) -> None:
    skops.io.dump(StandardScaler(), tmp_path / "scaler.skops")

    with pytest.raises(LoadError, match="StandardScaler has no predict"):
        load_model("skops", tmp_path / "scaler.skops")
    with pytest.raises(LoadError, match="no artifact"):
        load_model("skops", tmp_path / "absent.skops")
    with pytest.raises(LoadError, match=r"expected one \.onnx file in artifacts\d+, found 2"):
        load_model("onnx", artifacts)


def write_mlflow(folder: Path, flavors: dict[str, Any], signature: bool = True) -> Path:
    """Write an MLmodel file as MLflow lays it out (JSON is YAML)."""
    folder.mkdir()
    document: dict[str, Any] = {"flavors": flavors, "mlflow_version": "3.17.2"}
    if signature:
        inputs = [{"type": "double", "name": name, "required": True} for name in COLUMNS]
        document["signature"] = {"inputs": json.dumps(inputs), "outputs": None}
    (folder / "MLmodel").write_text(json.dumps(document))
    return folder


def test_mlflow_sklearn_as_skops_needs_no_mlflow(
    tmp_path: Path, column_classifier: Any, rows: Any
) -> None:
    folder = write_mlflow(
        tmp_path / "model",
        {"sklearn": {"pickled_model": "model.skops", "serialization_format": "skops"}},
    )
    skops.io.dump(column_classifier, folder / "model.skops")

    model = load_model("mlflow", folder)
    outputs = model.predict(model.prepare(by_column(rows)), ("predictions",))

    expected = column_classifier.predict(pd.DataFrame(rows, columns=list(COLUMNS)))
    np.testing.assert_array_equal(outputs["predictions"], expected)
    with pytest.raises(RequestError, match='input "delay": expected datatype FP64, got BYTES'):
        model.prepare({**by_column(rows), "delay": np.full(len(rows), "x", dtype=object)})


def test_mlflow_onnx_needs_no_mlflow(tmp_path: Path, artifacts: Path, rows: Any) -> None:
    folder = write_mlflow(tmp_path / "model", {"onnx": {"data": "model.onnx"}}, signature=False)
    (folder / "model.onnx").write_bytes((artifacts / "model.onnx").read_bytes())

    model = load_model("mlflow", folder)

    assert model.platform == "onnxruntime"
    assert len(model.predict(model.prepare({"X": rows}), ("label",))["label"]) == len(rows)


def test_mlflow_sklearn_as_pickle_needs_leave_and_no_mlflow(
    tmp_path: Path, column_classifier: Any, rows: Any
) -> None:
    flavors = {
        "sklearn": {"pickled_model": "model.pkl", "serialization_format": "cloudpickle"},
        "python_function": {"loader_module": "mlflow.sklearn"},
    }
    folder = write_mlflow(tmp_path / "model", flavors)
    (folder / "model.pkl").write_bytes(pickle.dumps(column_classifier))

    rules: tuple[PickleRule, ...] = ("scanned", "always")
    for rule in rules:
        model = load_model("mlflow", folder, allow_pickle=rule)
        outputs = model.predict(model.prepare(by_column(rows)), ())
        assert set(outputs) == {"predictions", "probabilities"}
    with pytest.raises(LoadError, match="unpickles"):
        load_model("mlflow", folder)


@pytest.mark.parametrize(
    ("pyfunc", "file", "message"),
    [
        ({"loader_module": "mlflow.sklearn"}, "model.pkl", "unpickles"),
        ({"loader_module": "mlflow.pyfunc.model"}, "python_model.pkl", "unpickles"),
        ({"loader_module": "mlflow.xgboost", "code": "code"}, "model.xgb", "Python code"),
        ({"loader_module": "mlflow.lightgbm"}, "model.pkl", r"holds a pickle \(model.pkl\)"),
    ],
)
def test_mlflow_models_that_can_run_code_need_leave(
    tmp_path: Path, pyfunc: dict[str, str], file: str, message: str
) -> None:
    folder = write_mlflow(tmp_path / "model", {"python_function": pyfunc})
    (folder / file).write_bytes(b"")

    rules: tuple[PickleRule, ...] = ("never", "scanned")
    for rule in rules:
        with pytest.raises(LoadError, match=message):
            load_model("mlflow", folder, allow_pickle=rule)


def test_an_mlmodel_cannot_point_out_of_its_directory(tmp_path: Path) -> None:
    (tmp_path / "other.onnx").write_bytes(b"")
    folder = write_mlflow(tmp_path / "model", {"onnx": {"data": "../other.onnx"}})

    with pytest.raises(LoadError, match="not in the directory"):
        load_model("mlflow", folder)


def test_other_flavours_go_through_pyfunc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: Any
) -> None:
    folder = write_mlflow(
        tmp_path / "model", {"python_function": {"loader_module": "mlflow.xgboost"}}
    )
    model_seen: list[Any] = []

    class Loaded:
        def predict(self, frame: Any) -> Any:
            model_seen.append(frame)
            return pd.DataFrame({"score": frame["delay"] * 2})

    pyfunc = types.ModuleType("mlflow.pyfunc")
    pyfunc.load_model = lambda uri: Loaded()  # type: ignore[attr-defined]
    package = types.ModuleType("mlflow")
    package.pyfunc = pyfunc  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", package)
    monkeypatch.setitem(sys.modules, "mlflow.pyfunc", pyfunc)

    model = load_model("mlflow", folder)
    outputs = model.predict(model.prepare(by_column(rows)), ())

    assert list(model_seen[0].columns) == list(COLUMNS)
    np.testing.assert_array_equal(outputs["score"], rows[:, 0] * 2)


def test_labels_may_be_strings(tmp_path: Path) -> None:
    rows = np.arange(8.0).reshape(4, 2)
    model = LogisticRegression().fit(rows, ["no", "no", "yes", "yes"])
    skops.io.dump(model, tmp_path / "m.skops")

    loaded = load_model("skops", tmp_path / "m.skops")
    outputs = loaded.predict(loaded.prepare({"x": rows}), ("predictions",))

    assert outputs["predictions"].tolist() == ["no", "no", "yes", "yes"]
    assert loaded.signature.outputs[0].datatype == "BYTES"
