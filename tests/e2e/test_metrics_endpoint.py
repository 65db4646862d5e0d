"""A declared metrics endpoint is scraped on the real model server and shown with the version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LinearRegression

from modelplane.resources.manifest import read_document
from tests.e2e.conftest import Modelplane, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.beside, pytest.mark.timeout(300)]

BODY = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [4, 2], "data": [1.0] * 8}]}


def declare(modelplane: Modelplane, endpoint: str) -> None:
    manifest = {
        "apiVersion": "modelplane.dev/v1",
        "kind": "ModelDeployment",
        "metadata": {"name": "test"},
        "spec": {"version": "1.0.0", "metricsEndpoint": endpoint},
    }
    modelplane.client.apply(read_document(manifest))


def test_the_model_servers_metrics_are_shown_with_the_version(
    modelplane: Modelplane, tmp_path: Path
) -> None:
    rows = np.arange(20.0).reshape(10, 2)
    model = tmp_path / "model.skops"
    skops.io.dump(LinearRegression().fit(rows, rows.sum(axis=1)), model)
    modelplane.client.push("test", "1.0.0", model)
    declare(modelplane, "/metrics")
    wait_for("an answer", lambda: modelplane.client.predict("test", BODY).version == "1.0.0")

    def told() -> dict[str, Any] | None:
        variants = modelplane.client.traffic("test")["variants"]
        (found,) = (one for one in variants if one["version"] == "1.0.0")
        return next(iter(found["metrics"].values()), None)

    def rows_told() -> float:
        samples: dict[str, float] = (told() or {}).get("samples", {})
        return sum(value for name, value in samples.items() if "_rows_total" in name)

    assert wait_for("rows in the metrics", rows_told) >= 4
    text = modelplane.cli("describe", "deployment/test").stdout
    assert "Metrics of 1.0.0, test-" in text
    assert "modelplane_runtime_rows_total" in text
