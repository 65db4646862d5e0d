"""Begins trainings: on new data, alerts that fire, and by the clock.

Reconciles TrainingTriggers. Decides nothing itself (`decisions.training`). What a trigger saw, the
version of watched data that it registers and the run that begins are one transaction: whatever
dies meanwhile, a cause is neither lost nor taken twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from modelplane.controllers.loop import Fence
from modelplane.controllers.sources_fetching import load_datasets
from modelplane.controllers.training_data import DataWatcher, Sighting
from modelplane.decisions.datasets import register_data
from modelplane.decisions.training import Decision, decide, surplus
from modelplane.decisions.training_causes import Seen, SightedData
from modelplane.ports.clock import Clock
from modelplane.ports.store import Store, Transaction
from modelplane.resources.alerting import Alert
from modelplane.resources.dataset import DatasetVersion
from modelplane.resources.meta import Resource, ResourceKey, Subject
from modelplane.resources.training import TrainingRun, TrainingTrigger, WatchedData

SUBJECT = Subject(name="system:training")
_LONGEST_WAIT_S = 3600.0


class TrainingTriggerController:
    """Reconciles triggers.

    Parameters
    ----------
    store, fence, clock
        The ports.
    watcher
        Looks at data outside the registry.
    """

    name = "training-triggers"
    kinds: Sequence[type[Resource[Any, Any]]] = (
        TrainingTrigger, TrainingRun, DatasetVersion, Alert,
    )  # fmt: skip

    def __init__(self, store: Store, fence: Fence, clock: Clock, watcher: DataWatcher) -> None:
        self._store = store
        self._fence = fence
        self._clock = clock
        self._watcher = watcher
        self._triggers: dict[str, TrainingTrigger] = {}

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """A trigger itself; those that what changed is about, as far as they are known here."""
        if isinstance(resource, TrainingTrigger):
            self._triggers[resource.metadata.name] = resource
            yield resource.key
            return
        for trigger in self._triggers.values():
            if _concerns(resource, trigger):
                yield trigger.key

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Take note of what is new, and begin a run if there is a cause and it may."""
        trigger = await self._store.find(TrainingTrigger, key.name)
        if trigger is None:
            self._triggers.pop(key.name, None)
            self._watcher.watch(key.name, ())
            return None
        self._watcher.watch(key.name, trigger.spec.on.data)
        transaction = Transaction(SUBJECT, fence=self._fence.lease)
        seen = await self._observe(trigger, transaction)
        runs, _ = await self._store.list(TrainingRun)
        now = self._clock.now()
        decision = decide(trigger, seen, runs, now)
        self._write(transaction, trigger, decision)
        for old in surplus(trigger, runs, now):
            transaction.delete(old, "training.forget")
        if transaction:
            await self._store.commit(transaction)
        if decision.look_at is None:
            return None
        return min(_LONGEST_WAIT_S, max(0.0, (decision.look_at - now).total_seconds()))

    def close(self) -> None:
        """Watch no data any more."""
        self._watcher.close()

    def _write(
        self, transaction: Transaction, trigger: TrainingTrigger, decision: Decision
    ) -> None:
        if decision.trigger != trigger:
            transaction.update(decision.trigger, "training.seen")
        if decision.run is not None:
            transaction.reason = decision.run.spec.detail
            transaction.create(decision.run, f"training.{decision.run.spec.cause}")

    async def _observe(self, trigger: TrainingTrigger, transaction: Transaction) -> Seen:
        """Return what there is to see; new versions of watched data go into `transaction`."""
        causes, store = trigger.spec.on, self._store
        datasets = {
            name: (await store.list(DatasetVersion, prefix=f"{name}@"))[0]
            for name in causes.dataset
        }
        sightings = self._watcher.sightings(trigger.metadata.name)
        data: dict[str, SightedData] = {}
        for watched in causes.data:
            sighting = sightings.get(watched.uri)
            if sighting is not None:
                data[watched.uri] = await self._record(trigger, watched, sighting, transaction)
        alerts = (await store.list(Alert))[0] if causes.alerts is not None else ()
        return Seen(datasets, data, alerts)

    async def _record(
        self,
        trigger: TrainingTrigger,
        watched: WatchedData,
        sighting: Sighting,
        transaction: Transaction,
    ) -> SightedData:
        """Return which registered version of data this is; one that is new is registered."""
        if sighting.reference is None:
            return SightedData(fault=sighting.fault)
        name = watched.dataset or trigger.spec.model
        reference = sighting.reference.with_(name=name)
        known = await load_datasets(self._store, [reference])
        registered = register_data(reference, known, SUBJECT.name)
        added = {resource.key for resource, _, _ in transaction.puts}
        if not added & {resource.key for resource in registered.written}:
            for resource in registered.written:
                transaction.put(resource, "push")
            return SightedData(registered.version)
        return SightedData(fault=f"{name} has just got another version; it is looked at again")


def _concerns(resource: Resource[Any, Any], trigger: TrainingTrigger) -> bool:
    causes = trigger.spec.on
    if isinstance(resource, TrainingRun):
        about = resource.spec
        return trigger.metadata.name == about.trigger or trigger.spec.model == about.model
    if isinstance(resource, DatasetVersion):
        return resource.spec.dataset in causes.dataset
    return isinstance(resource, Alert) and causes.alerts is not None
