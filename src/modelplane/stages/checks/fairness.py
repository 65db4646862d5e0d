"""Fairness: how much a rate differs between groups.

Run by `stages.running`. The decision is on the figure itself: the greatest difference between any
two groups is at most the limit. The interval tells how much that figure moves by chance; the
greatest of several differences is biased upwards, so small groups make the check stricter, never
more lenient. Groups whose rate rests on too few rows are shown and do not count.

The rates are those of Hardt, Price and Srebro, "Equality of Opportunity in Supervised Learning"
(NeurIPS 2016): equal selection rates are demographic parity, equal true positive rates equality
of opportunity, equal true and false positive rates equalised odds (two stages).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np

from modelplane.resources.checks import FairnessCheck
from modelplane.resources.gate_run import Finding, Measurement, StageOutcome, StageTask
from modelplane.stages.data import choose_labels, predict_outputs
from modelplane.stages.data_files import name_of
from modelplane.stages.data_tables import (
    Array,
    IndexArray,
    data_of,
    groups_of,
    listed,
    load_table,
    plain_values,
    take_target,
    tell_data,
)
from modelplane.stages.evidence import write_predictions
from modelplane.stages.failures import CheckImpossible
from modelplane.stages.workspace import Workspace
from modelplane.stats.paired import greatest_difference_interval


@dataclass(frozen=True, slots=True)
class Group:
    """One group: how many rows its rate is of, and on how many it holds."""

    name: str
    rows: int
    hits: int


async def run(task: StageTask, workspace: Workspace) -> StageOutcome:
    """Predict for all rows and compare the groups."""
    check = task.stage.fairness
    assert check is not None
    data = data_of(task)
    frame = await asyncio.to_thread(load_table, data, max_rows=check.max_rows)
    members = groups_of(frame, check.group)
    features, truth = frame, None
    if check.metric != "selection_rate" or check.target:
        target, truth = take_target(frame, check.target)
        features = frame.drop(columns=target)
    async with workspace.serve(task.candidate, workspace.candidate_dir) as model:
        outputs = await predict_outputs(model, features, task.candidate, features=check.features)
    predicted = choose_labels(outputs, check.output)
    columns = {
        "row": frame.index.to_numpy(),
        "group": np.asarray(plain_values(frame[check.group])),
        "candidate": predicted,
    }
    write_predictions(
        workspace.output_dir, columns if truth is None else {**columns, "truth": truth}
    )
    outcome = judge(check, count_groups(check, members, predicted, truth))
    return outcome.with_(
        message=f"{outcome.message} ({name_of(data)}, {len(frame):,} rows)"[:2000],
        findings=(*tell_data(data), *outcome.findings),
        details={"dataset": name_of(data), "digest": data.digest, "group": check.group},
    )


def count_groups(
    check: FairnessCheck,
    members: list[tuple[str, IndexArray]],
    predicted: Array,
    truth: Array | None,
) -> list[Group]:
    """Count, for each group, the rows that its rate is of and those on which it holds. Pure.

    Raises
    ------
    CheckImpossible
        The favourable outcome is never predicted, or labels and predictions are not comparable.
    """
    if truth is not None and (predicted.dtype.kind == "O") != (truth.dtype.kind == "O"):
        raise CheckImpossible(
            f"the truth holds values such as {truth[0]!s:.40} and the model predicts such as "
            f"{predicted[0]!s:.40}: these are not the same labels"
        )
    counted = np.ones(len(predicted), dtype=bool)
    if check.metric == "accuracy":
        assert truth is not None
        holds = np.asarray(predicted == truth)
    else:
        holds = _is_positive(check, predicted)
        if not holds.any():  # groups that all get nothing would look equal
            seen = sorted({str(one) for one in predicted.tolist()})
            raise CheckImpossible(
                f"the model never predicts the favourable outcome {check.positive!r}; it predicts "
                f"{listed(seen)}: name one of them as `positive`"
            )
    if check.metric in {"true_positive_rate", "false_positive_rate"}:
        assert truth is not None
        is_favourable = _is_positive(check, truth)
        counted = is_favourable if check.metric == "true_positive_rate" else ~is_favourable
    return [
        Group(name, int(counted[rows].sum()), int((counted & holds)[rows].sum()))
        for name, rows in members
    ]


def _is_positive(check: FairnessCheck, values: Array) -> Array:
    """Whether each value is the favourable outcome; a number may be written as text."""
    if values.dtype.kind == "O":
        return np.array([value == _text(check.positive) for value in values.tolist()], dtype=bool)
    try:
        positive = float(check.positive)
    except ValueError:
        return np.zeros(len(values), dtype=bool)
    return np.asarray(values == positive)


def _text(value: str | float | bool) -> str:
    is_whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if is_whole else str(value)


def judge(check: FairnessCheck, groups: list[Group]) -> StageOutcome:
    """Hold the greatest difference against the limit. Pure.

    Raises
    ------
    CheckImpossible
        Fewer than two groups have enough rows.
    """
    large = [one for one in groups if one.rows >= check.min_rows]
    small = [one for one in groups if one.rows < check.min_rows]
    if len(large) < 2:
        sizes = ", ".join(f"{one.name} {one.rows:,}" for one in groups)
        raise CheckImpossible(
            f"a difference takes two groups of at least {check.min_rows:,} rows, and column "
            f"`{check.group}` has {len(large)} (rows that the {check.metric} is of: {sizes}): take "
            "more data, or lower `minRows`"
        )
    interval = greatest_difference_interval(
        [one.hits for one in large], [one.rows for one in large]
    )
    passed = interval.difference <= check.max_difference
    greatest = Measurement(
        name=f"fairness_{check.metric}_difference",
        value=interval.difference,
        rows=sum(one.rows for one in large),
        at_most=check.max_difference,
        lower=interval.lower,
        upper=interval.upper,
        passed=passed,
    )
    shown = [
        Measurement(
            name=check.metric,
            value=one.hits / one.rows,
            slice=f"{check.group}={one.name}",
            rows=one.rows,
        )
        for one in groups
        if one.rows
    ]
    high = max(large, key=lambda one: one.hits / one.rows)
    low = min(large, key=lambda one: one.hits / one.rows)
    message = (
        f"{check.metric} differs by {interval.difference:.4g} (0.95 interval {interval.lower:.4g} "
        f"to {interval.upper:.4g}), at most {check.max_difference:.4g} wanted: "
        f"{high.name} {high.hits / high.rows:.4g}, {low.name} {low.hits / low.rows:.4g}"
    )
    return StageOutcome(
        passed=passed,
        message=message[:2000],
        measurements=(greatest, *shown),
        findings=_tell_small(check, small),
    )


def _tell_small(check: FairnessCheck, small: list[Group]) -> tuple[Finding, ...]:
    if not small:
        return ()
    names = ", ".join(f"{one.name} ({one.rows:,})" for one in small)
    message = f"too few rows to count ({check.min_rows:,} wanted), shown only: {names}"
    return (Finding(severity="info", code="SmallGroup", message=message[:2000]),)
