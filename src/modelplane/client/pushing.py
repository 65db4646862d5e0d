"""What is sent when a version is pushed: its record, and the digest of its bytes.

Called by `Client.push`; reads files, sends nothing.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

from modelplane.client.artifacts import detect_format, digest_tree
from modelplane.client.capture import (
    FeatureConfiguration,
    capture_flavour,
    capture_training,
    read_feature_configuration,
)
from modelplane.client.datasets import Datasets, describe_data, describe_datasets
from modelplane.errors import InvalidResource
from modelplane.resources.model import Training
from modelplane.resources.revision import ArtifactFormat

_MAX_REQUIREMENTS_BYTES = 2**20
_TRAINING_PATIENCE_S = 300.0


@contextmanager
def command_tree(command: Sequence[str]) -> Iterator[Path]:
    """Give a folder that holds the command alone: the artifact of one that needs no files."""
    with tempfile.TemporaryDirectory(prefix="modelplane-") as directory:
        (Path(directory) / "command.json").write_text(json.dumps(list(command)))
        yield Path(directory)


class VersionRecord(TypedDict, total=False):
    """What is said of a version when it is pushed.

    Attributes
    ----------
    format
        How the files are read; found from their names when left out.
    command
        A program that speaks the Open Inference Protocol, with its arguments; then the format
        is ``command``.
    metrics, parameters
        What it was judged by and made with.
    datasets
        What it was made from: paths, references, or a map from names to these or data frames;
        see `datasets.describe_data`.
    dataset
        Its training data, recorded as the others are: a frame, or the path of a table. A profile
        of its columns is sent besides, which drift is measured against.
    feature_configuration
        How its features are made: a map, or the path of a JSON or YAML file.
    flavour
        The library it was made with; told from the files when left out.
    requirements
        Python requirements to run it: text, or the path of a file.
    signature, input_example
        Inputs and outputs; one request, used as the smoke prediction.
    tags, description
        What may change later.
    training
        What made it; captured from this process when left out.
    """

    format: ArtifactFormat | None
    command: Sequence[str]
    metrics: Mapping[str, float]
    parameters: Mapping[str, Any]
    datasets: Datasets
    dataset: Any
    feature_configuration: FeatureConfiguration
    flavour: str
    requirements: str | Path | None
    signature: Mapping[str, Any] | None
    input_example: Mapping[str, Any] | None
    tags: Mapping[str, str]
    description: str
    training: Training | None


def describe_push(name: str, version: str, path: Path, record: VersionRecord) -> dict[str, Any]:
    """Return the body of a push.

    Raises
    ------
    InvalidResource
        A file is missing or unreadable, or the format cannot be told.
    """
    training = _name_run(record.get("training") or capture_training())
    metrics, parameters = record.get("metrics", {}), record.get("parameters", {})
    artifact = _describe_artifact(path, record)
    body = {
        "model": name,
        "version": version,
        "artifact": artifact,
        "flavour": record.get("flavour") or capture_flavour(path, artifact["format"]),
        "metrics": {key: float(value) for key, value in metrics.items()},
        "parameters": {key: str(value) for key, value in parameters.items()},
        **_describe_data(name, record),
        "featureConfiguration": read_feature_configuration(record.get("feature_configuration", {})),
        "training": training.to_dict(),
        "tags": dict(record.get("tags", {})),
        "description": record.get("description", ""),
        "requirements": _read_requirements(record.get("requirements")),
        "signature": record.get("signature"),
        "inputExample": record.get("input_example"),
    }
    return {key: value for key, value in body.items() if value is not None}


def patience_s() -> float:
    """Return how long a push may wait for a control plane that is away, seconds."""
    return _TRAINING_PATIENCE_S if os.environ.get("MODELPLANE_TRAINING_RUN") else 0.0


def _name_run(training: Training) -> Training:
    """Return `training` with the TrainingRun whose Job this process belongs to, if it does."""
    run = os.environ.get("MODELPLANE_TRAINING_RUN")
    return training.with_(training_run=run) if run and not training.training_run else training


def describe_dataset_push(
    name: str, data: Any, version: str | None, description: str
) -> dict[str, Any]:
    """Return the body that registers a version of data; raises `InvalidResource`.

    A path is registered from the root on: checks read the data from other directories.
    """
    is_path = isinstance(data, str | Path) and "://" not in str(data)
    body = {
        "data": describe_data(Path(data).absolute() if is_path else data, name).to_dict(),
        "version": version,
        "description": description,
    }
    return {key: value for key, value in body.items() if value is not None}


def _describe_data(name: str, record: VersionRecord) -> dict[str, Any]:
    """Return what the version was made from, and the profile of its training data."""
    references = describe_datasets(record.get("datasets", ()))
    data = record.get("dataset")
    if data is None:
        return {"datasets": [reference.to_dict() for reference in references]}
    from modelplane.client.profile import profile_data  # noqa: PLC0415 - imports numpy

    is_named = isinstance(data, str | Path)
    own = describe_data(data) if is_named else describe_data(data, f"{name}-training")
    if all(own.digest != known.digest for known in references):
        references = (*references, own)
    profile = profile_data(data, own.name, record.get("signature"))
    return {
        "datasets": [reference.to_dict() for reference in references],
        "profile": profile.to_dict() if profile is not None else None,
    }


def _describe_artifact(path: Path, record: VersionRecord) -> dict[str, Any]:
    if not path.exists():
        raise InvalidResource(f"there is no artifact at {path}")
    command = list(record.get("command", ()))
    found = "command" if command else record.get("format") or detect_format(path)
    if found is None:
        raise InvalidResource(
            f"the format of {path} cannot be told from its files",
            hint="name it: mlflow, onnx, skops, joblib or command",
        )
    try:
        digest = digest_tree(path).digest
    except OSError as error:
        raise InvalidResource(f"the artifact at {path} cannot be read: {error}") from None
    return {"format": found, "digest": digest, "command": command}


def _read_requirements(requirements: str | Path | None) -> str | None:
    if not isinstance(requirements, Path):
        return requirements
    try:
        text = requirements.read_text()
    except (OSError, UnicodeError) as error:
        raise InvalidResource(
            f"the requirements at {requirements} cannot be read: {error}"
        ) from None
    if len(text) > _MAX_REQUIREMENTS_BYTES:
        raise InvalidResource(f"{requirements} is larger than 1 MiB")
    return text
