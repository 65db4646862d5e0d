"""The loop closes by itself: the world changes, and labels alone bring a better version about.

Real requests through the real gateway, labels a second later. What was right for a distance above
0 is right only above 1 from some moment on: precision falls, an alert rises, its playbook trains
on what is known by then, the version passes its gate, ramps beside the old one, is promoted, and
the alert closes. No hand touches anything after the change.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
import textwrap
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.tree import DecisionTreeClassifier

from modelplane.resources.alerting import Alert
from modelplane.resources.gate_run import GateRun
from modelplane.resources.manifest import read_documents
from modelplane.resources.playbook import PlaybookRun
from modelplane.resources.rollout import Rollout
from modelplane.resources.training import TrainingRun
from tests.e2e.conftest import Modelplane, wait_for
from tests.e2e.load import Load

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

MANIFEST = """
apiVersion: modelplane.dev/v1
kind: ValidationPipeline
metadata: {name: delays}
spec:
  models: {names: [delay]}
  stages:
  - name: accuracy
    accuracy: {dataset: newest, target: late, margin: 0.02, features: [distance]}
  triggers: [on_model_push]
---
apiVersion: modelplane.dev/v1
kind: PromotionPolicy
metadata: {name: delays}
spec:
  environments: [production]
  models: {names: [delay]}
  pipelines: [delays]
  automatic: true
---
apiVersion: modelplane.dev/v1
kind: ModelDeployment
metadata: {name: delay}
spec:
  version: 1.0.0
  predictions: {joinKey: id}
  labels: {task: binary, horizon: 10s, maxWeight: 50}
  strategy:
    canary:
      steps: [20, 50]
      minBake: 2s
      analysis:
        metrics: [{name: errors, margin: 0.05}, {name: loss, margin: 0.05}]
        interval: 1s
---
apiVersion: modelplane.dev/v1
kind: AlertRules
metadata: {name: delays}
spec:
  groups:
  - name: delays
    interval: 1s
    rules:
    - alert: PrecisionLow
      expr: >-
        min by (environment, deployment)
        (modelplane_quality_upper{deployment="delay", metric="precision", slice=""}) < 0.7
      for: 2s
      keep_firing_for: 5s
---
apiVersion: modelplane.dev/v1
kind: TrainingTrigger
metadata: {name: retrain}
spec:
  model: delay
  run:
    command: {command: ["%(python)s", "%(script)s", "%(records)s"]}
  timeout: 2m
---
apiVersion: modelplane.dev/v1
kind: Playbook
metadata: {name: retrain}
spec:
  matchers: ['alertname="PrecisionLow"']
  steps:
  - {name: train, startTraining: {trigger: retrain}, timeout: 2m}
  - name: in-production
    waitFor:
      expr: modelplane_weight_ratio{deployment="delay", version="1.1.0"} == 1
    timeout: 2m
  verify: {for: 3s, timeout: 1m}
"""

SCRIPT = """
    import sys
    from pathlib import Path
    import pandas as pd
    import skops.io
    from sklearn.tree import DecisionTreeClassifier
    from modelplane import Client

    file = Path(sys.argv[1])
    records = pd.read_csv(file)
    training, newest = records[:-500], records[-500:]
    newest.to_csv(file.with_name("newest.csv"), index=False)
    model = DecisionTreeClassifier(max_depth=3).fit(training[["distance"]], training["late"])
    skops.io.dump(model, "model.skops")
    with Client() as client:
        client.push_dataset("newest", file.with_name("newest.csv"))
        client.push("delay", "1.1.0", "model.skops", dataset=training)
