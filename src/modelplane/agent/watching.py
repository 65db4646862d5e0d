"""Sees one kind of resource as it is: a list, then changes, across every interruption.

One watcher per kind, run by `agent.Agent`. Starts from what the cache holds, so that what was
deleted while no agent ran is noticed with the first list.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import structlog

from modelplane.agent.control_plane import ControlPlane
from modelplane.errors import Conflict, ModelplaneError
from modelplane.ports.clock import Clock
from modelplane.resources.meta import Resource, ResourceKey

log = structlog.get_logger(__name__)

AnyResource = Resource[Any, Any]
_FIRST_RETRY_S = 0.2
_MAX_RETRY_S = 5.0


class Watcher:
    """Follows one kind.

    Parameters
    ----------
    control_plane, clock
        Where to look, and how to wait.
    kind
        What to follow.
    known
        What is known of it already.
    on_put, on_delete
        Told of each change, in order; must not wait.
    on_synced
        Told once, after the first complete list.
    """

    def __init__(
        self,
        control_plane: ControlPlane,
        clock: Clock,
        kind: type[AnyResource],
        *,
        known: Iterable[AnyResource],
        on_put: Callable[[AnyResource], None],
        on_delete: Callable[[AnyResource], None],
        on_synced: Callable[[], None],
    ) -> None:
        self._control_plane = control_plane
        self._clock = clock
        self._kind = kind
        self._known: dict[ResourceKey, AnyResource] = {r.key: r for r in known}
        self._on_put = on_put
        self._on_delete = on_delete
        self._on_synced = on_synced
        self._synced = False
        self._since: int | None = None
        self._delay_s = 0.0

    async def run(self) -> None:
        """Follow for ever."""
        while True:
            try:
                if self._since is None:
                    self._since = await self._list()
                await self._follow(self._since)
            except Conflict:
                self._since = None  # too long ago: list again
            except ModelplaneError as error:
                log.warning("control_plane_away", kind=self._kind.__name__, error=str(error))
            self._delay_s = min(_MAX_RETRY_S, max(_FIRST_RETRY_S, 2 * self._delay_s))
            await self._clock.sleep(self._delay_s * random.uniform(0.5, 1.0))

    async def _list(self) -> int:
        resources, version = await self._control_plane.list(self._kind)
        self._delay_s = 0.0
        present = {resource.key for resource in resources}
        for key in [key for key in self._known if key not in present]:
            self._on_delete(self._known.pop(key))
        for resource in resources:
            self._put(resource)
        if not self._synced:
            self._synced = True
            self._on_synced()
        return version

    async def _follow(self, since: int) -> None:
        async for change in self._control_plane.watch(self._kind, since):
            self._delay_s = 0.0
            if change.type == "put":
                self._put(change.resource)
            elif self._known.pop(change.resource.key, None) is not None:
                self._on_delete(change.resource)
            self._since = change.resource_version

    def _put(self, resource: AnyResource) -> None:
        self._known[resource.key] = resource
        self._on_put(resource)
