"""A clock that moves only when told to, for tests and simulations."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta

_START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


class ManualClock:
    """Implements `ports.clock.Clock`; `advance` moves time and wakes who waited for it."""

    def __init__(self, start: datetime = _START) -> None:
        self._start = start
        self._elapsed_s = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._ties = itertools.count()

    def now(self) -> datetime:
        """Return the present moment."""
        return self._start + timedelta(seconds=self._elapsed_s)

    def monotonic_s(self) -> float:
        """Return seconds since the clock was made."""
        return self._elapsed_s

    async def sleep(self, seconds: float) -> None:
        """Wait until time has been advanced by `seconds`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed_s + seconds, next(self._ties), future))
        await future

    def step(self, seconds: float) -> None:
        """Move time on without giving the sleepers a turn."""
        self._elapsed_s += seconds

    async def advance(self, seconds: float) -> None:
        """Move time on by `seconds`, giving each sleeper its turn at its moment."""
        until = self._elapsed_s + seconds
        while self._sleepers and self._sleepers[0][0] <= until:
            wake_at, _, future = heapq.heappop(self._sleepers)
            self._elapsed_s = max(self._elapsed_s, wake_at)
            if not future.done():
                future.set_result(None)
            await asyncio.sleep(0)
        self._elapsed_s = until
        await asyncio.sleep(0)
