"""From a stored `TrafficSplit` to the `RoutePlan` that a gateway is given. Pure.

Called by `agent.gateways`. A plan's weights are basis points that sum to 10,000 whatever the
percentages' fractions are.
"""

from __future__ import annotations

from modelplane.decisions.routing import (
    TOTAL_WEIGHT,
    Endpoint,
    Mirror,
    RoutePlan,
    Rule,
    Segment,
    Variant,
)
from modelplane.resources.traffic_split import SplitRule, SplitVariant, TrafficSplit

_SHORT = 10


def cluster_name(deployment: str, revision: str) -> str:
    """Return the name of a revision's cluster; `revision` is its digest, short or whole."""
    return f"{deployment}.{revision[:_SHORT]}"


def split_cluster_name(cluster: str) -> tuple[str, str]:
    """Return the deployment and the short revision of a cluster's name.

    Examples
    --------
    >>> split_cluster_name("fraud.v2.0123456789")
    ('fraud.v2', '0123456789')
    """
    deployment, _, revision = cluster.rpartition(".")
    return deployment, revision


def plan_route(split: TrafficSplit) -> RoutePlan:
    """Return the plan that makes a gateway do what `split` says.

    Raises
    ------
    ValueError
        When no plan can: not exactly one stable variant, weights that are not 100 in sum, or a
        weight for a variant without endpoints.
    """
    spec = split.spec
    stable = [variant for variant in spec.variants if variant.role == "stable"]
    if len(stable) != 1:
        raise ValueError(f"a split has exactly one stable variant, got {len(stable)}")
    name = spec.deployment
    rules = tuple(_rule(name, rule) for rule in spec.rules)
    weights = dict.fromkeys((v.revision for v in spec.variants), 0) if rules else _weights(split)
    return RoutePlan(
        deployment=name,
        generation=split.metadata.generation,
        variants=tuple(_variant(name, v, weights[v.revision]) for v in spec.variants),
        sticky_header=spec.user_header.lower(),
        sticky_cookie=spec.user_cookie,
        rules=rules,
        input_types=spec.input_types,
        slices=spec.slices,
        allow_override=spec.allow_override,
        limits=spec.limits,
        timeout_s=spec.timeout_s,
        try_timeout_s=spec.try_timeout_s,
        shield=spec.shield,
    )


def _weights(split: TrafficSplit) -> dict[str, int]:
    """Return basis points by revision for a split without rules."""
    variants = split.spec.variants
    total_pct = sum(variant.weight_pct for variant in variants)
    if abs(total_pct - 100.0) > 0.01:
        raise ValueError(f"a split's weights sum to 100, got {total_pct:g}")
    weights = {
        variant.revision: round(variant.weight_pct * TOTAL_WEIGHT / 100)
        for variant in variants
        if variant.role == "candidate"
    }
    # Rounding falls to stable, so that a candidate gets what it was given or nothing.
    rest = TOTAL_WEIGHT - sum(weights.values())
    if rest < 0:
        largest = max(weights, key=lambda revision: weights[revision])
        weights[largest] += rest
        rest = 0
    return weights | {v.revision: rest for v in variants if v.role == "stable"}


def _rule(deployment: str, rule: SplitRule) -> Rule:
    return Rule(
        name=rule.name,
        predicate=rule.predicate,
        salt=rule.salt,
        segments=tuple(
            Segment(cluster_name(deployment, part.revision), part.width) for part in rule.segments
        ),
        mirrors=tuple(
            Mirror(
                cluster_name(deployment, mirror.revision),
                round(mirror.percentage * TOTAL_WEIGHT / 100),
            )
            for mirror in rule.mirrors
        ),
    )


def _variant(deployment: str, variant: SplitVariant, weight: int) -> Variant:
    endpoints = (Endpoint(e.replica, e.address, e.identity) for e in variant.endpoints)
    return Variant(
        cluster=cluster_name(deployment, variant.revision),
        version=variant.version,
        role=variant.role,
        weight=weight,
        endpoints=tuple(sorted(endpoints, key=lambda endpoint: endpoint.replica)),
    )
