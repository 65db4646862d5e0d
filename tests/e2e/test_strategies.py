"""Strategies with real parts under load: no request is lost, whatever changes hands."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from modelplane.resources.manifest import read_document
from modelplane.resources.replica import Replica
from modelplane.resources.traffic_split import TrafficSplit
from tests.e2e.conftest import Modelplane, wait_for
from tests.e2e.load import Load

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


def declare(plane: Modelplane, version: str, strategy: dict[str, Any], replicas: int) -> None:
    spec = {"version": version, "replicas": replicas, "strategy": strategy}
    manifest = {
        "apiVersion": "modelplane.dev/v1",
        "kind": "ModelDeployment",
        "metadata": {"name": "test"},
        "spec": spec,
    }
    plane.client.apply(read_document(manifest))


def is_in_force(plane: Modelplane, version: str) -> bool:
    """Whether the gateway acknowledged that `version` has everything."""
    split = plane.client.get(TrafficSplit, "test", "production")  # NotFound: not yet
    live = {v.version for v in split.spec.variants if v.weight_pct > 0}
    return live == {version} and split.status.accepted_generation == split.metadata.generation


async def test_blue_green_switches_under_load_and_undo_is_back_at_once(
    modelplane: Modelplane,
) -> None:
    strategy = {"blueGreen": {"keepWarm": "5m"}}
    modelplane.push("1.0.0")
    modelplane.push("2.0.0")
    declare(modelplane, "1.0.0", strategy, replicas=2)
    await asyncio.to_thread(wait_for, "1.0.0", lambda: is_in_force(modelplane, "1.0.0"))
    async with Load(f"{modelplane.url}/test/infer", rate_per_s=100) as load:
        await asyncio.sleep(1)
        await asyncio.to_thread(declare, modelplane, "2.0.0", strategy, 2)
        switched = await asyncio.to_thread(modelplane.wait_until_finished, "2.0.0")
        await asyncio.to_thread(wait_for, "2.0.0", lambda: is_in_force(modelplane, "2.0.0"))
        shown = await asyncio.to_thread(modelplane.cli, "rollout", "status", "test")
        before = {r.metadata.uid for r in modelplane.client.list(Replica).items}
        began = time.monotonic()
        await asyncio.to_thread(modelplane.client.undo, "test")
        await asyncio.to_thread(wait_for, "1.0.0", lambda: is_in_force(modelplane, "1.0.0"))
        took_s = time.monotonic() - began
        await asyncio.sleep(1)
    back = modelplane.rollout()
    assert switched.status.reason == "Switched"
    assert "1.0.0 stays warm until" in " ".join(shown.stdout.split())
    assert back.status.reason == "StillWarm"
    assert {r.metadata.uid for r in modelplane.client.list(Replica).items} == before
    assert load.failures == [], f"the way back took {took_s:.2f} s"
    assert set(load.served) == {"1.0.0", "2.0.0"}


async def test_rolling_replaces_three_replicas_under_load(modelplane: Modelplane) -> None:
    strategy = {"rolling": {"interval": "1s"}}
    modelplane.push("1.0.0")
    modelplane.push("2.0.0")
    declare(modelplane, "1.0.0", strategy, replicas=3)
    await asyncio.to_thread(wait_for, "1.0.0", lambda: is_in_force(modelplane, "1.0.0"))
    async with Load(f"{modelplane.url}/test/infer", rate_per_s=100) as load:
        await asyncio.to_thread(declare, modelplane, "2.0.0", strategy, 3)
        done = await asyncio.to_thread(modelplane.wait_until_finished, "2.0.0")
        await asyncio.to_thread(wait_for, "2.0.0", lambda: is_in_force(modelplane, "2.0.0"))
        await asyncio.sleep(1)
    assert (done.status.phase, done.status.reason) == ("Promoted", "AllReplaced")
    assert [round(step.weight_pct) for step in done.status.steps] == [33, 67]
    assert load.failures == []
    assert set(load.served) == {"1.0.0", "2.0.0"}
    wait_for("the old replicas' end", lambda: len(modelplane.client.list(Replica).items) == 3)
