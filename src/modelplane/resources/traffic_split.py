"""A TrafficSplit: who gets how much of one deployment's traffic, now. Pure data.

Written by the traffic controller, read by the agent that owns the gateway; the agent reports in
the status what the gateway acknowledged. Named like its deployment.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Literal

from pydantic import Field

from modelplane.resources.meta import Name, Part, Resource


class SplitEndpoint(Part):
    """One ready replica."""

    replica: str
    address: str = Field(description="`unix:/path` or `host:port`.")


class SplitVariant(Part):
    """One live revision."""

    revision: str = Field(description="Digest of the revision.")
    version: str
    role: Literal["stable", "candidate"]
    weight_pct: float = Field(ge=0, le=100)
    endpoints: tuple[SplitEndpoint, ...] = ()


class TrafficSplitSpec(Part):
    """What the gateway should do."""

    deployment: Name
    variants: tuple[SplitVariant, ...]
    rollout_uid: str = Field(default="", description="The running rollout; tags the counts.")
    step_id: int = Field(default=0, description="The rollout's step; tags the counts.")
    salt: str = ""
    user_header: str = "x-user-id"
    timeout_s: float = 60.0
    try_timeout_s: float = 20.0
    shield: bool = True


class TrafficSplitStatus(Part):
    """What the gateway does."""

    accepted_generation: int = Field(default=0, description="Last one the gateway acknowledged.")
    accepted_at: datetime | None = None
    refused_generation: int = Field(default=0, description="Last one the gateway refused.")
    message: str = Field(default="", description="The gateway's reason for a refusal.")


class TrafficSplit(Resource[TrafficSplitSpec, TrafficSplitStatus]):
    """Who gets how much of one deployment's traffic, and whether the gateway does so."""

    scoped: ClassVar[bool] = True
    plural: ClassVar[str] = "traffic-splits"

    kind: Literal["TrafficSplit"] = "TrafficSplit"
    spec: TrafficSplitSpec
    status: TrafficSplitStatus = Field(default_factory=TrafficSplitStatus)
