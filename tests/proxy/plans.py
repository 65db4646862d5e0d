"""Short ways to write plans in tests."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from modelplane.decisions.routing import (
    TOTAL_WEIGHT,
    Endpoint,
    Mirror,
    Role,
    RoutePlan,
    Rule,
    Segment,
    Variant,
)
from modelplane.decisions.traffic import rule_name
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


def shared(deployment: str, **widths: int) -> tuple[Segment, ...]:
    """Return ranges for the clusters ``DEPLOYMENT.NAME``, and the rest for ``DEPLOYMENT.a``."""
    segments = [Segment(f"{deployment}.{name}", width) for name, width in widths.items() if width]
    rest = TOTAL_WEIGHT - sum(widths.values())
    return (*segments, *((Segment(f"{deployment}.a", rest),) if rest else ()))


def rule(
    deployment: str,
    predicate: str = "",
    salt: str = "",
    mirrors: tuple[Mirror, ...] = (),
    **widths: int,
) -> Rule:
    """Return a rule that gives each named revision its width, and stable ``a`` the rest."""
    return Rule(rule_name(predicate), predicate, salt, shared(deployment, **widths), mirrors)


def ruled_plan(
    deployment: str,
    generation: int = 1,
    *,
    replicas: Mapping[str, Replica],
    rules: tuple[Rule, ...],
    roles: Mapping[str, Role] = MappingProxyType({}),
    **settings: Any,
) -> RoutePlan:
    """Return a plan with rules.

    `replicas` are those of each revision, stable ``a`` first; the versions are 1.0.0, 1.1.0, …
    """
    variants = tuple(
        Variant(
            f"{deployment}.{name}",
            f"1.{number}.0",
            roles.get(name, "candidate" if number else "stable"),
            0,
            (endpoint(replica),),
        )
        for number, (name, replica) in enumerate(replicas.items())
    )
    return RoutePlan(deployment, generation, variants, rules=rules, **settings)
