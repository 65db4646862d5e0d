"""The check `data`: training data against what production was asked lately."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelplane.controllers.production_data import add_production
from modelplane.decisions.data_check import Production, count_production
from modelplane.decisions.drift_profile import make_profile
from modelplane.decisions.drift_report import profile_key
from modelplane.decisions.gate_metrics import metrics_of
from modelplane.decisions.gate_plans import StagePlan, plan_stage
from modelplane.decisions.predictions import Place, Prediction
from modelplane.ports.store import Transaction
from modelplane.resources.data_profile import DataProfile
from modelplane.resources.gate_run import StageOutcome
from modelplane.stages.checks.data import run
from modelplane.stages.failures import CheckImpossible
from modelplane.testing.predictions import InMemoryPredictions
from tests.controllers.plane import ANA, open_plane, revision
from tests.decisions import gate_worlds
from tests.stages.tabular import served, stand_in, task

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


def trained() -> DataProfile:
    random = np.random.default_rng(1)
    table: dict[str, Any] = {
        "distance": random.normal(500, 100, 20_000),
        "carrier": random.choice(["AA", "DL", "UA"], 20_000).tolist(),
        "late": random.integers(0, 2, 20_000),
    }
    return make_profile(table, 20_000, name="flights@7")[0]


def asked(count: int, mean: float = 500.0, **further: Any) -> list[Prediction]:
    random = np.random.default_rng(2)
    place = Place("production", "delay", "1.0.0")
    return [
        Prediction(
            str(index),
            0,
            place,
            NOW + timedelta(seconds=index - count),
            predicted=1,
            inputs={
                "distance": float(random.normal(mean, 100)),
                "carrier": str(random.choice(["AA", "DL", "UA"])),
                **further,
            },
        )
        for index in range(count)
    ]


async def check(folder: Path, made: Sequence[Prediction], **fields: Any) -> StageOutcome:
    wanted = fields.get("columns", ())
    production = count_production("delay", "production", trained(), made, wanted)
    given = task({"data": fields}, candidate=served("2.0.0", {}), production=production.to_dict())
    outcome = await run(given, stand_in(folder, candidate=None))
    assert [one.name for one in outcome.measurements if not one.slice] == list(
        metrics_of(given.stage)
    )
    return outcome


async def test_the_same_values_pass_and_leave_a_table(tmp_path: Path) -> None:
    outcome = await check(tmp_path, asked(2000))
    assert outcome.passed
    assert outcome.message == (
        "none of 2 inputs differs (flights@7 against 2,000 predictions of delay in production)"
    )
    with (tmp_path / "data.csv").open() as stream:
        rows = {row["feature"]: row for row in csv.DictReader(stream)}
    assert rows.keys() == {"distance", "carrier"}  # the truth is no input
    assert float(rows["distance"]["psi"]) < 0.05


async def test_values_of_another_time_fail_and_say_which(tmp_path: Path) -> None:
    outcome = await check(tmp_path, asked(2000, mean=700))
    assert not outcome.passed
    assert "1 of 2 inputs differ: distance (PSI " in outcome.message
    assert [(f.severity, f.where) for f in outcome.findings] == [("error", "distance")]
    assert (await check(tmp_path, asked(2000, mean=700), maxColumns=1)).passed
    assert (await check(tmp_path, asked(2000, mean=700), columns=["carrier"])).passed


async def test_values_that_production_lacks_fail(tmp_path: Path) -> None:
    lacking = [
        Prediction(**{**_fields(one), "inputs": {**one.inputs, "carrier": None}})
        if index % 10 == 0
        else one
        for index, one in enumerate(asked(2000))
    ]
    outcome = await check(tmp_path, lacking)
    assert not outcome.passed
    assert "10.0% missing, 0.0% in training" in outcome.message
    assert not (await check(tmp_path, lacking, psi=5)).passed
    assert (await check(tmp_path, lacking, psi=5, maxMissing=0.2)).passed


def _fields(one: Prediction) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Prediction.__dataclass_fields__}


async def test_too_few_predictions_are_no_pass(tmp_path: Path) -> None:
    with pytest.raises(CheckImpossible, match="kept 499 predictions lately, 500 are needed"):
        await check(tmp_path, asked(499))


async def test_inputs_of_other_names_are_no_pass(tmp_path: Path) -> None:
    other = [Prediction(**{**_fields(one), "inputs": {"x": 1.0}}) for one in asked(1000)]
    with pytest.raises(CheckImpossible, match="no column of the training data"):
        await check(tmp_path, other)


async def test_where_nothing_serves_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    production = Production(data=trained()).to_dict()
    given = task({"data": {}}, candidate=served("2.0.0", {}), production=production)
    outcome = await run(given, stand_in(tmp_path, candidate=None))
    assert outcome.passed
    assert [finding.code for finding in outcome.findings] == ["NothingServes"]


def plan() -> StagePlan:
    stage = gate_worlds.stage("data", "data", config={"within": "1h", "maxRows": 1000})
    return plan_stage(stage, gate_worlds.Bench(stage).run, gate_worlds.around())


async def test_the_job_is_given_what_the_furthest_deployment_was_asked(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        kept = InMemoryPredictions(plane.clock)
        refused = await add_production(plan(), plane.store, kept, NOW)
        assert "without its training data" in refused.fault
        transaction = Transaction(ANA)
        transaction.put_evidence(profile_key("fraud@1.0.0"), trained().to_dict())
        await plane.store.commit(transaction)
        alone = await add_production(plan(), plane.store, kept, NOW)
        assert Production.model_validate(alone.task.production).deployment == ""
        await plane.declare()
        deployment = await plane.deployment()
        transaction = Transaction(ANA)
        transaction.update(
            deployment.with_spec(model="fraud").with_status(stable=revision("1.0.0"))
        )
        await plane.store.commit(transaction)
        await kept.add(asked(1500))
        given = await add_production(plan(), plane.store, kept, NOW)
        production = Production.model_validate(given.task.production)
        assert (production.environment, production.deployment) == ("production", "delay")
        assert 500 <= production.rows <= 1000
        assert production.cells.keys() == {"distance", "carrier"}
        assert plan().not_reused
