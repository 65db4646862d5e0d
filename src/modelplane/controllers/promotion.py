"""Moves promotions: has their gates run and their approvals asked for, starts their rollouts.

Decides nothing itself (`decisions.promotion`). The only place that creates a Rollout. Everything
that one decision leads to is one transaction: status, runs, approvals, rollout, notifications.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from modelplane.controllers.loop import Fence
from modelplane.controllers.running import load_running
from modelplane.decisions.gate_runs import make_run, serve_version
from modelplane.decisions.notifications import approval_event
from modelplane.decisions.promotion import (
    PromotionDecision,
    decide_promotion,
    needs_guards,
    with_rollout,
)
from modelplane.decisions.promotion_events import event_of, with_runs
from modelplane.decisions.promotion_guards import Guards
from modelplane.ports.clock import Clock
from modelplane.ports.gate_runs import find_champion, next_number
from modelplane.ports.models import load_model
from modelplane.ports.outbox import add_notifications
from modelplane.ports.promotion_guards import load_guards, load_policies
from modelplane.ports.store import Store, Transaction
from modelplane.resources.approval import Approval, ApprovalPolicy
from modelplane.resources.contract import Contract
from modelplane.resources.gate_run import GateRun
from modelplane.resources.meta import Metadata, Resource, ResourceKey, Subject
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import (
    FINISHED_PROMOTION,
    WAITING_PROMOTION,
    Promotion,
    PromotionStatus,
)
from modelplane.resources.promotion_policy import PromotionPolicy
from modelplane.resources.rollout import Rollout, RolloutSpec
from modelplane.resources.validation_pipeline import ValidationPipeline

SUBJECT = Subject(name="system:promotion")


class _Waiting(NamedTuple):
    """A promotion that may be moved by a change of something that does not name it."""

    model: str
    deployment: str


class PromotionController:
    """Reconciles one Promotion at a time."""

    name = "promotion"
    kinds: Sequence[type[Resource[Any, Any]]] = (
        Promotion, Rollout, ModelDeployment, GateRun, Approval, PromotionPolicy, ApprovalPolicy,
        ValidationPipeline, Model, ModelVersion, Contract,
    )  # fmt: skip

    def __init__(self, store: Store, fence: Fence, clock: Clock) -> None:
        self._store = store
        self._fence = fence
        self._clock = clock
        # Every promotion is reconciled once when the control plane starts, so this is complete.
        self._waiting: dict[ResourceKey, _Waiting] = {}

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """A promotion itself; of anything else the promotions that may wait for it."""
        environment = resource.metadata.environment
        if isinstance(resource, Promotion):
            yield resource.key
        elif isinstance(resource, Rollout | Approval):
            yield ResourceKey("Promotion", environment, resource.spec.promotion)
        elif isinstance(resource, ModelDeployment):
            latest = [resource.status.promotion]
            latest += [lane.promotion for lane in resource.status.lanes.values()]
            yield from (ResourceKey("Promotion", environment, name) for name in latest if name)
        if not isinstance(resource, Promotion):
            yield from [key for key, of in self._waiting.items() if _concerns(resource, key, of)]

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Bring one promotion a step further."""
        promotion = await self._store.find(Promotion, key.name, key.environment)
        if promotion is None or promotion.status.phase in FINISHED_PROMOTION:
            self._waiting.pop(key, None)
            return None
        spec = promotion.spec
        self._waiting[key] = _Waiting(spec.revision.model, spec.deployment)
        deployment = await self._store.find(ModelDeployment, spec.deployment, key.environment)
        running = await load_running(self._store, deployment) if deployment else []
        own = await self._rollout(promotion.status.rollout, key)
        guards: Guards | None = None
        if needs_guards(promotion, deployment, own):
            guards = await load_guards(self._store, promotion, await load_policies(self._store))
        decision = decide_promotion(
            promotion, deployment, own, running, guards=guards, now=self._clock.now()
        )
        await self._apply(promotion, deployment, guards, decision)
        return decision.requeue_after_s

    async def _apply(
        self,
        promotion: Promotion,
        deployment: ModelDeployment | None,
        guards: Guards | None,
        decision: PromotionDecision,
    ) -> None:
        transaction = Transaction(SUBJECT, reason=decision.status.message, fence=self._fence.lease)
        status = decision.status
        for older in decision.supersede:
            superseded = older.with_spec(superseded_by=promotion.metadata.name)
            if superseded != older:
                transaction.update(superseded, "rollout.supersede")
        if decision.start_rollout and deployment is not None:
            rollout = _make_rollout(promotion, deployment)
            status = status.with_(rollout=rollout.metadata.name)
            transaction.create(rollout, "rollout.start")
            transaction.update(with_rollout(deployment, rollout), "deployment.rollout")
        if decision.start_runs and guards is not None:
            status = await self._start_runs(transaction, promotion, guards, decision, status)
        await self._write_approvals(transaction, decision)
        if status != promotion.status:
            changed = promotion.with_(status=status)
            transaction.update(changed, f"promotion.{status.phase}")
            await self._end_runs(transaction, changed)
            await self._tell(transaction, promotion, changed)
        if transaction:
            await self._store.commit(transaction)

    async def _start_runs(
        self,
        transaction: Transaction,
        promotion: Promotion,
        guards: Guards,
        decision: PromotionDecision,
        status: PromotionStatus,
    ) -> PromotionStatus:
        """Create the runs that are missing, and note them in the status."""
        assert guards.version is not None, "gates run only for versions that are there"
        spec = promotion.spec
        candidate = serve_version(guards.version, spec.revision)
        champion = await find_champion(self._store, spec.revision.model)
        names = {}
        for pipeline in decision.start_runs:
            run = make_run(
                guards.around.pipelines[pipeline],
                candidate,
                champion,
                number=await next_number(self._store, pipeline),
                trigger="promotion",
                subject=spec.subject,
                reason=f"{promotion.key}",
            )
            transaction.create(run, "gate.start")
            names[pipeline] = run.metadata.name
        return with_runs(status, names)

    async def _write_approvals(self, transaction: Transaction, decision: PromotionDecision) -> None:
        now = self._clock.now()
        for approval in decision.create_approvals:
            transaction.create(approval, "approval.requested")
            event = approval_event(approval, "approval.requested", now)
            await add_notifications(self._store, transaction, event)
        for approval in decision.void_approvals:
            transaction.update(approval, "approval.void")
            event = approval_event(approval, "approval.void", now)
            await add_notifications(self._store, transaction, event)

    async def _end_runs(self, transaction: Transaction, promotion: Promotion) -> None:
        """Cancel runs that only this promotion waited for, when it is over."""
        if promotion.status.phase not in FINISHED_PROMOTION:
            return
        runs = [await self._store.find(GateRun, g.run) for g in promotion.status.gates if g.run]
        unfinished = [
            run for run in runs
            if run is not None and not run.finished and not run.spec.cancelled
            and run.spec.trigger == "promotion"
        ]  # fmt: skip
        if not unfinished:
            return
        promotions, _ = await self._store.list(Promotion)
        digest = promotion.spec.revision.digest
        needed = any(
            other.key != promotion.key
            and other.status.phase in WAITING_PROMOTION
            and other.spec.revision.digest == digest
            for other in promotions
        )
        if not needed:
            for run in unfinished:
                transaction.update(run.with_spec(cancelled=True), "gate.cancel")

    async def _tell(self, transaction: Transaction, before: Promotion, after: Promotion) -> None:
        model = await load_model(self._store, after.spec.revision.model)
        event = event_of(before, after, model, self._clock.now())
        if event is not None:
            await add_notifications(self._store, transaction, event)

    async def _rollout(self, name: str | None, key: ResourceKey) -> Rollout | None:
        return await self._store.find(Rollout, name, key.environment) if name else None


def _concerns(resource: Resource[Any, Any], key: ResourceKey, waiting: _Waiting) -> bool:
    """Whether a change of `resource` may move a promotion that waits."""
    if isinstance(resource, Rollout):
        place = (resource.metadata.environment, resource.spec.deployment)
        return place == (key.environment, waiting.deployment)
    if isinstance(resource, ModelDeployment):
        place = (resource.metadata.environment, resource.metadata.name)
        return place == (key.environment, waiting.deployment)
    if isinstance(resource, GateRun):
        return resource.spec.candidate.revision.model == waiting.model
    if isinstance(resource, Model):
        return resource.metadata.name == waiting.model
    if isinstance(resource, Approval | ModelVersion | Contract):
        return resource.spec.model == waiting.model
    return True


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
            lane=promotion.spec.lane,
        ),
    )
