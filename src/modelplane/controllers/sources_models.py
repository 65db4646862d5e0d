"""Brings one model here to what its source says: versions, tags, deletions, aliases.

Used by the controller of sources, for each model that is not settled. Decides nothing itself
(`decisions.imports`, `decisions.alias_sync`). Each step is a transaction of its own that may be
repeated: after a crash between any two the next poll goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

import structlog

from modelplane.controllers.loop import Fence
from modelplane.controllers.sources_fetching import Fetched, VersionFetcher, load_datasets
from modelplane.controllers.sources_state import (
    WHOLE_MODEL,
    WORKERS,
    SourceState,
    fingerprint,
)
from modelplane.controllers.sources_writing import AliasSynchronizer
from modelplane.decisions.aliases import Mover, drop_version
from modelplane.decisions.datasets import link_datasets
from modelplane.decisions.external import ExternalModel, ExternalVersion
from modelplane.decisions.imports import (
    check_importable,
    follow_model,
    identify,
    is_gone_there,
    make_version,
    mark_gone,
    plan_model,
)
from modelplane.decisions.registration import bury_version, count_version
from modelplane.errors import Conflict, ModelplaneError
from modelplane.ports.clock import Clock
from modelplane.ports.models import load_model
from modelplane.ports.registries import SourceRefused, SourceUnavailable
from modelplane.ports.store import Store, Transaction
from modelplane.resources.meta import Subject
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.model_source import ModelSource
from modelplane.resources.promotion import Promotion

_log = structlog.get_logger(__name__)

SUBJECT = Subject(name="system:sources")
_ATTEMPTS = 5
_TROUBLES_IN_A_ROW = 3
_VERSIONS_AT_ONCE = 200


@dataclass(slots=True)
class _Pass:
    """What happened while one model was synchronized."""

    wrote: bool = False
    is_open: bool = False


class ModelSynchronizer:
    """Synchronizes models of sources."""

    def __init__(
        self,
        store: Store,
        fence: Fence,
        clock: Clock,
        fetcher: VersionFetcher,
        aliases: AliasSynchronizer,
    ) -> None:
        self._store = store
        self._fence = fence
        self._clock = clock
        self._fetcher = fetcher
        self._aliases = aliases

    async def synchronize(
        self,
        state: SourceState,
        name: str,
        external: ExternalModel | None,
        theirs: Sequence[ExternalVersion],
    ) -> None:
        """Bring the model `name` to what its source says.

        Parameters
        ----------
        state
            The source; what could not be taken over is noted in it.
        name, external, theirs
            The model and its versions as the source listed them; None when it did not.

        Raises
        ------
        SourceUnavailable, SourceRefused
            The source stopped answering; what was taken over stays.
        Conflict
            Somebody else was faster again and again, or the lease was lost.
        """
        model = await self._store.find(Model, name)
        try:
            await self.check(state, name, model)
        except (ValueError, Conflict) as error:
            if state.may_try(name, WHOLE_MODEL, self._clock.now()):
                state.fail(name, WHOLE_MODEL, error, self._clock.now())
            return
        state.failures.pop((name, WHOLE_MODEL), None)
        seen = (fingerprint(external, theirs), model.metadata.resource_version if model else 0)
        if external is None and model is None:
            return
        described = external or ExternalModel(name)
        done = _Pass()
        await self._import_new(state, described, theirs, done)
        await self._follow(state, described, theirs, done)
        if external is not None:
            done.wrote |= await self._aliases.synchronize(state, external, theirs)
        if not (done.wrote or done.is_open or name in state.alias_faults):
            state.settled[name] = seen

    async def check(self, state: SourceState, name: str, model: Model | None) -> None:
        """Raise unless the model may be taken over; one whose source is gone may be.

        Raises
        ------
        ValueError, Conflict
            As `check_importable`.
        """
        source = model.status.source if model else None
        if source not in {None, state.name}:
            assert source is not None
            if await self._store.find(ModelSource, source) is None:
                source = state.name
        check_importable(name, model.with_status(source=source) if model else None, state.name)

    async def import_version(
        self, state: SourceState, external: ExternalModel, version: ExternalVersion
    ) -> bool:
        """Take over one version unless it is being fetched, or failed a moment ago.

        Returns
        -------
        bool, whether it is here now

        Raises
        ------
        SourceUnavailable, SourceRefused
            The source did not answer; noted as a failure of the version, too.
        Conflict
            The lease was lost.
        """
        key = (version.model, str(version.number))
        busy = (version.model, version.number)
        if busy in state.importing or not state.may_try(*key, self._clock.now()):
            return False
        state.importing.add(busy)
        try:
            fetched = await self._fetcher.fetch(state.registry, version)
            async with state.lock(version.model):
                await self._commit(lambda: self._prepare(state, external, version, fetched))
        except (SourceUnavailable, SourceRefused) as error:
            state.fail(*key, error, self._clock.now())
            raise
        except Conflict:
            raise
        except Exception as error:
            failure = state.fail(*key, error, self._clock.now())
            unexpected = None if isinstance(error, ModelplaneError) else error
            _log.warning(
                "import.failed",
                source=state.name,
                version="/".join(key),
                reason=failure.reason,
                exc_info=unexpected,
            )
            return False
        finally:
            state.importing.discard(busy)
        state.failures.pop(key, None)
        return True

    async def _import_new(
        self,
        state: SourceState,
        external: ExternalModel,
        theirs: Sequence[ExternalVersion],
        done: _Pass,
    ) -> None:
        """Take over the versions that are not here, newest first, a few at a time."""
        name = external.name
        model = await load_model(self._store, name)
        ours = await self._versions(name)
        plan = plan_model(model, ours, external, theirs, state.name)
        done.is_open |= any(not version.is_ready for version in theirs)
        if not plan.to_import:
            return
        waiting = iter(plan.to_import)
        troubles: list[ModelplaneError] = []
        workers = [self._work(state, external, waiting, troubles) for _ in range(WORKERS)]
        try:
            async with asyncio.TaskGroup() as group:
                for worker in workers:
                    group.create_task(worker)
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        done.wrote = True
        if len(troubles) >= _TROUBLES_IN_A_ROW:
            raise troubles[-1]

    async def _work(
        self,
        state: SourceState,
        external: ExternalModel,
        waiting: Iterator[ExternalVersion],
        troubles: list[ModelplaneError],
    ) -> None:
        """Take over what waits; stop when the source fails again and again."""
        for version in waiting:
            try:
                async with state.slots:
                    await self.import_version(state, external, version)
            except (SourceUnavailable, SourceRefused) as error:
                troubles.append(error)
            if len(troubles) >= _TROUBLES_IN_A_ROW:
                return
            if not state.failures.get((version.model, str(version.number))):
                troubles.clear()

    async def _prepare(
        self,
        state: SourceState,
        external: ExternalModel,
        version: ExternalVersion,
        fetched: Fetched,
    ) -> Transaction:
        """Return the transaction that takes over one version; empty when it is here."""
        taken: set[str] = set()
        while True:
            made = make_version(version, fetched.run, fetched.files, fetched.artifact, taken)
            known = await self._store.find(ModelVersion, made.metadata.name)
            if known is None:
                break
            if identify(known) == identify(made):
                return Transaction(SUBJECT)
            taken.add(known.metadata.name)
        name = version.model
        model = await load_model(self._store, name)
        await self.check(state, name, model)
        transaction = self._transaction(f"registered in {state.name}")
        datasets = await load_datasets(self._store, made.spec.datasets)
        linked = link_datasets(made.spec.datasets, datasets, made.spec.author)
        await self._fetcher.label(made.spec, self._clock.now())
        transaction.create(made.with_spec(datasets=linked.references), "import")
        for data in linked.written:
            transaction.put(data, "import")
        followed = follow_model(model, external, state.name)
        transaction.put(count_version(followed, version.number), "import")
        return transaction

    async def _follow(
        self,
        state: SourceState,
        external: ExternalModel,
        theirs: Sequence[ExternalVersion],
        done: _Pass,
    ) -> None:
        """Follow tags, descriptions and stages, and bury what was deleted there."""
        name = external.name
        ours = await self._versions(name)
        stored = await load_model(self._store, name)
        plan = plan_model(stored, ours, external, theirs, state.name)
        state.counts[name] = sum(version.status.deleted_at is None for version in ours)
        done.is_open |= bool(plan.to_import or plan.vanished)
        for start in range(0, len(plan.changed), _VERSIONS_AT_ONCE):
            transaction = self._transaction(f"changed in {state.name}")
            for version in plan.changed[start : start + _VERSIONS_AT_ONCE]:
                transaction.update(version, "follow")
            await self._store.commit(transaction)
            done.wrote = True

        async def prepare() -> Transaction:
            model = await load_model(self._store, name)
            transaction = self._transaction(f"changed in {state.name}")
            followed = follow_model(model, external, state.name)
            if followed != model:
                transaction.put(followed, "follow")
            return transaction

        async with state.lock(name):
            done.wrote |= await self._commit(prepare)
        for version in plan.vanished:
            done.wrote |= await self._bury(state, version)

    async def _bury(self, state: SourceState, version: ModelVersion) -> bool:
        """Make a tombstone of a version that is gone there, unless it is deployed here."""
        spec = version.spec
        there = await state.registry.find_version(spec.model, spec.number)
        if there is not None and there.created_at == spec.registered_at:
            return False

        async def prepare() -> Transaction:
            present = await self._store.get(ModelVersion, version.metadata.name)
            transaction = self._transaction(f"deleted in {state.name}")
            now = self._clock.now()
            deployments, _ = await self._store.list(ModelDeployment)
            promotions, _ = await self._store.list(Promotion)
            try:
                buried = bury_version(present, deployments, promotions, now)
            except Conflict as error:
                if not is_gone_there(present):
                    marked = mark_gone(present, state.name, now, error.message)
                    transaction.update(marked, "follow")
                return transaction
            model = await self._store.get(Model, spec.model)
            mover = Mover("mlflow", now, f"deleted in {state.name}", origin="outside")
            for moved in drop_version(model, spec.version, mover).written:
                transaction.put(moved, "delete")
            transaction.update(mark_gone(buried, state.name, now), "delete")
            return transaction

        async with state.lock(spec.model):
            return await self._commit(prepare)

    async def _versions(self, model: str) -> Sequence[ModelVersion]:
        versions, _ = await self._store.list(ModelVersion, prefix=f"{model}@")
        return versions

    def _transaction(self, reason: str) -> Transaction:
        return Transaction(SUBJECT, reason, fence=self._fence.lease)

    async def _commit(self, prepare: Callable[[], Awaitable[Transaction]]) -> bool:
        """Commit what `prepare` loads and decides; return whether anything was written."""
        for attempt in range(1, _ATTEMPTS + 1):
            transaction = await prepare()
            if not transaction:
                return False
            try:
                await self._store.commit(transaction)
            except Conflict:
                if attempt == _ATTEMPTS:
                    raise
            else:
                return True
        raise AssertionError("unreachable")
