"""Watches registries elsewhere: polls each ModelSource, and wakes for what is announced.

A reconciler of ModelSources whose reconcile only sees to it that a watcher runs: a source that is
slow holds up no other. Polling is the truth; a webhook or a change here only wakes a watcher
for one model. Nothing is half-imported: a version is one transaction.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import structlog

from modelplane.controllers.loop import Fence
from modelplane.controllers.sources_fetching import VersionFetcher
from modelplane.controllers.sources_models import SUBJECT, ModelSynchronizer
from modelplane.controllers.sources_state import (
    WHOLE_MODEL,
    SourceState,
    back_off_s,
    fingerprint,
    report_status,
)
from modelplane.controllers.sources_writing import AliasSynchronizer
from modelplane.decisions.external import ExternalVersion
from modelplane.decisions.imports import identify
from modelplane.errors import Conflict, ModelplaneError, NotFound
from modelplane.ports.clock import Clock
from modelplane.ports.registries import Connect, SourceRefused, SourceUnavailable
from modelplane.ports.store import Store, Transaction
from modelplane.resources.meta import Resource, ResourceKey
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.model_source import ModelSource

_log = structlog.get_logger(__name__)

_MAX_WAITING = 1000
_MODELS_AT_ONCE = 4
_CONFLICT_S = 1.0


@dataclass(slots=True)
class _Watcher:
    """What watches one source.

    Attributes
    ----------
    announced
        Versions to be taken over before anything else, the newest last.
    changed
        Models to be looked at.
    asked
        Whether everything is to be looked at now.
    troubles
        Polls in a row that failed.
    """

    state: SourceState
    announced: dict[tuple[str, int], None] = field(default_factory=dict)
    changed: dict[str, None] = field(default_factory=dict)
    asked: bool = True
    troubles: int = 0
    on_version: asyncio.Event = field(default_factory=asyncio.Event)
    on_change: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: tuple[asyncio.Task[None], ...] = ()


class SourceController:
    """Watches all sources.

    Parameters
    ----------
    store, fence, clock
        The ports.
    connect
        Returns a source's registry.
    secret
        Returns a secret by its name, or None.
    fetcher
        Fetches versions.
    api_url
        This API, for links in tags that are written there.
    """

    name = "sources"
    kinds: Sequence[type[Resource[Any, Any]]] = (ModelSource, Model)

    def __init__(
        self,
        store: Store,
        fence: Fence,
        clock: Clock,
        *,
        connect: Connect,
        secret: Callable[[str], str | None],
        fetcher: VersionFetcher,
        api_url: str,
    ) -> None:
        self._store = store
        self._fence = fence
        self._clock = clock
        self._connect = connect
        self._secret = secret
        aliases = AliasSynchronizer(store, fence, clock, api_url)
        self._models = ModelSynchronizer(store, fence, clock, fetcher, aliases)
        self._watchers: dict[str, _Watcher] = {}

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """A source itself. A changed model wakes the watcher of its source instead."""
        if isinstance(resource, ModelSource):
            yield resource.key
        elif isinstance(resource, Model) and resource.status.source in self._watchers:
            source, model = resource.status.source, resource.metadata
            _, settled = self._watchers[source].state.settled.get(model.name, (0, 0))
            if settled != model.resource_version:
                self.wake(source, model.name)

    def wake(self, source: str, model: str | None = None, number: int | None = None) -> None:
        """Look at a source now: at one version that is new, at one model, or at everything.

        Does nothing when the source is not watched here; the next poll finds the same.
        """
        watcher = self._watchers.get(source)
        if watcher is None:
            return
        if model is not None and len(watcher.changed) < _MAX_WAITING:
            watcher.changed[model] = None
        else:
            watcher.asked = True
        if model is not None and number is not None and len(watcher.announced) < _MAX_WAITING:
            watcher.announced[model, number] = None
            watcher.on_version.set()
        watcher.on_change.set()

    async def reconcile(self, key: ResourceKey) -> float | None:
        """See to it that the source is watched as it is declared now, or not any more."""
        source = await self._store.find(ModelSource, key.name)
        if not self._is_current(key.name, source):
            await self._stop(key.name)
        if source is not None and key.name not in self._watchers:
            watcher = self._watchers[key.name] = _Watcher(SourceState(source))
            watcher.tasks = (
                asyncio.create_task(self._follow(watcher), name=f"poll {key.name}"),
                asyncio.create_task(self._follow_announced(watcher), name=f"wake {key.name}"),
            )
        return None

    def _is_current(self, name: str, source: ModelSource | None) -> bool:
        """Whether the watcher, if there is one, watches `source` as it is declared."""
        watcher = self._watchers.get(name)
        if watcher is None or source is None:
            return watcher is None
        watched, declared = watcher.state.source.metadata, source.metadata
        same = (watched.uid, watched.generation) == (declared.uid, declared.generation)
        return same and not any(task.done() for task in watcher.tasks)

    async def run(self) -> None:
        """Wait; when cancelled, stop all watchers."""
        try:
            await asyncio.Event().wait()
        finally:
            for name in list(self._watchers):
                await self._stop(name)

    async def _stop(self, name: str) -> None:
        watcher = self._watchers.pop(name, None)
        if watcher is None:
            return
        for task in watcher.tasks:
            task.cancel()
        await asyncio.gather(*watcher.tasks, return_exceptions=True)
        if watcher.state.connected is not None:
            await watcher.state.connected.close()

    async def _follow(self, watcher: _Watcher) -> None:
        """Poll when it is time or asked for, and look at changed models between polls."""
        due_s = self._clock.monotonic_s()
        while True:
            await self._fence.held.wait()
            watcher.on_change.clear()
            if watcher.asked or self._clock.monotonic_s() >= due_s:
                due_s = self._clock.monotonic_s() + await self._poll_safely(watcher)
            elif watcher.changed and watcher.troubles == 0:
                await self._look_safely(watcher)
            waiting = asyncio.ensure_future(watcher.on_change.wait())
            left_s = max(0.0, due_s - self._clock.monotonic_s())
            sleeping = asyncio.ensure_future(self._clock.sleep(left_s))
            try:
                await asyncio.wait({waiting, sleeping}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
                sleeping.cancel()

    async def _poll_safely(self, watcher: _Watcher) -> float:
        """Poll; return after how many seconds to poll again, whatever happened."""
        try:
            return await self._poll(watcher)
        except Conflict:
            return _CONFLICT_S  # somebody else wrote, or the lease went to another
        except ModelplaneError as error:
            _log.warning("poll.failed", source=watcher.state.name, error=str(error))
        except Exception as error:
            _log.error("poll.failed", source=watcher.state.name, exc_info=error)
        watcher.troubles += 1
        return self._back_off_s(watcher)

    async def _look_safely(self, watcher: _Watcher) -> None:
        """Look at the models that changed; what does not work is left to the next poll."""
        models, watcher.changed = list(watcher.changed), {}
        state = watcher.state
        try:
            for model in models:
                if state.wants(model):
                    external = await state.registry.find_model(model)
                    versions = await state.registry.versions(model)
                    await self._models.synchronize(state, model, external, versions)
            await self._report(state, None)
        except Exception as error:
            watcher.asked = True
            watcher.on_change.set()
            expected = isinstance(error, ModelplaneError)
            _log.info(
                "look.failed",
                source=state.name,
                error=str(error),
                exc_info=None if expected else error,
            )
            await self._clock.sleep(_CONFLICT_S)

    async def _follow_announced(self, watcher: _Watcher) -> None:
        """Take over each version that was announced, the newest first, beside any poll."""
        state = watcher.state
        while True:
            await watcher.on_version.wait()
            await self._fence.held.wait()
            if not watcher.announced:
                watcher.on_version.clear()
                continue
            (model, number), _ = watcher.announced.popitem()
            try:
                await self._take_over(state, model, number)
            except ModelplaneError as error:  # the poll sees to it, and tells
                _log.info("announced.failed", source=state.name, model=model, error=str(error))
            except Exception as error:
                _log.error("announced.failed", source=state.name, model=model, exc_info=error)

    async def _take_over(self, state: SourceState, model: str, number: int) -> None:
        if not state.wants(model) or state.connected is None:
            return
        here = await self._store.find(Model, model)
        try:
            await self._models.check(state, model, here)
        except (ValueError, Conflict):
            return
        external = await state.registry.find_model(model)
        version = await state.registry.find_version(model, number)
        if external is not None and version is not None and version.is_ready:
            known, _ = await self._store.list(ModelVersion, prefix=f"{model}@{number}.")
            if (number, version.created_at) not in {identify(one) for one in known}:
                await self._models.import_version(state, external, version)

    async def poll(self, name: str) -> float:
        """Poll one source that is watched, or not yet; return when to poll again, seconds."""
        watcher = self._watchers.get(name)
        if watcher is None:
            source = await self._store.get(ModelSource, name)
            watcher = self._watchers[name] = _Watcher(SourceState(source))
        return await self._poll(watcher)

    async def _poll(self, watcher: _Watcher) -> float:
        state = watcher.state
        watcher.asked, watcher.changed = False, {}
        trouble: Exception | None = None
        try:
            if state.connected is None:
                state.connected = self._connect(state.source)
            await self._ensure_webhook(state)
            await self._look_at_all(state)
        except (SourceUnavailable, SourceRefused) as error:
            trouble = error
        await self._report(state, trouble)
        if trouble is not None:
            watcher.troubles += 1
            return self._back_off_s(watcher)
        watcher.troubles = 0
        retry_s = state.next_retry_s(self._clock.now())
        interval_s = state.source.spec.poll_interval_s
        return interval_s if retry_s is None else min(interval_s, retry_s)

    def _back_off_s(self, watcher: _Watcher) -> float:
        """Return when to try a source that failed again: soon at first, never later than due."""
        return min(watcher.state.source.spec.poll_interval_s, back_off_s(watcher.troubles))

    async def _look_at_all(self, state: SourceState) -> None:
        """Compare everything there with everything here."""
        listed = {m.name: m for m in await state.registry.models() if state.wants(m.name)}
        versions: dict[str, list[ExternalVersion]] = defaultdict(list)
        for version in await state.registry.versions():
            versions[version.model].append(version)
        stored, _ = await self._store.list(Model)
        here = {m.metadata.name: m.metadata.resource_version for m in stored}
        ours = {m.metadata.name for m in stored if m.status.source == state.name}
        names = sorted({*listed, *(name for name in ours if state.wants(name))})
        for forgotten in state.counts.keys() - set(names):
            del state.counts[forgotten]
        for model, version_name in list(state.failures):
            numbers = {str(v.number) for v in versions.get(model, ())} | {WHOLE_MODEL}
            if model not in names or version_name not in numbers:
                del state.failures[model, version_name]
        waiting = iter(
            name
            for name in names
            if state.settled.get(name)
            != (fingerprint(listed.get(name), versions[name]), here.get(name, 0))
        )

        async def work() -> None:
            for name in waiting:
                await self._models.synchronize(state, name, listed.get(name), versions[name])

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_MODELS_AT_ONCE):
                    group.create_task(work())
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _ensure_webhook(self, state: SourceState) -> None:
        """Register the webhook there, once for each start and each change of the source."""
        spec = state.source.spec
        if not (spec.webhook_url and spec.webhook_secret) or state.webhook_id is not None:
            return
        url = f"{spec.webhook_url.rstrip('/')}/api/v1/webhooks/mlflow/{quote(state.name)}"
        try:
            secret = self._secret(spec.webhook_secret)
            if secret is None:
                message = f"there is no secret {spec.webhook_secret!r}"
                raise SourceRefused("SecretMissing", message)
            state.webhook_id = await state.registry.ensure_webhook(
                f"modelplane-{state.name}", url, secret
            )
            state.webhook_fault = None
        except SourceUnavailable:
            raise
        except (SourceRefused, NotFound) as error:  # polling does without
            state.webhook_fault = error

    async def _report(self, state: SourceState, trouble: Exception | None) -> None:
        """Write the source's status where it changed."""
        source = await self._store.find(ModelSource, state.name)
        if source is None or source.metadata.uid != state.source.metadata.uid:
            return
        status = report_status(state, source.status, trouble, self._clock.now())
        if status != source.status:
            transaction = Transaction(SUBJECT, fence=self._fence.lease)
            transaction.update(source.with_(status=status), "source.status")
            await self._store.commit(transaction)
