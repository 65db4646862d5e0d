"""Small real models, trained once a session, as files in the formats that a version can have."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeClassifier

COLUMNS = ("delay", "distance", "wind")


def make_rows(count: int = 200) -> Any:
    """Return [count, 3] numbers, the same ones each time."""
    return np.random.default_rng(7).normal(size=(count, len(COLUMNS)))


def make_labels(rows: Any) -> Any:
    return (rows[:, 0] + rows[:, 1] > 0).astype(np.int64)


@pytest.fixture(scope="session")
def rows() -> Any:
    return make_rows()


@pytest.fixture(scope="session")
def matrix_classifier(rows: Any) -> Any:
    """Trained without column names; refuses NaN."""
    return LogisticRegression().fit(rows, make_labels(rows))


@pytest.fixture(scope="session")
def column_classifier(rows: Any) -> Any:
    """Trained on a frame; takes NaN."""
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return DecisionTreeClassifier(max_depth=3, random_state=0).fit(frame, make_labels(rows))


@pytest.fixture(scope="session")
def text_column_classifier(rows: Any) -> Any:
    """A pipeline that selects a string column and a number column by name."""
    carriers = np.where(rows[:, 0] > 0, "AA", "UA").astype(object)
    frame = pd.DataFrame({"carrier": carriers, "wind": rows[:, 2]})
    encode = ColumnTransformer(
        [("carrier", OneHotEncoder(handle_unknown="ignore"), ["carrier"])], remainder="passthrough"
    )
    return make_pipeline(encode, LogisticRegression()).fit(frame, carriers == "AA")


@pytest.fixture(scope="session")
def artifacts(
    tmp_path_factory: pytest.TempPathFactory,
    rows: Any,
    matrix_classifier: Any,
    column_classifier: Any,
) -> Path:
    """A directory with matrix.skops, columns.skops, regressor.skops, model.joblib and two ONNX."""
    folder = tmp_path_factory.mktemp("artifacts")
    skops.io.dump(matrix_classifier, folder / "matrix.skops")
    skops.io.dump(column_classifier, folder / "columns.skops")
    skops.io.dump(LinearRegression().fit(rows, rows[:, 0]), folder / "regressor.skops")
    joblib.dump(matrix_classifier, folder / "model.joblib")
    sample = rows[:1].astype(np.float32)
    for name, zipmap in (("model.onnx", False), ("zipmap.onnx", True)):
        graph = to_onnx(matrix_classifier, sample, options={"zipmap": zipmap})
        (folder / name).write_bytes(graph.SerializeToString())
    return folder


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's name."""
    folder = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
