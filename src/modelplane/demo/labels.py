"""The demo's truth that comes later: whether a flight was late, once it has arrived.

Called by ``demo.loop``. It knows the client only; what it could not deliver it keeps and tries
again, up to a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from time import monotonic

from modelplane.client import Client
from modelplane.demo.flights import FlightRequest
from modelplane.errors import TransientError

LABEL_DELAY_S = 4.0
"""Flights arrive this long after the question: hours, at the pace of the replay."""

_PERIOD_S = 0.5
_MAX_WAITING = 200_000
_BATCH = 1_000


class LabelFeed:
    """Brings the label of each answered request, a while later.

    Parameters
    ----------
    client
        Speaks to the modelplane.
    deployment, environment
        Whose predictions the labels are of.
    """

    def __init__(self, client: Client, deployment: str, environment: str) -> None:
        self._client = client
        self._deployment, self._environment = deployment, environment
        self._waiting: deque[tuple[float, dict[str, str | int]]] = deque(maxlen=_MAX_WAITING)
        self.sent = 0

    def note(self, request: FlightRequest) -> None:
        """Take note of a request that got its prediction."""
        label: dict[str, str | int] = {"key": request.id, "label": int(request.late)}
        self._waiting.append((monotonic() + LABEL_DELAY_S, label))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver what is due, twice a second, until the end of the context."""
        task = asyncio.create_task(self._run(), name="label feed")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_PERIOD_S)
            while self._waiting and self._waiting[0][0] <= monotonic():
                due = [label for when, label in list(self._waiting)[:_BATCH] if when <= monotonic()]
                if not await self._deliver(due):
                    break
                for _ in due:
                    self._waiting.popleft()

    async def _deliver(self, labels: list[dict[str, str | int]]) -> bool:
        try:
            await asyncio.to_thread(
                self._client.send_feedback, self._deployment, labels, self._environment
            )
        except TransientError:
            return False
        self.sent += len(labels)
        return True
