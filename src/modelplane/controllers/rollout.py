"""Moves rollouts: observes, asks `decisions.rollout`, writes the outcome in one transaction.

A promotion's outcome changes the deployment's stable revision in the same transaction as the
rollout's end, so that there is never a moment with neither or both. Decides nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from modelplane.controllers.keys import deployment_key
from modelplane.controllers.loop import Fence
from modelplane.controllers.running import load_running
from modelplane.decisions.analysis import needs_labels
from modelplane.decisions.drift_report import read_version, record_key
from modelplane.decisions.hooks import watches_drift
from modelplane.decisions.judgements import read_judgement
from modelplane.decisions.placement import candidate_count, choose
from modelplane.decisions.rollout import (
    AppliedSplit,
    RolloutDecision,
    RolloutObservation,
    Verdict,
    decide_rollout,
    effective_strategy,
    end_without_deployment,
    policy_of,
    promoted,
)
from modelplane.ports.clock import Clock
from modelplane.ports.situations import load_active
from modelplane.ports.store import Store, Transaction
from modelplane.resources.environment import Environment
from modelplane.resources.meta import Resource, ResourceKey, Subject
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import Promotion
from modelplane.resources.replica import Replica
from modelplane.resources.revision import Revision
from modelplane.resources.rollout import Rollout
from modelplane.resources.traffic_policy import TrafficPolicy
from modelplane.resources.traffic_split import TrafficSplit

SUBJECT = Subject(name="system:rollout")


class RolloutController:
    """Reconciles a deployment's running rollouts."""

    name = "rollout"
    kinds: Sequence[type[Resource[Any, Any]]] = (
        ModelDeployment,
        Rollout,
        Replica,
        TrafficSplit,
        TrafficPolicy,
    )

    def __init__(self, store: Store, fence: Fence, clock: Clock) -> None:
        self._store = store
        self._fence = fence
        self._clock = clock

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """The deployment that the resource is, or belongs to."""
        if not isinstance(resource, TrafficPolicy) or resource.spec.deployment is not None:
            yield deployment_key(resource)

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Decide about each of the deployment's running rollouts, and write what was decided."""
        deployment = await self._store.find(ModelDeployment, key.name, key.environment)
        if deployment is None or not (deployment.status.rollout or deployment.status.lanes):
            # What a deployment of this name left behind that was deleted, and made anew perhaps.
            await self._end_orphans(key, deployment)
        if deployment is None:
            return None
        environment = await self._store.get(Environment, key.environment or "")
        running = await load_running(self._store, deployment)
        decided = [
            (rollout, await self._decide(deployment, environment, rollout)) for rollout in running
        ]
        left: list[Rollout] = []
        promoting: list[tuple[Rollout, RolloutDecision]] = []
        for rollout, decision in decided:
            if decision.verdict is Verdict.PROMOTE:
                promoting.append((rollout, decision))
            else:
                left.append(await self._apply(rollout, decision))
        if promoting:
            # One at a time: what all others are compared with is gone with it.
            rollout, decision = promoting[0]
            others = [*left, *(other for other, _ in promoting[1:])]
            await self._promote(deployment, rollout, others, decision)
            return 0.0
        after_s = [d.requeue_after_s for _, d in decided if d.requeue_after_s is not None]
        return min(after_s, default=None)

    async def _end_orphans(self, key: ResourceKey, anew: ModelDeployment | None) -> None:
        """End the rollouts that no deployment has any more; not what begins in `anew` meanwhile."""
        labels = {"deployment": key.name}
        rollouts, _ = await self._store.list(Rollout, key.environment, labels=labels)
        transaction = Transaction(SUBJECT, "deployment deleted", fence=self._fence.lease)
        for rollout in rollouts:
            is_before = anew is None or rollout.spec.ordinal <= anew.status.rollouts
            if is_before and not rollout.finished:
                status = end_without_deployment(rollout.status, now=self._clock.now())
                transaction.update(rollout.with_(status=status), "rollout.fail")
        if transaction:
            await self._store.commit(transaction)

    async def _decide(
        self, deployment: ModelDeployment, environment: Environment, rollout: Rollout
    ) -> RolloutDecision:
        observed = await self._observe(deployment, environment, rollout)
        return decide_rollout(rollout.spec, rollout.status, observed, now=self._clock.now())

    async def _observe(
        self, deployment: ModelDeployment, environment: Environment, rollout: Rollout
    ) -> RolloutObservation:
        name, place = deployment.metadata.name, deployment.metadata.environment
        spec, status = rollout.spec, rollout.status
        replicas, _ = await self._store.list(Replica, place, labels={"deployment": name})
        split = await self._store.find(TrafficSplit, name, place)
        evidence = await self._store.evidence([rollout.metadata.uid])
        policy: TrafficPolicy | None = None
        if spec.lane:
            policy = await self._store.find(TrafficPolicy, policy_of(spec.lane), place)
        strategy = effective_strategy(deployment.spec, environment.spec, policy)
        gone = bool(spec.lane) and policy is None
        # Before the first decision whatever is there already counts: it may be warm.
        pending = status.phase == "Pending"
        wanted = deployment.spec.replicas
        count = wanted if pending else candidate_count(deployment, rollout)
        stable = deployment.status.stable
        holds = status.strategy or strategy if gone else strategy
        metrics = holds.analysis.metrics if holds.analysis is not None else ()
        judged_late = needs_labels(metric.name for metric in metrics)
        return RolloutObservation(
            uid=rollout.metadata.uid,
            strategy=holds,
            replicas_wanted=wanted,
            replicas=choose(spec.candidate, count, replicas, avoid=status.bad_replica),
            split=_applied(split),
            judgement=read_judgement(evidence.get(rollout.metadata.uid)),
            restores_warm=await self._restores_warm(deployment, rollout),
            stable_changed=_digest(stable) != _digest(spec.stable),
            policy_gone=gone,
            drift=await self._drift(deployment, rollout, policy),
            labels=deployment.spec.labels if judged_late else None,
        )

    async def _drift(
        self, deployment: ModelDeployment, rollout: Rollout, policy: TrafficPolicy | None
    ) -> str:
        """Return how the candidate's drift reads, where it holds the rollout; else empty."""
        watch = deployment.spec.drift
        holds = watch is not None and watch.hold and not rollout.spec.lane
        if policy is not None:
            holds = watches_drift(policy.spec.monitoring_hooks)
        if not holds or deployment.spec.predictions is None:
            return ""
        key = record_key(rollout.metadata.environment or "", deployment.metadata.name)
        record = (await self._store.evidence([key])).get(key)
        found = read_version(record, rollout.spec.candidate.version)
        drifted = found.drifted if found is not None else ()
        more = f" and {len(drifted) - 5} more" if len(drifted) > 5 else ""
        return f"its values drift: {', '.join(drifted[:5])}{more}" if drifted else ""

    async def _restores_warm(self, deployment: ModelDeployment, rollout: Rollout) -> bool:
        """Whether the rollout goes back to what is still warm after a blue/green switch."""
        warm = deployment.status.warm
        if warm is None or warm.until <= self._clock.now():
            return False
        if warm.revision.digest != rollout.spec.candidate.digest:
            return False
        place = deployment.metadata.environment
        promotion = await self._store.find(Promotion, rollout.spec.promotion, place)
        return promotion is not None and promotion.spec.restores is not None

    async def _apply(self, rollout: Rollout, decision: RolloutDecision) -> Rollout:
        """Write a decision that changes nothing but the rollout; return it as it is now."""
        if decision.status == rollout.status:
            return rollout
        transaction = Transaction(SUBJECT, reason=decision.status.message, fence=self._fence.lease)
        action = f"rollout.{decision.verdict.value}"
        transaction.update(rollout.with_(status=decision.status), action)
        (written,) = await self._store.commit(transaction)
        assert isinstance(written, Rollout)
        return written

    async def _promote(
        self,
        deployment: ModelDeployment,
        rollout: Rollout,
        others: Sequence[Rollout],
        decision: RolloutDecision,
    ) -> None:
        """Write the end of a rollout, what serves from now on, and that all others are over."""
        transaction = Transaction(SUBJECT, reason=decision.status.message, fence=self._fence.lease)
        transaction.update(rollout.with_(status=decision.status), "rollout.promote")
        now = self._clock.now()
        latest = await load_active(self._store, deployment)
        is_awaited = latest is not None and latest.metadata.name != rollout.spec.promotion
        serving = promoted(
            deployment, rollout, decision.status, others, is_awaited=is_awaited, now=now
        )
        transaction.update(serving, "deployment.promote")
        for other in others:
            if not other.finished:
                superseded = other.with_spec(superseded_by=rollout.spec.promotion)
                transaction.update(superseded, "rollout.supersede")
        await self._store.commit(transaction)


def _digest(revision: Revision | None) -> str:
    return revision.digest if revision is not None else ""


def _applied(split: TrafficSplit | None) -> AppliedSplit:
    if split is None:
        return AppliedSplit()
    generation, status = split.metadata.generation, split.status
    refusal = status.message if status.refused_generation == generation else ""
    if status.accepted_generation != generation:
        return AppliedSplit(refusal=refusal)
    return AppliedSplit(split.spec.steps, status.accepted_at, refusal)
