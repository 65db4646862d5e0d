"""Moves promotions: approves them, ends what they supersede, starts their rollouts.

Decides nothing itself (`decisions.promotion`). The only place that creates a Rollout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from modelplane.controllers.loop import Fence
from modelplane.decisions.promotion import decide_promotion
from modelplane.ports.clock import Clock
from modelplane.ports.store import Store, Transaction
from modelplane.resources.meta import Metadata, Resource, ResourceKey, Subject
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import Promotion
from modelplane.resources.rollout import Rollout, RolloutSpec

SUBJECT = Subject(name="system:promotion")


class PromotionController:
    """Reconciles one Promotion at a time."""

    name = "promotion"
    kinds: Sequence[type[Resource[Any, Any]]] = (Promotion, Rollout, ModelDeployment)

    def __init__(self, store: Store, fence: Fence, clock: Clock) -> None:
        self._store = store
        self._fence = fence
        self._clock = clock

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """A promotion itself, a rollout's promotion, a deployment's latest promotion."""
        environment = resource.metadata.environment
        if isinstance(resource, Promotion):
            yield resource.key
        elif isinstance(resource, Rollout):
            yield ResourceKey("Promotion", environment, resource.spec.promotion)
        elif isinstance(resource, ModelDeployment) and resource.status.promotion:
            yield ResourceKey("Promotion", environment, resource.status.promotion)

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Bring one promotion a step further."""
        promotion = await self._store.find(Promotion, key.name, key.environment)
        if promotion is None:
            return None
        deployment = await self._store.find(
            ModelDeployment, promotion.spec.deployment, key.environment
        )
        latest = await self._rollout(deployment.status.rollout if deployment else None, key)
        own = await self._rollout(promotion.status.rollout, key)
        running = latest if latest is not None and not latest.finished else None
        decision = decide_promotion(promotion, deployment, own, running, now=self._clock.now())
        transaction = Transaction(SUBJECT, reason=decision.status.message, fence=self._fence.lease)
        status = decision.status
        if decision.supersede is not None:
            rollout = decision.supersede.with_spec(superseded_by=promotion.metadata.name)
            transaction.update(rollout, "rollout.supersede")
        if decision.start_rollout and deployment is not None:
            rollout = _make_rollout(promotion, deployment)
            status = status.with_(rollout=rollout.metadata.name)
            transaction.create(rollout, "rollout.start")
            started = deployment.with_status(
                rollout=rollout.metadata.name, rollouts=rollout.spec.ordinal
            )
            transaction.update(started, "deployment.rollout")
        if status != promotion.status:
            transaction.update(promotion.with_(status=status), f"promotion.{status.phase}")
        if transaction:
            await self._store.commit(transaction)
        return None

    async def _rollout(self, name: str | None, key: ResourceKey) -> Rollout | None:
        return await self._store.find(Rollout, name, key.environment) if name else None


def _make_rollout(promotion: Promotion, deployment: ModelDeployment) -> Rollout:
    ordinal = deployment.status.rollouts + 1
    name = deployment.metadata.name
    return Rollout(
        metadata=Metadata(
            name=f"{name}-{ordinal}",
            environment=deployment.metadata.environment,
            labels={"deployment": name},
        ),
        spec=RolloutSpec(
            deployment=name,
            promotion=promotion.metadata.name,
            ordinal=ordinal,
            stable=deployment.status.stable,
            candidate=promotion.spec.revision,
        ),
    )
