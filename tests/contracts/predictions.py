"""Predictions, and stores of them, as the contract suite makes them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from modelplane.adapters.predictions.sqlite import SqlitePredictions
from modelplane.ports.predictions import Place, Prediction
from modelplane.testing.clock import ManualClock

STABLE = Place("production", "fraud", "1.0.0", "aaaa")
CANDIDATE = Place("production", "fraud", "2.0.0", "bbbb", rule="west")
SHADOW = replace(CANDIDATE, mirrored=True)
FRAUD = ("production", "fraud")


@asynccontextmanager
async def sqlite_store(
    clock: ManualClock, folder: Path | None = None, **options: Any
) -> AsyncIterator[SqlitePredictions]:
    own = folder or Path(tempfile.mkdtemp(prefix="mp-predictions-"))
    store = SqlitePredictions(own / "predictions.db", str(own / "rows"), clock, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()
        if folder is None:
            shutil.rmtree(own)


def prediction(
    request_id: str = "r-1", row: int = 0, *, place: Place = STABLE, at: datetime, **more: Any
) -> Prediction:
    given = {"predicted": 1, "score": 0.75, "latency_s": 0.002, "key": "", "parts": ("a=b",)}
    return Prediction(request_id, row, place, at, **{**given, **more})
