"""Drift through the API: what was pushed with a version, and what is known of a deployment."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelplane.decisions.drift_profile import make_profile
from modelplane.decisions.drift_report import (
    FeatureDrift,
    VersionDrift,
    profile_key,
    record_key,
)
from modelplane.ports.store import Transaction
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.monitoring import DriftWatch, PredictionLog
from tests.api.world import SYSTEM, World

PATH = "/model-deployments/fraud:drift"


async def show(world: World, **query: Any) -> dict[str, Any]:
    return dict(await world.ok("GET", PATH, **query))


async def change(world: World, **spec: Any) -> ModelDeployment:
    deployment = await world.store.get(ModelDeployment, "fraud", "production")
    transaction = Transaction(SYSTEM)
    transaction.update(deployment.with_spec(**spec))
    (changed,) = await world.store.commit(transaction)
    assert isinstance(changed, ModelDeployment)
    return changed


async def test_a_report_says_why_nothing_is_known(world: World) -> None:
    await world.push("fraud", "1.0.0")
    await world.deploy("fraud", version="1.0.0")
    report = await show(world)
    assert (report["watched"], report["message"]) == (
        False,
        "drift is not watched; write spec.drift: {}",
    )
    await change(world, drift=DriftWatch())
    assert "spec.predictions" in (await show(world))["message"]
    await change(world, predictions=PredictionLog())
    report = await show(world)
    assert (report["watched"], report["message"]) == (True, "no look at it yet")


async def test_a_report_tells_what_the_last_look_found(world: World) -> None:
    await world.push("fraud", "1.0.0")
    await world.deploy("fraud", version="1.0.0")
    deployment = await change(world, drift=DriftWatch(), predictions=PredictionLog())
    feature = FeatureDrift(
        feature="amount",
        kind="number",
        origin="data",
        rows=900,
        psi=0.4,
        drifted_since=world.clock.now(),
    )
    found = VersionDrift(version="1.0.0", state="drifted", features=(feature,))
    record = {"uid": deployment.metadata.uid, "versions": {"1.0.0": found.to_dict()}}
    for uid, message in ((record["uid"], "1 of 1 versions drift"), ("x", "no look at it yet")):
        transaction = Transaction(SYSTEM)
        transaction.put_evidence(record_key("production", "fraud"), {**record, "uid": uid})
        await world.store.commit(transaction)
        report = await show(world)
        assert report["message"] == message
        if uid != "x":
            assert report["versions"][0]["features"][0]["psi"] == 0.4


async def test_who_is_not_let_in_sees_nothing(world: World) -> None:
    assert (await world.call("GET", PATH, token="nobody")).status_code == 401
    assert (await world.call("GET", "/model-deployments/nothing:drift")).status_code == 404


async def test_the_profile_of_a_push_is_kept_beside_the_version(world: World) -> None:
    profile, _ = make_profile({"amount": np.arange(1000.0)}, 1000, name="payments")
    await world.push("fraud", "1.0.0", profile=profile.to_dict())
    key = profile_key("fraud@1.0.0")
    stored = (await world.store.evidence([key]))[key]
    assert stored == profile.to_dict()
