"""Data: whether a version was trained on such values as production is asked about.

Run by `stages.running`. What it judges is in `decisions.data_check`; production's values come
counted, with the task. The evidence is a table of all inputs, ``data.csv``.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from modelplane.decisions.data_check import Production, compare_data, judge_data
from modelplane.decisions.drift_report import FeatureDrift
from modelplane.resources.gate_run import Finding, StageOutcome, StageTask
from modelplane.stages.failures import CheckImpossible
from modelplane.stages.workspace import Workspace

_FIELDS = (
    "feature", "kind", "rows", "psi", "p", "distance", "moved", "variation", "missing",
    "missing_before", "other", "other_before",
)  # fmt: skip


async def run(task: StageTask, workspace: Workspace) -> StageOutcome:
    """Compare the training data with what production was asked."""
    check = task.stage.data
    assert check is not None
    production = Production.model_validate(task.production)
    if not production.deployment:
        message = "nothing serves the model yet, so there is nothing to compare with"
        finding = Finding(severity="warning", code="NothingServes", message=message)
        return StageOutcome(passed=True, message=message, findings=(finding,))
    if production.rows < check.min_rows:
        raise CheckImpossible(
            f"{production.deployment} in {production.environment} kept {production.rows:,} "
            f"predictions lately, {check.min_rows:,} are needed: keep them (spec.predictions of "
            "the deployment), or lower `minRows`"
        )
    features = compare_data(check, production, production.until or datetime.now(UTC))
    if not features:
        raise CheckImpossible(
            "no column of the training data is called as an input that production is asked with: "
            "name the model's inputs as the columns are called"
        )
    _write_table(workspace.output_dir, features)
    return judge_data(check, production, features)


def _write_table(output_dir: Path, features: Sequence[FeatureDrift]) -> None:
    output_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (output_dir / "data.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(_FIELDS)
        table.writerows([getattr(feature, name) for name in _FIELDS] for feature in features)
