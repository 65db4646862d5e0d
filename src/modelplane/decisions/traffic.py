"""The traffic split a deployment should have, from what runs and where its rollout stands.

Called by `controllers.traffic`. Pure. Consistent by construction: weights sum to 100, and no
weight goes to a revision without an endpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from modelplane.decisions.placement import candidate_count, choose, stable_count
from modelplane.decisions.routing import TOTAL_WEIGHT
from modelplane.decisions.segments import allocate
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.replica import Replica
from modelplane.resources.revision import Revision
from modelplane.resources.rollout import Rollout
from modelplane.resources.strategy import ShadowStrategy, Slice, Strategy
from modelplane.resources.traffic_split import (
    DEFAULT_RULE,
    InputType,
    SplitEndpoint,
    SplitMirror,
    SplitRemote,
    SplitRule,
    SplitSegment,
    SplitVariant,
    TrafficSplit,
    TrafficSplitSpec,
)

STABLE_FLOOR = 100
"""Basis points of the users that stable keeps under each rule, where several grow at once."""


@dataclass(frozen=True, slots=True)
class _Live:
    """A running rollout's candidate as the gateway may see it."""

    rollout: Rollout
    strategy: Strategy | None
    endpoints: tuple[SplitEndpoint, ...]
    weight: int

    @property
    def revision(self) -> str:
        return self.rollout.spec.candidate.digest

    @property
    def predicate(self) -> str:
        return self.strategy.predicate if self.strategy is not None else ""

    @property
    def mirror_pct(self) -> float:
        return self.rollout.status.mirror_pct if self.endpoints else 0.0

    @property
    def tolerance(self) -> float:
        shadow = self.strategy.shadow if self.strategy is not None else None
        return (shadow or ShadowStrategy()).tolerance


def decide_split(
    deployment: ModelDeployment,
    rollouts: Sequence[Rollout],
    replicas: Sequence[Replica],
    current: TrafficSplit | None,
    *,
    input_types: Mapping[str, InputType] | None = None,
    remotes: Sequence[SplitRemote] = (),
) -> TrafficSplitSpec | None:
    """Return the split to store, or None while nothing can serve (the present one then stays).

    Parameters
    ----------
    deployment
        Its status names stable.
    rollouts
        Its running rollouts; their status says the candidates' weights.
    replicas
        All replicas of the deployment.
    current
        The stored split: stable keeps its endpoints there when none of its replicas is ready,
        because a replica that restarts comes back at the same address; and users keep their
        versions.
    input_types
        Types of the model's inputs, for predicates.
    remotes
        Gateways of other environments that get copies of the requests.
    """
    stable = deployment.status.stable
    if stable is None:
        return None
    running = sorted(
        (r for r in rollouts if not r.finished and r.spec.stable is not None),
        key=lambda rollout: rollout.spec.ordinal,
    )
    endpoints = _endpoints(stable, stable_count(deployment, running), replicas)
    endpoints = endpoints or _known(stable, current)
    if not endpoints:
        return None
    live = [_live(deployment, rollout, replicas, current) for rollout in running]
    rules = _rules(stable.digest, live, current)
    held = {rule.predicate: _held(rule) for rule in rules}
    spec = deployment.spec
    claim = f"x-user-{spec.user_claim.replace('_', '-')}" if spec.user_claim else None
    return TrafficSplitSpec(
        deployment=deployment.metadata.name,
        variants=(
            _variant(stable, "stable", held[""].get(stable.digest, 0), endpoints),
            *(
                _variant(
                    one.rollout.spec.candidate,
                    "shadow" if one.strategy and one.strategy.shadow else "candidate",
                    held.get(one.predicate, {}).get(one.revision, 0),
                    one.endpoints,
                )
                for one in live
                if one.endpoints
            ),
        ),
        rules=rules,
        steps={rollout.metadata.uid: rollout.status.step_id for rollout in running},
        input_types=dict(input_types or {}),
        slices=_slices(live),
        user_header=claim or spec.user_header,
        user_cookie=spec.user_cookie or "",
        allow_override=spec.allow_override,
        limits=spec.limits,
        remotes=tuple(remotes),
        timeout_s=spec.timeout_s,
        try_timeout_s=min(spec.try_timeout_s, spec.timeout_s),
        shield=spec.idempotent,
    )


def rule_name(predicate: str) -> str:
    """Return the name under which a predicate's requests are counted."""
    if not predicate:
        return DEFAULT_RULE
    return f"rule-{hashlib.sha256(predicate.encode()).hexdigest()[:8]}"


