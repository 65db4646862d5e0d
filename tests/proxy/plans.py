"""Short ways to write plans in tests."""

from __future__ import annotations

from typing import Any

from modelplane.decisions.routing import TOTAL_WEIGHT, Endpoint, RoutePlan, Variant
from tests.proxy.upstream import Upstream

Replica = Upstream | Endpoint


def endpoint(replica: Replica) -> Endpoint:
    """Return `replica` as a plan names it."""
    return replica if isinstance(replica, Endpoint) else Endpoint(replica.name, replica.address)


def split_plan(
    deployment: str,
    generation: int = 1,
    *,
    stable: tuple[Replica, ...],
    candidate: tuple[Replica, ...] = (),
    weight: int = 0,
    names: tuple[str, str] = ("a", "b"),
    versions: tuple[str, str] = ("1.0.0", "1.1.0"),
    **settings: Any,
) -> RoutePlan:
    """Return a plan with a stable variant and, when it has replicas, a candidate.

    `weight` is the candidate's, in basis points; `names` tells revisions apart in clusters.
    """
    roles = [("stable", names[0], versions[0], stable, TOTAL_WEIGHT - weight)]
    if candidate:
        roles.append(("candidate", names[1], versions[1], candidate, weight))
    variants = tuple(
        Variant(f"{deployment}.{name}", version, role, share, tuple(map(endpoint, replicas)))  # type: ignore[arg-type]
        for role, name, version, replicas, share in roles
    )
    return RoutePlan(deployment, generation, variants, **settings)
