"""The registry index, kept up with the change log: the API's fast way to read the registry.

Used by the routes that search, resolve aliases and walk the lineage. Reads what is committed;
whoever wrote through this process finds it at once. It writes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from modelplane.decisions.registry_index import KINDS, RegistryIndex
from modelplane.errors import Conflict
from modelplane.ports.store import Store
from modelplane.resources.meta import Resource


class Catalog:
    """Reads the registry once, and then only what changed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._index: RegistryIndex | None = None
        self._through = 0
        self._catching_up = asyncio.Lock()

    async def current(self) -> RegistryIndex:
        """Return the index with everything that was committed here before this call.

        It may change at the next await: take from it what is needed first.

        Raises
        ------
        TransientError
            The store cannot be read just now.
        """
        wanted = self._store.newest_version(KINDS)
        if self._index is not None and self._through >= wanted:
            return self._index
        async with self._catching_up:
            if self._index is None:
                self._index = await self._load()
            while self._through < wanted:
                self._index = await self._catch_up(self._index)
            return self._index

    @property
    def through(self) -> int:
        """The version of the store up to which the index knows everything."""
        return self._through

    def absorb(self, written: Iterable[Resource[Any, Any]]) -> None:
        """Take over what was just committed here, so that the next reader need not ask for it.

        Only what follows directly on what is known already; the rest is found as ever.
        """
        if self._index is None or self._catching_up.locked():
            return
        for resource in sorted(written, key=lambda r: r.metadata.resource_version):
            if resource.metadata.resource_version == self._through + 1:
                self._index.put(resource)
                self._through += 1

    async def _load(self) -> RegistryIndex:
        index, through = RegistryIndex(), -1
        for kind in KINDS:
            resources, version = await self._store.list(kind)
            through = version if through < 0 else min(through, version)
            for resource in resources:
                index.put(resource)
        self._through = through
        return index

    async def _catch_up(self, index: RegistryIndex) -> RegistryIndex:
        try:
            page = await self._store.changes(self._through, KINDS)
        except Conflict:  # the log was pruned meanwhile, or the store restored
            return await self._load()
        for change in page.changes:
            if change.type == "put":
                index.put(change.resource)
            else:
                index.remove(change.resource)
        self._through = page.through
        return index
