"""A ModelSource: a registry elsewhere whose models appear here. Pure data.

Polled for what is registered there; its signed webhooks only wake the poll. Secrets are named,
never written here: `STATE/secrets/NAME`, or the variable `MODELPLANE_SECRET_NAME`.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from modelplane.resources.meta import Condition, Name, Part, Resource
from modelplane.resources.quantities import Duration


def _check_address(text: str) -> str:
    if re.fullmatch(r"https?://[^\s@?#]+", text):
        return text
    raise ValueError(
        "must be an address like http://mlflow:5000, without user, password and query; "
        "secrets are named in token, or username and password"
    )


Address = Annotated[str, AfterValidator(_check_address)]


class ModelSourceSpec(Part):
    """Where it is, how to be let in, and what to take."""

    type: Literal["mlflow"] = Field(default="mlflow", description="What it is.")
    url: Address = Field(description="Such as http://mlflow:5000; without user and password.")
    token: Name | None = Field(default=None, description="Name of the secret: a bearer token.")
    username: str | None = Field(
        default=None, description="For HTTP basic authentication, with `password`."
    )
    password: Name | None = Field(default=None, description="Name of the secret.")
    poll_interval_s: Duration = Field(
        default=30.0, ge=1, alias="pollInterval", description="How often it is asked."
    )
    timeout_s: Duration = Field(
        default=30.0, gt=0, alias="timeout", description="How long one request may take."
    )
    models: tuple[str, ...] = Field(
        default=("*",), description="Patterns of the names of models to take."
    )
    webhook_secret: Name | None = Field(
        default=None, description="Name of the secret that signs its webhooks; absent: none taken."
    )
    webhook_url: Address | None = Field(
        default=None,
        description="This API as the registry reaches it; given, the webhook is registered there.",
    )
    write_back: bool = Field(
        default=True, description="Whether aliases and tags are written there on promotion."
    )
    artifact_roots: tuple[str, ...] = Field(
        default=(),
        description="Where files may be read from besides the registry's own store, with the "
        "control plane's rights: its own folders, and addresses such as s3://bucket/prefix.",
    )


class ImportFailure(Part):
    """A version that could not be taken over, and when it is tried again."""

    model: str
    version: str
    reason: str = Field(description="Stable code: ArtifactMissing, DigestMismatch …")
    message: str
    attempts: int = 1
    retry_at: datetime


class ModelSourceStatus(Part):
    """How it goes."""

    conditions: tuple[Condition, ...] = ()
    models: int = Field(default=0, description="Models taken over.")
    versions: int = Field(default=0, description="Versions taken over.")
    failures: tuple[ImportFailure, ...] = Field(
        default=(), description="The first hundred that could not be taken over."
    )
    webhook_id: str | None = None


class ModelSource(Resource[ModelSourceSpec, ModelSourceStatus]):
    """A registry elsewhere whose models appear here."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "model-sources"
    declared: ClassVar[bool] = True
    short_names: ClassVar[tuple[str, ...]] = ("source", "sources")

    kind: Literal["ModelSource"] = "ModelSource"
    spec: ModelSourceSpec
    status: ModelSourceStatus = Field(default_factory=ModelSourceStatus)
