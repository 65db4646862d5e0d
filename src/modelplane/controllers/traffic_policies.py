"""Shows how traffic policies fare, and ends what no policy has any more.

Decides nothing itself (`decisions.traffic_policies`, `decisions.traffic_policy_status`). One
deployment at a time; everything it leads to is one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from modelplane.controllers.keys import deployment_key
from modelplane.controllers.loop import Fence
from modelplane.controllers.running import load_running
from modelplane.decisions.rollout import policy_of
from modelplane.decisions.traffic_policies import (
    DEPLOYMENT_LABEL,
    SUBJECT,
    end_lanes,
    obsolete_lanes,
)
from modelplane.decisions.traffic_policy_status import decide_status
from modelplane.ports.clock import Clock
from modelplane.ports.store import Store, Transaction
from modelplane.resources.meta import Resource, ResourceKey
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import Promotion
from modelplane.resources.rollout import Rollout
from modelplane.resources.traffic_policy import TrafficPolicy
from modelplane.resources.traffic_split import TrafficSplit

R = TypeVar("R", bound=Resource[Any, Any])


class TrafficPolicyController:
    """Reconciles the traffic policies of one deployment."""

    name = "traffic-policy"
    kinds: Sequence[type[Resource[Any, Any]]] = (
        TrafficPolicy,
        ModelDeployment,
        Promotion,
        Rollout,
        TrafficSplit,
    )

    def __init__(self, store: Store, fence: Fence, clock: Clock) -> None:
        self._store = store
        self._fence = fence
        self._clock = clock

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """The deployment that the resource is or belongs to, where policies may matter to it."""
        of_a_lane = not isinstance(resource, Promotion | Rollout) or bool(resource.spec.lane)
        if of_a_lane and (isinstance(resource, ModelDeployment) or resource.spec.deployment):
            yield deployment_key(resource)

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Bring the policies of one deployment up to date."""
        deployment = await self._store.find(ModelDeployment, key.name, key.environment)
        policies = await self._policies(key, deployment)
        if not policies and not (deployment and deployment.status.lanes):
            return None
        transaction = Transaction(SUBJECT, fence=self._fence.lease)
        if deployment is not None:
            await self._end(transaction, deployment, policies)
        await self._show(transaction, deployment, policies, key)
        if transaction:
            await self._store.commit(transaction)
        return None

    async def _policies(
        self, key: ResourceKey, deployment: ModelDeployment | None
    ) -> list[TrafficPolicy]:
        """Return the deployment's policies, by their label and by the lanes they have."""
        labels = {DEPLOYMENT_LABEL: key.name}
        labelled, _ = await self._store.list(TrafficPolicy, key.environment, labels=labels)
        found = {policy.metadata.name: policy for policy in labelled}
        for lane in deployment.status.lanes if deployment is not None else ():
            name = policy_of(lane)
            if name not in found:
                policy = await self._store.find(TrafficPolicy, name, key.environment)
                if policy is not None:
                    found[name] = policy
        return [policy for policy in found.values() if policy.spec.deployment == key.name]

    async def _end(
        self,
        transaction: Transaction,
        deployment: ModelDeployment,
        policies: Sequence[TrafficPolicy],
    ) -> None:
        obsolete = obsolete_lanes(deployment, policies)
        if not obsolete:
            return
        running = await load_running(self._store, deployment)
        why = "its traffic policy is gone"
        left, rollouts = end_lanes(deployment, obsolete, running, why=why, now=self._clock.now())
        if left != deployment:
            transaction.update(left, "deployment.lanes")
        for rollout in rollouts:
            transaction.update(rollout, "rollback")

    async def _show(
        self,
        transaction: Transaction,
        deployment: ModelDeployment | None,
        policies: Sequence[TrafficPolicy],
        key: ResourceKey,
    ) -> None:
        split = await self._store.find(TrafficSplit, key.name, key.environment)
        lanes = deployment.status.lanes if deployment is not None else {}
        names = [lane.promotion for lane in lanes.values()]
        names += [arm.promotion for policy in policies for arm in policy.status.arms]
        promotions = await self._load(Promotion, names, key)
        begun = [promotion.status.rollout for promotion in promotions.values()]
        rollouts = await self._load(Rollout, begun, key)
        for policy in policies:
            status = decide_status(
                policy, deployment, promotions, rollouts, split, now=self._clock.now()
            )
            if status != policy.status:
                transaction.update(policy.with_(status=status), f"traffic-policy.{status.phase}")

    async def _load(
        self, kind: type[R], names: Iterable[str | None], key: ResourceKey
    ) -> dict[str, R]:
        found = {}
        for name in dict.fromkeys(name for name in names if name):
            resource = await self._store.find(kind, name, key.environment)
            if resource is not None:
                found[name] = resource
        return found
