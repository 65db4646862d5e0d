"""Drift from the predictions that are kept to the rollout that waits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelplane.controllers.drift import DriftController
from modelplane.controllers.drift_sketches import Sketches, merge_slots
from modelplane.decisions.drift_profile import make_profile, profile_column
from modelplane.decisions.drift_report import profile_key, read_version, record_key
from modelplane.decisions.predictions import Place, Prediction
from modelplane.errors import TransientError
from modelplane.ports.store import Transaction
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.monitoring import DriftWatch, PredictionLog
from modelplane.resources.strategy import CanaryStrategy, Strategy
from modelplane.testing.predictions import InMemoryPredictions
from tests.controllers.plane import ANA, Plane, open_plane, revision

WATCH = DriftWatch(window_s=40, min_rows=100, hold=True)
STRATEGY = Strategy(canary=CanaryStrategy())


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    async with open_plane(tmp_path) as opened:
        await opened.declare(STRATEGY)
        deployment = await opened.deployment()
        transaction = Transaction(ANA)
        transaction.update(deployment.with_spec(predictions=PredictionLog(), drift=WATCH))
        await opened.store.commit(transaction)
        await opened.promote(revision("1.0.0"))
        await opened.settle()
        yield opened


class Traffic:
    """What is asked of a version, second by second, and the controller that watches it."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.kept = InMemoryPredictions(plane.clock)
        self.random = np.random.default_rng(7)
        self.asked = 0
        self.woken: list[str] = []
        self.controller = self.start()

    def start(self) -> DriftController:
        """Return the controller of a process that begins."""
        plane = self.plane
        self.controller = DriftController(
            plane.store,
            self.kept,
            plane.fence,
            plane.clock,
            wake=lambda key: self.woken.append(key.name),
        )
        return self.controller

    async def flow(self, seconds: int, version: str = "1.0.0", **inputs: Any) -> None:
        """Let 20 predictions be made in each second; `mean` moves the input `distance`."""
        mean, further = inputs.pop("mean", 0.0), inputs
        for _ in range(seconds):
            made = [self._predict(version, mean, further) for _ in range(20)]
            await self.kept.add(made)
            self.controller.note(made)
            self.plane.clock.step(1)
            await self.controller.tick()

    def _predict(self, version: str, mean: float, further: dict[str, Any]) -> Prediction:
        self.asked += 1
        values = {"distance": float(self.random.normal(mean)), **further}
        place = Place("production", "delay", version)
        predicted = int(values["distance"] > 0)
        at = self.plane.clock.now()
        return Prediction(str(self.asked), 0, place, at, predicted=predicted, inputs=values)

    async def drift(self, version: str = "1.0.0") -> Any:
        """Return what the store holds of a version's drift."""
        key = record_key("production", "delay")
        return read_version((await self.plane.store.evidence([key])).get(key), version)


async def push_profile(plane: Plane, version: str, values: Any) -> None:
    profile, _ = make_profile({"distance": values}, len(values), name="flights")
    transaction = Transaction(ANA)
    transaction.put_evidence(profile_key(f"delay@{version}"), profile.to_dict())
    await plane.store.commit(transaction)


async def test_the_first_window_is_the_reference_where_no_data_was_pushed(plane: Plane) -> None:
    traffic = Traffic(plane)
    await traffic.flow(30)
    found = await traffic.drift()
    assert found.state == "learning"
    await traffic.flow(60)
    found = await traffic.drift()
    assert found.state == "stable", found
    assert found.traffic_at is not None
    assert {f.feature: f.origin for f in found.features} == {
        "distance": "traffic",
        "output": "traffic",
    }
    await traffic.flow(110, mean=2.0)
    found = await traffic.drift()
    assert found.state == "drifted"
    assert set(found.drifted) == {"distance", "output"}
    assert "delay" in traffic.woken


async def test_training_data_is_the_reference_from_the_first_request_on(plane: Plane) -> None:
    await push_profile(plane, "1.0.0", np.random.default_rng(1).normal(size=5000))
    traffic = Traffic(plane)
    await traffic.flow(100, mean=2.0)
    found = await traffic.drift()
    by_name = {feature.feature: feature for feature in found.features}
    assert by_name["distance"].origin == "data"
    assert by_name["distance"].is_drifted
    assert found.data == "flights"
    assert not by_name["output"].is_drifted  # compared with its own first window


async def test_inputs_that_clients_send_no_more_are_missing(plane: Plane) -> None:
    traffic = Traffic(plane)
    await traffic.flow(90, weather=1.5)
    await traffic.flow(110)
    found = await traffic.drift()
    (weather,) = [feature for feature in found.features if feature.feature == "weather"]
    assert weather.missing == 1.0
    assert weather.is_drifted


