"""The roles as they are now: read from the store, compiled, and read again when they change.

Used by `access` for every request. Decides nothing.
"""

from __future__ import annotations

import asyncio

from modelplane.decisions.authorization import Authority
from modelplane.ports.store import Store
from modelplane.resources.environment import Environment
from modelplane.resources.role import Role, RoleBinding

_KINDS = (Role, RoleBinding, Environment)


class Roles:
    """Who may do what, kept up with the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._authority: Authority | None = None
        self._through = -1
        self._loading = asyncio.Lock()

    async def current(self) -> Authority:
        """Return the roles with everything that was committed here before this call.

        Raises
        ------
        TransientError
            The store cannot be read just now: then nobody is let in.
        """
        if self._authority is not None and self._through >= self._newest():
            return self._authority
        async with self._loading:
            newest = self._newest()  # before reading: what comes later is found later
            if self._authority is None or self._through < newest:
                roles, _ = await self._store.list(Role)
                bindings, _ = await self._store.list(RoleBinding)
                environments, _ = await self._store.list(Environment)
                stages = {e.metadata.name: e.spec.stage for e in environments}
                self._authority = Authority(roles, bindings, stages)
                self._through = newest
            return self._authority

    def _newest(self) -> int:
        return self._store.newest_version(_KINDS)
