"""Runs pipelines: starts the jobs of stages, keeps what they find, ends runs.

Decides nothing itself (`decisions.gates`, `decisions.gate_plans`). Knows nothing of promotions:
whoever wants a run creates it, and reads in it what came of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from modelplane.controllers.loop import Fence
from modelplane.controllers.production_data import add_production
from modelplane.decisions.gate_keys import StagePlace
from modelplane.decisions.gate_plans import StagePlan, plan_stage
from modelplane.decisions.gates import (
    Observed,
    RunDecision,
    abandon,
    decide_run,
    first_environment,
    ready_stages,
)
from modelplane.ports.clock import Clock
from modelplane.ports.gate_runs import last_result, load_surroundings, results_of
from modelplane.ports.outbox import add_notifications
from modelplane.ports.predictions import Predictions
from modelplane.ports.store import Store, Transaction
from modelplane.resources.environment import Environment
from modelplane.resources.gate_run import GateRun, StageResult
from modelplane.resources.job import Job
from modelplane.resources.meta import Resource, ResourceKey, Subject
from modelplane.resources.model import Model
from modelplane.resources.notification import Event

SUBJECT = Subject(name="system:gates")


class GateController:
    """Reconciles one GateRun at a time.

    Parameters
    ----------
    store, fence, clock
        The ports.
    place
        What stages are run by here.
    predictions
        What production was asked, for stages that look at that.
    """

    name = "gates"
    kinds: Sequence[type[Resource[Any, Any]]] = (GateRun, Job)

    def __init__(
        self,
        store: Store,
        fence: Fence,
        clock: Clock,
        place: StagePlace,
        predictions: Predictions | None = None,
    ) -> None:
        self._store = store
        self._fence = fence
        self._clock = clock
        self._place = place
        self._predictions = predictions

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """A run itself; the run that a job belongs to."""
        if isinstance(resource, GateRun):
            yield resource.key
        elif isinstance(resource, Job) and "run" in resource.metadata.labels:
            yield ResourceKey("GateRun", None, resource.metadata.labels["run"])

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Bring one run a step further."""
        run = await self._store.find(GateRun, key.name)
        listed, _ = await self._store.list(Job, labels={"run": key.name})
        jobs = {job.metadata.name: job for job in listed}
        if run is None:
            decision = abandon(jobs)
        elif run.finished and not jobs:
            return None
        else:
            observed = await self._observe(run, jobs)
            decision = decide_run(run, observed, now=self._clock.now())
        transaction = Transaction(SUBJECT, decision.status.message, fence=self._fence.lease)
        self._write(transaction, decision)
        if run is not None and decision.status != run.status:
            moved = run.with_(status=decision.status)
            transaction.update(moved, f"gate.{decision.status.phase}")
            if moved.finished and not run.finished:
                await self._tell(transaction, moved)
        if transaction:
            await self._store.commit(transaction)
        return decision.requeue_after_s

    async def _observe(self, run: GateRun, jobs: Mapping[str, Job]) -> Observed:
        if run.finished:
            return Observed(jobs)
        candidate, ready = run.spec.candidate, ready_stages(run)
        plans: dict[str, StagePlan] = {}
        if ready:
            around = await load_surroundings(self._store, candidate, ready, self._place)
            for stage in ready:
                plans[stage.name] = await add_production(
                    plan_stage(stage, run, around),
                    self._store,
                    self._predictions,
                    self._clock.now(),
                )
        keys = {plan.key for plan in plans.values()}
        keys |= {stage.key for stage in run.status.stages if stage.phase == "Running"}
        before: dict[str, StageResult] = {}
        for stage in ready:
            found = await last_result(self._store, candidate.revision.model, stage.name)
            if found is not None:
                before[stage.name] = found
        place = run.status.environment
        if place is None:
            place = first_environment((await self._store.list(Environment))[0])
        return Observed(
            jobs=jobs,
            plans=plans,
            results={key: await results_of(self._store, key) for key in sorted(keys)},
            environment=place,
            durations_s={name: result.spec.duration_s for name, result in before.items()},
            case_durations_s={name: r.spec.case_durations_s for name, r in before.items()},
        )

    def _write(self, transaction: Transaction, decision: RunDecision) -> None:
        for result in decision.results:
            transaction.create(result, "gate.result")
        for job in decision.create:
            transaction.create(job, "gate.job")
        for job in decision.cancel:
            transaction.update(job, "gate.job-cancel")
        for job in decision.delete:
            transaction.delete(job, "gate.job-done")

    async def _tell(self, transaction: Transaction, run: GateRun) -> None:
        """Write the event of a run's end with it; a cancelled run is nobody's news."""
        status, revision = run.status, run.spec.candidate.revision
        if status.phase == "Cancelled" or status.finished_at is None:
            return
        model = await self._store.find(Model, revision.model)
        event = Event(
            type="gate.passed" if status.phase == "Passed" else "gate.failed",
            subject=f"GateRun {run.metadata.name}",
            team=model.metadata.labels.get("team", "") if model else "",
            at=status.finished_at,
            data={
                "run": run.metadata.name,
                "pipeline": run.spec.pipeline,
                "model": revision.model,
                "version": revision.version,
                "phase": status.phase,
                "message": status.message,
                "stages": {stage.name: stage.phase for stage in status.stages},
            },
        )
        await add_notifications(self._store, transaction, event)
