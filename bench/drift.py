"""Drift: 1 M rows of 20 columns counted into the bins of a reference, and their PSI.

Counting is what each prediction costs; merging a day of slots and judging is what each look costs.
Beside them the Kolmogorov-Smirnov test of scipy on the same rows, which needs all of them at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
from scipy import stats

from modelplane.decisions.drift import judge
from modelplane.decisions.drift_profile import count_cells, make_profile
from modelplane.resources.data_profile import profile_bytes
from modelplane.resources.monitoring import DriftWatch

ROWS, COLUMNS, SLOTS = 1_000_000, 20, 60


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.process_time()
    found = work()
    return found, time.process_time() - began


def run() -> dict[str, Any]:
    """Return CPU seconds of each part."""
    random = np.random.default_rng(1)
    names = [f"x{index}" for index in range(COLUMNS)]
    training = {name: random.normal(size=ROWS) for name in names}
    recent = {name: random.normal(0.02, 1, size=ROWS) for name in names}
    (profile, _), profile_s = _timed(lambda: make_profile(training, ROWS))
    cells, count_s = _timed(
        lambda: {
            column.name: [
                count_cells(column, part)  # type: ignore[arg-type]
                for part in np.array_split(recent[column.name], SLOTS)
            ]
            for column in profile.columns
        }
    )
    at, watch = datetime(2026, 1, 1, tzinfo=UTC), DriftWatch()
    columns = [(column, "data") for column in profile.columns]
    features, judge_s = _timed(
        lambda: judge(columns, cells, watch, {}, at=at)  # type: ignore[arg-type]
    )
    _, ks_s = _timed(lambda: [stats.ks_2samp(training[n], recent[n]) for n in names])
    return {
        "rows": ROWS,
        "columns": COLUMNS,
        "profile of the training data, CPU s": round(profile_s, 2),
        "profile, bytes": profile_bytes(profile),
        "PSI of 1 M rows x 20 columns, CPU s": round(count_s + judge_s, 3),
        "of that counting, CPU s": round(count_s, 3),
        "of that merging 60 slots and judging, CPU ms": round(1000 * judge_s, 2),
        "Kolmogorov-Smirnov of scipy on the same rows, CPU s": round(ks_s, 1),
        "greatest PSI found (none drifted)": round(max(f.psi or 0.0 for f in features), 5),
    }
