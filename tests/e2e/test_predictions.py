"""Predictions of a real model server behind the real gateway are kept as declared."""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.tree import DecisionTreeClassifier

from modelplane.resources.manifest import read_document
from modelplane.resources.model_deployment import ModelDeployment
from tests.e2e.conftest import Modelplane, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mp-log-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def declare(plane: Modelplane, predictions: dict[str, Any] | None) -> None:
    spec: dict[str, Any] = {"version": "1.0.0"}
    if predictions is not None:
        spec["predictions"] = predictions
    manifest = {"kind": "ModelDeployment", "metadata": {"name": "delay"}, "spec": spec}
    plane.client.apply(read_document({"apiVersion": "modelplane.dev/v1", **manifest}))


def body(name: str, distance: float) -> dict[str, Any]:
    values = {"distance": distance, "ssn": 123456789.0}
    inputs = [
        {"name": column, "datatype": "FP64", "shape": [1], "data": [value]}
        for column, value in values.items()
    ]
    return {"id": name, "inputs": inputs}


def exported(plane: Modelplane, folder: Path) -> dict[str, dict[str, str]]:
    """Return what is kept, by join key."""
    path = folder / "rows.csv"
    plane.cli("predictions", "export", "delay", str(path), "--force")
    with path.open() as file:
        return {row["key"]: row for row in csv.DictReader(file)}


def test_predictions_are_kept_as_declared_and_changes_need_no_restart(
    modelplane: Modelplane, folder: Path
) -> None:
    random = np.random.default_rng(7)
    rows = pd.DataFrame({"distance": random.normal(size=200), "ssn": random.random(200)})
    model = DecisionTreeClassifier(max_depth=2).fit(rows, (rows.distance > 0).astype(int))
    skops.io.dump(model, folder / "model.skops")
    client = modelplane.client
    client.push("delay", "1.0.0", folder / "model.skops")
    declare(modelplane, {"joinKey": "id", "redact": ["ssn"]})

    def ask(name: str) -> bool:
        try:
            return client.predict("delay", body(name, 1.5)).version == "1.0.0"
        except Exception:
            return False

    def keeps(name: str) -> dict[str, str] | None:
        # Asked again and again: the first ones may come before a change is in force.
        ask(name)
        return exported(modelplane, folder).get(name)

    wait_for("the first answer", lambda: ask("first"))
    row = wait_for("its prediction", lambda: exported(modelplane, folder).get("first"))
    assert (float(row["input.distance"]), row["version"]) == (1.5, "1.0.0")
    assert float(row["output.predictions"]) == 1
    assert "input.ssn" not in row

    before = client.get(ModelDeployment, "delay", "production").status
    declare(modelplane, {"joinKey": "id", "redact": ["ssn", "distance"], "inputs": True})
    wait_for(
        "the change",
        lambda: not (keeps("changed") or {"input.distance": "1.5"}).get("input.distance"),
    )
    after = client.get(ModelDeployment, "delay", "production").status
    assert (after.rollouts, after.ready_replicas) == (before.rollouts, before.ready_replicas)
    assert "PredictionsLogged" in {condition.type for condition in after.conditions}
    text = "".join(str(row) for row in exported(modelplane, folder).values())
    assert "123456789" not in text
