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
from modelplane.decisions.judgements import read_judgement
from modelplane.decisions.placement import candidate_count, choose
from modelplane.decisions.rollout import (
    AppliedSplit,
    RolloutDecision,
    RolloutObservation,
    Verdict,
    decide_rollout,
    effective_strategy,
    policy_of,
    promoted,
)
from modelplane.ports.clock import Clock
from modelplane.ports.store import Store, Transaction
from modelplane.resources.environment import Environment
from modelplane.resources.meta import Resource, ResourceKey, Subject
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.replica import Replica
from modelplane.resources.rollout import Rollout
from modelplane.resources.strategy import Strategy
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
        if deployment is None:
            return None
        running = await load_running(self._store, deployment)
        after_s: list[float] = []
        for rollout in running:
            observed = await self._observe(deployment, rollout)
            decision = decide_rollout(rollout.spec, rollout.status, observed, now=self._clock.now())
            others = [other for other in running if other.key != rollout.key]
            await self._apply(deployment, rollout, others, decision)
            if decision.verdict is Verdict.PROMOTE:
                return 0.0  # what the others are compared with has changed
            if decision.requeue_after_s is not None:
                after_s.append(decision.requeue_after_s)
        return min(after_s, default=None)

    async def _observe(self, deployment: ModelDeployment, rollout: Rollout) -> RolloutObservation:
        environment_name = deployment.metadata.environment
        environment = await self._store.get(Environment, environment_name or "")
        replicas, _ = await self._store.list(
            Replica, environment_name, labels={"deployment": deployment.metadata.name}
        )
        split = await self._store.find(TrafficSplit, deployment.metadata.name, environment_name)
        evidence = await self._store.evidence([rollout.metadata.uid])
        candidate = rollout.spec.candidate
        return RolloutObservation(
            uid=rollout.metadata.uid,
            strategy=await self._strategy(deployment, environment, rollout),
            replicas_wanted=deployment.spec.replicas,
            replicas=choose(
                candidate,
                candidate_count(deployment, rollout),
                replicas,
                avoid=rollout.status.bad_replica,
            ),
            split=_applied(split),
            judgement=read_judgement(evidence.get(rollout.metadata.uid)),
        )

    async def _strategy(
        self, deployment: ModelDeployment, environment: Environment, rollout: Rollout
    ) -> Strategy:
        """Return the strategy that holds for a rollout now: its traffic policy's or the usual."""
        policy = None
        if rollout.spec.lane:
            name = policy_of(rollout.spec.lane)
            policy = await self._store.find(TrafficPolicy, name, rollout.metadata.environment)
        return effective_strategy(deployment.spec, environment.spec, policy)

    async def _apply(
        self,
        deployment: ModelDeployment,
        rollout: Rollout,
        others: Sequence[Rollout],
        decision: RolloutDecision,
    ) -> None:
        if decision.status == rollout.status:
            return
        transaction = Transaction(SUBJECT, reason=decision.status.message, fence=self._fence.lease)
        action = f"rollout.{decision.verdict.value}"
        transaction.update(rollout.with_(status=decision.status), action)
        if decision.verdict is Verdict.PROMOTE:
            serving = promoted(deployment, rollout, decision.status, now=self._clock.now())
            transaction.update(serving, "deployment.promote")
            for other in others:
                superseded = other.with_spec(superseded_by=rollout.spec.promotion)
                transaction.update(superseded, "rollout.supersede")
        await self._store.commit(transaction)


def _applied(split: TrafficSplit | None) -> AppliedSplit:
    if split is None:
        return AppliedSplit()
    generation, status = split.metadata.generation, split.status
    refusal = status.message if status.refused_generation == generation else ""
    if status.accepted_generation != generation:
        return AppliedSplit(refusal=refusal)
    return AppliedSplit(split.spec.steps, status.accepted_at, refusal)
