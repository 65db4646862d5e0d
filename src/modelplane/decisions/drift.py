"""Whether what a version is asked, and what it answers, is still what it was: drift. Pure.

Called by `controllers.drift`, a few times in each window. A feature is drifted when, in two
windows that share no prediction, its population stability index lies above the threshold and the
difference is no chance: Holm's test over all features, at a level that spends `alpha` evenly over
the looks of a day. Rows that come in bursts (many of one user) scatter more than rows drawn one
by one; the test is divided by that scatter, measured between slots of the window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from modelplane.decisions.drift_profile import Cells
from modelplane.decisions.drift_report import DriftState, FeatureDrift
from modelplane.resources.data_profile import ColumnProfile
from modelplane.resources.monitoring import DriftWatch
from modelplane.stats.drift import (
    dispersion,
    holm,
    jensen_shannon,
    same_p,
    stability_index,
    total_variation,
    wasserstein,
)

LOOKS_PER_WINDOW = 4
SLOTS_PER_WINDOW = 10
"""At least so many slots of time has a window; the longest slot is a minute."""

DAY_S = 86_400.0
KEPT_VERSIONS = 10
"""Versions of a deployment whose reference from traffic is kept."""

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def slot_s(window_s: float) -> float:
    """Return how long the slots are in which predictions are counted, whole seconds.

    Examples
    --------
    >>> slot_s(10), slot_s(300), slot_s(3600)
    (1.0, 30.0, 60.0)
    """
    return float(min(60, max(1, window_s // SLOTS_PER_WINDOW)))


def step_s(window_s: float) -> float:
    """Return how long it is from one look to the next: whole slots, about a quarter window."""
    slot = slot_s(window_s)
    return max(1.0, window_s / LOOKS_PER_WINDOW // slot) * slot


def look_level(watch: DriftWatch) -> float:
    """Return the share of alpha that one look has: all looks of a day have the same."""
    return watch.alpha * min(1.0, step_s(watch.window_s) / DAY_S)


def floor_to(at: datetime, step: float) -> datetime:
    """Return the last multiple of `step` seconds at or before `at`."""
    return datetime.fromtimestamp(at.timestamp() // step * step, UTC)


def judge(
    columns: Sequence[tuple[ColumnProfile, Literal["data", "traffic"]]],
    slots: Mapping[str, Sequence[Cells]],
    watch: DriftWatch,
    before: Mapping[str, FeatureDrift],
    *,
    at: datetime,
    level: float | None = None,
) -> tuple[FeatureDrift, ...]:
    """Compare one window with the reference.

    Parameters
    ----------
    columns
        The reference of each feature that is watched, and where it comes from.
    slots
        By feature: the cells of each slot of the window.
    watch
        What counts as drift.
    before
        By feature: what the look before found.
    at
        End of the window: the look's time.
    level
        Greatest chance that any feature which is the same is found different; None: what one look
        of many has.
    """
    known = [column for column, _ in columns]
    counts = [np.array(slots.get(c.name, ()), dtype=np.int64) for c in known]
    rows = [int(cells.sum()) for cells in counts]
    enough = [index for index, count in enumerate(rows) if count >= watch.min_rows]
    found: dict[int, dict[str, Any]] = {}
    if enough:
        figures = _compare([known[i] for i in enough], [counts[i] for i in enough])
        differs = _differing(figures, watch, look_level(watch) if level is None else level)
        for place, index in enumerate(enough):
            values = {
                name: float(figure[place])
                for name, figure in figures.items()
                if np.isfinite(figure[place])
            }
            found[index] = {
                **values,
                **_since(before.get(known[index].name), differs[place], watch, at),
            }
    return tuple(
        FeatureDrift(
            feature=column.name,
            kind=column.kind,
            origin=origin,
            rows=rows[index],
            **_shares(column, counts[index]),
            **found.get(index, _unseen(before.get(column.name))),
        )
        for index, (column, origin) in enumerate(columns)
    )


def differing(
    columns: Sequence[ColumnProfile], counts: Sequence[NDArray[np.int64]], watch: DriftWatch
) -> BoolArray:
    """Return which features one window alone finds different.

    Parameters
    ----------
    columns
        The reference of each feature.
    counts
        Of each feature, shape (slots, cells).
    watch
        What counts as drift.
    """
    return _differing(_compare(columns, counts), watch, look_level(watch))


def _differing(figures: Mapping[str, FloatArray], watch: DriftWatch, level: float) -> BoolArray:
    return np.asarray(holm(figures["p"], level) & (figures["psi"] > watch.psi))


def _since(
    before: FeatureDrift | None, differs: bool, watch: DriftWatch, at: datetime
) -> dict[str, datetime | None]:
    """Return since when a feature differs, and since when that counts as drift.

    It does once the window of the first look that found it and that of the last share nothing.
    """
    if not differs:
        return {"exceeds_since": None, "drifted_since": None}
    since = before.exceeds_since if before is not None and before.exceeds_since else at
    drifted = before.drifted_since if before is not None else None
    if drifted is None and at - since >= timedelta(seconds=watch.window_s):
        drifted = at
    return {"exceeds_since": since, "drifted_since": drifted}


def _unseen(before: FeatureDrift | None) -> dict[str, Any]:
    """Return the verdict of a window that says nothing: what counted as drift still does."""
    return {"drifted_since": before.drifted_since if before is not None else None}


def _compare(
    columns: Sequence[ColumnProfile], counts: Sequence[NDArray[np.int64]]
) -> dict[str, FloatArray]:
    """Return the figures of features, each an array over them; NaN where one has no meaning."""
    width = max(len(column.cells) for column in columns)
    length = max(len(cells) for cells in counts)
    reference = np.zeros((len(columns), width))
    slots = np.zeros((len(columns), length, width))
    places = np.zeros((len(columns), width - 1))
    for index, (column, cells) in enumerate(zip(columns, counts, strict=True)):
        reference[index, : len(column.cells)] = column.cells
        slots[index, : cells.shape[0], : cells.shape[1]] = cells
        if column.kind == "number":
            means = np.maximum.accumulate(_places(column))
            places[index, : len(means)] = means
            places[index, len(means) :] = means[-1]
    recent = slots.sum(axis=1)
    scatter = np.maximum(dispersion(slots), [column.scatter for column in columns])
    # Where a number lies is asked only of rows that have one: the last cell of each is left out.
    valued, valued_recent = reference.copy(), recent.copy()
    for index, column in enumerate(columns):
        valued[index, len(column.counts)] = valued_recent[index, len(column.counts)] = 0
    spread = _spread(valued[:, :-1], places)
    is_number = np.array([column.kind == "number" for column in columns])
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = wasserstein(valued[:, :-1], valued_recent[:, :-1], places) / spread
    return {
        "psi": stability_index(reference, recent, scatter),
        "p": same_p(reference, recent, scatter),
        "distance": jensen_shannon(reference, recent),
        "moved": np.where(is_number & (spread > 0), moved, np.nan),
        "variation": np.where(is_number, np.nan, total_variation(reference, recent)),
        "scatter": scatter,
    }


def _places(column: ColumnProfile) -> FloatArray:
    """Return where the bins of a number lie; an empty one lies at its edge."""
    means = np.array(column.means, dtype=np.float64)
    for index, count in enumerate(column.counts):
        if count == 0 and column.edges:
            means[index] = column.edges[max(index - 1, 0)]
    return means


def _spread(counts: FloatArray, places: FloatArray) -> FloatArray:
    """Return the standard deviation of binned numbers, by feature."""
    rows = np.maximum(counts.sum(axis=1), 1)
    mean = (counts * places).sum(axis=1) / rows
    return np.asarray(np.sqrt((counts * (places - mean[:, None]) ** 2).sum(axis=1) / rows))


def _shares(column: ColumnProfile, slots: NDArray[np.int64]) -> dict[str, float]:
    """Return how much is missing, new or rare, now and in the reference."""
    recent = slots.sum(axis=0) if slots.size else np.zeros(len(column.cells))
    total, before = max(float(recent.sum()), 1.0), max(sum(column.cells), 1)
    shares = {
        "missing": float(recent[-1]) / total,
        "missing_before": column.missing / before,
    }
    if column.kind == "category":
        shares["other"] = float(recent[-2]) / total
        shares["other_before"] = column.counts[-1] / before
    return shares


def describe(
    version: str, features: Sequence[FeatureDrift], watch: DriftWatch
) -> tuple[DriftState, str]:
    """Return the state of a version, and one sentence that says it."""
    drifted = sorted((f for f in features if f.is_drifted), key=lambda f: -(f.psi or 0.0))
    if drifted:
        shown = ", ".join(
            f.feature if f.psi is None else f"{f.feature} (PSI {f.psi:.3g})" for f in drifted[:5]
        )
        more = f" and {len(drifted) - 5} more" if len(drifted) > 5 else ""
        return "drifted", f"{version} meets other values than its reference: {shown}{more}"
    judged = [f for f in features if f.psi is not None]
    if not judged:
        most = max((f.rows for f in features), default=0)
        return "waiting", f"{most:,} rows in the window, {watch.min_rows:,} needed"
    return "stable", f"none of {len(judged)} features is drifted"
