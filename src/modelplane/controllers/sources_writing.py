"""Keeps a model's aliases the same here and in its source, and writes back what serves where.

Used by `sources_models`. Decides nothing itself (`decisions.alias_sync`). What is found moved
is committed before anything is written there, so that a crash loses no move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from modelplane.controllers.loop import Fence
from modelplane.controllers.sources_state import SourceState
from modelplane.decisions.alias_sync import (
    EVIDENCE_TAG,
    PROMOTION_TAG,
    AliasSync,
    AliasWrite,
    newest_promotions,
    plan_tags,
    sync_aliases,
)
from modelplane.decisions.external import ExternalModel, ExternalVersion
from modelplane.decisions.imports import is_gone_there
from modelplane.errors import Conflict, NotFound
from modelplane.ports.clock import Clock
from modelplane.ports.registries import SourceRefused
from modelplane.ports.store import Store, Transaction
from modelplane.resources.meta import Subject
from modelplane.resources.model import AliasMove, Model, ModelVersion
from modelplane.resources.promotion import Promotion

SUBJECT = Subject(name="system:sources")
_ATTEMPTS = 5


class AliasSynchronizer:
    """Synchronizes the aliases of one model at a time.

    Parameters
    ----------
    store, fence, clock
        The ports.
    api_url
        This API, for links to evidence.
    """

    def __init__(self, store: Store, fence: Fence, clock: Clock, api_url: str) -> None:
        self._store = store
        self._fence = fence
        self._clock = clock
        self._api_url = api_url

    async def synchronize(
        self, state: SourceState, listed: ExternalModel, theirs: Sequence[ExternalVersion]
    ) -> bool:
        """Compare and write on both sides; return whether anything was written.

        Parameters
        ----------
        state
            The source; what could not be written there is noted in it.
        listed, theirs
            The model and its versions as the source listed them.
        """
        name = listed.name
        state.alias_faults.pop(name, None)
        async with state.lock(name):
            found = await self._store.find(Model, name)
            if found is None:
                return False
            ours, _ = await self._store.list(ModelVersion, prefix=f"{name}@")
            numbers = {v.spec.version: v.spec.number for v in ours if _is_there(v)}
            if _is_same(found, listed, numbers):
                wrote = False
            else:
                wrote = await self._synchronize(state, name, numbers)
            if state.source.spec.write_back:
                wrote |= await self._write_tags(state, name, theirs, numbers)
        return wrote

    async def _synchronize(self, state: SourceState, name: str, numbers: Mapping[str, int]) -> bool:
        # Asked anew: what was listed may be older than what was written there since.
        external = await state.registry.find_model(name)
        if external is None:
            return False
        sync = await self._commit_moves(state, external, numbers)
        if sync.conflicts:
            aliases = ", ".join(sync.conflicts)
            state.conflict = f"{aliases} of {name} had moved on both sides; the move here wins"
        if sync.differing and state.source.spec.write_back:
            aliases = ", ".join(sync.differing)
            state.alias_faults[name] = f"{aliases} names a version that is not in {state.name}"
        written = []
        for write in sync.writes:
            try:
                await self._write(state, name, write, numbers)
                written.append(write)
            except (SourceRefused, NotFound) as error:
                state.alias_faults[name] = f"{write.alias} was not written: {error}"
        if written:
            await self._commit_base(name, written)
        return bool(sync.moved.moves or written)

    async def _write(
        self, state: SourceState, name: str, write: AliasWrite, numbers: Mapping[str, int]
    ) -> None:
        if write.version is None:
            await state.registry.delete_alias(name, write.alias)
        else:
            await state.registry.set_alias(name, write.alias, numbers[write.version])

    async def _commit_moves(
        self, state: SourceState, external: ExternalModel, numbers: Mapping[str, int]
    ) -> AliasSync:
        """Record here what moved there; return that and what is to be written there."""
        by_number = {number: version for version, number in numbers.items()}
        known = {a: by_number[n] for a, n in external.aliases.items() if n in by_number}
        for attempt in range(1, _ATTEMPTS + 1):
            model = await self._store.get(Model, external.name)
            sync = sync_aliases(
                model,
                known,
                unknown=external.aliases.keys() - known.keys(),
                writable=numbers.keys(),
                write_back=state.source.spec.write_back,
                source=state.name,
                now=self._clock.now(),
            )
            if sync.moved.model == model:
                return sync
            reason = f"compared with {state.name}"
            transaction = Transaction(SUBJECT, reason, fence=self._fence.lease)
            transaction.put(sync.moved.model, "alias")
            for changed in sync.moved.moves:
                transaction.put(changed, "alias")
            try:
                await self._store.commit(transaction)
            except Conflict:
                if attempt == _ATTEMPTS:
                    raise
            else:
                return sync
        raise AssertionError("unreachable")

    async def _commit_base(self, name: str, written: Sequence[AliasWrite]) -> None:
        """Remember what was written there, so that a later move there is told from it."""
        for attempt in range(1, _ATTEMPTS + 1):
            model = await self._store.get(Model, name)
            base = {**model.status.mirrored_aliases, **{w.alias: w.version for w in written}}
            mirrored = {alias: version for alias, version in base.items() if version is not None}
            reason = "written to the source"
            transaction = Transaction(SUBJECT, reason, fence=self._fence.lease)
            transaction.update(model.with_status(mirrored_aliases=mirrored), "alias")
            try:
                await self._store.commit(transaction)
            except Conflict:
                if attempt == _ATTEMPTS:
                    raise
            else:
                return

    async def _write_tags(
        self,
        state: SourceState,
        name: str,
        theirs: Sequence[ExternalVersion],
        numbers: Mapping[str, int],
    ) -> bool:
        """Write there where each version serves, and which promotion brought it there."""
        model = await self._store.get(Model, name)
        promotions = await self._describe_promotions(state, model) if model.status.serving else {}
        writes = plan_tags(model, theirs, numbers, promotions)
        try:
            for write in writes:
                await state.registry.set_tag(name, write.number, write.key, write.value)
        except (SourceRefused, NotFound) as error:
            state.alias_faults[name] = f"its tags were not written: {error}"
            return False
        return bool(writes)

    async def _describe_promotions(
        self, state: SourceState, model: Model
    ) -> dict[str, dict[str, str]]:
        moves, _ = await self._store.list(AliasMove, prefix=f"{model.metadata.name}@")
        api_url = (state.source.spec.webhook_url or self._api_url).rstrip("/")
        champions = {serving.champion for serving in model.status.serving}
        tags = {}
        for version, (environment, name) in newest_promotions(moves).items():
            if version not in champions:
                continue
            promotion = await self._store.find(Promotion, name, environment)
            rollout = promotion.status.rollout if promotion else None
            kind, of = ("rollouts", rollout) if rollout else ("promotions", name)
            place = quote(environment, safe="")
            tags[version] = {
                PROMOTION_TAG: f"{environment}/{name}",
                EVIDENCE_TAG: f"{api_url}/api/v1/{kind}/{quote(of, safe='')}?environment={place}",
            }
        return tags


def _is_there(version: ModelVersion) -> bool:
    """Whether a version lives here and, as far as is known, there."""
    return version.status.deleted_at is None and not is_gone_there(version)


def _is_same(model: Model, listed: ExternalModel, numbers: Mapping[str, int]) -> bool:
    """Whether aliases here, there, and when they were last compared are the same."""
    ours, base = model.status.aliases, model.status.mirrored_aliases
    return ours == base and {a: numbers.get(v) for a, v in ours.items()} == dict(listed.aliases)
