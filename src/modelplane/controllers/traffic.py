"""Stores each deployment's traffic split; the agent makes the gateway follow it.

Decides nothing itself (`decisions.traffic`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from modelplane.controllers.keys import deployment_key
from modelplane.controllers.loop import Fence
from modelplane.controllers.running import load_running
from modelplane.decisions.inputs import input_types
from modelplane.decisions.mirroring import decide_remotes
from modelplane.decisions.traffic import decide_split
from modelplane.ports.store import Store, Transaction
from modelplane.resources.environment import Environment
from modelplane.resources.meta import Metadata, Resource, ResourceKey, Subject
from modelplane.resources.model import ModelVersion
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.replica import Replica
from modelplane.resources.rollout import Rollout
from modelplane.resources.traffic_split import InputType, SplitRemote, TrafficSplit

SUBJECT = Subject(name="system:traffic")


class TrafficController:
    """Reconciles a deployment's TrafficSplit."""

    name = "traffic"
    kinds: Sequence[type[Resource[Any, Any]]] = (
        ModelDeployment,
        Rollout,
        Replica,
        TrafficSplit,
        Environment,
    )

    def __init__(self, store: Store, fence: Fence) -> None:
        self._store = store
        self._fence = fence

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """The deployment that the resource is, or belongs to; an environment itself."""
        yield resource.key if isinstance(resource, Environment) else deployment_key(resource)

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Write the splits that depend on one deployment, or on where an environment's mesh is."""
        if key.kind != Environment.__name__:
            await self._reconcile_deployment(key)
            return None
        for deployment in (await self._store.list(ModelDeployment))[0]:
            if deployment.spec.mirror_to:
                await self._reconcile_deployment(deployment.key)
        return None

    async def _reconcile_deployment(self, key: ResourceKey) -> None:
        deployment = await self._store.find(ModelDeployment, key.name, key.environment)
        split = await self._store.find(TrafficSplit, key.name, key.environment)
        transaction = Transaction(SUBJECT, fence=self._fence.lease)
        if deployment is None:
            if split is not None:
                transaction.delete(split, "traffic.withdraw")
        else:
            rollouts = await load_running(self._store, deployment)
            replicas, _ = await self._store.list(
                Replica, key.environment, labels={"deployment": key.name}
            )
            types = await self._input_types(deployment, rollouts)
            spec = decide_split(
                deployment,
                rollouts,
                replicas,
                split,
                input_types=types,
                remotes=await self._remotes(deployment),
            )
            if spec is not None and split is None:
                metadata = Metadata(
                    name=key.name, environment=key.environment, labels={"deployment": key.name}
                )
                transaction.create(TrafficSplit(metadata=metadata, spec=spec), "traffic.split")
            elif spec is not None and split is not None and spec != split.spec:
                transaction.update(split.with_(spec=spec), "traffic.split")
        if transaction:
            await self._store.commit(transaction)

    async def _remotes(self, deployment: ModelDeployment) -> tuple[SplitRemote, ...]:
        if not deployment.spec.mirror_to:
            return ()
        environments, _ = await self._store.list(Environment)
        return decide_remotes(deployment, {e.metadata.name: e for e in environments})

    async def _input_types(
        self, deployment: ModelDeployment, rollouts: Sequence[Rollout]
    ) -> dict[str, InputType]:
        """Return the inputs that predicates may name; nothing where there is no predicate."""
        strategies = [rollout.status.strategy for rollout in rollouts]
        if not any(strategy is not None and strategy.predicate for strategy in strategies):
            return {}
        revisions = [deployment.status.stable, *(rollout.spec.candidate for rollout in rollouts)]
        names = [f"{revision.model}@{revision.version}" for revision in revisions if revision]
        versions = [await self._store.find(ModelVersion, name) for name in dict.fromkeys(names)]
        return input_types(version.spec.signature for version in versions if version is not None)
