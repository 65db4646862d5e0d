"""How fast predictions are kept, and labels joined with a million of them.

Run by ``python -m bench`` and alone. The real store in a folder of its own, at full durability:
pages of rows as agents send them, labels in random order as a file of them would hold them. The
events' way into rows (JSON, pairing, tensors) is measured beside it.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from modelplane.adapters.clock import SystemClock
from modelplane.adapters.predictions.sqlite import SqlitePredictions
from modelplane.decisions.prediction_events import PredictionEvent, make_predictions, read_event
from modelplane.decisions.prediction_pairs import PairBuffer
from modelplane.decisions.predictions import Label, Place, Prediction
from modelplane.resources.monitoring import Labels, PredictionLog

PREDICTIONS = 1_000_000
PAGE = 2_000
LABELS = 200_000
BATCH = 2_000
FEATURES = 10
PLACES = [Place("production", "fraud", f"{n}.0.0", f"r{n}") for n in (1, 2)]
FRAUD = ("production", "fraud")
START = datetime(2026, 1, 5, tzinfo=UTC)


def run(predictions: int = PREDICTIONS, labels: int = LABELS) -> dict[str, Any]:
    """Return the figures; `predictions` and `labels` say how many."""
    return asyncio.run(_measure(predictions, labels))


async def _measure(predictions: int, labels: int) -> dict[str, Any]:
    draw = random.Random(0)
    ids = [f"{draw.getrandbits(128):032x}" for _ in range(predictions)]
    with tempfile.TemporaryDirectory(prefix="mp-bench-") as folder:
        index = Path(folder) / "predictions.db"
        store = SqlitePredictions(index, f"{folder}/rows", SystemClock())
        await store.open()
        rates, filed_s = await _fill(store, ids)
        written = sum(file.stat().st_size for file in Path(folder).rglob("*.parquet"))
        joined = await _label(store, draw.sample(ids, labels), waiting=False)
        waiting = await _label(store, [f"x{n}" for n in range(min(labels, 50_000))], waiting=True)
        tallied_ms = await _tally(store)
        size = index.stat().st_size
        await store.close()
    return {
        "predictions in the store": predictions,
        "predictions kept per second": round(predictions / sum(rates)),
        "the same, the last tenth": round(predictions / 10 / sum(rates[-len(rates) // 10 :])),
        "rows written to Parquet per second": round(predictions / filed_s),
        "labels joined per second": round(joined),
        "labels that wait kept per second": round(waiting),
        "one count of everything, ms": tallied_ms,
        "index, bytes a prediction": round(size / predictions),
        "Parquet, bytes a prediction": round(written / predictions),
        "events read per second, two to a prediction": round(_read_events()),
    }


async def _fill(store: SqlitePredictions, ids: Sequence[str]) -> tuple[list[float], float]:
    """Return the seconds of each page, and those of writing the files."""
    rates, filed_s = [], 0.0
    for start in range(0, len(ids), PAGE):
        page = [_prediction(name, start + n) for n, name in enumerate(ids[start : start + PAGE])]
        began = time.perf_counter()
        await store.add(page)
        rates.append(time.perf_counter() - began)
        if (start // PAGE) % 25 == 24:
            filed_s += await _flush(store)
    return rates, filed_s + await _flush(store)


async def _flush(store: SqlitePredictions) -> float:
    began = time.perf_counter()
    await store.flush()
    return time.perf_counter() - began


def _prediction(name: str, number: int) -> Prediction:
    inputs = {f"feature_{n}": (number * 7919 % 1000) / (n + 1) for n in range(FEATURES)}
    at = START + timedelta(milliseconds=number)
    outputs = {"predictions": number % 2, "probabilities": [0.25, 0.75]}
    return Prediction(
        name, 0, PLACES[number % 2], at, number % 2, 0.75, 0.002, inputs=inputs, outputs=outputs
    )


async def _label(store: SqlitePredictions, names: Sequence[str], *, waiting: bool) -> float:
    """Return labels per second."""
    batches = [names[start : start + BATCH] for start in range(0, len(names), BATCH)]
    began = time.perf_counter()
    for batch in batches:
        fates = await store.label(*FRAUD, [Label(name, label=1) for name in batch])
        assert set(fates) == {"waiting" if waiting else "joined"}
    return len(names) / (time.perf_counter() - began)


async def _tally(store: SqlitePredictions) -> float:
    times = []
    for _ in range(5):
        began = time.perf_counter()
        await store.tallies(*FRAUD, since=START, horizon_s=3600)
        times.append(time.perf_counter() - began)
    return round(statistics.median(times) * 1000, 2)


def _read_events(pages: int = 10) -> float:
    """Return how many events per second one core makes rows of."""
    kind = "org.kubeflow.serving.inference"
    tensors = [
        {"name": f"feature_{n}", "datatype": "FP64", "shape": [1], "data": [n / 7]}
        for n in range(FEATURES)
    ]
    outputs = [{"name": "predictions", "datatype": "INT64", "shape": [1], "data": [1]}]
    head = {
        "specversion": "1.0",
        "namespace": "production",
        "inferenceservicename": "fraud",
        "modelversion": "1.0.0",
        "time": "2026-01-05T09:00:00Z",
    }
    page = json.dumps(
        [
            {**head, "id": f"r-{n}", "type": f"{kind}.{half}", "data": {side: data}}
            for n in range(500)
            for half, side, data in (
                ("request", "inputs", tensors),
                ("response", "outputs", outputs),
            )
        ]
    ).encode()
    log, labels, count = PredictionLog(), Labels(), 0
    began = time.perf_counter()
    for _ in range(pages):
        events = [e for e in map(read_event, from_json(page)) if isinstance(e, PredictionEvent)]
        for request, response in PairBuffer().put(events, 0.0).pairs:
            made = make_predictions(request, response, PLACES[0], log=log, labels=labels, now=START)
            count += 2 * len(made)
    return count / (time.perf_counter() - began)


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
