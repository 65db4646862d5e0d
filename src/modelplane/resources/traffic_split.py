"""A TrafficSplit: who gets which version of one deployment, now. Pure data.

Written by the traffic controller, read by the agent that owns the gateway; the agent reports in
the status what the gateway acknowledged. Named like its deployment.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Literal

from pydantic import Field

from modelplane.resources.limits import Limits
from modelplane.resources.meta import Name, Part, Resource
from modelplane.resources.strategy import Slice

DEFAULT_RULE = "default"
"""Name of the rule that everybody is under whom no predicate chose."""

InputType = Literal["number", "text", "truth"]


class SplitEndpoint(Part):
    """One ready replica."""

    replica: str
    address: str = Field(description="`unix:/path` or `host:port`.")
    identity: str = Field(
        default="", description="SPIFFE id that answers there over mutual TLS; empty: no TLS."
    )


class SplitVariant(Part):
    """One live revision."""

    revision: str = Field(description="Digest of the revision.")
    version: str
    role: Literal["stable", "candidate", "shadow"]
    weight_pct: float = Field(
        ge=0, le=100, description="Share of the requests under its own rule; a shadow has none."
    )
    endpoints: tuple[SplitEndpoint, ...] = ()


class SplitSegment(Part):
    """A range of users, as many basis points wide, and the revision they are on."""

    revision: str
    width: int = Field(ge=1, le=10_000)


class SplitMirror(Part):
    """Requests are copied to a revision whose answers nobody sees."""

    revision: str
    percentage: float = Field(gt=0, le=100)
    tolerance: float = Field(
        default=1e-6, ge=0, description="Relative difference of numbers that counts as none."
    )


class SplitRule(Part):
    """Who is under it, and which of them get which revision. The first that holds is used."""

    name: str = Field(description="Tags the counts; `default` for the last one.")
    predicate: str = Field(default="", description="CEL; empty holds for everybody.")
    salt: str = Field(default="", description="Which users are in which range.")
    segments: tuple[SplitSegment, ...] = Field(
        description="Ranges in the order of the hash, 10,000 basis points in sum."
    )
    mirrors: tuple[SplitMirror, ...] = ()


class SplitRemote(Part):
    """Requests are copied to the same deployment behind another environment's gateway."""

    environment: Name
    address: str = Field(description="`host:port` of the mesh of that gateway.")
    percentage: float = Field(gt=0, le=100)


class TrafficSplitSpec(Part):
    """What the gateway should do."""

    deployment: Name
    variants: tuple[SplitVariant, ...]
    rules: tuple[SplitRule, ...] = Field(
        default=(), description="In order, `default` last; empty: one by the variants' weights."
    )
    steps: dict[str, int] = Field(
        default_factory=dict, description="Running rollouts by uid, and the step of each."
    )
    input_types: dict[str, InputType] = Field(
        default_factory=dict, description="Types of the inputs that predicates may name."
    )
    slices: tuple[Slice, ...] = ()
    user_header: str = "x-user-id"
    user_cookie: str = Field(default="", description="Tells users apart instead of the header.")
    allow_override: bool = False
    limits: Limits = Field(default_factory=Limits)
    remotes: tuple[SplitRemote, ...] = ()
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
    """Who gets which version of one deployment, and whether the gateway does so."""

    scoped: ClassVar[bool] = True
    plural: ClassVar[str] = "traffic-splits"

    kind: Literal["TrafficSplit"] = "TrafficSplit"
    spec: TrafficSplitSpec
    status: TrafficSplitStatus = Field(default_factory=TrafficSplitStatus)
