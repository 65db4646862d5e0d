"""Fetches the files of versions that were registered without them.

Such versions come through the MLflow-compatible API: they name a URI. Each watched source is
asked for it; what its files and its run say fills in what the record leaves empty, once, in the
transaction that gives the version its files. Until then a condition says why there are none;
while no source is declared that is what was said when the version was registered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from modelplane.controllers.loop import Fence
from modelplane.controllers.sources_fetching import Fetched, VersionFetcher, load_datasets
from modelplane.controllers.sources_state import back_off_s, reason_of
from modelplane.decisions.datasets import link_datasets
from modelplane.decisions.external import (
    PROMPT_TAG,
    ExternalFiles,
    ExternalRun,
    ExternalVersion,
)
from modelplane.decisions.imports import UNKNOWN, complete_spec, copied_version
from modelplane.decisions.registration import ARTIFACT_READY as READY
from modelplane.errors import Conflict, ModelplaneError
from modelplane.ports.clock import Clock
from modelplane.ports.registries import (
    ArtifactUnavailable,
    Connect,
    ModelRegistry,
    SourceRefused,
    SourceUnavailable,
)
from modelplane.ports.store import Store, Transaction
from modelplane.resources.meta import Condition, Resource, ResourceKey, Subject, set_condition
from modelplane.resources.model import ModelVersion
from modelplane.resources.model_source import ModelSource

SUBJECT = Subject(name="system:artifacts")
_MAX_MESSAGE = 500


@dataclass(slots=True)
class _Wait:
    """A version without files.

    Attributes
    ----------
    is_copy
        Whether they are those of another version here, so that no source is needed.
    tries
        How often they could not be had.
    """

    is_copy: bool
    tries: int = 0


@dataclass(frozen=True, slots=True)
class _Connection:
    uid: str
    generation: int
    registry: ModelRegistry


class ArtifactController:
    """Reconciles one version without files; several at a time, where the loop does so.

    Parameters
    ----------
    store, fence, clock
        The ports.
    connect
        Returns a source's registry.
    fetcher
        Fetches versions.
    """

    name = "artifacts"
    kinds: Sequence[type[Resource[Any, Any]]] = (ModelVersion, ModelSource)

    def __init__(
        self,
        store: Store,
        fence: Fence,
        clock: Clock,
        *,
        connect: Connect,
        fetcher: VersionFetcher,
    ) -> None:
        self._store = store
        self._fence = fence
        self._clock = clock
        self._connect = connect
        self._fetcher = fetcher
        self._waiting: dict[ResourceKey, _Wait] = {}
        self._sources: Sequence[ModelSource] | None = None
        self._source_changes = 0
        self._connections: dict[str, _Connection] = {}

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """A version that waits for its files; all of them when a source changed."""
        if isinstance(resource, ModelSource):
            self._sources = None
            self._source_changes += 1
            yield from list(self._waiting)
        elif isinstance(resource, ModelVersion) and _waits(resource):
            # Its own condition changes it too: that is no reason to try again at once.
            if resource.key not in self._waiting:
                is_copy = copied_version(resource.spec.source or "") is not None
                self._waiting[resource.key] = _Wait(is_copy)
                yield resource.key
        else:
            self._waiting.pop(resource.key, None)

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Try to get the files of one version; return when to try again."""
        sources = await self._load_sources()
        wait = self._waiting.get(key)
        if wait is None or not (sources or wait.is_copy or wait.tries):
            return None  # a source that is declared wakes all that wait: there may be thousands
        version = await self._store.find(ModelVersion, key.name)
        if version is None or not _waits(version):
            self._waiting.pop(key, None)
            return None
        try:
            fetched = await self._find(version, sources)
        except Conflict:
            raise
        except ModelplaneError as error:
            await self._mark(version, error)
            wait.tries += 1
            return None if reason_of(error) == "NoSource" else back_off_s(wait.tries)
        await self._complete(version, fetched)
        self._waiting.pop(key, None)
        return None

    async def _load_sources(self) -> Sequence[ModelSource]:
        """Return the sources that are declared; read again only after one changed."""
        if self._sources is not None:
            return self._sources
        changes = self._source_changes
        sources, _ = await self._store.list(ModelSource)
        if changes == self._source_changes:  # else they may be old; all that wait are woken again
            self._sources = sources
            await self._forget_others(sources)
        return sources

    async def _find(self, version: ModelVersion, sources: Sequence[ModelSource]) -> Fetched:
        """Return the version's files, from another version here or from the first source.

        Raises
        ------
        ModelplaneError
            None has them: what the last one said.
        """
        copied = copied_version(version.spec.source or "")
        if copied is not None:
            return await self._copy(*copied)
        trouble: ModelplaneError = ArtifactUnavailable(
            "NoSource",
            f"its files are at {version.spec.source}, and no source is declared to read them from",
            hint="apply a ModelSource for the MLflow server that has them",
        )
        for source in sources:
            try:
                return await self._fetcher.fetch(self._registry(source), _external(version))
            except (ArtifactUnavailable, SourceUnavailable, SourceRefused) as error:
                trouble = error
        raise trouble

    async def _copy(self, model: str, number: int) -> Fetched:
        """Return the files of the version of this registry that another was made from."""
        versions, _ = await self._store.list(ModelVersion, prefix=f"{model}@")
        living = [v for v in versions if v.spec.number == number and not v.status.deleted_at]
        if not living or living[0].spec.artifact is None:
            message = f"it is made from {model} {number}, whose files are not here"
            raise ArtifactUnavailable("ArtifactMissing", message)
        spec = living[0].spec
        assert spec.artifact is not None
        files = ExternalFiles(spec.artifact.format, spec.flavour, requirements=spec.requirements)
        run = ExternalRun(
            spec.training.run_id if spec.training.run_id != UNKNOWN else "",
            metrics=spec.metrics,
            parameters=spec.parameters,
            datasets=spec.datasets,
        )
        return Fetched(run, files, spec.artifact)

    def _registry(self, source: ModelSource) -> ModelRegistry:
        name = source.metadata.name
        if name not in self._connections:
            registry = self._connect(source)
            metadata = source.metadata
            self._connections[name] = _Connection(metadata.uid, metadata.generation, registry)
        return self._connections[name].registry

    async def _forget_others(self, sources: Sequence[ModelSource]) -> None:
        """Close connections to sources that are gone or declared otherwise now."""
        present = {s.metadata.name: (s.metadata.uid, s.metadata.generation) for s in sources}
        for name, connection in list(self._connections.items()):
            if present.get(name) != (connection.uid, connection.generation):
                del self._connections[name]
                await connection.registry.close()

    async def _complete(self, version: ModelVersion, fetched: Fetched) -> None:
        """Give the version its files, and what they say."""
        spec = complete_spec(version.spec, fetched.run, fetched.files, fetched.artifact)
        known = await load_datasets(self._store, spec.datasets)
        linked = link_datasets(spec.datasets, known, spec.author)
        spec = spec.with_(datasets=linked.references)
        now = self._clock.now()
        await self._fetcher.label(spec, version.metadata.created_at or now)
        condition = Condition(
            type=READY,
            status="True",
            reason="Fetched",
            observed_generation=version.metadata.generation,
        )
        conditions = set_condition(version.status.conditions, condition, now)
        completed = version.with_(spec=spec).with_status(conditions=conditions)
        transaction = Transaction(SUBJECT, "its files were fetched", fence=self._fence.lease)
        transaction.update(completed, "fetch")
        for data in linked.written:
            transaction.put(data, "fetch")
        await self._store.commit(transaction)

    async def _mark(self, version: ModelVersion, error: ModelplaneError) -> None:
        """Say why a version has no files, where that is not said yet."""
        reason, message = reason_of(error), str(error)[:_MAX_MESSAGE]
        known = next((c for c in version.status.conditions if c.type == READY), None)
        if known is not None and (known.reason, known.message) == (reason, message):
            return
        condition = Condition(
            type=READY,
            status="False",
            reason=reason,
            message=message,
            observed_generation=version.metadata.generation,
        )
        conditions = set_condition(version.status.conditions, condition, self._clock.now())
        transaction = Transaction(SUBJECT, fence=self._fence.lease)
        transaction.update(version.with_status(conditions=conditions), "fetch")
        await self._store.commit(transaction)


def _waits(version: ModelVersion) -> bool:
    spec, status = version.spec, version.status
    if spec.artifact is not None or not spec.source or status.deleted_at is not None:
        return False
    return PROMPT_TAG not in status.tags


def _external(version: ModelVersion) -> ExternalVersion:
    spec, metadata = version.spec, version.metadata
    at = spec.registered_at or metadata.created_at
    assert at is not None
    run_id = spec.training.run_id
    return ExternalVersion(
        model=spec.model,
        number=spec.number,
        created_at=at,
        updated_at=at,
        source=spec.source or "",
        run_id="" if run_id == UNKNOWN else run_id,
        tags=version.status.tags,
    )
