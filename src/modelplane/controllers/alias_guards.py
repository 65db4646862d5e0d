"""Puts guarded aliases back that were moved against a policy.

Level-triggered over models: whoever moved the alias, and wherever. Decides nothing itself
(`decisions.alias_guards`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from modelplane.controllers.loop import Fence
from modelplane.decisions.alias_guards import (
    SUBJECT,
    guard_aliases,
    guarding_policies,
    put_back_event,
)
from modelplane.ports.clock import Clock
from modelplane.ports.outbox import add_notifications
from modelplane.ports.store import Store, Transaction
from modelplane.resources.meta import Resource, ResourceKey, Subject
from modelplane.resources.model import AliasMove, Model, ModelVersion
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import Promotion
from modelplane.resources.promotion_policy import PromotionPolicy
from modelplane.resources.rollout import Rollout


class AliasGuardController:
    """Reconciles the guarded aliases of one Model at a time."""

    name = "alias-guards"
    kinds: Sequence[type[Resource[Any, Any]]] = (Model, PromotionPolicy)

    def __init__(self, store: Store, fence: Fence, clock: Clock) -> None:
        self._store = store
        self._fence = fence
        self._clock = clock

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """The model, or the policy: that is about many models."""
        yield resource.key

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Put right the aliases of a model, or of all that a policy may guard."""
        policies, _ = await self._store.list(PromotionPolicy)
        policies = [policy for policy in policies if policy.spec.aliases]
        if not policies:
            return None
        if key.kind == "Model":
            model = await self._store.find(Model, key.name)
            models: Sequence[Model] = [model] if model is not None else []
        else:
            models, _ = await self._store.list(Model)
        for model in models:
            if guarding_policies(policies, model):
                await self._guard(model, policies)
        return None

    async def _guard(self, model: Model, policies: Sequence[PromotionPolicy]) -> None:
        now, name = self._clock.now(), model.metadata.name
        places = {place for policy in policies for place in policy.spec.environments}
        promoted = {place: await self._promoted(name, place) for place in sorted(places)}
        if not guard_aliases(model, policies, promoted, now=now).put_back:
            return
        moves, _ = await self._store.list(AliasMove, prefix=f"{name}@")
        versions, _ = await self._store.list(ModelVersion, prefix=f"{name}@")
        living = {v.spec.version for v in versions if v.status.deleted_at is None}
        guarded = guard_aliases(model, policies, promoted, moves=moves, living=living, now=now)
        reason = "; ".join(done.reason for done in guarded.put_back)
        transaction = Transaction(Subject(name=SUBJECT), reason, self._fence.lease)
        for written in guarded.moved.written:
            transaction.put(written, "alias.put_back")
        for done in guarded.put_back:
            await add_notifications(self._store, transaction, put_back_event(model, done, now))
        await self._store.commit(transaction)

    async def _promoted(self, model: str, place: str) -> set[str]:
        """Return the versions of `model` that have or had traffic in an environment by right."""
        deployments, _ = await self._store.list(ModelDeployment, place)
        serving = [d.status.stable for d in deployments if d.status.stable is not None]
        promotions, _ = await self._store.list(Promotion, place)
        rollouts, _ = await self._store.list(Rollout, place)
        tests = {r.spec.promotion for r in rollouts if r.status.phase == "Concluded"}
        done = [
            p.spec.revision
            for p in promotions
            if p.status.phase == "Done" and p.metadata.name not in tests
        ]
        # The alias `challenger` follows what is being rolled out: approved, or it would not be.
        # What a traffic policy has live is nobody's challenger, and may be a test for weeks.
        moving = [r.spec.candidate for r in rollouts if not (r.finished or r.spec.lane)]
        revisions = [*serving, *done, *moving]
        return {revision.version for revision in revisions if revision.model == model}