"""


@dataclass
class World(Load):
    """Asks about one distance after another, and tells what was true a second later."""

    threshold: float = 0.0
    records: list[tuple[float, int]] = field(default_factory=list)
    due: deque[tuple[float, dict[str, str | int]]] = field(default_factory=deque)

    async def _send(self, user: str) -> None:
        name, distance = f"r{random.getrandbits(64):x}", random.gauss(0, 1)
        late = int(distance > self.threshold) ^ (random.random() < 0.05)
        inputs = [{"name": "distance", "datatype": "FP64", "shape": [1], "data": [distance]}]
        async with self._session.post(
            self.url, json={"id": name, "inputs": inputs}, headers={"x-user-id": user}
        ) as response:
            self.statuses[response.status] += 1
            self.served[response.headers.get("x-modelplane-version", "")] += 1
            if response.status >= 500:
                self.failures.append(f"{response.status} {(await response.text())[:200]}")
        self.records.append((distance, late))
        self.due.append((time.monotonic() + 1, {"key": name, "label": late}))

    def take_due(self) -> list[dict[str, str | int]]:
        """Return the labels whose time has come."""
        taken = []
        while self.due and self.due[0][0] <= time.monotonic():
            taken.append(self.due.popleft()[1])
        return taken

    def write_records(self, file: Path, after: int) -> None:
        """Write what was true of the requests after the first so many."""
        rows = pd.DataFrame(self.records[after:], columns=["distance", "late"])
        rows.to_csv(file.with_suffix(".new"), index=False)
        file.with_suffix(".new").replace(file)


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mp-loop-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_a_world_that_changes_brings_a_better_version_about(
    modelplane: Modelplane, folder: Path
) -> None:
    client = modelplane.client
    (folder / "train.py").write_text(textwrap.dedent(SCRIPT))
    known = pd.DataFrame({"distance": np.random.default_rng(0).normal(size=2_000)})
    known["late"] = (known["distance"] > 0).astype(int)
    model = DecisionTreeClassifier(max_depth=1).fit(known[["distance"]], known["late"])
    skops.io.dump(model, folder / "model.skops")
    known.to_csv(folder / "first.csv", index=False)
    client.push_dataset("newest", folder / "first.csv")
    client.push("delay", "1.0.0", folder / "model.skops", dataset=known)
    places = {"script": folder / "train.py", "records": folder / "records.csv"}
    for document in read_documents(MANIFEST % {"python": sys.executable, **places}, "manifest"):
        client.apply(document)
    distance = {"name": "distance", "datatype": "FP64", "shape": [1], "data": [0.5]}

    def serves() -> bool:
        with contextlib.suppress(Exception):
            return client.predict("delay", {"inputs": [distance]}).version == "1.0.0"
        return False

    wait_for("1.0.0 in production", serves)
    run = asyncio.run(close(modelplane, folder / "records.csv"))
    assert run.status.phase == "Succeeded", (run.status.to_dict(), how_far(modelplane))
    wait_for(
        "the end of the alert",
        lambda: all(alert.status.phase == "Resolved" for alert in client.list(Alert).items),
        30,
    )
    [alert] = client.list(Alert).items
    assert "recovery verified" in alert.status.closing
    [training] = client.list(TrainingRun).items
    assert training.status.versions == ("delay@1.1.0",)
    gates = [
        one for one in client.list(GateRun).items if one.spec.candidate.revision.version == "1.1.0"
    ]
    assert [one.status.phase for one in gates] == ["Passed"]
    rollouts = client.list(Rollout, "production").items
    [rollout] = [one for one in rollouts if one.spec.candidate.version == "1.1.0"]
    assert rollout.status.phase == "Promoted"
    report = {one.version: one.metrics for one in client.quality("delay", "production").versions}
    assert (report["1.1.0"]["precision"].lower or 0) > 0.8
    assert "retrain-1" in modelplane.cli("training", "list").stdout
    assert client.verify_audit()["verified"]


def how_far(modelplane: Modelplane) -> list[tuple[str, str, str]]:
    """Return what became of gates and rollouts, for whoever reads a failure."""
    gates = modelplane.client.list(GateRun).items
    far = [(one.metadata.name, one.status.phase, one.status.message) for one in gates]
    rollouts = modelplane.client.list(Rollout, "production").items
    return far + [(one.metadata.name, one.status.phase, one.status.message) for one in rollouts]


async def close(modelplane: Modelplane, records: Path) -> PlaybookRun:
    """Change the world under load and return the playbook's run when it is over."""
    client = modelplane.client
    started = time.monotonic()
    async with World(f"{modelplane.url}/delay/infer", rate_per_s=100.0) as world:
        changed = 0
        while time.monotonic() - started < 300:
            await asyncio.sleep(0.5)
            if labels := world.take_due():
                await asyncio.to_thread(client.send_feedback, "delay", labels, "production")
            if not changed and world.sent > 1_000:
                assert not client.list(PlaybookRun).items, "an alert before anything changed"
                world.threshold, changed = 1.0, len(world.records)
            if changed:
                world.write_records(records, changed)
            for run in (await asyncio.to_thread(client.list, PlaybookRun)).items:
                if run.finished:
                    assert world.failures == []
                    assert set(world.statuses) == {200}
                    print(f"the loop took {time.monotonic() - started:.1f} s")
                    return run
    raise AssertionError("the playbook did not end within 300 s")
