"""Models and their versions: the registry's records.

A `Model` is a name with labels. A `ModelVersion` is named ``MODEL@1.2.0``; its spec is immutable
and content-addressed, its status holds what may change (tags, description, aliases, with
history). Pure data.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import Field

from modelplane.resources.meta import Name, NoStatus, Part, Resource
from modelplane.resources.revision import Artifact


class ModelSpec(Part):
    """What is said of a model as a whole."""

    description: str = Field(default="", max_length=10_000)


class Model(Resource[ModelSpec, NoStatus]):
    """A model: a name that versions belong to; labels such as team and tier bind policies."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "models"
    declared: ClassVar[bool] = True
    short_names: ClassVar[tuple[str, ...]] = ("model",)

    kind: Literal["Model"] = "Model"
    spec: ModelSpec = Field(default_factory=ModelSpec)
    status: NoStatus = Field(default_factory=NoStatus)


class DatasetReference(Part):
    """Data that a version was made from or judged on."""

    name: str
    digest: str = Field(default="unknown", description="`sha256:` and hex, or `unknown`.")
    version: str | None = None
    rows: int | None = Field(default=None, ge=0)
    uri: str | None = None


class Training(Part):
    """What made the version; what is not known says `unknown`."""

    python: str = "unknown"
    packages: dict[str, str] = Field(default_factory=dict)
    hardware: str = "unknown"
    git_commit: str = "unknown"
    git_dirty: bool | None = None
    command: str = "unknown"
    run_id: str = "unknown"


class ModelVersionSpec(Part):
    """The immutable record of a version."""

    model: Name
    version: str = Field(description="Semantic version.")
    number: int = Field(default=0, ge=0, description="Increasing integer given by the registry.")
    artifact: Artifact
    metrics: dict[str, float] = Field(default_factory=dict)
    parameters: dict[str, str] = Field(default_factory=dict)
    signature: dict[str, Any] | None = Field(
        default=None, description="Inputs and outputs: `{inputs: [{name, datatype, shape}], …}`."
    )
    input_example: dict[str, Any] | None = Field(
        default=None, description="One inference request, used as the smoke prediction."
    )
    requirements: str | None = Field(default=None, description="Python requirements to run it.")
    datasets: tuple[DatasetReference, ...] = ()
    training: Training = Field(default_factory=Training)
    author: str = ""


class AliasMove(Part):
    """One entry of an alias's history."""

    alias: str
    action: Literal["set", "removed"]
    subject: str
    at: datetime
    reason: str = ""


class ModelVersionStatus(Part):
    """What may change about a version."""

    description: str = Field(default="", max_length=10_000)
    tags: dict[str, str] = Field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    alias_history: tuple[AliasMove, ...] = ()
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
