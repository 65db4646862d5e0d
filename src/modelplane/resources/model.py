"""Models and their versions: the registry's records.

A `Model` is a name with labels; its status holds what points at versions: aliases, and who is
champion and challenger where. A `ModelVersion` is named ``MODEL@1.2.0``; its spec is immutable
and content-addressed, its status holds what may change (tags, description, corrections). Every
move of an alias is an `AliasMove`, which never changes. Pure data.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import Field

from modelplane.resources.dataset import DatasetReference
from modelplane.resources.meta import Condition, ModelName, NoStatus, Part, Resource
from modelplane.resources.revision import Artifact

AliasOrigin = Literal["request", "rollout", "outside"]
"""Asked of modelplane, moved by modelplane itself, or found moved in a registry it watches."""


class ModelSpec(Part):
    """What is said of a model as a whole."""

    description: str = Field(default="", max_length=10_000)


class Serving(Part):
    """Which versions of a model have the traffic of one deployment."""

    environment: str
    deployment: str
    champion: str | None = Field(default=None, description="The stable version.")
    challenger: str | None = Field(default=None, description="The version being rolled out.")


class ModelStatus(Part):
    """What points at a model's versions. Versions are named by their semantic version here."""

    last_number: int = Field(default=0, ge=0, description="The version number given last.")
    moves: int = Field(default=0, ge=0, description="How many alias moves were recorded.")
    aliases: dict[str, str] = Field(default_factory=dict, description="Version by alias.")
    serving: tuple[Serving, ...] = Field(
        default=(), description="Champion and challenger of each deployment."
    )
    tags: dict[str, str] = Field(default_factory=dict)
    source_tags: tuple[str, ...] = Field(
        default=(), description="Names of the tags that are followed in the source."
    )
    source: str | None = Field(
        default=None, description="The ModelSource it is registered in; absent: registered here."
    )
    mirrored_aliases: dict[str, str] = Field(
        default_factory=dict,
        description="Version by alias as the source had them when both were last compared.",
    )
    changed_at: datetime | None = Field(
        default=None, description="When MLflow users would say it was last updated."
    )


class Model(Resource[ModelSpec, ModelStatus]):
    """A model: a name that versions belong to; labels such as team and tier bind policies."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "models"
    declared: ClassVar[bool] = True
    short_names: ClassVar[tuple[str, ...]] = ("model",)

    kind: Literal["Model"] = "Model"
    spec: ModelSpec = Field(default_factory=ModelSpec)
    status: ModelStatus = Field(default_factory=ModelStatus)


class Training(Part):
    """What made the version; what is not known says `unknown`."""

    python: str = "unknown"
    packages: dict[str, str] = Field(default_factory=dict)
    hardware: str = "unknown"
    git_commit: str = "unknown"
    git_dirty: bool | None = None
    git_remote: str = Field(default="unknown", description="Where the code can be fetched from.")
    command: str = "unknown"
    directory: str = Field(
        default="unknown", description="Where the command ran, from the top of the working tree."
    )
    run_id: str = "unknown"
    training_run: str | None = Field(
        default=None, max_length=128, description="The TrainingRun that made it, if one did."
    )


class ModelVersionSpec(Part):
    """The immutable record of a version."""

    model: ModelName
    version: str = Field(description="Semantic version.")
    number: int = Field(default=0, ge=0, description="Increasing integer given by the registry.")
    id: str = Field(
        default="",
        description="Unique id from model, version and digest; given when the files are known.",
    )
    artifact: Artifact | None = Field(
        default=None, description="Its files; absent until they were fetched from `source`."
    )
    source: str | None = Field(
        default=None, description="Where the files were registered, when not pushed here: a URI."
    )
    flavour: str = Field(default="", description="The library it was made with: sklearn, onnx …")
    metrics: dict[str, float] = Field(default_factory=dict)
    parameters: dict[str, str] = Field(default_factory=dict)
    signature: dict[str, Any] | None = Field(
        default=None, description="Inputs and outputs: `{inputs: [{name, datatype, shape}], …}`."
    )
    input_example: dict[str, Any] | None = Field(
        default=None, description="One inference request, used as the smoke prediction."
    )
    requirements: str | None = Field(default=None, description="Python requirements to run it.")
    feature_configuration: dict[str, Any] = Field(
        default_factory=dict, description="How features are made: names, windows, defaults …"
    )
    datasets: tuple[DatasetReference, ...] = ()
    training: Training = Field(default_factory=Training)
    author: str = ""
    registered_at: datetime | None = Field(
        default=None, description="When the registry it comes from registered it."
    )


class Correction(Part):
    """A later record about something immutable; the first record stays as it was."""

    field: str = Field(description="Path in the spec: `metrics.accuracy`.")
    value: Any = Field(description="What it should have been; null: it should not be there.")
    subject: str
    at: datetime
    reason: str


class Signature(Part):
    """A signature over a version's files, as the model-signing standard has it."""

    key_id: str = Field(description="SHA-256 of the public key (DER), hex.")
    bundle: str = Field(max_length=200_000, description="The sigstore bundle, JSON.")
    subject: str
    at: datetime


