"""A shadow under real traffic: its answers are compared with stable's, and nobody gets one."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.tree import DecisionTreeClassifier

from modelplane.client import Client
from modelplane.resources.manifest import read_document
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.rollout import Rollout
from tests.e2e.conftest import Modelplane, wait_for
from tests.e2e.load import Load

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

XS = [round(0.05 + 0.1 * number, 2) for number in range(10)]


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mp-shadow-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def push(client: Client, folder: Path, version: str, threshold: float) -> None:
    """Push a model of real make that answers whether its input is above a threshold."""
    rows = np.linspace(0, 1, 201).reshape(-1, 1)
    model = DecisionTreeClassifier().fit(rows, (rows[:, 0] > threshold).astype(np.int64))
    path = folder / f"{version}.skops"
    skops.io.dump(model, path)
    client.push("steps", version, artifact=path)


def apply(client: Client, version: str, shadow: dict[str, Any] | None = None) -> None:
    spec: dict[str, Any] = {"version": version}
    if shadow is not None:
        spec["strategy"] = {"shadow": shadow}
    manifest = {
        "apiVersion": "modelplane.dev/v1",
        "kind": "ModelDeployment",
        "metadata": {"name": "steps"},
        "spec": spec,
    }
    client.apply(read_document(manifest))


def body(x: float) -> dict[str, Any]:
    return {"inputs": [{"name": "input", "datatype": "FP64", "shape": [1, 1], "data": [x]}]}


def rollout(client: Client) -> Rollout:
    name = client.get(ModelDeployment, "steps", "production").status.rollout
    assert name is not None
    return client.get(Rollout, name, "production")


async def under_load(plane: Modelplane, version: str, shadow: dict[str, Any]) -> Rollout:
    """Roll a version out under load; return its rollout at its end."""
    client = plane.client
    async with contextlib.AsyncExitStack() as stack:
        loads = [
            await stack.enter_async_context(
                Load(f"{plane.url}/steps/infer", rate_per_s=4, body=body(x))
            )
            for x in XS
        ]
        await asyncio.sleep(3)
        await asyncio.to_thread(apply, client, version, shadow)

        def finished() -> Rollout | None:
            found = rollout(client)
            return found if found.spec.candidate.version == version and found.finished else None

        done = await asyncio.to_thread(wait_for, f"end of {version}", finished, 90)
    assert [failure for load in loads for failure in load.failures] == []
    served = {version for load in loads for version in load.served}
    promoted = {version} if done.status.phase == "Promoted" else set()
    assert done.spec.stable is not None
    assert served - promoted == {done.spec.stable.version}, "nobody is answered by a shadow"
    return done


async def test_a_shadow_that_answers_otherwise_is_taken_back_and_one_that_does_not_promoted(
    modelplane: Modelplane, folder: Path
) -> None:
    client = modelplane.client
    for version, threshold in (("1.0.0", 0.5), ("2.0.0", 0.8), ("3.0.0", 0.5)):
        push(client, folder, version, threshold)
    apply(client, "1.0.0")

    def served() -> bool:
        with contextlib.suppress(Exception):
            return client.predict("steps", body(0.1)).version == "1.0.0"
        return False

    wait_for("1.0.0 in production", served)
    shadow = {
        "duration": "5s",
        "minCompared": 100,  # of 40 a second
        "maxDifferent": "5%",
        "analysis": {"interval": "1s", "metrics": [{"name": "errors", "margin": 0.05}]},
    }
    other = await under_load(modelplane, "2.0.0", shadow)
    assert other.status.phase == "RolledBack", other.status.message
    # Three of the ten inputs lie between the thresholds.
    assert abs(other.status.different / other.status.compared - 0.3) < 0.1, other.status
    assert "differ" in other.status.message
    assert "by the shadow" in other.status.examples[0]

    same = await under_load(modelplane, "3.0.0", shadow)
    assert same.status.phase == "Promoted", same.status.message
    assert same.status.compared >= 100
    assert (same.status.different, same.status.failed_requests) == (0, 0)
    text = modelplane.cli("rollout", "status", "steps").stdout
    assert "answers compared, 0 differ" in text