def _live(
    deployment: ModelDeployment,
    rollout: Rollout,
    replicas: Sequence[Replica],
    current: TrafficSplit | None,
) -> _Live:
    candidate, status = rollout.spec.candidate, rollout.status
    endpoints = _endpoints(
        candidate, candidate_count(deployment, rollout), replicas, avoid=status.bad_replica
    )
    if status.weight_pct > 0 or status.mirror_pct > 0:
        # A ramp that has begun keeps its weight while its replicas restart: the shield
        # answers, and the failures are evidence.
        endpoints = endpoints or _known(candidate, current)
    weight = round(status.weight_pct * TOTAL_WEIGHT / 100) if endpoints else 0
    return _Live(rollout, status.strategy, endpoints, weight)


def _rules(
    stable: str, live: Sequence[_Live], current: TrafficSplit | None
) -> tuple[SplitRule, ...]:
    """Return a rule for each predicate, the oldest rollout's first, and one for everybody.

    Who is under a predicate meets its candidates and those without a predicate.
    """
    before = {rule.name: rule for rule in current.spec.rules} if current is not None else {}
    # Who comes under a predicate's new rule was under the one for everybody until now.
    everybody = before.get(DEFAULT_RULE)
    predicates = dict.fromkeys(
        one.predicate for one in live if one.predicate and (one.weight or one.mirror_pct)
    )
    return tuple(
        _rule(predicate, stable, live, before.get(rule_name(predicate), everybody))
        for predicate in (*predicates, "")
    )


def _rule(
    predicate: str, stable: str, live: Sequence[_Live], before: SplitRule | None
) -> SplitRule:
    under = [one for one in live if one.predicate in {predicate, ""}]
    shares = _shares(under, before)
    kept = before is not None and any(s.revision in shares for s in before.segments)
    previous = [(s.revision, s.width) for s in before.segments] if kept and before else []
    first = next((one for one in under if one.revision in shares), None)
    new_salt = first.rollout.metadata.uid[:8] if first is not None else ""
    return SplitRule(
        name=rule_name(predicate),
        predicate=predicate,
        salt=before.salt if kept and before is not None else new_salt,
        segments=tuple(
            SplitSegment(revision=revision, width=width)
            for revision, width in allocate(previous, shares, stable)
        ),
        mirrors=tuple(
            SplitMirror(revision=one.revision, percentage=one.mirror_pct, tolerance=one.tolerance)
            for one in under
            if one.mirror_pct
        ),
    )


def _shares(under: Sequence[_Live], before: SplitRule | None) -> dict[str, int]:
    """Return the basis points of each candidate under a rule, the oldest rollout's first.

    Each keeps what it has, as far as it still wants it; what it wants more it takes from stable,
    which keeps `STABLE_FLOOR` beside several: without it none of them could be judged.
    """
    held = _held(before) if before is not None else {}
    shares = {one.revision: min(one.weight, held.get(one.revision, 0)) for one in under}
    several = sum(one.weight > 0 for one in under) > 1
    left = TOTAL_WEIGHT - sum(shares.values()) - (STABLE_FLOOR if several else 0)
    for one in under:
        more = max(0, min(one.weight - shares[one.revision], left))
        shares[one.revision] += more
        left -= more
    return {revision: share for revision, share in shares.items() if share}


def _held(rule: SplitRule) -> dict[str, int]:
    """Return the basis points that each revision has under a rule."""
    held: dict[str, int] = {}
    for segment in rule.segments:
        held[segment.revision] = held.get(segment.revision, 0) + segment.width
    return held


def _slices(live: Sequence[_Live]) -> tuple[Slice, ...]:
    """Return the slices of all running analyses, each once, with all their values."""
    values: dict[str, dict[str, None]] = {}
    for one in live:
        analysis = one.strategy.analysis if one.strategy is not None else None
        for part in analysis.slices if analysis is not None else ():
            values.setdefault(part.by, {}).update(dict.fromkeys(part.values))
    return tuple(Slice(by=by, values=tuple(of)[:20]) for by, of in values.items())[:3]


def _variant(
    revision: Revision,
    role: Literal["stable", "candidate", "shadow"],
    width: int,
    endpoints: tuple[SplitEndpoint, ...],
) -> SplitVariant:
    return SplitVariant(
        revision=revision.digest,
        version=revision.version,
        role=role,
        weight_pct=width * 100 / TOTAL_WEIGHT,
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
    endpoints = [
        SplitEndpoint(replica=r.metadata.name, address=r.status.address, identity=r.status.identity)
        for r in serving
    ]
    return tuple(sorted(endpoints, key=lambda e: e.replica))


def _known(revision: Revision, current: TrafficSplit | None) -> tuple[SplitEndpoint, ...]:
    if current is None:
        return ()
    for variant in current.spec.variants:
        if variant.revision == revision.digest:
            return variant.endpoints
    return ()
