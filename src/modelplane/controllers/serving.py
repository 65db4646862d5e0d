"""Keeps the models' record of who is champion and challenger where, with every move.

Level-triggered over deployments: compares what the rollouts did with what the models' status
says, and writes what is missing in one fenced transaction. Decides nothing itself
(`decisions.serving`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from modelplane.controllers.keys import deployment_key
from modelplane.controllers.loop import Fence
from modelplane.decisions.aliases import Mover
from modelplane.decisions.serving import (
    Place,
    Step,
    move_serving,
    mover_of,
    present_state,
    recorded_state,
    unrecorded_steps,
)
from modelplane.ports.clock import Clock
from modelplane.ports.models import load_model
from modelplane.ports.store import Store, Transaction
from modelplane.resources.environment import Environment
from modelplane.resources.meta import Resource, ResourceKey, Subject
from modelplane.resources.model import Model
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import Promotion
from modelplane.resources.rollout import Rollout

SUBJECT = Subject(name="system:serving")


class ServingController:
    """Reconciles what the models' status says about one deployment."""

    name = "serving"
    kinds: Sequence[type[Resource[Any, Any]]] = (ModelDeployment, Rollout, Model)

    def __init__(self, store: Store, fence: Fence, clock: Clock) -> None:
        self._store = store
        self._fence = fence
        self._clock = clock

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """The deployment that the resource is or belongs to; of a model those it names."""
        if isinstance(resource, Model):
            for entry in resource.status.serving:
                yield ResourceKey(ModelDeployment.__name__, entry.environment, entry.deployment)
        else:
            yield deployment_key(resource)

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Record what became of one deployment's champion and challenger."""
        deployment = await self._store.find(ModelDeployment, key.name, key.environment)
        place = Place(key.environment or "", key.name)
        if deployment is not None and await self._is_recorded(deployment, place):
            return None
        rollouts, _ = await self._store.list(
            Rollout,
            key.environment,
            labels={"deployment": key.name},
            prefix=f"{key.name}-",
        )
        models = await self._load_models(deployment, rollouts)
        recorded = recorded_state(models, place)
        if deployment is None and recorded == (None, None):
            return None
        steps = unrecorded_steps(deployment, rollouts, recorded)
        environments, _ = await self._store.list(Environment)
        production = [e.metadata.name for e in environments if e.spec.stage == "production"]
        place = Place(place.environment, place.deployment, frozenset(production))
        movers = [await self._mover(step, key) for step in steps]
        pairs = list(zip(steps, movers, strict=True))
        reason = movers[-1].reason if movers else ""
        transaction = Transaction(SUBJECT, reason, fence=self._fence.lease)
        for moved in move_serving(models, place, pairs, self._clock.now()):
            for written in moved.written:
                transaction.put(written, "serving")
        if transaction:
            await self._store.commit(transaction)
        return None

    async def _is_recorded(self, deployment: ModelDeployment, place: Place) -> bool:
        """Whether the models already say what the latest rollout did: nearly always."""
        name = deployment.status.rollout
        latest = await self._store.find(Rollout, name, place.environment) if name else None
        models = await self._load_models(deployment, [latest] if latest else [])
        return recorded_state(models, place) == present_state(deployment, latest)

    async def _load_models(
        self, deployment: ModelDeployment | None, rollouts: Sequence[Rollout]
    ) -> Mapping[str, Model]:
        """Return the models that the deployment serves or ever served, by name."""
        names = {rollout.spec.candidate.model for rollout in rollouts}
        names |= {rollout.spec.stable.model for rollout in rollouts if rollout.spec.stable}
        if deployment is not None:
            names.add(deployment.spec.model)
        return {name: await load_model(self._store, name) for name in sorted(names)}

    async def _mover(self, step: Step, key: ResourceKey) -> Mover:
        now = self._clock.now()
        if step.rollout is not None:
            name = step.rollout.spec.promotion
            promotion = await self._store.find(Promotion, name, key.environment)
            return mover_of(step, promotion, now)
        records = await self._store.audit(
            last=20, kind=key.kind, name=key.name, environment=key.environment
        )
        deletion = next((r for r in reversed(records) if r.action == "delete"), None)
        if deletion is None:
            return mover_of(step, None, now)
        reason = deletion.reason or "the deployment was deleted"
        return Mover(deletion.subject, deletion.at, reason, "rollout")
