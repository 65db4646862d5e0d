"""The training job of the demo's second act: ``python -m modelplane.demo.retrain RECORDS``.

Run by the TrainingTrigger's Job, as any team's training script would be: it finds the data, trains,
and registers what it made. Address and token come from the Job's environment.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from modelplane.client import Client
from modelplane.demo.seasons import (
    HOLDOUT_DAYS,
    RETRAINED_LATE_WEIGHT,
    SeasonModel,
    read_records,
    train_on_records,
)
from modelplane.resources.model import ModelVersion

MODEL = "flight-delay"
HOLDOUT = "flights-newest"
"""The Dataset whose newest version the gate judges by."""


def push_model(
    client: Client, version: str, model: SeasonModel, holdout_file: Path, description: str
) -> None:
    """Register a trained model, and the flights that it and the champion are judged by.

    `holdout_file` is where the holdout lies from now on: a dataset is registered by its place.
    """
    model.holdout_path.replace(holdout_file)
    data = client.push_dataset(HOLDOUT, holdout_file).resource
    client.push(
        MODEL,
        version,
        model.path,
        metrics=model.metrics,
        signature=model.signature,
        input_example=model.sample_input,
        description=description,
        parameters={"from": str(model.first_day), "until": str(model.last_day)},
        dataset=model.training_path,
    )
    _tell(f"registered {MODEL}@{version}; judged by {data.metadata.name}")


def next_version(client: Client) -> str:
    """Return the next minor version of the model."""
    known = [
        [int(part) for part in version.spec.version.split(".")]
        for version in client.list(ModelVersion).items
        if version.spec.model == MODEL
    ]
    major, minor, _ = max(known)
    return f"{major}.{minor + 1}.0"


def report_progress(progress: float, message: str) -> None:
    """Say how far it is, where the Job is asked for it."""
    place = os.environ.get("MODELPLANE_JOB_PROGRESS")
    if place:
        partial = Path(f"{place}.new")
        partial.write_text(json.dumps({"progress": progress, "message": message}))
        partial.rename(place)
    _tell(message)


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(records: Path) -> None:
    """Train on all records but the newest days, and register the next version."""
    flights = read_records(records)
    report_progress(0.2, f"{len(flights):,} flights until {flights.days[-1]}")
    with tempfile.TemporaryDirectory(prefix="modelplane-demo-") as work_dir, Client() as client:
        model = train_on_records(
            flights,
            Path(work_dir),
            estimator="v3",
            late_weight=RETRAINED_LATE_WEIGHT,
            holdout_days=HOLDOUT_DAYS,
        )
        quality = ", ".join(f"{name} {value:.3f}" for name, value in model.metrics.items())
        report_progress(0.8, f"trained in {model.train_s:.1f} s: {quality}")
        version = next_version(client)
        push_model(
            client,
            version,
            model,
            records.parent / f"newest-{version}.parquet",
            f"trained on all months until {model.last_day}",
        )
    report_progress(1.0, "done")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
