"""From what a registry elsewhere holds to what is written here.

Called by the controllers of sources and artifacts between asking the source and committing.
Pure: no I/O, no clock. A version there becomes one record here, whole; what may change about it
(tags, description, stage, deletion) is followed later.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from modelplane.decisions.external import (
    OWN_TAGS,
    ExternalFiles,
    ExternalModel,
    ExternalRun,
    ExternalVersion,
)
from modelplane.decisions.registration import MODEL_LABEL, free_version
from modelplane.errors import Conflict
from modelplane.resources.meta import Condition, Metadata, check_model_name, set_condition
from modelplane.resources.model import (
    Model,
    ModelVersion,
    ModelVersionSpec,
    ModelVersionStatus,
    Training,
    version_id,
)
from modelplane.resources.revision import Artifact

UNKNOWN = "unknown"
IN_SOURCE = "InSource"
"""Condition of a version that comes from a source: whether it is still there."""

_PINNED = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*==\s*([^\s;#]+)")
_MLFLOW_LINE = re.compile(r"(?i)^\s*mlflow(-skinny)?\b(?![-_.])")
_READ_WITHOUT_MLFLOW = frozenset({"sklearn", "onnx"})
"""Flavours that the model server reads by itself."""

_SYSTEM_TAGS = "mlflow."
_MAX_REQUIREMENTS = 2**20
_MAX_EXAMPLE_VALUES = 10_000

_COLUMN_TYPES = {
    "boolean": "BOOL", "integer": "INT32", "long": "INT64", "float": "FP32", "double": "FP64",
    "string": "BYTES", "datetime": "BYTES",
}  # fmt: skip
_TENSOR_TYPES = {
    "bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}"
       for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "str": "BYTES", "object": "BYTES",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """What bringing one model to its source's state takes, apart from aliases.

    Attributes
    ----------
    model
        With description, tags and source taken over.
    changed
        Versions whose tags, description or stage changed there, or that are back.
    to_import
        Versions that are not here yet, newest first.
    vanished
        Versions that the source does not list any more; it is asked about each once more.
    """

    model: Model
    changed: tuple[ModelVersion, ...]
    to_import: tuple[ExternalVersion, ...]
    vanished: tuple[ModelVersion, ...]


def check_importable(name: str, model: Model | None, source: str) -> None:
    """Raise unless the model `name` may be taken over from `source`.

    Raises
    ------
    ValueError
        It cannot be a name here.
    Conflict
        Versions of it were registered here, or come from another source.
    """
    check_model_name(name)
    if model is None or model.status.source == source:
        return
    if model.status.source is not None:
        raise Conflict(f"the model {name!r} comes from the source {model.status.source!r} already")
    if model.status.last_number:
        hint = "rename one of the two, or leave the model out with spec.models"
        raise Conflict(f"the model {name!r} has versions that were registered here", hint=hint)


def plan_model(
    model: Model,
    ours: Sequence[ModelVersion],
    external: ExternalModel,
    theirs: Sequence[ExternalVersion],
    source: str,
) -> ModelPlan:
    """Compare a model here with what its source says of it.

    Parameters
    ----------
    model
        As it is stored, or a new one.
    ours
        All its versions here, tombstones among them.
    external, theirs
        The model and its versions there.
    source
        Name of the ModelSource.
    """
    by_identity = {identify(version): version for version in ours}
    wanted = {(version.number, version.created_at): version for version in theirs}
    changed, to_import = [], []
    for identity, version in wanted.items():
        known = by_identity.get(identity)
        if known is None:
            if version.is_ready:
                to_import.append(version)
        elif (followed := follow_version(known, version)) != known:
            changed.append(followed)
    vanished = [
        version
        for identity, version in by_identity.items()
        if identity not in wanted and version.status.deleted_at is None
    ]
    to_import.sort(key=lambda v: (v.created_at, v.number), reverse=True)
    followed_model = follow_model(model, external, source)
    return ModelPlan(followed_model, tuple(changed), tuple(to_import), tuple(vanished))


def identify(version: ModelVersion) -> tuple[int, datetime | None]:
    """Return who a version is to its source: its number, and when it was registered there."""
    return version.spec.number, version.spec.registered_at


def follow_model(model: Model, external: ExternalModel, source: str) -> Model:
    """Return `model` with what its source says of it; labels and what is local stay."""
    tags, names = follow_tags(model.status.tags, model.status.source_tags, external.tags)
    followed = model.with_status(tags=tags, source_tags=names, source=source)
    description = external.description[:10_000]
    if description and description != model.spec.description:
        followed = followed.with_spec(description=description)
    return followed


def follow_version(version: ModelVersion, external: ExternalVersion) -> ModelVersion:
    """Return `version` with what may have changed about it there.

    Description and stage are taken when they changed there after what was taken last, so that
    what people write here stays until then. One that was deleted there and is back lives again;
    one that was deleted here stays deleted.
    """
    status = version.status
    if status.deleted_at is not None and not is_gone_there(version):
        return version
    tags, names = follow_tags(status.tags, status.source_tags, external.tags)
    others = tuple(c for c in status.conditions if c.type != IN_SOURCE)
    followed = version.with_status(tags=tags, source_tags=names, deleted_at=None, conditions=others)
    if status.changed_at is None or external.updated_at > status.changed_at:
        followed = followed.with_status(
            description=external.description[:100_000],
            stage=external.stage,
            changed_at=external.updated_at,
        )
    return followed


def is_gone_there(version: ModelVersion) -> bool:
    """Whether it was found to be deleted in its source."""
    return any(c.type == IN_SOURCE and c.status == "False" for c in version.status.conditions)


def mark_gone(version: ModelVersion, source: str, now: datetime, places: str = "") -> ModelVersion:
    """Return `version` with the condition that its source deleted it.

    Parameters
    ----------
    places
        Why it stays here nevertheless: where it is deployed; empty when it does not.
    """
    stays = f"; it stays here, since {places}" if places else ""
    condition = Condition(
        type=IN_SOURCE,
        status="False",
        reason="DeletedThere",
        message=f"it was deleted in {source}{stays}",
        observed_generation=version.metadata.generation,
    )
    return version.with_status(conditions=set_condition(version.status.conditions, condition, now))


def follow_tags(
    ours: Mapping[str, str], from_source: Collection[str], theirs: Mapping[str, str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the tags to keep here, and the names of those that are the source's.

    Parameters
    ----------
    ours
        As they are here.
    from_source
        Names of those that came from the source.
    theirs
        As they are there; what modelplane itself wrote there is not read back.
    """
    taken = {key: value for key, value in theirs.items() if not key.startswith(OWN_TAGS)}
    local = {key: value for key, value in ours.items() if key not in from_source}
    return {**local, **taken}, tuple(sorted(taken))


