"""Quality through the API: figures of what was labelled, one slice alone, and who may see it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from modelplane.decisions.quality import QualityReport
from modelplane.ports.predictions import Label, Place, Prediction
from modelplane.ports.quality import QualityBook
from modelplane.testing.clock import ManualClock
from modelplane.testing.predictions import InMemoryPredictions
from tests.api.world import READER, World, make_world

CLOCK = ManualClock()
PATH = "/model-deployments/fraud:quality"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    predictions = InMemoryPredictions(CLOCK)
    book = QualityBook(predictions, CLOCK)
    async with make_world(predictions=predictions, quality=book) as made:
        await made.push("fraud", "1.0.0")
        log = {"slices": ["user.region"]}
        await made.deploy("fraud", model="fraud", version="1.0.0", predictions=log)
        place = Place("production", "fraud", "1.0.0", "aaaa")
        at = CLOCK.now() - timedelta(seconds=60)
        for index in range(100):
            part = "user.region=west" if index < 40 else "user.region=east"
            said = Prediction(
                str(index), 0, place, at, predicted=index % 2, score=index / 100, parts=(part,)
            )
            await predictions.add([said])
            # Right but for the first 20, and nobody tells of the last 10.
            label = index % 2 if index >= 20 else 1 - index % 2
            if index < 90:
                await predictions.label("production", "fraud", [Label(str(index), label=label)])
        yield made


async def test_figures_come_by_version_and_slice_with_intervals(world: World) -> None:
    report = QualityReport.model_validate(await world.ok("GET", PATH))
    assert report.task == "binary"
    found = {one.slice: one for one in report.versions}
    assert set(found) == {"", "user.region=west", "user.region=east"}
    accuracy = found[""].metrics["accuracy"]
    assert accuracy.count == 90
    assert accuracy.value == pytest.approx(70 / 90)
    assert (accuracy.lower or 1) < 70 / 90 < (accuracy.upper or 0)
    assert found["user.region=west"].metrics["accuracy"].value == pytest.approx(0.5)
    assert found["user.region=east"].metrics["f1"].value == 1
    assert {"precision", "recall", "f1", "auc", "brier"} <= set(found[""].metrics)
    (complete,) = report.completeness
    assert (complete.predictions, complete.labelled, complete.due) == (100, 90, 0)


async def test_one_slice_may_be_asked_for_alone(world: World) -> None:
    (west,) = (await world.ok("GET", PATH, slice="user.region=west"))["versions"]
    assert west["slice"] == "user.region=west"
    (all_,) = (await world.ok("GET", PATH, slice=""))["versions"]
    assert "slice" not in all_ or all_["slice"] == ""


async def test_who_may_read_may_see_it_and_what_is_not_there_is_told(world: World) -> None:
    assert (await world.call("GET", PATH, token=READER)).status_code == 200
    assert (await world.call("GET", PATH, token=None)).status_code == 401
    assert (await world.call("GET", "/model-deployments/none:quality")).status_code == 404
    assert (await world.call("GET", PATH, environment="staging")).status_code == 404


async def test_without_a_store_of_predictions_it_says_so() -> None:
    async with make_world() as bare:
        await bare.push("fraud", "1.0.0")
        await bare.deploy("fraud", model="fraud", version="1.0.0")
        answer = await bare.call("GET", PATH)
        assert answer.status_code == 503
        assert "keeps no predictions" in answer.text
