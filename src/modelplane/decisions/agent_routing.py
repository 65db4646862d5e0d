"""From a stored `TrafficSplit` to the `RoutePlan` that a gateway is given. Pure.

Called by `agent.gateways`. A plan's weights are basis points that sum to 10,000 whatever the
percentages' fractions are.
"""

from __future__ import annotations

from modelplane.decisions.routing import TOTAL_WEIGHT, Endpoint, RoutePlan, Variant
from modelplane.resources.traffic_split import SplitVariant, TrafficSplit

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
    total_pct = sum(variant.weight_pct for variant in spec.variants)
    if abs(total_pct - 100.0) > 0.01:
        raise ValueError(f"a split's weights sum to 100, got {total_pct:g}")
    weights = {
        variant.revision: round(variant.weight_pct * TOTAL_WEIGHT / 100)
        for variant in spec.variants
        if variant.role == "candidate"
    }
    # Rounding falls to stable, so that a candidate gets what it was given or nothing.
    rest = TOTAL_WEIGHT - sum(weights.values())
    if rest < 0:
        largest = max(weights, key=lambda revision: weights[revision])
        weights[largest] += rest
        rest = 0
    weights[stable[0].revision] = rest
    return RoutePlan(
        deployment=spec.deployment,
        generation=split.metadata.generation,
        variants=tuple(_variant(spec.deployment, v, weights[v.revision]) for v in spec.variants),
        sticky_header=spec.user_header.lower(),
        salt=spec.salt,
        timeout_s=spec.timeout_s,
        try_timeout_s=spec.try_timeout_s,
        shield=spec.shield,
    )


def _variant(deployment: str, variant: SplitVariant, weight: int) -> Variant:
    endpoints = (Endpoint(replica=e.replica, address=e.address) for e in variant.endpoints)
    return Variant(
        cluster=cluster_name(deployment, variant.revision),
        version=variant.version,
        role=variant.role,
        weight=weight,
        endpoints=tuple(sorted(endpoints, key=lambda endpoint: endpoint.replica)),
    )
