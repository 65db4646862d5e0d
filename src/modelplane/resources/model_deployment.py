"""A ModelDeployment: which model an environment should serve, and how. Pure data."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from modelplane.resources.limits import Limits
from modelplane.resources.meta import Condition, ModelName, Name, Part, Resource
from modelplane.resources.monitoring import DriftWatch, Labels, PredictionLog
from modelplane.resources.quantities import Duration
from modelplane.resources.revision import Resources, Revision
from modelplane.resources.strategy import Strategy
from modelplane.resources.versions import parse_version


def _check_version(text: str) -> str:
    # An integer is the registry's number of a version, not a short form of a semantic one.
    return text if text == "latest" or text.isdecimal() else parse_version(text)


class MirrorTo(Part):
    """Another environment that gets copies of requests; their answers are thrown away."""

    environment: Name = Field(description="Its gateway must have a mesh that allows this one.")
    percentage: float = Field(
        default=100.0, gt=0, le=100, description="Share of the requests that is copied."
    )


class ModelDeploymentSpec(Part):
    """What should run. Version and runtime change through a rollout; the rest in place."""

    model: ModelName = Field(description="The model; absent in a manifest: the deployment's name.")
    version: Annotated[str, AfterValidator(_check_version)] = Field(
        default="latest",
        description="Semantic version, integer number, or `latest`; resolved when applied.",
    )
    replicas: int = Field(default=1, ge=1, le=100, description="Model servers per revision.")
    resources: Resources = Field(default_factory=Resources)
    env: dict[str, str] = Field(default_factory=dict, description="Environment variables.")
    requirements: str | None = Field(
        default=None, description="Python requirements instead of the version's own."
    )
    strategy: Strategy | None = Field(
        default=None, description="How a revision takes over; absent: the environment's default."
    )
    idempotent: bool = Field(
        default=True,
        description="Whether a request may be tried again. If so, stable answers what the "
        "candidate fails (the shield).",
    )
    user_header: str = Field(
        default="x-user-id",
        pattern=r"^[a-z0-9][a-z0-9-]{0,62}$",
        description="Request header that tells users apart; one user stays on one version.",
    )
    user_cookie: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_-]{1,63}$",
        description="Cookie that tells users apart, instead of the header; who has none is given "
        "one.",
    )
    user_claim: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9][a-z0-9_]{0,39}$",
        description="Claim of the verified token that tells users apart, such as `sub`; the "
        "environment's gateway must verify it.",
    )
    allow_override: bool = Field(
        default=False,
        description="Whether the request header `x-modelplane-version` may choose a live version. "
        "For testers: such requests are not judged.",
    )
    limits: Limits = Field(default_factory=Limits, description="What protects it from too much.")
    mirror_to: tuple[MirrorTo, ...] = Field(
        default=(),
        max_length=4,
        description="Environments whose deployment of the same name gets copies of the requests.",
    )
    timeout_s: Duration = Field(
        default=60.0, gt=0, alias="timeout", description="How long one request may take."
    )
    try_timeout_s: Duration = Field(
        default=20.0,
        gt=0,
        alias="tryTimeout",
        description="How long one attempt at a replica may take.",
    )
    start_timeout_s: Duration = Field(
        default=300.0,
        gt=0,
        alias="startTimeout",
        description="How long a model server may take from its start until it is ready.",
    )
    metrics_endpoint: str | None = Field(
        default=None,
        pattern=r"^/",
        description="Path scraped on the model server and shown with the version.",
    )

    predictions: PredictionLog | None = Field(
        default=None, description="What is kept of each prediction; absent: nothing."
    )
    labels: Labels = Field(
        default_factory=Labels, description="How truth that comes later is read."
    )
    drift: DriftWatch | None = Field(
        default=None, description="What counts as drift; absent: nothing is watched for it."
    )

    @model_validator(mode="after")
    def _users_are_told_apart_one_way(self) -> ModelDeploymentSpec:
        if self.user_cookie is not None and self.user_claim is not None:
            raise ValueError("userCookie and userClaim are two ways; write one of them")
        return self

    @field_validator("user_header")
    @classmethod
    def _header_reaches_the_rules(cls, name: str) -> str:
        if name.startswith(("x-modelplane-", "x-envoy-")):
            raise ValueError(f"gateways drop what clients send as {name}")
        return name


class WarmRevision(Part):
    """A revision that served before and is kept running for a while."""

    revision: Revision
    until: datetime


class Lane(Part):
    """What one traffic policy has under way beside the deployment's own rollout."""

    promotion: str = Field(description="The lane's latest promotion.")
    rollout: str | None = Field(default=None, description="The lane's latest rollout.")


class ModelDeploymentStatus(Part):
    """What runs."""

    stable: Revision | None = Field(default=None, description="What serves by default.")
    promotion: str | None = Field(default=None, description="The latest promotion.")
    rollout: str | None = Field(default=None, description="The latest rollout.")
    rollouts: int = Field(default=0, description="How many there have been.")
    promotions: int = Field(default=0, description="How many there have been.")
    lanes: dict[str, Lane] = Field(
        default_factory=dict, description="By `POLICY/VERSION`: what traffic policies brought."
    )
    warm: WarmRevision | None = Field(
        default=None, description="Kept running after a blue/green switch."
    )
    ready_replicas: int = 0
    url: str = Field(default="", description="Where inference requests go.")
    conditions: tuple[Condition, ...] = ()


class ModelDeployment(Resource[ModelDeploymentSpec, ModelDeploymentStatus]):
    """A model served in an environment behind its gateway."""

    scoped: ClassVar[bool] = True
    plural: ClassVar[str] = "model-deployments"
    declared: ClassVar[bool] = True
    short_names: ClassVar[tuple[str, ...]] = ("deployment", "deployments", "md")

    kind: Literal["ModelDeployment"] = "ModelDeployment"
    spec: ModelDeploymentSpec
    status: ModelDeploymentStatus = Field(default_factory=ModelDeploymentStatus)