def make_version(
    external: ExternalVersion,
    run: ExternalRun,
    files: ExternalFiles,
    artifact: Artifact,
    taken: Collection[str],
) -> ModelVersion:
    """Return the record of a version that is taken over.

    Parameters
    ----------
    external, run, files
        What the source says of it.
    artifact
        Its files, which are stored here by now.
    taken
        Names of the model's versions here, tombstones among them.
    """
    semantic = free_version(external.model, external.number, taken)
    local = {k: v for k, v in run.tags.items() if not k.startswith((_SYSTEM_TAGS, OWN_TAGS))}
    tags, names = follow_tags(local, (), external.tags)
    spec = ModelVersionSpec(
        model=external.model,
        version=semantic,
        number=external.number,
        source=external.source or None,
        author=external.user or run.user or run.tags.get("mlflow.user", ""),
        registered_at=external.created_at,
        training=Training(run_id=external.run_id or UNKNOWN),
    )
    return ModelVersion(
        metadata=Metadata(
            name=f"{external.model}@{semantic}", labels={MODEL_LABEL: external.model}
        ),
        spec=complete_spec(spec, run, files, artifact),
        status=ModelVersionStatus(
            description=external.description[:100_000],
            tags=tags,
            source_tags=names,
            stage=external.stage,
            changed_at=external.updated_at,
        ),
    )


def complete_spec(
    spec: ModelVersionSpec, run: ExternalRun, files: ExternalFiles, artifact: Artifact
) -> ModelVersionSpec:
    """Return `spec` with its files, and with what they and its run say where it says nothing.

    This happens once, when the files come: a spec that has its artifact never changes again.
    """
    filled: dict[str, Any] = {
        "artifact": artifact,
        "id": version_id(spec.model, spec.version, artifact.digest),
        "training": _training(spec.training, run, files),
    }
    signature = to_signature(files.signature)
    told: dict[str, Any] = {
        "flavour": files.flavour,
        "signature": signature,
        "input_example": to_request(files.input_example, signature),
        "requirements": to_requirements(files),
        "metrics": dict(run.metrics),
        "parameters": dict(run.parameters),
        "datasets": run.datasets,
    }
    filled.update({name: value for name, value in told.items() if not getattr(spec, name)})
    return spec.with_(**filled)


def _training(training: Training, run: ExternalRun, files: ExternalFiles) -> Training:
    """Return `training` with what is known now; what it says already stays."""
    told = {
        "python": files.python,
        "git_commit": run.tags.get("mlflow.source.git.commit", ""),
        "git_remote": _without_credentials(run.tags.get("mlflow.source.git.repoURL", "")),
        "command": run.tags.get("mlflow.source.name", ""),
        "run_id": run.id or files.run_id,
    }
    filled: dict[str, Any] = {
        name: value for name, value in told.items() if value and getattr(training, name) == UNKNOWN
    }
    if not training.packages:
        filled["packages"] = pinned_packages(files.requirements or "")
    return training.with_(**filled)


