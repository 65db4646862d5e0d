"""The check `fairness`: rates by group, held against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from modelplane.decisions.gate_metrics import metrics_of
from modelplane.resources.checks import FairnessCheck
from modelplane.resources.gate_run import StageOutcome
from modelplane.stages.checks.fairness import Group, count_groups, judge, run
from modelplane.stages.failures import CheckImpossible
from tests.stages.tabular import (
    cancer,
    columns_signature,
    real_workspace,
    register,
    served,
    stand_in,
    task,
)

FRAME = cancer()
NAMES = ["mean_radius", "mean_texture", "mean_smoothness"]
MODEL = LogisticRegression(max_iter=2000).fit(FRAME[NAMES], FRAME["target"])
VERSION = served("2.0.0", columns_signature(FRAME, NAMES))


async def check(folder: Path, **fields: Any) -> StageOutcome:
    data = register(folder / "tumours.parquet", FRAME)
    made = task({"fairness": {"group": "clinic", **fields}}, data, candidate=VERSION)
    outcome = await run(made, stand_in(folder / "out", candidate=MODEL))
    assert [one.name for one in outcome.measurements if not one.slice] == list(
        metrics_of(made.stage)
    )
    return outcome


@pytest.mark.parametrize(
    "metric", ["selection_rate", "true_positive_rate", "false_positive_rate", "accuracy"]
)
async def test_rates_are_those_of_the_groups(tmp_path: Path, metric: str) -> None:
    outcome = await check(tmp_path, metric=metric, minRows=20)
    frame = FRAME.assign(predicted=MODEL.predict(FRAME[NAMES]))
    rates = {}
    for name, rows in frame.groupby("clinic"):
        of = {
            "selection_rate": rows["predicted"] == 1,
            "true_positive_rate": rows["predicted"][rows["target"] == 1] == 1,
            "false_positive_rate": rows["predicted"][rows["target"] == 0] == 1,
            "accuracy": rows["predicted"] == rows["target"],
        }[metric]
        rates[f"clinic={name}"] = (of.mean(), len(of))
    shown = {one.slice: (one.value, one.rows) for one in outcome.measurements if one.slice}
    assert shown.keys() == rates.keys()
    for name, (rate, rows) in rates.items():
        assert shown[name][0] == pytest.approx(rate)
        assert shown[name][1] == rows
    greatest = outcome.measurements[0]
    values = [rate for rate, _ in rates.values()]
    assert greatest.value == pytest.approx(max(values) - min(values))
    assert greatest.lower is not None
    assert greatest.upper is not None
    assert greatest.lower <= greatest.value <= greatest.upper + 1e-9
    assert outcome.passed == (greatest.value <= 0.1)


async def test_groups_that_differ_fail_the_stage_and_are_named(tmp_path: Path) -> None:
    outcome = await check(tmp_path, group="size")
    assert not outcome.passed
    assert "at most 0.1 wanted" in outcome.message
    assert "l 0" in outcome.message
    assert (tmp_path / "out" / "predictions.parquet").exists()


async def test_small_groups_are_shown_and_do_not_count(tmp_path: Path) -> None:
    frame = FRAME.assign(
        clinic=["rare" if row < 5 else "a" if row % 2 else "b" for row in FRAME.index]
    )
    data = register(tmp_path / "data.parquet", frame)
    made = task({"fairness": {"group": "clinic"}}, data, candidate=VERSION)
    outcome = await run(made, stand_in(tmp_path / "out", candidate=MODEL))
    assert outcome.passed
    assert "clinic=rare" in {one.slice for one in outcome.measurements}
    assert [one.code for one in outcome.findings] == ["SmallGroup"]
    assert "rare (5)" in outcome.findings[0].message


async def test_a_selection_rate_needs_no_truth(tmp_path: Path) -> None:
    data = register(tmp_path / "data.parquet", FRAME.drop(columns="target"))
    made = task({"fairness": {"group": "clinic"}}, data, candidate=VERSION)
    assert (await run(made, stand_in(tmp_path / "out", candidate=MODEL))).passed
    wants = task({"fairness": {"group": "clinic", "metric": "accuracy"}}, data, candidate=VERSION)
    with pytest.raises(CheckImpossible, match="no column `target` or `label`"):
        await run(wants, stand_in(tmp_path / "out", candidate=MODEL))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"group": "colour"}, "no column `colour`"),
        ({"group": "mean_radius"}, "more than 50"),
        ({"minRows": 300}, "takes two groups of at least 300 rows"),
        ({"positive": "benign"}, "never predicts the favourable outcome 'benign'.*`0`, `1`"),
    ],
)
async def test_what_cannot_be_compared_is_said_to_be_so(
    tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(CheckImpossible, match=words):
        await check(tmp_path, **fields)


@pytest.mark.parametrize(
    ("positive", "values"),
    [
        (1, np.array([1, 0, 1])),
        ("1", np.array([1.0, 0.0, 1.0])),
        (True, np.array([True, False, True])),
        (1, np.array(["1", "0", "1"], dtype=object)),
        ("yes", np.array(["yes", "no", "yes"], dtype=object)),
    ],
)
def test_the_favourable_outcome_may_be_written_in_any_type(
    positive: Any, values: np.ndarray
) -> None:
    made = FairnessCheck(group="g", positive=positive)
    groups = count_groups(made, [("a", np.array([0, 1])), ("b", np.array([2]))], values, None)
    assert groups == [Group("a", 2, 1), Group("b", 1, 1)]


def test_labels_of_another_type_than_the_predictions_are_no_agreement() -> None:
    made = FairnessCheck(group="g", metric="true_positive_rate", positive="yes")
    truth = np.array(["yes", "no"], dtype=object)
    with pytest.raises(CheckImpossible, match="not the same labels"):
        count_groups(made, [("a", np.array([0, 1]))], np.array([1, 0]), truth)


@given(
    st.lists(
        st.integers(1, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))),
        min_size=2,
        max_size=8,
    ),
    st.floats(0, 1),
)
def test_the_decision_is_on_the_greatest_difference_of_groups_that_count(
    sizes: list[tuple[int, int]], limit: float
) -> None:
    made = FairnessCheck(group="g", max_difference=limit, min_rows=50)
    groups = [Group(str(place), rows, hits) for place, (rows, hits) in enumerate(sizes)]
    rates = [one.hits / one.rows for one in groups if one.rows >= 50]
    if len(rates) < 2:
        with pytest.raises(CheckImpossible):
            judge(made, groups)
        return
    outcome = judge(made, groups)
    assert outcome.measurements[0].value == max(rates) - min(rates)
    assert outcome.passed == (max(rates) - min(rates) <= limit)
    assert len(outcome.measurements) == 1 + len(groups)


@pytest.mark.slow
async def test_a_real_model_server_gives_the_rates_of_the_model(tmp_path: Path) -> None:
    data = register(tmp_path / "tumours.csv", FRAME)
    with real_workspace(candidate=MODEL) as (workspace, artifacts):
        version = served("2.0.0", VERSION.signature, artifact=artifacts["candidate"])
        made = task({"fairness": {"group": "clinic"}}, data, candidate=version)
        outcome = await run(made, workspace)
    predicted = pd.Series(MODEL.predict(FRAME[NAMES]))
    shown = {one.slice: one.value for one in outcome.measurements if one.slice}
    assert shown["clinic=clinic-0"] == predicted[FRAME["clinic"] == "clinic-0"].mean()
