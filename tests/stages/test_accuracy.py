"""The check `accuracy`: what passes, what fails, what cannot be said, and with what evidence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from modelplane.decisions.gate_metrics import metrics_of
from modelplane.resources.checks import AccuracyCheck
from modelplane.resources.gate_run import Measurement, StageOutcome, StageTask
from modelplane.stages.checks.accuracy import Judged, judge, run
from modelplane.stages.failures import CheckImpossible, InfrastructureFailed
from modelplane.stages.metrics import compare, find_metric
from tests.stages.tabular import (
    cancer,
    columns_signature,
    diabetes,
    features_of,
    real_workspace,
    register,
    served,
    stand_in,
    task,
)

FRAME = cancer()
NAMES = features_of(FRAME)
SIGNATURE = columns_signature(FRAME, NAMES)
TRAINING = np.arange(len(FRAME)) % 2 == 0
TRUTH = FRAME["target"]


def fit(model: Any, target: Any = None) -> Any:
    return model.fit(FRAME[NAMES][TRAINING], (TRUTH if target is None else target)[TRAINING])


GOOD = fit(make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)))
FAIR = fit(DecisionTreeClassifier(max_depth=2, random_state=0))
BAD = fit(DummyClassifier(strategy="most_frequent"))


def make_task(folder: Path, *, champion: str | None = None, **check: Any) -> StageTask:
    data = register(folder / "tumours.parquet", FRAME[~TRAINING].reset_index(drop=True))
    further = {"champion": served(champion, SIGNATURE)} if champion else {}
    return task({"accuracy": check}, data, candidate=served("2.0.0", SIGNATURE), **further)


def named(outcome: StageOutcome, name: str, slice: str = "") -> Measurement:
    return next(one for one in outcome.measurements if (one.name, one.slice) == (name, slice))


async def test_a_good_model_passes_and_leaves_what_it_predicted(tmp_path: Path) -> None:
    made = make_task(tmp_path, threshold=0.9)
    outcome = await run(made, stand_in(tmp_path / "out", candidate=GOOD))
    expected = GOOD.score(FRAME[NAMES][~TRAINING], TRUTH[~TRAINING])
    measured = named(outcome, "accuracy")
    assert outcome.passed
    assert (measured.value, measured.rows, measured.at_least) == (expected, 284, 0.9)
    assert measured.passed is True
    assert "accuracy 0.9" in outcome.message
    assert "tumours.parquet@1, 284 rows" in outcome.message
    assert outcome.details["digest"] == made.datasets[0].digest
    for metric in metrics_of(made.stage):
        assert named(outcome, metric)
    kept = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    assert (kept["truth"] == kept["candidate"]).mean() == expected
    confusion = json.loads((tmp_path / "out" / "confusion.json").read_text())
    assert confusion["labels"] == ["0", "1"]
    assert np.trace(confusion["candidate"]) == round(expected * 284)


async def test_a_model_below_the_threshold_fails(tmp_path: Path) -> None:
    made = make_task(tmp_path, threshold=0.9)
    outcome = await run(made, stand_in(tmp_path / "out", candidate=BAD))
    assert not outcome.passed
    assert named(outcome, "accuracy").passed is False
    assert "wanted at least 0.9" in outcome.message


async def test_a_model_worse_than_the_champion_by_more_than_the_margin_fails(
    tmp_path: Path,
) -> None:
    made = make_task(tmp_path, champion="1.0.0", threshold=0.8, margin=0.02)
    outcome = await run(made, stand_in(tmp_path / "out", candidate=FAIR, champion=GOOD))
    measured = named(outcome, "accuracy")
    assert measured.value > 0.8
    assert measured.champion is not None
    assert measured.champion > measured.value
    assert measured.lower is not None
    assert measured.lower < -0.02
    assert not outcome.passed
    assert outcome.details["champion"] == "1.0.0"
    # The other way round it is at most as bad as itself.
    better = await run(made, stand_in(tmp_path / "out", candidate=GOOD, champion=FAIR))
    assert better.passed


async def test_the_same_revision_differs_by_exactly_nothing(tmp_path: Path) -> None:
    made = make_task(tmp_path, champion="2.0.0", margin=0.0)
    workspace: Any = stand_in(tmp_path / "out", candidate=FAIR)
    outcome = await run(made, workspace)
    measured = named(outcome, "accuracy")
    assert (measured.difference, measured.lower, measured.upper) == (0, 0, 0)
    assert outcome.passed
    assert workspace.names == ["candidate"]


async def test_without_a_champion_the_margin_says_nothing(tmp_path: Path) -> None:
    made = make_task(tmp_path, margin=0.01)
    outcome = await run(made, stand_in(tmp_path / "out", candidate=FAIR))
    assert outcome.passed
    assert {one.code for one in outcome.findings} == {"NoChampion", "ShownOnly"}


async def test_a_champion_that_cannot_be_asked_is_shown_or_makes_the_check_impossible(
    tmp_path: Path,
) -> None:
    broken = CheckImpossible("the server of champion does not start")
    workspace = stand_in(tmp_path / "out", candidate=GOOD, champion=broken)
    shown = await run(make_task(tmp_path, champion="1.0.0", threshold=0.9), workspace)
    assert shown.passed
    assert shown.findings[0].code == "ChampionNotCompared"
    with pytest.raises(CheckImpossible, match="does not start"):
        await run(make_task(tmp_path, champion="1.0.0", margin=0.1), workspace)
    away = stand_in(tmp_path / "out", candidate=GOOD, champion=InfrastructureFailed("no disk"))
    with pytest.raises(InfrastructureFailed):
        await run(make_task(tmp_path, champion="1.0.0", threshold=0.9), away)


async def test_a_champion_of_other_labels_is_not_compared_with(tmp_path: Path) -> None:
    other = fit(DecisionTreeClassifier(max_depth=2), np.where(TRUTH == 1, "benign", "malignant"))
    workspace = stand_in(tmp_path / "out", candidate=GOOD, champion=other)
    outcome = await run(make_task(tmp_path, champion="1.0.0", threshold=0.9), workspace)
    assert outcome.findings[0].code == "ChampionNotCompared"
    assert named(outcome, "accuracy").champion is None


async def test_slices_are_judged_when_they_are_large_enough(tmp_path: Path) -> None:
    check: dict[str, Any] = {"slices": ["size", "clinic"], "sliceThreshold": 0.97}
    made = make_task(tmp_path, threshold=0.8, sliceRows=50, **check)
    outcome = await run(made, stand_in(tmp_path / "out", candidate=FAIR))
    assert not outcome.passed
    slices = [one for one in outcome.measurements if one.slice]
    assert {one.slice.partition("=")[0] for one in slices} == {"size", "clinic"}
    worst = min(slices, key=lambda one: one.value)
    assert f"worst of {len(slices)} slices {worst.slice}" in outcome.message
    assert worst.passed is False
    held = FRAME[~TRAINING]
    expected = FAIR.score(held[NAMES][held["size"] == "s"], held["target"][held["size"] == "s"])
    assert named(outcome, "accuracy", "size=s").value == pytest.approx(expected)
    larger = make_task(tmp_path, threshold=0.8, sliceRows=5000, **check)
    shown = await run(larger, stand_in(tmp_path / "out", candidate=FAIR))
    assert shown.passed
    assert all(one.passed is None for one in shown.measurements if one.slice)


async def test_a_slice_without_the_metric_decides_nothing_and_is_told(tmp_path: Path) -> None:
    frame = FRAME[~TRAINING].assign(known=lambda table: table["target"].map({0: "a", 1: "b"}))
    data = register(tmp_path / "data.parquet", frame)
    made = task(
        {"accuracy": {"metric": "auc", "slices": ["known"], "sliceThreshold": 0.9}},
        data,
        candidate=served("2.0.0", SIGNATURE),
    )
    outcome = await run(made, stand_in(tmp_path / "out", candidate=GOOD))
    assert outcome.passed
    assert [one.code for one in outcome.findings] == ["SliceUndefined"]


@pytest.mark.parametrize(
    ("check", "words"),
    [
        ({"target": "churned"}, "no column `churned`"),
        ({"metric": "accurcy"}, "did you mean `accuracy`"),
        ({"slices": ["mean_radius"]}, "more than 50"),
        ({"slices": ["colour"]}, "no column `colour`"),
        ({"metric": "r2", "output": "scores"}, "no output `scores`"),
    ],
)
async def test_what_cannot_be_checked_is_said_to_be_so(
    tmp_path: Path, check: dict[str, Any], words: str
) -> None:
    with pytest.raises(CheckImpossible, match=words):
        await run(make_task(tmp_path, **check), stand_in(tmp_path / "out", candidate=GOOD))


async def test_without_data_there_is_nothing_to_check(tmp_path: Path) -> None:
    made = task({"accuracy": {}}, candidate=served())
    with pytest.raises(CheckImpossible, match="name one as `dataset`"):
        await run(made, stand_in(tmp_path, candidate=GOOD))


async def test_errors_of_numbers_are_better_when_small(tmp_path: Path) -> None:
    frame = diabetes()
    names = [name for name in frame.columns if name != "target"]
    model = LinearRegression().fit(frame[names], frame["target"])
    poor = LinearRegression().fit(frame[names[:1]].to_numpy().repeat(10, axis=1), frame["target"])
    signature = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 10]}]}
    made = task(
        {"accuracy": {"metric": "rmse", "threshold": 60, "margin": 0.5}},
        register(tmp_path / "patients.csv", frame),
        candidate=served("2.0.0", signature),
        champion=served("1.0.0", signature),
    )
    outcome = await run(made, stand_in(tmp_path / "out", candidate=model, champion=poor))
    measured = named(outcome, "rmse")
    assert outcome.passed
    assert measured.at_most == 60
    assert measured.upper is not None
    assert measured.upper < 0
    assert not (tmp_path / "out" / "confusion.json").exists()
    worse = await run(made, stand_in(tmp_path / "out", candidate=poor, champion=model))
    assert not worse.passed


async def test_data_that_nobody_can_verify_is_told(tmp_path: Path) -> None:
    data = register(tmp_path / "data.parquet", FRAME, digest="etag:1234")
    made = task({"accuracy": {"threshold": 0.5}}, data, candidate=served("2.0.0", SIGNATURE))
    outcome = await run(made, stand_in(tmp_path / "out", candidate=GOOD))
    assert [one.code for one in outcome.findings] == ["DataNotVerified"]


@given(
    threshold=st.none() | st.floats(0, 1),
    margin=st.none() | st.floats(0, 0.5),
    seed=st.integers(0, 1000),
    name=st.sampled_from(["accuracy", "zero_one_loss"]),
)
def test_the_outcome_is_what_threshold_and_margin_say(
    threshold: float | None, margin: float | None, seed: int, name: str
) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, size=60)
    candidate, champion = (np.where(rng.random(60) < 0.8, truth, 3 - truth) for _ in "ab")
    check = AccuracyCheck(metric=name, threshold=threshold, margin=margin)
    made = compare(find_metric(name), truth, candidate, champion)
    outcome = judge(check, Judged(made, {}))
    measured = named(outcome, name)
    assert measured.lower is not None
    assert measured.upper is not None
    if name == "accuracy":
        reached = threshold is None or measured.value >= threshold
        close = margin is None or measured.lower >= -margin
    else:
        reached = threshold is None or measured.value <= threshold
        close = margin is None or measured.upper <= margin
    assert outcome.passed == (reached and close)
    assert (measured.passed is None) == (threshold is None and margin is None)


def test_a_threshold_for_slices_needs_slices() -> None:
    with pytest.raises(ValueError, match="name their columns"):
        AccuracyCheck(slice_threshold=0.5)


@pytest.mark.slow
async def test_real_model_servers_give_the_figures_of_the_models(tmp_path: Path) -> None:
    with real_workspace(candidate=GOOD, champion=FAIR) as (workspace, artifacts):
        made = make_task(tmp_path, threshold=0.9, margin=0.05, metric="f1", slices=["clinic"])
        made = made.with_(
            candidate=served("2.0.0", SIGNATURE, artifact=artifacts["candidate"]),
            champion=served("1.0.0", SIGNATURE, artifact=artifacts["champion"]),
        )
        outcome = await run(made, workspace)
        assert (workspace.output_dir / "predictions.parquet").exists()
    measured = named(outcome, "f1")
    features, truth = FRAME[NAMES][~TRAINING], TRUTH[~TRAINING]
    expected = find_metric("f1").function
    assert outcome.passed
    assert measured.value == pytest.approx(expected(truth, GOOD.predict(features)))
    assert measured.champion == pytest.approx(expected(truth, FAIR.predict(features)))
