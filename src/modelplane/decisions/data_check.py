"""Training data against what production was asked lately: what the stage `data` is given, and says.

Called by `controllers.gates` (which counts production's values into the bins of the training data,
so that no value leaves the control plane but in counts) and by the stage's job. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from pydantic import Field

from modelplane.decisions.drift import judge
from modelplane.decisions.drift_profile import count_cells, gather
from modelplane.decisions.drift_report import FeatureDrift
from modelplane.decisions.predictions import Prediction
from modelplane.resources.checks import DataCheck
from modelplane.resources.data_profile import ColumnProfile, DataProfile
from modelplane.resources.gate_run import Finding, Measurement, StageOutcome
from modelplane.resources.meta import Part
from modelplane.resources.monitoring import DriftWatch

ALPHA = 0.01
"""Greatest chance that data which is the same fails."""

_SLOTS = 10


class Production(Part):
    """What production was asked lately, counted into the bins of the training data."""

    environment: str = ""
    deployment: str = Field(default="", description="Empty: nothing serves the model yet.")
    rows: int = 0
    since: datetime | None = None
    until: datetime | None = None
    data: DataProfile
    cells: dict[str, list[list[int]]] = Field(
        default_factory=dict, description="By column: the cells of each of some slots of time."
    )


def count_production(
    deployment: str,
    environment: str,
    data: DataProfile,
    made: Sequence[Prediction],
    wanted: Sequence[str] = (),
) -> Production:
    """Return what was predicted lately, in the bins of the training data.

    Parameters
    ----------
    deployment, environment
        Who predicted.
    data
        The profile of the version's training data.
    made
        The predictions, oldest first.
    wanted
        Columns that are compared; empty: all that both have.
    """
    length = max(1, -(-len(made) // _SLOTS))
    parts = [gather(made[start : start + length]) for start in range(0, len(made), length)]
    inputs = {name for prediction in made for name in prediction.inputs}
    inputs |= {name for part in parts for name in part if name.partition(".")[0] in inputs}
    compared = [
        column
        for column in data.columns
        if column.name in inputs and (not wanted or column.name in wanted)
    ]
    return Production(
        environment=environment,
        deployment=deployment,
        rows=len(made),
        since=made[0].at if made else None,
        until=made[-1].at if made else None,
        data=data,
        cells={column.name: [_count(column, part) for part in parts] for column in compared},
    )


def _count(column: ColumnProfile, part: dict[str, list[Any]]) -> list[int]:
    rows = max((len(values) for values in part.values()), default=0)
    cells = count_cells(column, part.get(column.name) or [None] * rows)
    return [int(count) for count in cells]


def compare_data(check: DataCheck, production: Production, at: datetime) -> list[FeatureDrift]:
    """Return each column that both have, the most different first."""
    watch = DriftWatch(min_rows=check.min_rows, psi=check.psi, alpha=ALPHA)
    columns = [c for c in production.data.columns if c.name in production.cells]
    slots = {
        name: [np.array(cells, dtype=np.int64) for cells in counted]
        for name, counted in production.cells.items()
    }
    found = judge([(column, "data") for column in columns], slots, watch, {}, at=at, level=ALPHA)
    return sorted(found, key=lambda feature: -(feature.psi or 0.0))


def judge_data(
    check: DataCheck, production: Production, features: Sequence[FeatureDrift]
) -> StageOutcome:
    """Return the outcome of the stage.

    Parameters
    ----------
    check
        With the thresholds.
    production
        What was compared with.
    features
        What `compare_data` found.
    """
    name = production.data.name or "the training data"
    different = [feature for feature in features if _differs(check, feature)]
    worst = max((feature.psi or 0.0 for feature in features), default=0.0)
    where = f"{production.deployment} in {production.environment}"
    passed = len(different) <= check.max_columns
    if different:
        shown = ", ".join(f"{one.feature} ({_why(check, one)})" for one in different[:5])
        more = f" and {len(different) - 5} more" if len(different) > 5 else ""
        message = f"{len(different)} of {len(features)} inputs differ: {shown}{more}"
    else:
        message = f"none of {len(features)} inputs differs"
    message = f"{message} ({name} against {production.rows:,} predictions of {where})"
    measured = [
        Measurement(name="data_psi", value=worst, rows=production.rows, at_most=check.psi),
        Measurement(
            name="data_columns_different",
            value=len(different),
            at_most=check.max_columns,
            passed=passed,
        ),
    ]
    measured += [
        Measurement(
            name="data_psi",
            value=feature.psi,
            slice=f"input={feature.feature}",
            rows=feature.rows,
            at_most=check.psi,
            passed=not _differs(check, feature),
        )
        for feature in features
        if feature.psi is not None
    ]
    return StageOutcome(
        passed=passed,
        message=message[:2000],
        measurements=tuple(measured),
        findings=tuple(
            Finding(severity="error", code="DataDiffers", message=_why(check, f), where=f.feature)
            for f in different
        ),
    )


def _differs(check: DataCheck, feature: FeatureDrift) -> bool:
    return feature.exceeds_since is not None or _lacks(check, feature)


def _lacks(check: DataCheck, feature: FeatureDrift) -> bool:
    return feature.missing - feature.missing_before > check.max_missing


def _why(check: DataCheck, feature: FeatureDrift) -> str:
    reasons = []
    if feature.exceeds_since is not None and feature.psi is not None:
        reasons.append(f"PSI {feature.psi:.3g}")
    if _lacks(check, feature):
        reasons.append(f"{feature.missing:.1%} missing, {feature.missing_before:.1%} in training")
    return ", ".join(reasons)
