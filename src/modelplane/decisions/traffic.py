"""The traffic split a deployment should have, from what runs and where its rollout stands.

Called by `controllers.traffic`. Pure. Consistent by construction: weights sum to 100, and no
weight goes to a revision without an endpoint.
"""

from __future__ import annotations

from collections.abc import Sequence

from modelplane.decisions.placement import choose
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.replica import Replica
from modelplane.resources.revision import Revision
from modelplane.resources.rollout import Rollout
from modelplane.resources.traffic_split import (
    SplitEndpoint,
    SplitVariant,
    TrafficSplit,
    TrafficSplitSpec,
)


def decide_split(
    deployment: ModelDeployment,
    rollout: Rollout | None,
    replicas: Sequence[Replica],
    current: TrafficSplit | None,
) -> TrafficSplitSpec | None:
    """Return the split to store, or None while nothing can serve (the present one then stays).

    Parameters
    ----------
    deployment
        Its status names stable.
    rollout
        The running rollout, if any; its status says the candidate's weight.
    replicas
        All replicas of the deployment.
    current
        The stored split: stable keeps its endpoints there when none of its replicas is ready,
        because a replica that restarts comes back at the same address.
    """
    stable = deployment.status.stable
    if stable is None:
        return None
    count = deployment.spec.replicas
    stable_endpoints = _endpoints(stable, count, replicas) or _known(stable, current)
    if not stable_endpoints:
        return None
    variants = []
    weight_pct, step_id, rollout_uid, salt = 0.0, 0, "", ""
    if rollout is not None and not rollout.finished and rollout.spec.stable is not None:
        rollout_uid, step_id = rollout.metadata.uid, rollout.status.step_id
        salt = rollout.metadata.uid[:8]
        candidate = rollout.spec.candidate
        avoid = rollout.status.bad_replica
        endpoints = _endpoints(candidate, count, replicas, avoid=avoid)
        weight_pct = rollout.status.weight_pct
        if weight_pct > 0:
            # A ramp that has begun keeps its weight while its replicas restart: the shield
            # answers, and the failures are evidence.
            endpoints = endpoints or _known(candidate, current)
        weight_pct = weight_pct if endpoints else 0.0
        if endpoints:
            variants.append(_variant(candidate, "candidate", weight_pct, endpoints))
    variants.insert(0, _variant(stable, "stable", 100.0 - weight_pct, stable_endpoints))
    spec = deployment.spec
    return TrafficSplitSpec(
        deployment=deployment.metadata.name,
        variants=tuple(variants),
        rollout_uid=rollout_uid,
        step_id=step_id,
        salt=salt,
        user_header=spec.user_header,
        timeout_s=spec.timeout_s,
        try_timeout_s=min(spec.try_timeout_s, spec.timeout_s),
        shield=spec.idempotent,
    )


def _variant(
    revision: Revision, role: str, weight_pct: float, endpoints: tuple[SplitEndpoint, ...]
) -> SplitVariant:
    return SplitVariant(
        revision=revision.digest,
        version=revision.version,
        role="stable" if role == "stable" else "candidate",
        weight_pct=weight_pct,
        endpoints=endpoints,
    )


def _endpoints(
    revision: Revision, count: int, replicas: Sequence[Replica], *, avoid: str | None = None
) -> tuple[SplitEndpoint, ...]:
    """Return the chosen replicas that are ready, or else those that were and restart."""
    chosen = choose(revision, count, replicas, avoid=avoid)
    serving = [r for r in chosen if r.status.phase == "Ready" and r.status.address]
    if not serving:
        serving = [r for r in chosen if r.status.phase == "NotReady" and r.status.address]
    endpoints = [SplitEndpoint(replica=r.metadata.name, address=r.status.address) for r in serving]
    return tuple(sorted(endpoints, key=lambda e: e.replica))


def _known(revision: Revision, current: TrafficSplit | None) -> tuple[SplitEndpoint, ...]:
    if current is None:
        return ()
    for variant in current.spec.variants:
        if variant.revision == revision.digest:
            return variant.endpoints
    return ()