async def test_a_restart_forgets_nothing(plane: Plane) -> None:
    traffic = Traffic(plane)
    await traffic.flow(90)
    for _ in range(110 // 5):
        await traffic.flow(5, mean=2.0)
        traffic.start()
    found = await traffic.drift()
    assert found.state == "drifted"
    assert found.rows == 40 * 20


async def test_series_tell_of_each_feature(plane: Plane) -> None:
    traffic = Traffic(plane)
    await traffic.flow(90)
    await traffic.flow(110, mean=2.0)
    samples = {(s.name, s.labels["feature"]): s for s in await traffic.controller.samples()}
    assert samples["modelplane_drift_detected", "distance"].value == 1
    assert samples["modelplane_drift_psi", "distance"].value > 0.2
    assert samples["modelplane_drift_missing_ratio", "output"].value == 0
    labels = samples["modelplane_drift_psi", "output"].labels
    assert labels["version"] == "1.0.0"
    assert labels["environment"] == "production"


async def test_drift_of_a_candidate_holds_its_ramp_and_takes_nothing_back(plane: Plane) -> None:
    traffic = Traffic(plane)
    await traffic.flow(90)
    await push_profile(plane, "2.0.0", np.random.default_rng(1).normal(size=5000))
    await plane.promote(revision("2.0.0"))
    await plane.settle()
    await plane.judge(allowedWeightPct=1.0)
    await plane.settle()
    before = (await plane.rollout()).status.weight_pct
    assert before == 1.0
    await traffic.flow(90, version="2.0.0")
    await traffic.flow(110, version="2.0.0", mean=2.0)
    assert (await traffic.drift("2.0.0")).state == "drifted"
    await plane.judge(passes=True, allowedWeightPct=100.0)
    await plane.settle()
    rollout = await plane.rollout()
    assert (rollout.status.weight_pct, rollout.status.reason) == (before, "Drifted")
    (condition,) = [c for c in rollout.status.conditions if c.type == "Drifted"]
    assert condition.status == "True"
    assert condition.message.startswith("its values drift: ")
    await traffic.flow(100, version="2.0.0")
    await plane.judge(passes=True, allowedWeightPct=100.0)
    await plane.settle()
    rollout = await plane.rollout()
    assert rollout.status.weight_pct > before
    (condition,) = [c for c in rollout.status.conditions if c.type == "Drifted"]
    assert condition.status == "False"


async def test_what_is_not_kept_is_not_watched(plane: Plane) -> None:
    deployment = await plane.deployment()
    transaction = Transaction(ANA)
    transaction.update(deployment.with_spec(predictions=PredictionLog(inputs=False)))
    await plane.store.commit(transaction)
    traffic = Traffic(plane)
    await traffic.flow(100)
    assert [feature.feature for feature in (await traffic.drift()).features] == ["output"]
    transaction = Transaction(ANA)
    transaction.update((await plane.deployment()).with_spec(predictions=None))
    await plane.store.commit(transaction)
    await traffic.flow(1)
    assert await traffic.controller.samples() == []


async def test_a_deployment_made_anew_knows_nothing_of_the_one_before(plane: Plane) -> None:
    traffic = Traffic(plane)
    await traffic.flow(90)
    deployment = await plane.deployment()
    transaction = Transaction(ANA)
    transaction.delete(deployment)
    await plane.store.commit(transaction)
    await traffic.flow(1)
    assert await traffic.drift() is None
    traffic.start()
    anew = ModelDeployment(
        metadata=deployment.metadata.with_(uid="", resource_version=0, generation=0),
        spec=deployment.spec,
    ).with_status(stable=revision("1.0.0"))
    transaction = Transaction(ANA)
    transaction.create(anew)
    await plane.store.commit(transaction)
    await traffic.flow(25)
    assert (await traffic.drift()).state == "learning"


async def test_counts_that_could_not_be_written_are_written_later(plane: Plane) -> None:
    kept = InMemoryPredictions(plane.clock)
    sketches = Sketches(kept)
    column = profile_column("x", [1.0, 2.0, 3.0])
    place, at = Place("production", "delay", "1.0.0"), plane.clock.now()
    made = [Prediction(str(i), 0, place, at, inputs={"x": float(i % 3 + 1)}) for i in range(6)]
    put = kept.put_sketches

    async def fail(_: object) -> None:
        raise TransientError("busy")

    for attempt in (fail, put):
        kept.put_sketches = attempt  # type: ignore[assignment,method-assign]
        sketches.count(made, {"x": column}, 1.0)
        if attempt is fail:
            with pytest.raises(TransientError):
                await sketches.flush()
        else:
            await sketches.flush()
    stored = await kept.sketches("production", "delay", since=at, until=at + timedelta(seconds=1))
    merged = merge_slots(stored, "1.0.0", {"x": column})
    assert [cells.tolist() for cells in merged["x"]] == [[4, 4, 4, 0]]
