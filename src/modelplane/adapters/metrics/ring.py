"""Recent telemetry in memory: `ports.metrics` as a bounded ring.

Made by `wiring`, filled by the API, read by analysis and status pages. Full resolution for half
an hour, sums by the minute for a day. No clock of its own: time is what the batches say, so the
same batches always give the same answers.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from modelplane.ports.metrics import BatchPosition
from modelplane.resources.telemetry import (
    ReplicaSample,
    ScrapedMetrics,
    TelemetryBatch,
    TelemetryReceipt,
    VariantSample,
)

FULL_RESOLUTION = timedelta(minutes=30)
MAX_BATCHES = 1_800
"""Batches kept of one deployment on one gateway: half an hour at one a second."""

MINUTE = timedelta(minutes=1)
MAX_MINUTES = 24 * 60
MAX_DEPLOYMENTS = 4_096
"""Deployments that are remembered; the one heard of longest ago is forgotten."""

MAX_GATEWAYS = 256
"""Gateways per deployment, likewise."""

MAX_CELLS = 2_000_000
"""Samples, latency bins and replicas held in all, some 300 MB; beyond it old batches go early."""

MAX_POSITIONS = 256
"""Gateway boots that are remembered."""


MAX_REPLICAS = 4_096
"""Replicas whose last scrape is remembered; the one scraped longest ago is forgotten."""

SCRAPE_KEPT = timedelta(minutes=2)
"""How long a replica that is scraped no more is shown."""


@dataclass(slots=True)
class _Counts:
    """A minute of one revision. Latencies are not kept: a day of them would be too much."""

    requests: int = 0
    failures: int = 0
    client_failures: int = 0


@dataclass(slots=True)
class _Series:
    """What one gateway said of one deployment.

    ``boots``: batches by boot id, in order. ``coarse_until``: before it the minutes count, from
    it on the batches.
    """

    boots: OrderedDict[str, deque[TelemetryBatch]] = field(default_factory=OrderedDict)
    length: int = 0
    minutes: OrderedDict[datetime, dict[str, _Counts]] = field(default_factory=OrderedDict)
    coarse_until: datetime | None = None

    def append(self, batch: TelemetryBatch) -> None:
        self.boots.setdefault(batch.boot_id, deque()).append(batch)
        self.length += 1
        minute = self.minutes.setdefault(_minute_of(batch), {})
        for sample in batch.samples:
            counts = minute.setdefault(sample.revision, _Counts())
            counts.requests += sample.requests
            counts.failures += sample.failures
            counts.client_failures += sample.client_failures

    def oldest(self) -> TelemetryBatch | None:
        return next(iter(self.boots.values()))[0] if self.boots else None

    def pop_oldest(self) -> TelemetryBatch:
        boot_id, batches = next(iter(self.boots.items()))
        batch = batches.popleft()
        if not batches:
            del self.boots[boot_id]
        self.length -= 1
        until = _minute_of(batch) + MINUTE
        self.coarse_until = max(until, self.coarse_until or until)
        return batch


_Gateways = OrderedDict[str, _Series]
"""By proxy."""


class MetricsRing:
    """Implements `ports.metrics.Metrics`; `on_new` is told of each batch, once."""

    def __init__(self, on_new: Callable[[TelemetryBatch], None] = lambda batch: None) -> None:
        self._on_new = on_new
        self._deployments: OrderedDict[tuple[str, str], _Gateways] = OrderedDict()
        self._cells = 0
        self._last: OrderedDict[BatchPosition, int] = OrderedDict()
        self._confirmed: dict[BatchPosition, int] = {}
        self._seen: dict[str, datetime] = {}
        self._scraped: OrderedDict[tuple[str, str, str], ScrapedMetrics] = OrderedDict()

    def record(self, batch: TelemetryBatch) -> TelemetryReceipt:
        """Keep `batch` unless it, or a later one of its gateway boot, is already kept."""
        position = (batch.proxy, batch.boot_id)
        if batch.sequence > self._last.get(position, 0):
            self._last[position] = batch.sequence
            self._last.move_to_end(position)
            while len(self._last) > MAX_POSITIONS:
                forgotten, _ = self._last.popitem(last=False)
                self._confirmed.pop(forgotten, None)
            seen = self._seen.get(batch.environment, batch.at)
            self._seen[batch.environment] = max(seen, batch.at)
            self._keep(batch)
            self._keep_scraped(batch)
            self._on_new(batch)
        return TelemetryReceipt(confirmed_sequence=self._confirmed.get(position, 0))

    def batches(
        self,
        environment: str,
        deployment: str,
        *,
        since: datetime | None = None,
        after: Mapping[BatchPosition, int] | None = None,
    ) -> Sequence[TelemetryBatch]:
        """Return the batches that tell of `deployment`, oldest first, and only of it."""
        known = after or {}
        found: list[TelemetryBatch] = []
        for proxy, series in self._deployments.get((environment, deployment), {}).items():
            for boot_id, batches in series.boots.items():
                last = known.get((proxy, boot_id), 0)
                for batch in reversed(batches):
                    if batch.sequence <= last or (since is not None and batch.at < since):
                        break
                    found.append(batch)
        return sorted(found, key=lambda batch: (batch.at, batch.proxy, batch.sequence))

    def totals(
        self, environment: str, deployment: str, *, since: datetime
    ) -> Mapping[str, VariantSample]:
        """Return the sums since then by the short digest of the revision.

        Older than half an hour they are by the minute, without latencies and replicas: the
        minute in which `since` lies is then left out.
        """
        sums: dict[str, _Sum] = {}
        for series in self._deployments.get((environment, deployment), {}).values():
            coarse_until = series.coarse_until
            for minute, counts in series.minutes.items():
                if since <= minute and coarse_until is not None and minute < coarse_until:
                    for revision, count in counts.items():
                        sums.setdefault(revision, _Sum()).add_counts(count)
            for batch in itertools.chain.from_iterable(series.boots.values()):
                is_fine = coarse_until is None or _minute_of(batch) >= coarse_until
                if batch.at > since and (is_fine or _minute_of(batch) < since):
                    for sample in batch.samples:
                        sums.setdefault(sample.revision, _Sum()).add_sample(sample)
        return {revision: one.sample(deployment, revision) for revision, one in sums.items()}

    def scraped(self, environment: str, deployment: str) -> Sequence[ScrapedMetrics]:
        """Return the last scrape of each replica that is still scraped, in name order."""
        seen = self._seen.get(environment)
        return [
            scrape
            for place, scrape in sorted(self._scraped.items())
            if place[:2] == (environment, deployment)
            and seen is not None
            and scrape.at >= seen - SCRAPE_KEPT
        ]

    def positions(self) -> Mapping[BatchPosition, int]:
        """Return the last sequence recorded of each gateway boot that is still remembered."""
        return dict(self._last)

    def confirm(self, proxy: str, boot_id: str, sequence: int) -> None:
        """Note that evidence up to `sequence` is durable; it never goes back."""
        position = (proxy, boot_id)
        if position in self._last:
            self._confirmed[position] = max(sequence, self._confirmed.get(position, 0))

    def last_seen(self, environment: str) -> datetime | None:
        """When the newest batch of the environment ended."""
        return self._seen.get(environment)

    def _keep(self, batch: TelemetryBatch) -> None:
        samples: dict[str, list[VariantSample]] = {name: [] for name in batch.steps}
        for sample in batch.samples:
            samples.setdefault(sample.deployment, []).append(sample)
        for deployment, own in samples.items():
            steps = {name: of for name, of in batch.steps.items() if name == deployment}
            key = (batch.environment, deployment)
            gateways = self._deployments.setdefault(key, OrderedDict())
            series = gateways.setdefault(batch.proxy, _Series())
            self._deployments.move_to_end(key)
            gateways.move_to_end(batch.proxy)
            kept = batch.with_(samples=tuple(own), steps=steps, scraped=())
            series.append(kept)
            self._cells += _cells(kept)
            self._shorten(series, batch.at)
            if len(gateways) > MAX_GATEWAYS:
                _, idle = gateways.popitem(last=False)
                self._drop(idle, idle.length)
        self._forget(batch.at)

    def _keep_scraped(self, batch: TelemetryBatch) -> None:
        for scrape in batch.scraped:
            place = (batch.environment, scrape.deployment, scrape.replica)
            known = self._scraped.get(place)
            if known is None or scrape.at > known.at:
                self._scraped[place] = scrape
                self._scraped.move_to_end(place)
        while len(self._scraped) > MAX_REPLICAS:
            self._scraped.popitem(last=False)

    def _shorten(self, series: _Series, newest: datetime) -> None:
        """Let go of what is too old."""
        while (oldest := series.oldest()) is not None and (
            series.length > MAX_BATCHES or oldest.at < newest - FULL_RESOLUTION
        ):
            self._cells -= _cells(series.pop_oldest())
        while len(series.minutes) > MAX_MINUTES or (
            series.minutes and next(iter(series.minutes)) < newest - MAX_MINUTES * MINUTE
        ):
            series.minutes.popitem(last=False)

    def _forget(self, newest: datetime) -> None:
        """Let go of what is too much, beginning with what was heard of longest ago."""
        while len(self._deployments) > MAX_DEPLOYMENTS:
            for series in self._deployments.popitem(last=False)[1].values():
                self._drop(series, series.length)
        if self._deployments:  # one at each batch: in time every idle one gets its turn
            key, idle = next(iter(self._deployments.items()))
            for series in idle.values():
                self._shorten(series, newest)
            if not any(series.minutes for series in idle.values()):
                del self._deployments[key]
        while self._cells > MAX_CELLS:
            for gateways in self._deployments.values():
                for series in gateways.values():
                    self._drop(series, series.length // 10 + 1)

    def _drop(self, series: _Series, count: int) -> None:
        """Let go of the `count` oldest batches."""
        for _ in range(min(count, series.length)):
            self._cells -= _cells(series.pop_oldest())


def _cells(batch: TelemetryBatch) -> int:
    return sum(1 + len(sample.latency) + len(sample.replicas) for sample in batch.samples)


@dataclass(slots=True)
class _Sum:
    """A growing sum of samples."""

    counts: _Counts = field(default_factory=_Counts)
    latency: dict[tuple[float, float], int] = field(default_factory=dict)
    replicas: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add_counts(self, counts: _Counts | VariantSample) -> None:
        self.counts.requests += counts.requests
        self.counts.failures += counts.failures
        self.counts.client_failures += counts.client_failures

    def add_sample(self, sample: VariantSample) -> None:
        self.add_counts(sample)
        for lower_us, width_us, count in sample.latency:
            place = (lower_us, width_us)
            self.latency[place] = self.latency.get(place, 0) + count
        for name, replica in sample.replicas.items():
            attempts, failures = self.replicas.get(name, (0, 0))
            self.replicas[name] = (attempts + replica.attempts, failures + replica.failures)

    def sample(self, deployment: str, revision: str) -> VariantSample:
        return VariantSample(
            deployment=deployment,
            revision=revision,
            requests=self.counts.requests,
            failures=self.counts.failures,
            client_failures=self.counts.client_failures,
            latency=tuple(
                (low, wide, count) for (low, wide), count in sorted(self.latency.items())
            ),
            replicas={
                name: ReplicaSample(attempts=attempts, failures=failures)
                for name, (attempts, failures) in self.replicas.items()
            },
        )


def _minute_of(batch: TelemetryBatch) -> datetime:
    """Return the minute in which a batch's interval began."""
    return (batch.at - timedelta(seconds=batch.seconds)).replace(second=0, microsecond=0)
