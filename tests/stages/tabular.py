"""Tables, estimators and tasks for the checks on data; models answer by the real protocol."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pandas as pd
import skops.io
from sklearn.datasets import load_breast_cancer, load_diabetes

from modelplane.client.artifacts import digest_tree
from modelplane.client.datasets import describe_data
from modelplane.resources.gate_run import DataInput, ServedModel, StageTask
from modelplane.resources.revision import Artifact, RuntimeSpec, make_revision
from modelplane.resources.validation_pipeline import Stage
from modelplane.stages.failures import CheckImpossible
from modelplane.stages.workspace import Workspace
from modelplane_runtime.inference import Inference
from modelplane_runtime.models.estimators import EstimatorModel


def cancer() -> pd.DataFrame:
    """569 tumours: 30 measurements, whether each is benign, and two columns to slice by."""
    frame: pd.DataFrame = load_breast_cancer(as_frame=True).frame
    frame.columns = [name.replace(" ", "_") for name in frame.columns]
    frame["size"] = pd.cut(frame["mean_radius"], [0, 12, 15, 40], labels=["s", "m", "l"])
    frame["clinic"] = [f"clinic-{row % 3}" for row in range(len(frame))]
    return frame


def diabetes() -> pd.DataFrame:
    """442 patients: ten measurements and the progression of the disease after a year."""
    return load_diabetes(as_frame=True).frame


def features_of(frame: pd.DataFrame) -> list[str]:
    return [name for name in frame.columns if name not in {"target", "size", "clinic"}]


def register(path: Path, frame: pd.DataFrame, **changes: Any) -> DataInput:
    """Write a table and describe it as a push does."""
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path, index=False)
    found = describe_data(path)
    data = DataInput(
        name=found.name, version="1", digest=found.digest, uri=str(path), format=found.format
    )
    return data.with_(**changes)


def columns_signature(frame: pd.DataFrame, names: list[str]) -> dict[str, Any]:
    kinds = {"i": "INT64", "f": "FP64", "b": "BOOL"}
    return {
        "inputs": [
            {"name": name, "datatype": kinds.get(frame[name].dtype.kind, "BYTES"), "shape": [-1]}
            for name in names
        ]
    }


def served(
    version: str = "2.0.0", signature: dict[str, Any] | None = None, **changes: Any
) -> ServedModel:
    artifact = changes.pop("artifact", Artifact(format="skops", digest=f"sha256:{version}"))
    revision = make_revision("tumour", version, artifact, RuntimeSpec())
    return ServedModel(revision=revision, signature=signature, **changes)


def task(stage: Mapping[str, Any], *datasets: DataInput, **changes: Any) -> StageTask:
    made = Stage.model_validate({"name": "stage", **stage})
    return StageTask(run="run-1", stage=made, datasets=datasets, **changes)


class Answering:
    """Answers requests with an estimator, as the model server would: same bytes, no process."""

    def __init__(self, estimator: Any) -> None:
        self._inference = Inference(EstimatorModel(estimator), "candidate", "1")
        self.requests: list[dict[str, Any]] = []

    async def infer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self.requests.append(dict(request))
        answer = self._inference.answer(json.dumps(request, allow_nan=False).encode())
        if answer.status != 200:
            raise CheckImpossible(f"candidate answers {answer.status}: {answer.body.decode()}")
        return cast("dict[str, Any]", json.loads(answer.body))


@dataclass
class Served:
    """Stands in for `Workspace`: serves an estimator for each name, counts who was served."""

    output_dir: Path
    models: Mapping[str, Any]
    candidate_dir: Path = Path("/nothing")
    champion_dir: Path | None = Path("/nothing")
    names: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def serve(
        self, served: ServedModel, artifact: Path, *, name: str = "candidate"
    ) -> AsyncIterator[Answering]:
        self.names.append(name)
        model = self.models[name]
        if isinstance(model, Exception):
            raise model
        yield Answering(model)


def stand_in(output_dir: Path, **models: Any) -> Workspace:
    """Return a workspace that serves these estimators."""
    return cast(Workspace, Served(output_dir, models))


@contextmanager
def real_workspace(**models: Any) -> Iterator[tuple[Workspace, dict[str, Artifact]]]:
    """Give a workspace of real model servers, with the models saved as skops files."""
    folder = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
    artifacts = {}
    for name, model in models.items():
        (folder / name).mkdir()
        skops.io.dump(model, folder / name / "model.skops")
        artifacts[name] = Artifact(format="skops", digest=digest_tree(folder / name).digest)
    (folder / "work").mkdir()
    workspace = Workspace(
        work_dir=folder / "work",
        output_dir=folder / "out",
        candidate_dir=folder / "candidate",
        champion_dir=folder / "champion" if "champion" in models else None,
        environments_dir=folder / "environments",
        socket_dir=folder / "s",
    )
    try:
        yield workspace, artifacts
    finally:
        shutil.rmtree(folder, ignore_errors=True)
