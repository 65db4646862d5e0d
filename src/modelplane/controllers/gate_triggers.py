"""Starts runs of pipelines by themselves: on pushes, new data, contracts, and by the clock.

Decides nothing itself (`decisions.gate_triggers`). Each cause starts one run, whatever dies
meanwhile: a run carries its cause, so that what is missing shows. No more than
`MAX_UNFINISHED` of these runs are on their way at a time; other causes wait until one has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from modelplane.controllers.loop import Fence
from modelplane.decisions.gate_runs import make_run
from modelplane.decisions.gate_triggers import (
    CAUSE_LABEL,
    CHAMPION,
    MAX_UNFINISHED,
    NEWEST,
    Cause,
    active_triggers,
    arrived_at,
    causes_of_contract,
    causes_of_data,
    causes_of_push,
    causes_of_schedule,
    due_at,
    is_open,
    is_settled,
    next_at,
    settled_schedule,
    since_of,
    switch_triggers,
)
from modelplane.ports.clock import Clock
from modelplane.ports.gate_runs import (
    find_champion,
    first_revision,
    next_number,
    served_model,
)
from modelplane.ports.store import Store, Transaction
from modelplane.resources.contract import Contract
from modelplane.resources.dataset import DatasetVersion
from modelplane.resources.gate_run import GateRun, ServedModel, Trigger
from modelplane.resources.meta import Metadata, Resource, ResourceKey, Subject
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.validation_pipeline import ValidationPipeline

SUBJECT = Subject(name="system:triggers")
_LONGEST_WAIT_S = 3600.0


class TriggerController:
    """Reconciles a pipeline (what it missed, its schedule), or one thing that may start runs."""

    name = "gate-triggers"
    kinds: Sequence[type[Resource[Any, Any]]] = (
        ValidationPipeline, ModelVersion, DatasetVersion, Contract, GateRun,
    )  # fmt: skip

    def __init__(self, store: Store, fence: Fence, clock: Clock) -> None:
        self._store = store
        self._fence = fence
        self._clock = clock
        self._pipelines: dict[str, ValidationPipeline] = {}
        self._caught_up: dict[str, tuple[str, int]] = {}
        self._open: set[str] | None = None
        self._waiting: dict[ResourceKey, None] = {}

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """A pipeline; what some trigger is for; what waited, when a run has ended."""
        if isinstance(resource, ValidationPipeline):
            self._pipelines[resource.metadata.name] = resource
            yield resource.key
        elif isinstance(resource, GateRun):
            yield from self._take_waiting(resource)
        elif isinstance(resource, ModelVersion):
            at = arrived_at(resource)
            if at is not None and self._is_wanted("push", at):
                yield resource.key
        elif isinstance(resource, DatasetVersion | Contract):
            at = resource.metadata.created_at
            trigger: Trigger = "contract" if isinstance(resource, Contract) else "dataset"
            if at is not None and self._is_wanted(trigger, at):
                yield resource.key

    def _is_wanted(self, trigger: Trigger, at: datetime) -> bool:
        """Whether some pipeline may have to run; those not seen yet will look for themselves."""
        moments = (since_of(pipeline, trigger) for pipeline in self._pipelines.values())
        return any(since is not None and at >= since for since in moments)

    def _take_waiting(self, run: GateRun) -> list[ResourceKey]:
        if self._open is None:
            return []
        if is_open(run):
            self._open.add(run.metadata.name)
            return []
        self._open.discard(run.metadata.name)
        waiting = list(self._waiting)[:MAX_UNFINISHED]
        for key in waiting:
            del self._waiting[key]
        return waiting

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Start what a pipeline or another resource asks for, as far as there is room."""
        if key.kind == "ValidationPipeline":
            return await self._reconcile_pipeline(key)
        pipelines, _ = await self._store.list(ValidationPipeline)
        for pipeline in pipelines:
            causes = await self._causes_of(key, pipeline) if active_triggers(pipeline) else ()
            if not await self._start_all(pipeline, causes):
                self._waiting[key] = None
        return None

    async def _causes_of(self, key: ResourceKey, pipeline: ValidationPipeline) -> tuple[Cause, ...]:
        if key.kind == "ModelVersion":
            version = await self._store.find(ModelVersion, key.name)
            if version is None:
                return ()
            return causes_of_push(pipeline, version, await self._model(version.spec.model))
        if key.kind == "Contract":
            contract = await self._store.find(Contract, key.name)
            if contract is None:
                return ()
            return causes_of_contract(pipeline, contract, await self._model(contract.spec.model))
        data = await self._store.find(DatasetVersion, key.name)
        if data is None:
            return ()
        return causes_of_data(pipeline, data, (await self._store.list(Model))[0])

    # -- pipelines ------------------------------------------------------------------------

    async def _reconcile_pipeline(self, key: ResourceKey) -> float | None:
        pipeline = await self._store.find(ValidationPipeline, key.name)
        if pipeline is None:
            self._pipelines.pop(key.name, None)
            self._caught_up.pop(key.name, None)
            return None
        switched = switch_triggers(pipeline)
        if switched != pipeline:
            transaction = Transaction(SUBJECT, "triggers", fence=self._fence.lease)
            transaction.update(switched, "gate.triggers")
            await self._store.commit(transaction)
            return None  # its change brings it here again
        seen = (pipeline.metadata.uid, pipeline.metadata.generation)
        if self._caught_up.get(key.name) != seen:
            if not await self._catch_up(pipeline):
                self._waiting[key] = None
                return None
            self._caught_up[key.name] = seen
        return await self._keep_schedule(pipeline)

    async def _catch_up(self, pipeline: ValidationPipeline) -> bool:
        """Start what happened while nobody looked; return whether there was room for all."""
        active, causes = active_triggers(pipeline), list[Cause]()
        models = {model.metadata.name: model for model in (await self._store.list(Model))[0]}
        if "push" in active:
            for version in (await self._store.list(ModelVersion))[0]:
                model = models.get(version.spec.model)
                causes += causes_of_push(pipeline, version, model) if model else ()
        if "dataset" in active:
            for data in (await self._store.list(DatasetVersion))[0]:
                causes += causes_of_data(pipeline, data, models.values())
        if "contract" in active:
            for contract in (await self._store.list(Contract))[0]:
                model = models.get(contract.spec.model)
                causes += causes_of_contract(pipeline, contract, model) if model else ()
        return await self._start_all(pipeline, sorted(causes, key=lambda cause: cause.at))

    async def _keep_schedule(self, pipeline: ValidationPipeline) -> float | None:
        """Start what is due, once; return in how many seconds to look again."""
        now = self._clock.now()
        due = due_at(pipeline, now)
        if due is not None:
            models, _ = await self._store.list(Model)
            if not await self._start_all(pipeline, causes_of_schedule(pipeline, models, now)):
                self._waiting[pipeline.key] = None
                return None
            transaction = Transaction(SUBJECT, f"scheduled for {due}", fence=self._fence.lease)
            transaction.update(settled_schedule(pipeline, due), "gate.scheduled")
            await self._store.commit(transaction)
        coming = next_at(pipeline, now)
        if coming is None:
            return None
        return min(_LONGEST_WAIT_S, max(0.0, (coming - now).total_seconds()))

    # -- runs -----------------------------------------------------------------------------

    async def _start_all(self, pipeline: ValidationPipeline, causes: Sequence[Cause]) -> bool:
        """Start the runs of the causes that have none; return whether there was room for all."""
        if not causes:
            return True
        runs, _ = await self._store.list(GateRun, labels={"pipeline": pipeline.metadata.name})
        for cause in causes:
            candidate = await self._candidate(cause)
            if candidate is None or is_settled(cause, candidate, runs):
                continue
            if len(await self._unfinished()) >= MAX_UNFINISHED:
                return False
            runs = [*runs, await self._start(pipeline, cause, candidate)]
        return True

    async def _unfinished(self) -> set[str]:
        if self._open is None:
            runs, _ = await self._store.list(GateRun)
            self._open = {run.metadata.name for run in runs if is_open(run)}
        return self._open

    async def _start(
        self, pipeline: ValidationPipeline, cause: Cause, candidate: ServedModel
    ) -> GateRun:
        run = make_run(
            pipeline,
            candidate,
            await find_champion(self._store, cause.model),
            number=await next_number(self._store, pipeline.metadata.name),
            trigger=cause.trigger,
            subject=SUBJECT,
            reason=cause.reason,
        )
        labels = {**run.metadata.labels, CAUSE_LABEL: cause.label}
        run = run.with_(metadata=run.metadata.with_(labels=labels))
        transaction = Transaction(SUBJECT, cause.reason, fence=self._fence.lease)
        transaction.create(run, f"gate.{cause.trigger}")
        (written,) = await self._store.commit(transaction)
        assert isinstance(written, GateRun)
        (await self._unfinished()).add(written.metadata.name)
        return written

    async def _candidate(self, cause: Cause) -> ServedModel | None:
        """Return what a cause is to check; None when there is nothing (any more)."""
        if cause.version == CHAMPION:
            return await find_champion(self._store, cause.model)
        if cause.version != NEWEST:
            version = await self._store.find(ModelVersion, f"{cause.model}@{cause.version}")
        else:
            versions, _ = await self._store.list(ModelVersion, prefix=f"{cause.model}@")
            there = [version for version in versions if arrived_at(version) is not None]
            version = max(there, key=lambda v: v.spec.number, default=None)
        if version is None or arrived_at(version) is None:
            return None
        return await served_model(self._store, version, await first_revision(self._store, version))

    async def _model(self, name: str) -> Model:
        found = await self._store.find(Model, name)
        return found or Model(metadata=Metadata(name=name))
