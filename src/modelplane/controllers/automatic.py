"""Asks for the promotions that policies want by themselves.

Reconciles one model at a time over everything there is of it, so that a crash between the end of
one promotion and the next loses nothing. Decides nothing itself (`decisions.automatic`); the
promotions meet the same policies as those of people.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import structlog

from modelplane.controllers.loop import Fence
from modelplane.decisions.admission import Asked, admit_promotion
from modelplane.decisions.automatic import (
    ModelSituation,
    Step,
    automatic_policies,
    decide_automatic,
    find_previous,
)
from modelplane.decisions.publishing import choose_deployment
from modelplane.errors import Conflict, InvalidResource, NotFound
from modelplane.ports.clock import Clock
from modelplane.ports.models import load_model
from modelplane.ports.situations import load_situation, write_admission
from modelplane.ports.store import Store
from modelplane.resources.environment import Environment
from modelplane.resources.meta import Resource, ResourceKey, Subject
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import Promotion
from modelplane.resources.promotion_policy import PromotionPolicy

SUBJECT = Subject(name="system:policy")
_log = structlog.get_logger(__name__)


class AutomaticController:
    """Reconciles the automatic promotions of one Model at a time."""

    name = "automatic"
    kinds: Sequence[type[Resource[Any, Any]]] = (
        ModelVersion, Promotion, ModelDeployment, Model, PromotionPolicy, Environment,
    )  # fmt: skip

    def __init__(self, store: Store, fence: Fence, clock: Clock, *, own_key: str = "") -> None:
        self._store = store
        self._fence = fence
        self._clock = clock
        self._own_key = own_key

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """The model that the resource is or belongs to; a policy or environment itself: all."""
        if isinstance(resource, Promotion):
            yield ResourceKey("Model", None, resource.spec.revision.model)
        elif isinstance(resource, ModelVersion | ModelDeployment):
            yield ResourceKey("Model", None, resource.spec.model)
        else:
            yield resource.key

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Ask for what is to come by itself."""
        policies, _ = await self._store.list(PromotionPolicy)
        policies = [policy for policy in policies if policy.spec.automatic]
        if not policies:
            return None
        if key.kind == "Model":
            await self._reconcile_model(key.name, policies)
            return None
        for model in (await self._store.list(Model))[0]:
            await self._reconcile_model(model.metadata.name, policies)
        return None

    async def _reconcile_model(self, name: str, policies: Sequence[PromotionPolicy]) -> None:
        model = await load_model(self._store, name)
        environments, _ = await self._store.list(Environment)
        if not automatic_policies(policies, environments, model):
            return
        everywhere, _ = await self._store.list(ModelDeployment)
        own = [d for d in everywhere if d.spec.model == name]
        if not own:
            return
        versions, _ = await self._store.list(ModelVersion, prefix=f"{name}@")
        known = ModelSituation(model, environments, policies, versions, own)
        promotions = {
            environment.metadata.name: await self._promotions(environment, known)
            for environment in environments
        }
        situation = ModelSituation(model, environments, policies, versions, own, promotions)
        for step in decide_automatic(situation):
            try:
                await self._ask(model, step, environments, everywhere, versions)
            except (InvalidResource, NotFound) as error:
                _log.warning("automatic.not_asked", model=name, error=error.message)

    async def _promotions(self, environment: Environment, known: ModelSituation) -> list[Promotion]:
        """Return the promotions of the model's deployment in an environment."""
        place = environment.metadata.name
        names = {d.metadata.name for d in known.deployments if d.metadata.environment == place}
        previous = find_previous(environment, known)
        if not names and previous is not None:
            source = previous.metadata.name
            names = {d.metadata.name for d in known.deployments if d.metadata.environment == source}
        found: list[Promotion] = []
        for name in sorted(names):
            listed, _ = await self._store.list(Promotion, place, prefix=f"{name}-")
            found += [promotion for promotion in listed if promotion.spec.deployment == name]
        return found

    async def _ask(
        self,
        model: Model,
        step: Step,
        environments: Sequence[Environment],
        deployments: Sequence[ModelDeployment],
        versions: Sequence[ModelVersion],
    ) -> None:
        target = next(e for e in environments if e.metadata.name == step.environment)
        version = next(v for v in versions if v.spec.version == step.version)
        try:
            source = choose_deployment(model.metadata.name, target, environments, deployments)
            asked = Asked(SUBJECT, self._clock.now(), step.reason, automatic=True)
            situation = await load_situation(
                self._store, target, source.metadata.name, version, own_key=self._own_key
            )
            admission = admit_promotion(source, step.version, version, situation, asked)
        except (Conflict, InvalidResource) as error:
            # Nobody asked, so nobody can be answered: the environment does not take the version.
            _log.warning("automatic.not_asked", version=version.metadata.name, error=error.message)
            return
        transaction = write_admission(admission, asked, "promote", fence=self._fence.lease)
        if transaction:
            await self._store.commit(transaction)
