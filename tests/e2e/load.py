"""Steady load through a gateway, with every answer accounted for."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp

REQUEST = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1.0]}]}


@dataclass
class Load:
    """Sends `rate_per_s` requests a second to one inference URL until stopped."""

    url: str
    rate_per_s: float = 100.0
    body: dict[str, Any] = field(default_factory=lambda: REQUEST)
    users: int = 500
    statuses: Counter[int] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    assigned: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=30)
        connector = aiohttp.TCPConnector(limit=64)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=connector)
        self._flying: set[asyncio.Task[None]] = set()
        self._pacer = asyncio.create_task(self._pace())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pacer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._pacer
        if self._flying:
            await asyncio.wait(self._flying, timeout=30)
        await self._session.close()

    @property
    def sent(self) -> int:
        return sum(self.statuses.values())

    async def _pace(self) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        for number in itertools.count():
            delay = started + number / self.rate_per_s - loop.time()
            if delay > 0:
                await asyncio.sleep(delay)
            task = asyncio.create_task(self._send(f"user-{number % self.users}"))
            self._flying.add(task)
            task.add_done_callback(self._flying.discard)

    async def _send(self, user: str) -> None:
        try:
            async with self._session.post(
                self.url, json=self.body, headers={"x-user-id": user}
            ) as response:
                text = await response.text()
                self.statuses[response.status] += 1
                self.served[response.headers.get("x-modelplane-version", "")] += 1
                self.assigned[response.headers.get("x-modelplane-assigned", "")] += 1
                if response.status >= 500:
                    self.failures.append(f"{response.status} {text[:200]}")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.statuses[0] += 1
            self.failures.append(repr(error)[:300])
