"""A ModelDeployment: which model an environment should serve, and how. Pure data."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from modelplane.resources.meta import Condition, ModelName, Part, Resource
from modelplane.resources.quantities import Duration
from modelplane.resources.revision import Resources, Revision
from modelplane.resources.strategy import Strategy
from modelplane.resources.versions import parse_version


def _check_version(text: str) -> str:
    # An integer is the registry's number of a version, not a short form of a semantic one.
    return text if text == "latest" or text.isdecimal() else parse_version(text)


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
    timeout_s: Duration = Field(
        default=60.0, alias="timeout", description="How long one request may take."
    )
    try_timeout_s: Duration = Field(
        default=20.0, alias="tryTimeout", description="How long one attempt at a replica may take."
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


class ModelDeploymentStatus(Part):
    """What runs."""

    stable: Revision | None = Field(default=None, description="What serves by default.")
    promotion: str | None = Field(default=None, description="The latest promotion.")
    rollout: str | None = Field(default=None, description="The latest rollout.")
    rollouts: int = Field(default=0, description="How many there have been.")
    promotions: int = Field(default=0, description="How many there have been.")
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
