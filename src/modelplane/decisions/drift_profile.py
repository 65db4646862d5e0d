"""Profiles of data, and values counted into a profile's bins. Pure.

Called by the client when a version is pushed, by `controllers.drift` for what is predicted, and by
`decisions.data_check`. What is counted into equal bins is merged by adding.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from modelplane.decisions.predictions import Prediction
from modelplane.resources.data_profile import (
    MAX_BINS,
    MAX_PROFILE_BYTES,
    MAX_VALUE_CHARS,
    MAX_VALUES,
    ColumnProfile,
    DataProfile,
    profile_bytes,
)
from modelplane.stats.drift import bin_counts, quantile_edges

Cells = NDArray[np.int64]
"""Rows in each bin of a column, and last those without a value."""

OUTPUT = "output"
"""The column of what was predicted."""

OUTPUT_SCORE = "output.score"
"""The column of the probability of the positive label."""

MAX_ELEMENTS = 64
"""Elements of one input that is a list; each is a column ``NAME.0``. Longer lists are passed over:
drift of an image or an embedding does not show in its numbers one by one."""

_SIZES = ((MAX_BINS, MAX_VALUES), (10, 20), (5, 10))
_DIGITS = 12


def make_profile(
    columns: Mapping[str, Sequence[Any] | NDArray[Any]],
    rows: int,
    *,
    name: str = "",
    origin: Literal["data", "traffic"] = "data",
) -> tuple[DataProfile, tuple[str, ...]]:
    """Return the profile of a table, and the names of columns for which there was no room.

    Parameters
    ----------
    columns
        Values by column: numbers, text, booleans; None and NaN are missing.
    rows
        How many there are, at least 1.
    name, origin
        See `DataProfile`.

    Returns
    -------
    tuple
        The profile takes 64 KiB at the most: with fewer bins, and at last with fewer columns.
    """
    whole = DataProfile(origin=origin, name=name, rows=rows)
    made: list[ColumnProfile] = []
    for bins, values in _SIZES:
        made = [
            profile_column(column, given, bins=bins, values=values)
            for column, given in columns.items()
        ]
        profile = whole.with_(columns=tuple(made[:1000]))
        if len(made) <= 1000 and profile_bytes(profile) <= MAX_PROFILE_BYTES:
            return profile, ()
    kept: list[ColumnProfile] = []
    room = MAX_PROFILE_BYTES - profile_bytes(whole)
    for column in made[:1000]:
        room -= len(json.dumps(column.to_dict(), separators=(",", ":")).encode()) + 1
        if room < 0:
            break
        kept.append(column)
    return whole.with_(columns=tuple(kept)), tuple(c.name for c in made[len(kept) :])


def profile_column(
    name: str,
    given: Sequence[Any] | NDArray[Any],
    *,
    bins: int = MAX_BINS,
    values: int = MAX_VALUES,
) -> ColumnProfile:
    """Return the profile of one column; see `make_profile`."""
    numbers = _as_numbers(given)
    if numbers is not None:
        return _profile_numbers(name, numbers, bins)
    texts = [text_of(value) for value in given]
    counts = Counter(text for text in texts if text is not None)
    present = sum(counts.values())
    missing = len(texts) - present
    if len(counts) > max(values, present / 2):
        return ColumnProfile(name=name, kind="text", counts=(present,), missing=missing)
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:values]
    others = present - sum(count for _, count in common)
    return ColumnProfile(
        name=name,
        kind="category",
        values=tuple(value for value, _ in common),
        counts=(*(count for _, count in common), others),
        missing=missing,
    )


def _as_numbers(given: Sequence[Any] | NDArray[Any]) -> NDArray[np.float64] | None:
    """Return a column of numbers, missing ones as NaN; None for one that is no such."""
    if isinstance(given, np.ndarray) and given.dtype.kind in "iuf":
        return given.astype(np.float64)
    if isinstance(given, np.ndarray) and given.dtype.kind != "O":
        return None
    is_some = False
    for value in given:
        if value is None:
            continue
        if isinstance(value, bool | np.bool_) or not isinstance(
            value, int | float | np.integer | np.floating
        ):
            return None
        is_some = True
    return np.array(given, dtype=np.float64) if is_some else None


def _profile_numbers(name: str, numbers: NDArray[np.float64], bins: int) -> ColumnProfile:
    present = numbers[np.isfinite(numbers)]
    missing = len(numbers) - len(present)
    if not len(present):
        return ColumnProfile(name=name, kind="number", counts=(0,), means=(0.0,), missing=missing)
    edges = [_round(edge) for edge in quantile_edges(present, bins)]
    edges = sorted(set(edges))
    counts = bin_counts(present, edges)
    place = np.searchsorted(edges, present, side="right") if edges else np.zeros(len(present), int)
    sums = np.bincount(place, weights=present, minlength=len(counts))
    means = [_round(value) for value in sums / np.maximum(counts, 1)]
    return ColumnProfile(
        name=name,
        kind="number",
        edges=tuple(edges),
        counts=tuple(counts.tolist()),
        means=tuple(means),
        missing=missing,
    )


def _round(number: float) -> float:
    """Return a number with fewer digits: profiles are small, and bins are where they say."""
    return float(f"{number:.{_DIGITS}g}")


def text_of(value: Any) -> str | None:
    """Return a value as categories have it; None when it is missing.

    Examples
    --------
    >>> text_of(True), text_of(2.0), text_of("x"), text_of(float("nan"))
    ('true', '2', 'x', None)
    """
    if value is None:
        return None
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating):
        if math.isnan(value):
            return None
        return str(int(value)) if math.isfinite(value) and value == int(value) else str(value)
    text = str(value)
    return None if text in {"NaT", "<NA>"} else text[:MAX_VALUE_CHARS]


def count_cells(column: ColumnProfile, given: Sequence[Any]) -> Cells:
    """Count values into the cells of a column; what cannot be read as its kind is missing."""
    cells = np.zeros(len(column.counts) + 1, dtype=np.int64)
    if column.kind == "number":
        numbers = _read_numbers(given)
        present = numbers[np.isfinite(numbers)]
        cells[:-1] = bin_counts(present, column.edges)
        cells[-1] = len(numbers) - len(present)
        return cells
    places = {value: index for index, value in enumerate(column.values)}
    other = len(column.counts) - 1
    for text, count in Counter(map(text_of, given)).items():
        cells[-1 if text is None else places.get(text, other)] += count
    return cells


def _read_numbers(given: Sequence[Any]) -> NDArray[np.float64]:
    try:
        return np.array(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.array([_read_number(value) for value in given], dtype=np.float64)


def _read_number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def features_of(prediction: Prediction) -> dict[str, Any]:
    """Return what is watched of a prediction: its inputs, what was predicted, and its score.

    An input that is called as the output is hidden by it.
    """
    found: dict[str, Any] = {}
    for name, value in prediction.inputs.items():
        if isinstance(value, list | tuple):
            if len(value) <= MAX_ELEMENTS and not any(isinstance(v, list | dict) for v in value):
                found |= {f"{name}.{index}": element for index, element in enumerate(value)}
        elif not isinstance(value, dict):
            found[name] = value
    if prediction.predicted is not None:
        found[OUTPUT] = prediction.predicted
    if prediction.score is not None:
        found[OUTPUT_SCORE] = prediction.score
    return found


def gather(predictions: Sequence[Prediction]) -> dict[str, list[Any]]:
    """Return the columns of predictions; one that a prediction lacks is missing there."""
    rows = [features_of(prediction) for prediction in predictions]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def bins_digest(column: ColumnProfile) -> str:
    """Return what tells bins apart: counts are added only where this is equal."""
    told = json.dumps([column.kind, column.edges, column.values])
    return hashlib.sha256(told.encode()).hexdigest()[:12]
