"""Accuracy: a metric on a dataset, against a threshold and against the champion on the same rows.

Run by `stages.running`. The decision, in words: the metric reaches the threshold, and (where a
margin is given) the bound of the paired interval says that the candidate is at most the margin
worse than the champion. Slices are held against their threshold by their figures alone, without
correction for their number: many slices are many chances to fail.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from modelplane.resources.checks import AccuracyCheck
from modelplane.resources.gate_run import (
    Finding,
    Measurement,
    ServedModel,
    StageOutcome,
    StageTask,
)
from modelplane.stages.data import predict_outputs
from modelplane.stages.data_files import name_of
from modelplane.stages.data_tables import (
    Array,
    Frame,
    IndexArray,
    data_of,
    groups_of,
    load_table,
    take_target,
    tell_data,
)
from modelplane.stages.evidence import write_confusion, write_predictions
from modelplane.stages.failures import CheckImpossible
from modelplane.stages.metrics import Comparison, Metric, compare, find_metric
from modelplane.stages.workspace import Workspace
from modelplane.stats.paired import Interval


@dataclass(frozen=True, slots=True)
class Judged:
    """What is judged.

    Attributes
    ----------
    comparison
        The metric with both models' predictions.
    slices
        By ``column=value``, positions of the rows.
    is_same
        Whether candidate and champion are one revision: then they do not differ.
    """

    comparison: Comparison
    slices: dict[str, IndexArray]
    is_same: bool = False


async def run(task: StageTask, workspace: Workspace) -> StageOutcome:
    """Measure the candidate, and the champion where there is one, and judge."""
    check = task.stage.accuracy
    assert check is not None
    metric = find_metric(check.metric, check.arguments)
    data = data_of(task)
    frame = await asyncio.to_thread(load_table, data, max_rows=check.max_rows)
    target, truth = take_target(frame, check.target)
    groups = {column: groups_of(frame, column) for column in check.slices}
    slices = {f"{column}={name}": rows for column in groups for name, rows in groups[column]}
    features = frame.drop(columns=target)

    candidate = await _ask(task.candidate, features, check, metric, workspace)
    is_same = _is_same(task)
    champion, findings = None, list(tell_data(data))
    if is_same:
        champion = candidate
    else:
        champion, told = await _ask_champion(task, features, metric, workspace)
        findings += told
    comparison, told = _compare(check, metric, truth, candidate, champion)
    findings += told
    _write(workspace, frame, comparison, check)
    outcome = await asyncio.to_thread(judge, check, Judged(comparison, slices, is_same))
    champion_version = task.champion.revision.version if task.champion else None
    return outcome.with_(
        message=f"{outcome.message} ({name_of(data)}, {len(truth):,} rows)"[:2000],
        findings=(*findings, *outcome.findings),
        details={
            "dataset": name_of(data),
            "digest": data.digest,
            "target": target,
            "function": metric.function.__name__,
            "greaterIsBetter": metric.greater_is_better,
            "confidence": check.confidence,
            "champion": champion_version if comparison.champion is not None else None,
        },
    )


async def _ask(
    served: ServedModel,
    features: Frame,
    check: AccuracyCheck,
    metric: Metric,
    workspace: Workspace,
) -> Array:
    async with workspace.serve(served, workspace.candidate_dir) as model:
        outputs = await predict_outputs(model, features, served, features=check.features)
    return metric.choose(outputs, check.output)


def _is_same(task: StageTask) -> bool:
    champion = task.champion
    return champion is not None and champion.revision == task.candidate.revision


async def _ask_champion(
    task: StageTask, features: Frame, metric: Metric, workspace: Workspace
) -> tuple[Array | None, list[Finding]]:
    """Return the champion's predictions; a champion that cannot be asked is told, or fatal."""
    check = task.stage.accuracy
    assert check is not None
    champion, folder = task.champion, workspace.champion_dir
    if champion is None or folder is None:
        return None, [_tell_no_champion()] if check.margin is not None else []
    try:
        async with workspace.serve(champion, folder, name="champion") as model:
            outputs = await predict_outputs(model, features, champion, features=check.features)
        return metric.choose(outputs, check.output), []
    except CheckImpossible as error:
        return None, [_tell_incomparable(check, error)]


def _tell_no_champion() -> Finding:
    return Finding(
        severity="info",
        code="NoChampion",
        message="no champion serves yet: the margin decides nothing",
    )


def _tell_incomparable(check: AccuracyCheck, error: CheckImpossible) -> Finding:
    words = f"the champion cannot be compared with: {error}"
    if check.margin is not None:  # without the comparison nobody knows what the margin would say
        raise CheckImpossible(words) from error
    return Finding(severity="warning", code="ChampionNotCompared", message=words)


def _compare(
    check: AccuracyCheck, metric: Metric, truth: Array, candidate: Array, champion: Array | None
) -> tuple[Comparison, list[Finding]]:
    alone = compare(metric, truth, candidate)
    if champion is None:
        return alone, []
    try:
        return compare(metric, truth, candidate, champion), []
    except CheckImpossible as error:
        return alone, [_tell_incomparable(check, error)]


