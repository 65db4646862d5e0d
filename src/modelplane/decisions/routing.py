"""What a gateway should do with requests, as plain data.

The agent computes a `RoutePlan` for each deployment from its stored `TrafficSplit` and hands it
to `ports.proxy.Proxy`; the adapter for Envoy turns it into protobuf. Nothing here knows of
Envoy. Plans are consistent by construction: a weight never names a cluster that is not in the
same plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TOTAL_WEIGHT = 10_000
"""Weights of one plan sum to this constant (basis points), which keeps hashing sticky."""

Role = Literal["stable", "candidate"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One ready replica that may receive requests.

    Attributes
    ----------
    replica
        Name of the `Replica` resource.
    address
        ``unix:/path`` or ``host:port``.
    """

    replica: str
    address: str


@dataclass(frozen=True, slots=True)
class Variant:
    """One live revision of a deployment.

    Attributes
    ----------
    cluster
        Name unique on the gateway, ``DEPLOYMENT.REVISION`` with the revision's short digest.
    version
        The model version people know, such as ``1.2.0``; sent as ``x-modelplane-version``.
    role
        ``stable`` or ``candidate``; a plan has exactly one stable.
    weight
        Share of requests in basis points, 0 to `TOTAL_WEIGHT`.
    endpoints
        Ready replicas, sorted by replica name; may be empty only when the weight is 0.
    """

    cluster: str
    version: str
    role: Role
    weight: int
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """Everything a gateway needs to serve one deployment.

    Attributes
    ----------
    deployment
        Name of the deployment, which is the model's name in the inference path.
    generation
        Generation of the `TrafficSplit` this was computed from; acknowledgements carry it back.
    variants
        The live revisions; weights sum to `TOTAL_WEIGHT`.
    sticky_header
        Request header (lower case) that tells users apart.
    salt
        Changes which users meet the candidate; constant during one rollout.
    timeout_s
        How long one request may take in all, seconds.
    try_timeout_s
        How long one attempt at one replica may take, seconds.
    shield
        Whether stable answers what the candidate fails. On unless the deployment is not
        idempotent.
    """

    deployment: str
    generation: int
    variants: tuple[Variant, ...]
    sticky_header: str = "x-user-id"
    salt: str = ""
    timeout_s: float = 60.0
    try_timeout_s: float = 20.0
    shield: bool = True

    def __post_init__(self) -> None:
        stable = [variant for variant in self.variants if variant.role == "stable"]
        if len(stable) != 1:
            raise ValueError(f"a plan has exactly one stable variant, got {len(stable)}")
        total = sum(variant.weight for variant in self.variants)
        if total != TOTAL_WEIGHT:
            raise ValueError(f"weights sum to {TOTAL_WEIGHT}, got {total}")
        for variant in self.variants:
            if variant.weight and not variant.endpoints:
                raise ValueError(f"{variant.cluster} has weight {variant.weight} and no endpoint")

    @property
    def stable(self) -> Variant:
        """The variant that serves by default and answers what a candidate fails."""
        return next(variant for variant in self.variants if variant.role == "stable")

    @property
    def candidates(self) -> tuple[Variant, ...]:
        """The variants that are being judged."""
        return tuple(variant for variant in self.variants if variant.role == "candidate")
