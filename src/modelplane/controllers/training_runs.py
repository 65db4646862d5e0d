"""Sees trainings through: starts their Jobs or services, follows them, and says what came of them.

Reconciles TrainingRuns. Decides nothing itself (`decisions.training_runs`). Each step is one
transaction; a service is called only after the step that calls for it is stored, and told again
of the same run under the same id, so that a restart at any point neither loses nor repeats one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from modelplane.controllers.loop import Fence
from modelplane.decisions.training_names import is_training_token, token_name
from modelplane.decisions.training_runs import (
    RUN_LABEL,
    RunStep,
    RunView,
    ServiceCall,
    decide_run,
    take_answer,
)
from modelplane.ports.clock import Clock
from modelplane.ports.outbox import add_notifications
from modelplane.ports.store import Store, Transaction
from modelplane.ports.training import TrainingService
from modelplane.resources.job import FINISHED_JOB, Job
from modelplane.resources.meta import Resource, ResourceKey, Subject
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.notification import Event, EventType
from modelplane.resources.token import Token
from modelplane.resources.training import TrainingPhase, TrainingRun

SUBJECT = Subject(name="system:training")
WORKERS = 4
"""Runs that are worked on at once: a service that does not answer holds up no other."""


_EVENTS: dict[TrainingPhase, EventType] = {
    "Running": "training.started",
    "Succeeded": "training.done",
    "Failed": "training.failed",
}


class TrainingRunController:
    """Reconciles runs.

    Parameters
    ----------
    store, fence, clock
        The ports.
    service
        Speaks to training services.
    """

    name = "training-runs"
    kinds: Sequence[type[Resource[Any, Any]]] = (TrainingRun, Job, ModelVersion)

    def __init__(self, store: Store, fence: Fence, clock: Clock, service: TrainingService) -> None:
        self._store = store
        self._fence = fence
        self._clock = clock
        self._service = service
        self._waiting: dict[ResourceKey, str] = {}
        self._call_at_s: dict[str, float] = {}

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """A run itself, and those that wait for it; the run of a Job or of a version."""
        run: str | None = None
        if isinstance(resource, TrainingRun):
            yield resource.key
            if resource.finished:
                model = resource.spec.model
                yield from [key for key, waits in self._waiting.items() if waits == model]
        elif isinstance(resource, Job):
            run = resource.metadata.labels.get(RUN_LABEL)
        elif isinstance(resource, ModelVersion):
            run = resource.spec.training.training_run
        if run:
            yield ResourceKey(TrainingRun.__name__, None, run)

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Bring one run a step further."""
        self._waiting.pop(key, None)
        run = await self._store.find(TrainingRun, key.name)
        if run is None or run.finished:
            await self._sweep(key.name)
            return None
        view = await self._observe(run)
        step = decide_run(view, self._clock.now())
        if step.run.status.phase == "Pending":
            self._waiting[key] = run.spec.model
        transaction = Transaction(SUBJECT, step.run.status.message, fence=self._fence.lease)
        await self._write(transaction, view, step)
        if transaction:
            written = await self._store.commit(transaction)
            run = next((r for r in written if isinstance(r, TrainingRun)), run)
        if step.call is None:
            return step.after_s
        return await self._call(run, step.call, step.after_s)

    async def _observe(self, run: TrainingRun) -> RunView:
        runs, _ = await self._store.list(TrainingRun, labels={"model": run.spec.model})
        others = [r for r in runs if not r.finished and r.metadata.name != run.metadata.name]
        place, _, name = run.status.job.partition("/")
        job = await self._store.find(Job, name, place) if name else None
        return RunView(run, others, job, await self._versions(run))

    async def _versions(self, run: TrainingRun, said: str = "") -> tuple[str, ...]:
        """Return the names of what a run registered, oldest first.

        `said` is what its service calls a version; it counts when it is in the registry, and was
        not before the run.
        """
        model = run.spec.model
        listed, _ = await self._store.list(ModelVersion, prefix=f"{model}@")
        name, author = run.metadata.name, token_name(run.metadata.name)
        claimed = said if "@" in said else f"{model}@{said}"
        begun_at = run.metadata.created_at
        found = [
            version
            for version in listed
            if version.spec.training.training_run == name
            or version.spec.author == author
            or (
                said
                and version.metadata.name == claimed
                and (begun_at is None or (version.metadata.created_at or begun_at) >= begun_at)
            )
        ]
        return tuple(v.metadata.name for v in sorted(found, key=lambda v: v.spec.number))

    async def _write(self, transaction: Transaction, view: RunView, step: RunStep) -> None:
        if step.run != view.run:
            transaction.update(step.run, f"training.{step.run.status.phase}")
        if step.job is not None:
            transaction.put(step.job, "training.job")
        if step.run.finished:
            await self._revoke(transaction, step.run.metadata.name)
            if view.job is not None and view.job.status.phase in FINISHED_JOB:
                transaction.delete(view.job, "training.job-done")
        if step.run.status.phase != view.run.status.phase:
            await self._tell(transaction, step.run)

    async def _revoke(self, transaction: Transaction, run: str) -> None:
        token = await self._store.find(Token, token_name(run))
        if token is not None and is_training_token(token):
            transaction.delete(token, "training.token-done")

    async def _sweep(self, name: str) -> None:
        """End what a run that is gone or over has left: its Job and its token."""
        transaction = Transaction(SUBJECT, f"{name} is over", fence=self._fence.lease)
        for job in (await self._store.list(Job, labels={RUN_LABEL: name}))[0]:
            if job.spec.training is None or job.spec.training.run != name:
                continue  # somebody's own, whatever its label says
            if job.status.phase in FINISHED_JOB:
                transaction.delete(job, "training.job-done")
            elif not job.spec.cancelled:
                transaction.update(job.with_spec(cancelled=True), "training.job-cancel")
        await self._revoke(transaction, name)
        if transaction:
            await self._store.commit(transaction)

    # -- services -------------------------------------------------------------------------

    async def _call(
        self, run: TrainingRun, call: ServiceCall, after_s: float | None
    ) -> float | None:
        """Call the service, not more often than it is declared to be, and store what it says."""
        name, now_s = run.metadata.name, self._clock.monotonic_s()
        if call == "cancel":
            self._call_at_s.pop(name, None)
            await self._service.cancel(run)
            return None
        if now_s < self._call_at_s.get(name, now_s):
            return self._call_at_s[name] - now_s
        self._call_at_s[name] = now_s + (after_s or 0.0)
        answer = await (self._service.start if call == "start" else self._service.ask)(run)
        said = answer.version if answer.outcome == "done" else ""
        # Somebody may have cancelled it meanwhile: where it can be told so must not be lost.
        newest = await self._store.find(TrainingRun, name)
        if newest is None or newest.finished:
            return None
        run = newest
        versions = await self._versions(run, said)
        taken = take_answer(run, answer, versions, self._clock.now())
        transaction = Transaction(SUBJECT, taken.status.message, fence=self._fence.lease)
        await self._write(transaction, RunView(run), RunStep(taken))
        if transaction:
            await self._store.commit(transaction)
        if not taken.finished:
            return after_s
        self._call_at_s.pop(name, None)
        return None

    # -- news -----------------------------------------------------------------------------

    async def _tell(self, transaction: Transaction, run: TrainingRun) -> None:
        """Write the event that a run began or ended; a cancelled run is nobody's news."""
        status, spec = run.status, run.spec
        kind, at = _EVENTS.get(status.phase), status.finished_at or status.started_at
        if kind is None or at is None:
            return
        model = await self._store.find(Model, spec.model)
        event = Event(
            type=kind,
            subject=f"TrainingRun {run.metadata.name}",
            team=model.metadata.labels.get("team", "") if model else "",
            at=at,
            data={
                "run": run.metadata.name,
                "trigger": spec.trigger,
                "model": spec.model,
                "cause": spec.cause,
                "detail": spec.detail,
                "phase": status.phase,
                "reason": status.reason,
                "message": status.message,
                "versions": list(status.versions),
            },
        )
        await add_notifications(self._store, transaction, event)