def _without_credentials(url: str) -> str:
    return re.sub(r"(?<=://)[^/@\s]+@", "", url)


def pinned_packages(requirements: str) -> dict[str, str]:
    """Return the versions of the packages that a requirements file pins.

    Examples
    --------
    >>> pinned_packages("numpy==2.4.6  # fast\\npandas>=2\\nuvicorn[standard]==0.35.0")
    {'numpy': '2.4.6', 'uvicorn': '0.35.0'}
    """
    matches = (_PINNED.match(line) for line in requirements.splitlines())
    return {match[1]: match[2] for match in matches if match}


def to_requirements(files: ExternalFiles) -> str | None:
    """Return what a version needs to run: what its files say, without MLflow where the model
    server reads the flavour by itself."""
    if files.requirements is None or len(files.requirements) > _MAX_REQUIREMENTS:
        return None
    lines = files.requirements.splitlines()
    if files.flavour in _READ_WITHOUT_MLFLOW:
        lines = [line for line in lines if not _MLFLOW_LINE.match(line)]
    return "\n".join(lines).strip() or None


def to_signature(document: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a signature in the Open Inference Protocol's words, from MLflow's.

    None when there are no inputs, or one is of a type that no tensor can carry.

    Examples
    --------
    >>> to_signature({"inputs": [{"type": "double", "name": "a"}]})
    {'inputs': [{'name': 'a', 'datatype': 'FP64', 'shape': [-1]}]}
    """
    if document is None:
        return None
    sides = {"inputs": "input", "outputs": "predictions"}
    found = {side: _tensors(document.get(side), nameless) for side, nameless in sides.items()}
    if not found["inputs"]:
        return None
    return {side: items for side, items in found.items() if items}


def _tensors(items: object, nameless: str) -> list[dict[str, Any]]:
    """Return one side of a signature; empty when any of it cannot be carried."""
    tensors = []
    for item in items if isinstance(items, list) else ():
        tensor = _tensor(item, nameless) if isinstance(item, dict) else None
        if tensor is None:
            return []
        tensors.append(tensor)
    return tensors


def _tensor(item: Mapping[str, Any], nameless: str) -> dict[str, Any] | None:
    optional = {} if item.get("required", True) is True else {"required": False}
    name = str(item.get("name", nameless))
    described = item.get("tensor-spec")
    if item.get("type") == "tensor" and isinstance(described, dict):
        datatype, shape = _TENSOR_TYPES.get(str(described.get("dtype"))), described.get("shape")
        is_shape = isinstance(shape, list) and shape and all(type(size) is int for size in shape)
        if datatype is None or not is_shape:
            return None
        return {"name": name, "datatype": datatype, "shape": shape, **optional}
    datatype = _COLUMN_TYPES.get(str(item.get("type")))
    if datatype is None:
        return None
    return {"name": name, "datatype": datatype, "shape": [-1], **optional}


def to_request(
    example: Mapping[str, Any] | None, signature: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Return an example in MLflow's serving form as an inference request, or None.

    Only a table whose columns are just those of the signature, with values of their types.
    """
    table = example.get("dataframe_split") if example else None
    if not isinstance(table, dict) or not signature:
        return None
    columns, rows = table.get("columns"), table.get("data")
    specs = {spec["name"]: spec for spec in signature["inputs"]}
    if not isinstance(columns, list) or not isinstance(rows, list) or not rows:
        return None
    if set(columns) != set(specs) or len(columns) * len(rows) > _MAX_EXAMPLE_VALUES:
        return None
    if not all(isinstance(row, list) and len(row) == len(columns) for row in rows):
        return None
    inputs = []
    for index, name in enumerate(columns):
        values = [row[index] for row in rows]
        datatype = specs[name]["datatype"]
        if specs[name]["shape"] != [-1] or not all(_fits(value, datatype) for value in values):
            return None
        inputs.append({"name": name, "datatype": datatype, "shape": [len(rows)], "data": values})
    return {"inputs": inputs}


def _fits(value: object, datatype: str) -> bool:
    if datatype.startswith("FP"):
        return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    if datatype == "BOOL":
        return isinstance(value, bool)
    if datatype == "BYTES":
        return isinstance(value, str)
    return isinstance(value, int) and not isinstance(value, bool)


def copied_version(source: str) -> tuple[str, int] | None:
    """Return the model and number that a source ``models:/NAME/3`` names; None for others.

    Examples
    --------
    >>> copied_version("models:/fraud/3"), copied_version("models:/m-0f3a")
    (('fraud', 3), None)
    """
    model, slash, number = source.removeprefix("models:/").rpartition("/")
    if model == source or not source.startswith("models:/") or not slash or not number.isdecimal():
        return None
    return model, int(number)


def numbers_of(versions: Iterable[ModelVersion]) -> dict[str, int]:
    """Return the number of each living version by its semantic version."""
    return {v.spec.version: v.spec.number for v in versions if v.status.deleted_at is None}