class ModelVersionStatus(Part):
    """What may change about a version."""

    description: str = Field(default="", max_length=100_000)
    tags: dict[str, str] = Field(default_factory=dict)
    source_tags: tuple[str, ...] = Field(
        default=(), description="Names of the tags that are followed in the source."
    )
    stage: Literal["None", "Staging", "Production", "Archived"] = Field(
        default="None", description="Stage in MLflow's sense; modelplane itself goes by aliases."
    )
    aliases: tuple[str, ...] = Field(
        default=(), description="Filled in when read; the model's status holds them."
    )
    corrections: tuple[Correction, ...] = ()
    signatures: tuple[Signature, ...] = ()
    conditions: tuple[Condition, ...] = ()
    changed_at: datetime | None = Field(
        default=None, description="When MLflow users would say it was last updated."
    )
    deleted_at: datetime | None = Field(
        default=None, description="Set on a tombstone: the record stays, the version is gone."
    )


class ModelVersion(Resource[ModelVersionSpec, ModelVersionStatus]):
    """One version of a model: bytes, metrics, data and environment, never changed."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "model-versions"
    short_names: ClassVar[tuple[str, ...]] = ("version", "versions", "mv")

    kind: Literal["ModelVersion"] = "ModelVersion"
    spec: ModelVersionSpec
    status: ModelVersionStatus = Field(default_factory=ModelVersionStatus)


class AliasMoveSpec(Part):
    """One move: which name went from which version to which, when, by whom and why."""

    model: ModelName
    alias: str = Field(description="The alias; in an environment `champion` or `challenger`.")
    environment: str | None = Field(
        default=None, description="Where, for what a deployment serves; absent for an alias."
    )
    deployment: str | None = None
    before: str | None = Field(default=None, description="Semantic version; absent: none.")
    after: str | None = Field(default=None, description="Semantic version; absent: none.")
    at: datetime
    subject: str
    reason: str = ""
    origin: AliasOrigin = "request"
    promotion: str | None = Field(default=None, description="The promotion that led to it.")


class AliasMove(Resource[AliasMoveSpec, NoStatus]):
    """One move of an alias, of a champion or of a challenger; never changed.

    Named ``MODEL@NNNNNNNN``, numbered within the model.
    """

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "alias-moves"

    kind: Literal["AliasMove"] = "AliasMove"
    spec: AliasMoveSpec
    status: NoStatus = Field(default_factory=NoStatus)


def version_id(model: str, version: str, digest: str) -> str:
    """Return the unique id of a version: from its model, semantic version and digest.

    Examples
    --------
    >>> version_id("fraud", "1.0.0", "sha256:" + 64 * "0")
    'mv-f0bbb5a7e77ee555567006a1249e696f'
    """
    text = "\n".join((model, version, digest))
    return f"mv-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
