"""Counts of predictions by place, slot of time and column, kept in the store of predictions.

Used by `controllers.drift`. What was counted is added to what the store has of the same slot, so
that neither a restart nor predictions that come late lose or repeat anything that was written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

import numpy as np

from modelplane.decisions.drift import floor_to
from modelplane.decisions.drift_profile import Cells, bins_digest, count_cells, gather
from modelplane.ports.predictions import Place, Prediction, Predictions, StoredSketch
from modelplane.resources.data_profile import ColumnProfile

Columns = Mapping[str, ColumnProfile]
_Slot = tuple[Place, datetime]


class Sketches:
    """What was counted since the last `flush`."""

    def __init__(self, predictions: Predictions) -> None:
        self._predictions = predictions
        self._counted: dict[_Slot, dict[str, tuple[str, Cells]]] = {}

    def count(
        self,
        made: Sequence[Prediction],
        columns: Columns,
        slot_s: float,
        *,
        expected: Collection[str] = (),
    ) -> None:
        """Count predictions of one version into the bins of its reference.

        Of the columns that are `expected` those that no prediction has are missing in all. Others
        may be none of the version's: training data has columns that are no inputs.
        """
        by_slot: dict[_Slot, list[Prediction]] = defaultdict(list)
        for prediction in made:
            by_slot[prediction.place, floor_to(prediction.at, slot_s)].append(prediction)
        for slot, together in by_slot.items():
            kept = self._counted.setdefault(slot, {})
            values = gather(together)
            for name, column in columns.items():
                if name not in values and name not in expected:
                    continue
                given = values.get(name) or [None] * len(together)
                cells, digest = count_cells(column, given), bins_digest(column)
                before = kept.get(name)
                kept[name] = (
                    digest,
                    cells + before[1] if before is not None and before[0] == digest else cells,
                )

    async def flush(self) -> None:
        """Add what was counted to what is stored. Raises `TransientError`: it is kept then."""
        counted, self._counted = self._counted, {}
        try:
            written = []
            for (place, at), columns in counted.items():
                stored = await self._stored(place, at)
                for name, (digest, cells) in columns.items():
                    before = stored.get((place, at, name))
                    total = cells if before is None else cells + _cells_of(before, digest, cells)
                    sketch = {"bins": digest, "cells": total.tolist()}
                    written.append(StoredSketch(place, at, name, sketch))
            if written:
                await self._predictions.put_sketches(written)
        except Exception:
            self._take_back(counted)
            raise

    async def _stored(
        self, place: Place, at: datetime
    ) -> Mapping[tuple[Place, datetime, str], StoredSketch]:
        shortest = timedelta(seconds=1)  # so that the next slot is not read
        found = await self._predictions.sketches(
            place.environment, place.deployment, since=at, until=at + shortest
        )
        return {(sketch.place, sketch.minute, sketch.column): sketch for sketch in found}

    def _take_back(self, counted: Mapping[_Slot, Mapping[str, tuple[str, Cells]]]) -> None:
        for slot, columns in counted.items():
            kept = self._counted.setdefault(slot, {})
            for name, (digest, cells) in columns.items():
                newer = kept.get(name)
                is_same = newer is not None and newer[0] == digest
                kept[name] = (digest, cells + newer[1]) if newer and is_same else (digest, cells)


def _cells_of(stored: StoredSketch, digest: str, like: Cells) -> Cells:
    """Return the cells of a stored sketch; zeros when it was counted into other bins."""
    cells = np.array(stored.sketch.get("cells", ()), dtype=np.int64)
    if stored.sketch.get("bins") != digest or cells.shape != like.shape:
        return np.zeros_like(like)
    return cells


def merge_slots(
    sketches: Sequence[StoredSketch], version: str, columns: Columns
) -> dict[str, list[Cells]]:
    """Return the cells of each slot of a version by column; those of all places are added.

    Only what was counted into the bins of `columns` counts.
    """
    digests = {name: bins_digest(column) for name, column in columns.items()}
    merged: dict[str, dict[datetime, Cells]] = defaultdict(dict)
    for sketch in sketches:
        name = sketch.column
        if sketch.place.version != version or sketch.sketch.get("bins") != digests.get(name):
            continue
        cells, slots = np.array(sketch.sketch["cells"], dtype=np.int64), merged[name]
        known = slots.get(sketch.minute)
        slots[sketch.minute] = cells if known is None else known + cells
    return {name: list(slots.values()) for name, slots in merged.items()}
