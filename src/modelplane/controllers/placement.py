"""Creates, stops and forgets replicas, and reports how many are ready.

Decides nothing itself (`decisions.placement`). The agent does the running.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from modelplane.controllers.keys import deployment_key
from modelplane.controllers.loop import Fence
from modelplane.controllers.running import load_running
from modelplane.decisions.placement import (
    LOG_CONDITION,
    choose,
    decide_placement,
    decide_removal,
    log_condition,
)
from modelplane.decisions.signatures import signatures_by, trusted_keys
from modelplane.ports.clock import Clock
from modelplane.ports.store import Store, Transaction
from modelplane.resources.environment import Environment
from modelplane.resources.meta import (
    Condition,
    Metadata,
    Resource,
    ResourceKey,
    Subject,
    set_condition,
)
from modelplane.resources.model import ModelVersion
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.replica import Replica, ReplicaSpec
from modelplane.resources.revision import Revision
from modelplane.resources.rollout import Rollout
from modelplane.resources.traffic_split import TrafficSplit

SUBJECT = Subject(name="system:placement")


class PlacementController:
    """Reconciles a deployment's replicas."""

    name = "placement"
    kinds: Sequence[type[Resource[Any, Any]]] = (
        ModelDeployment,
        Rollout,
        Replica,
        TrafficSplit,
    )

    def __init__(self, store: Store, fence: Fence, clock: Clock, *, own_key: str = "") -> None:
        """Take the ports; `own_key` is this modelplane's own key for signatures, PEM."""
        self._own_key = own_key
        self._store = store
        self._fence = fence
        self._clock = clock

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """The deployment that the resource is, or belongs to."""
        yield deployment_key(resource)

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Make the replicas of one deployment those that should run."""
        deployment = await self._store.find(ModelDeployment, key.name, key.environment)
        replicas, _ = await self._store.list(
            Replica, key.environment, labels={"deployment": key.name}
        )
        split = await self._store.find(TrafficSplit, key.name, key.environment)
        transaction = Transaction(SUBJECT, fence=self._fence.lease)
        if deployment is None:
            decision = decide_removal(replicas, split)
        else:
            rollouts = await load_running(self._store, deployment)
            decision = decide_placement(
                deployment, rollouts, replicas, split, now=self._clock.now()
            )
            environment = await self._store.get(Environment, key.environment or "")
            for revision, index in decision.create:
                replica = await self._make_replica(deployment, environment, revision, index)
                transaction.create(replica, "replica.create")
            reported = self._report(deployment, environment, replicas)
            if reported.status != deployment.status:
                transaction.update(reported, "deployment.report")
        for replica in decision.change:
            transaction.update(replica, "replica.configure")
        for replica in decision.stop:
            transaction.update(replica.with_spec(stopped=True), "replica.stop")
        for replica in decision.delete:
            transaction.delete(replica, "replica.delete")
        if transaction:
            await self._store.commit(transaction)
        return decision.requeue_after_s

    async def _make_replica(
        self, deployment: ModelDeployment, environment: Environment, revision: Revision, index: int
    ) -> Replica:
        version = await self._store.find(ModelVersion, f"{revision.model}@{revision.version}")
        # What comes from MLflow holds its own signature, which says more than ours can.
        declared = version is not None and version.spec.source is None
        name = deployment.metadata.name
        keys = trusted_keys(environment, self._own_key)
        return Replica(
            metadata=Metadata(
                name=f"{name}-{revision.short}-{index}",
                environment=deployment.metadata.environment,
                labels={"deployment": name, "version": revision.version},
            ),
            spec=ReplicaSpec(
                deployment=name,
                revision=revision,
                index=index,
                allow_pickle=environment.spec.allow_pickle,
                signatures=tuple(s.bundle for s in signatures_by(version, keys)) if version else (),
                trusted_keys=keys,
                signature=version.spec.signature if version and declared else None,
                input_example=version.spec.input_example if version else None,
                predictions=deployment.spec.predictions,
            ),
        )

    def _report(
        self, deployment: ModelDeployment, environment: Environment, replicas: Sequence[Replica]
    ) -> ModelDeployment:
        """Return the deployment with what people look for in its status."""
        stable = deployment.status.stable
        serving = choose(stable, deployment.spec.replicas, replicas) if stable else ()
        ready = sum(replica.status.phase == "Ready" for replica in serving)
        wanted = deployment.spec.replicas
        gateway = environment.spec.gateway
        available = Condition(
            type="Available",
            status="True" if ready else "False",
            reason="Ready" if ready == wanted else "NotReady",
            message=f"{ready} of {wanted} replicas of {stable.version} ready"
            if stable
            else "nothing serves yet",
            observed_generation=deployment.metadata.generation,
        )
        now = self._clock.now()
        conditions = set_condition(deployment.status.conditions, available, now)
        if (logged := log_condition(deployment, replicas)) is not None:
            conditions = set_condition(conditions, logged, now)
        else:
            conditions = tuple(c for c in conditions if c.type != LOG_CONDITION)
        return deployment.with_status(
            ready_replicas=ready,
            url=f"{gateway.url}/v2/models/{deployment.metadata.name}/infer",
            conditions=conditions,
        )