def judge(check: AccuracyCheck, judged: Judged) -> StageOutcome:
    """Hold the figures against thresholds and margin. Pure.

    Raises
    ------
    CheckImpossible
        There is a margin, and no interval to hold it against.
    """
    comparison = judged.comparison
    metric, rows = comparison.metric, len(comparison.truth)
    interval = _interval(check, judged, None)
    if check.margin is not None and comparison.champion is not None and interval is None:
        raise CheckImpossible(
            f"{metric.name} is not defined on most samples of the rows, so the margin cannot be "
            "judged: take more data, or another metric"
        )
    value = comparison.value()
    verdicts = [
        verdict
        for verdict in (
            _reaches(metric, value, check.threshold),
            _within_margin(metric, interval, check.margin),
        )
        if verdict is not None
    ]
    main = _measurement(metric, value, rows, check.threshold).with_(
        passed=all(verdicts) if verdicts else None, **_differing(comparison, None, interval)
    )
    slices, findings = _judge_slices(check, judged)
    failed = [one for one in slices if one.passed is False]
    passed = all(verdicts) and not failed
    if not verdicts and check.slice_threshold is None:
        findings.append(
            Finding(
                severity="info",
                code="ShownOnly",
                message="neither threshold nor margin: measured for policies, and passed",
            )
        )
    return StageOutcome(
        passed=passed,
        message=_tell(check, metric, main, slices),
        measurements=(main, Measurement(name="rows", value=rows), *slices),
        findings=tuple(findings),
    )


def _reaches(metric: Metric, value: float, threshold: float | None) -> bool | None:
    if threshold is None:
        return None
    return value >= threshold if metric.greater_is_better else value <= threshold


def _within_margin(metric: Metric, interval: Interval | None, margin: float | None) -> bool | None:
    if margin is None or interval is None:
        return None
    if metric.greater_is_better:
        return interval.lower >= -margin
    return interval.upper <= margin


def _interval(check: AccuracyCheck, judged: Judged, rows: IndexArray | None) -> Interval | None:
    if judged.is_same:
        return Interval(0.0, 0.0, 0.0)
    if rows is not None and not judged.comparison.is_quick:
        return None  # shown only, and not worth minutes
    return judged.comparison.interval(rows, check.confidence)


def _measurement(metric: Metric, value: float, rows: int, threshold: float | None) -> Measurement:
    measured = Measurement(name=metric.name, value=value, rows=rows)
    bound = "at_least" if metric.greater_is_better else "at_most"
    return measured.with_(**{bound: threshold})


def _differing(
    comparison: Comparison, rows: IndexArray | None, interval: Interval | None
) -> dict[str, float | None]:
    champion = comparison.champion_value(rows)
    if champion is None or not math.isfinite(champion):
        return {}
    if interval is None:
        return {"champion": champion, "difference": comparison.value(rows) - champion}
    return {
        "champion": champion,
        "difference": interval.difference,
        "lower": interval.lower,
        "upper": interval.upper,
    }


def _judge_slices(check: AccuracyCheck, judged: Judged) -> tuple[list[Measurement], list[Finding]]:
    metric = judged.comparison.metric
    found: list[Measurement] = []
    undefined: list[str] = []
    for name, rows in judged.slices.items():
        value = judged.comparison.value(rows)
        if not math.isfinite(value):
            undefined.append(name)
            continue
        threshold = check.slice_threshold if len(rows) >= check.slice_rows else None
        differing = _differing(judged.comparison, rows, _interval(check, judged, rows))
        found.append(
            _measurement(metric, value, len(rows), threshold).with_(
                slice=name, passed=_reaches(metric, value, threshold), **differing
            )
        )
    if not undefined:
        return found, []
    message = f"{metric.name} is not defined there, so it decides nothing: {', '.join(undefined)}"
    told = Finding(severity="warning", code="SliceUndefined", message=message[:2000])
    return found, [told]


def _tell(
    check: AccuracyCheck, metric: Metric, main: Measurement, slices: list[Measurement]
) -> str:
    words = [f"{metric.name} {_number(main.value)}"]
    least = "at least" if metric.greater_is_better else "at most"
    if check.threshold is not None:
        words[0] += f", wanted {least} {_number(check.threshold)}"
    if main.champion is not None:
        words.append(f"champion {_number(main.champion)}, difference {main.difference:+.4g}")
        if main.lower is not None:
            words[-1] += f" ({check.confidence:.4g} interval {main.lower:.4g} to {main.upper:.4g})"
        if check.margin is not None:
            words[-1] += f", may be {_number(check.margin)} worse"
    counted = [one for one in slices if (one.rows or 0) >= check.slice_rows]
    if counted:
        sign = 1 if metric.greater_is_better else -1
        worst = min(counted, key=lambda one: sign * one.value)
        words.append(
            f"worst of {len(counted)} slices {worst.slice} {_number(worst.value)} "
            f"({worst.rows:,} rows)"
        )
        if check.slice_threshold is not None:
            failed = sum(one.passed is False for one in counted)
            words[-1] += f", wanted {least} {_number(check.slice_threshold)}: {failed} failed"
    return "; ".join(words)


def _number(value: float) -> str:
    return f"{value:.4g}"


def _write(
    workspace: Workspace, frame: Frame, comparison: Comparison, check: AccuracyCheck
) -> None:
    """Leave the predictions, and for labels how they were confused."""
    predicted = {"candidate": comparison.candidate}
    if comparison.champion is not None:
        predicted["champion"] = comparison.champion
    columns = {"row": frame.index.to_numpy(), "truth": comparison.truth, **predicted}
    for column in check.slices:
        columns[f"slice_{column}"] = frame[column].astype(str).to_numpy(dtype=object)
    write_predictions(workspace.output_dir, columns)
    if not comparison.metric.takes_probabilities:
        write_confusion(workspace.output_dir, comparison.truth, predicted)
