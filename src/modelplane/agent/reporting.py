"""Writes statuses to the control plane: the newest one of each resource, until it is taken.

Called by every part of the agent through `report`, which never waits. The agent owns the whole
status of the kinds it reports, so a status replaces the one before it, and only the last counts.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import structlog

from modelplane.agent.control_plane import ControlPlane
from modelplane.errors import Conflict, ModelplaneError, NotFound
from modelplane.ports.clock import Clock
from modelplane.resources.meta import Part, Resource, ResourceKey

log = structlog.get_logger(__name__)

_FIRST_RETRY_S = 0.2
_MAX_RETRY_S = 5.0


class Reporter:
    """Brings statuses to the control plane in the background."""

    def __init__(self, control_plane: ControlPlane, clock: Clock) -> None:
        self._control_plane = control_plane
        self._clock = clock
        self._waiting: dict[ResourceKey, Resource[Any, Any]] = {}
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def report(self, resource: Resource[Any, Any], status: Part) -> None:
        """Bring `status` to the control plane as soon as it can be had."""
        self._waiting.pop(resource.key, None)
        self._waiting[resource.key] = resource.with_(status=status)
        self._idle.clear()
        self._news.set()

    async def run(self) -> None:
        """Write for ever."""
        delay_s = 0.0
        while True:
            if not self._waiting:
                self._idle.set()
                self._news.clear()
                await self._news.wait()
            key = next(iter(self._waiting))
            wanted = self._waiting[key]
            try:
                await self._control_plane.put_status(wanted)
            except (NotFound, Conflict):
                log.debug("status_outlived", resource=str(key))  # it is gone, or was made anew
            except ModelplaneError as error:
                delay_s = min(_MAX_RETRY_S, max(_FIRST_RETRY_S, 2 * delay_s))
                log.warning("status_waits", resource=str(key), error=str(error))
                if self._waiting.get(key) is wanted:
                    # To the end: one that is refused for good must not hold up the others.
                    self._waiting[key] = self._waiting.pop(key)
                await self._clock.sleep(delay_s * random.uniform(0.5, 1.0))
                continue
            delay_s = 0.0
            if self._waiting.get(key) is wanted:
                del self._waiting[key]

    async def flush(self, timeout_s: float) -> None:
        """Wait until everything is written, `timeout_s` at the most."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("statuses_not_written", count=len(self._waiting))
