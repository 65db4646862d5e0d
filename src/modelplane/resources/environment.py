"""Environments: where deployments run, each with a gateway of its own. Pure data."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from modelplane.resources.meta import NoStatus, Part, Resource
from modelplane.resources.strategy import Strategy


class Gateway(Part):
    """Where an environment's inference requests arrive."""

    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on. Other than loopback, requests need the gateway's token.",
    )
    port: int = Field(ge=1, le=65535, description="TCP port.")


class EnvironmentSpec(Part):
    """What holds for all deployments of an environment."""

    stage: Literal["development", "staging", "production"] = Field(
        description="What kind of place it is; policies and defaults go by it."
    )
    order: int = Field(default=0, description="Place on the way to production, rising.")
    gateway: Gateway
    allow_pickle: Literal["never", "scanned", "always"] = Field(
        default="scanned",
        description="Whether artifacts that hold pickles may be loaded; `scanned`: those whose "
        "every import is on the allowlist.",
    )
    require_signature: bool = Field(
        default=False,
        description="Whether only files with a signature by one of `trustedKeys` are started.",
    )
    trusted_keys: tuple[str, ...] = Field(
        default=(), description="Public keys, PEM; absent: this modelplane's own."
    )
    strategy: Strategy | None = Field(
        default=None,
        description="For deployments that name none. Absent: canary in production, all at once "
        "elsewhere.",
    )


class Environment(Resource[EnvironmentSpec, NoStatus]):
    """A place where deployments run: staging and production exist from the start."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "environments"
    declared: ClassVar[bool] = True
    short_names: ClassVar[tuple[str, ...]] = ("env", "environment")

    kind: Literal["Environment"] = "Environment"
    spec: EnvironmentSpec
    status: NoStatus = Field(default_factory=NoStatus)
