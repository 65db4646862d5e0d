"""Metrics that model servers tell of themselves: asked for now and then, sent with the telemetry.

Run by `agent.Agent`; `telemetry.Telemetry` takes what is new. Kept is only the last answer of
each replica: it is for people to look at, and nothing is decided by it.
"""

from __future__ import annotations

import asyncio
from functools import partial

import structlog

from modelplane.agent.node import Node
from modelplane.agent.replicas import Replicas
from modelplane.resources.replica import Replica
from modelplane.resources.telemetry import MAX_SCRAPES, ScrapedMetrics

log = structlog.get_logger(__name__)

_AT_ONCE = 4


class Scraper:
    """Asks the ready replicas whose revision names a metrics endpoint."""

    def __init__(self, node: Node, replicas: Replicas) -> None:
        self._node = node
        self._replicas = replicas
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._news: dict[str, dict[str, ScrapedMetrics]] = {}

    async def run(self) -> None:
        """Ask all of them again and again, for ever."""
        while True:
            await self._node.clock.sleep(self._node.options.scrape_interval_s)
            await self.tick()

    async def tick(self) -> None:
        """Ask each once; what nobody took of the answers before is forgotten."""
        found = await asyncio.gather(*(self._scrape(one) for one in self._replicas.ready()))
        self._news = {}
        for environment, metrics in filter(None, found):
            self._news.setdefault(environment, {})[metrics.replica] = metrics

    def take(self, environment: str) -> tuple[ScrapedMetrics, ...]:
        """Return what is new in an environment, once, and as much as a batch may hold."""
        news = self._news.get(environment, {})
        names = list(news)[:MAX_SCRAPES]
        return tuple(news.pop(name) for name in names)

    async def _scrape(self, replica: Replica) -> tuple[str, ScrapedMetrics] | None:
        revision = replica.spec.revision
        path = revision.runtime.metrics_endpoint
        if path is None:
            return None
        tell = partial(
            ScrapedMetrics,
            deployment=replica.spec.deployment,
            revision=revision.short,
            replica=replica.metadata.name,
        )
        async with self._free:
            try:
                scrape = await self._node.servers.scrape(
                    self._node.socket(replica.metadata.uid), path
                )
                metrics = tell(
                    at=self._node.clock.now(),
                    samples=dict(scrape.samples),
                    truncated=scrape.truncated,
                    error=scrape.error,
                )
            except Exception as error:
                # What a server says of itself must not end what serves it.
                log.exception("scrape_failed", replica=str(replica.key))
                message = f"the scrape failed: {type(error).__name__}"
                metrics = tell(at=self._node.clock.now(), error=message)
        return replica.metadata.environment or "", metrics
