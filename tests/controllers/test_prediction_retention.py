"""Predictions go when their retention is over, labels that wait when their horizon is."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from modelplane.controllers.prediction_retention import PredictionRetention
from modelplane.errors import TransientError
from modelplane.ports.predictions import Label, Place, Prediction
from modelplane.ports.store import Transaction
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.model_deployment import ModelDeployment, ModelDeploymentSpec
from modelplane.testing.predictions import InMemoryPredictions
from tests.controllers.stores import open_store


async def test_each_deployment_keeps_for_as_long_as_it_says(tmp_path: Path) -> None:
    async with open_store(tmp_path) as (store, clock):
        spec = {"model": "fraud", "version": "1.0.0", "predictions": {"retention": "1h"}}
        deployment = ModelDeployment(
            metadata=Metadata(name="fraud", environment="production"),
            spec=ModelDeploymentSpec.model_validate({**spec, "labels": {"horizon": "10m"}}),
        )
        transaction = Transaction(Subject(name="ada"))
        transaction.create(deployment)
        await store.commit(transaction)
        predictions = InMemoryPredictions(clock)
        retention = PredictionRetention(store, predictions, clock)
        for name in ("fraud", "gone"):
            for minutes in (0, 90):
                at = clock.now() + timedelta(minutes=minutes)
                place = Place("production", name, "1.0.0")
                await predictions.add([Prediction(f"r-{minutes}", 0, place, at)])
        await predictions.label("production", "fraud", [Label("unknown", label=1)])
        clock.step(2 * 3600)
        await predictions.label("production", "fraud", [Label("new", label=1)])

        await retention.tick()

        since, until = clock.now() - timedelta(days=9), clock.now()
        left = {
            name: [
                row.request_id
                for row in await predictions.rows(
                    "production", name, since=since, until=until, limit=9
                )
            ]
            for name in ("fraud", "gone")
        }
        assert left == {"fraud": ["r-90"], "gone": ["r-0", "r-90"]}
        again = [Label("unknown", label=0), Label("new", label=0)]
        fates = await predictions.label("production", "fraud", again)
        assert fates == ["waiting", "contradicts"]  # the first is forgotten, the second waits
        clock.step(31 * 86_400)
        await retention.tick()
        assert await predictions.deployments() == []


async def test_storage_that_does_not_answer_holds_up_no_other_deployment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(tmp_path) as (store, clock):
        predictions = InMemoryPredictions(clock)
        for name in ("away", "there"):
            place = Place("production", name, "1.0.0")
            await predictions.add([Prediction("r-1", 0, place, clock.now())])
        expire = predictions.expire

        async def fail(environment: str, deployment: str, before: datetime) -> int:
            if deployment == "away":
                raise TransientError("the storage does not answer")
            return await expire(environment, deployment, before)

        monkeypatch.setattr(predictions, "expire", fail)
        clock.step(31 * 86_400)
        await PredictionRetention(store, predictions, clock).tick()
        assert await predictions.deployments() == [("production", "away")]
