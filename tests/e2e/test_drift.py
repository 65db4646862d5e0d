"""Drift under real traffic: from requests at the gateway to what people and alerts see."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from prometheus_client.parser import text_string_to_metric_families
from sklearn.tree import DecisionTreeClassifier

from modelplane.decisions.drift_report import VersionDrift
from modelplane.resources.manifest import read_document
from tests.e2e.conftest import Modelplane, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ROWS = 40


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mp-drift-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def table(seed: int, rows: int, mean: float = 0.0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame({"distance": random.normal(mean, 1, rows), "hour": random.random(rows)})


def body(frame: pd.DataFrame) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": name, "datatype": "FP64", "shape": [len(frame), 1], "data": list(values)}
            for name, values in frame.items()
        ]
    }


class Asking(threading.Thread):
    """Asks for some rows ten times a second; `mean` may be changed meanwhile."""

    def __init__(self, plane: Modelplane) -> None:
        super().__init__(daemon=True)
        self.client, self.mean, self.asked = plane.client, 0.0, 0
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.wait(0.1):
            self.asked += 1
            with contextlib.suppress(Exception):
                self.client.predict("delay", body(table(self.asked, ROWS, self.mean)))

    def __enter__(self) -> Asking:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.join(20)


def test_inputs_that_change_are_found_and_told(modelplane: Modelplane, folder: Path) -> None:
    client = modelplane.client
    training = table(0, 20_000)
    model = DecisionTreeClassifier(max_depth=3).fit(training, training["distance"] > 0)
    skops.io.dump(model, folder / "model.skops")
    client.push("delay", "1.0.0", folder / "model.skops", dataset=training)
    manifest = {
        "apiVersion": "modelplane.dev/v1",
        "kind": "ModelDeployment",
        "metadata": {"name": "delay"},
        "spec": {
            "version": "1.0.0",
            "predictions": {},
            "drift": {"window": "10s", "minRows": 100},
        },
    }
    client.apply(read_document(manifest))

    def served() -> bool:
        with contextlib.suppress(Exception):
            return client.predict("delay", body(table(1, 1))).version == "1.0.0"
        return False

    wait_for("1.0.0 in production", served)

    def drift(state: str) -> VersionDrift | None:
        versions = client.drift("delay").versions
        known = bool(versions) and versions[0].traffic_at is not None
        return versions[0] if known and versions[0].state == state else None

    with Asking(modelplane) as asking:
        stable = wait_for("a reference and no drift", lambda: drift("stable"), 90)
        origins = {feature.feature: feature.origin for feature in stable.features}
        assert origins == {
            "distance": "data",
            "hour": "data",
            "output": "traffic",
            "output.score": "traffic",
        }
        asking.mean = 3.0
        drifted = wait_for("drift", lambda: drift("drifted"), 90)
        assert "distance" in drifted.drifted
        assert "hour" not in drifted.drifted
        text = modelplane.cli("drift", "show", "delay").stdout
        assert "delay in production: 1 of 1 versions drift" in text

        def told() -> bool:
            with urllib.request.urlopen(f"{client.endpoint.url}/metrics", timeout=10) as answer:
                families = list(text_string_to_metric_families(answer.read().decode()))
            found = {
                sample.labels["feature"]: sample.value
                for family in families
                for sample in family.samples
                if sample.name == "modelplane_drift_detected"
            }
            return found.get("distance") == 1 and found.get("hour") == 0

        wait_for("the series", told, 30)
        asking.mean = 0.0
        wait_for("the end of the drift", lambda: drift("stable"), 90)
