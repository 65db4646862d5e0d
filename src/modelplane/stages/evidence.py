"""Files that a check leaves as evidence: small enough to keep, whole enough to judge by.

Called by the checks on data; what is written here is uploaded with the stage's result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sklearn.metrics

from modelplane.stages.data_tables import Array

MAX_ROWS = 100_000
_MAX_LABELS = 100
_MAX_COLUMNS = 20


def write_predictions(output_dir: Path, columns: Mapping[str, Array]) -> None:
    """Write ``predictions.parquet``: the first 100,000 rows of some columns.

    An array of two dimensions becomes a column for each of its first 20 columns.
    """
    flat: dict[str, Array] = {}
    for name, values in columns.items():
        if values.ndim == 1:
            flat[name] = values[:MAX_ROWS]
            continue
        for place in range(min(values.shape[1], _MAX_COLUMNS)):
            flat[f"{name}_{place}"] = values[:MAX_ROWS, place]
    pd.DataFrame(flat).to_parquet(_in(output_dir, "predictions.parquet"), index=False)


def write_confusion(output_dir: Path, truth: Array, predicted: Mapping[str, Array]) -> None:
    """Write ``confusion.json``: how often each label was taken for which, by model.

    ``candidate[i][j]`` is the number of rows of label i that it predicted as j. Nothing is written
    for values that are no labels: fractions, or more than 100 of them.
    """
    everything = [truth, *predicted.values()]
    if any(one.dtype.kind == "f" and (one != np.floor(one)).any() for one in everything):
        return
    labels = np.unique(np.concatenate(everything))
    if len(labels) > _MAX_LABELS:
        return
    counts = {
        name: sklearn.metrics.confusion_matrix(truth, values, labels=labels).tolist()
        for name, values in predicted.items()
    }
    write_json(output_dir, "confusion.json", {"labels": [str(one) for one in labels], **counts})


def write_json(output_dir: Path, name: str, document: Any) -> None:
    """Write a document as JSON."""
    _in(output_dir, name).write_text(json.dumps(document, indent=1), encoding="utf-8")


def _in(output_dir: Path, name: str) -> Path:
    output_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return output_dir / name
