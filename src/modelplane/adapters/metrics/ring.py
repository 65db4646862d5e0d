"""Recent telemetry in memory: `ports.metrics` as a bounded ring.

Built by wiring, filled by the API, read by analysis and status pages. Full resolution for half
an hour, sums by the minute for a day. No clock of its own: time is what the batches say.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from modelplane.ports.metrics import BatchPosition
from modelplane.resources.telemetry import TelemetryBatch, TelemetryReceipt, VariantSample

MAX_BATCHES = 1800
"""Batches kept per gateway: half an hour at one a second."""

MAX_MINUTES = 24 * 60
MAX_POSITIONS = 256
"""Gateway boots remembered; beyond that the one heard longest ago is forgotten."""

_Key = tuple[str, str]


@dataclass(slots=True)
class _Gateway:
    """What one gateway sent."""

    batches: deque[TelemetryBatch] = field(default_factory=lambda: deque(maxlen=MAX_BATCHES))
    minutes: OrderedDict[datetime, dict[_Key, VariantSample]] = field(default_factory=OrderedDict)


class MetricsRing:
    """Implements `ports.metrics.Metrics`."""

    def __init__(self) -> None:
        self._gateways: dict[str, dict[str, _Gateway]] = {}
        self._last: OrderedDict[BatchPosition, int] = OrderedDict()
        self._confirmed: dict[BatchPosition, int] = {}

    def record(self, batch: TelemetryBatch) -> TelemetryReceipt:
        """Keep `batch` unless it, or a later one of its gateway boot, is already kept."""
        position = (batch.proxy, batch.boot_id)
        if batch.sequence > self._last.get(position, 0):
            self._last[position] = batch.sequence
            self._last.move_to_end(position)
            self._forget_old_positions()
            gateways = self._gateways.setdefault(batch.environment, {})
            self._keep(gateways.setdefault(batch.proxy, _Gateway()), batch)
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
        last = after or {}
        found = []
        for gateway in self._gateways.get(environment, {}).values():
            for batch in reversed(gateway.batches):
                if since is not None and batch.at < since:
                    break
                if batch.sequence <= last.get((batch.proxy, batch.boot_id), 0):
                    continue
                own = tuple(s for s in batch.samples if s.deployment == deployment)
                if own or deployment in batch.splits:
                    found.append(batch.with_(samples=own))
        return sorted(found, key=lambda batch: (batch.at, batch.proxy, batch.sequence))

    def totals(
        self, environment: str, deployment: str, *, since: datetime
    ) -> Mapping[str, VariantSample]:
        """Return the sums by revision: by the second as far back as that goes, then by minute."""
        sums: dict[_Key, VariantSample] = {}
        for gateway in self._gateways.get(environment, {}).values():
            oldest = gateway.batches[0].at if gateway.batches else None
            for minute, samples in gateway.minutes.items():
                if minute >= since and (oldest is None or minute + _MINUTE <= _floor(oldest)):
                    for key, sample in samples.items():
                        _add(sums, key, sample)
            for batch in gateway.batches:
                if batch.at > since:
                    for sample in batch.samples:
                        _add(sums, (sample.deployment, sample.revision), sample)
        return {revision: s for (name, revision), s in sums.items() if name == deployment}

    def positions(self) -> Mapping[BatchPosition, int]:
        """Return the last sequence recorded of each gateway boot."""
        return dict(self._last)

    def confirm(self, proxy: str, boot_id: str, sequence: int) -> None:
        """Note that evidence up to `sequence` is durable; it never goes back."""
        position = (proxy, boot_id)
        if position in self._last:
            self._confirmed[position] = max(sequence, self._confirmed.get(position, 0))

    def last_seen(self, environment: str) -> datetime | None:
        """When the newest batch of the environment ended."""
        gateways = self._gateways.get(environment, {}).values()
        return max((g.batches[-1].at for g in gateways if g.batches), default=None)

    def _keep(self, gateway: _Gateway, batch: TelemetryBatch) -> None:
        gateway.batches.append(batch)
        sums = gateway.minutes.setdefault(_floor(batch.at), {})
        for sample in batch.samples:
            # Latency and replicas stay at full resolution only: a day of bins is too much.
            slim = sample.with_(latency=(), replicas={})
            _add(sums, (sample.deployment, sample.revision), slim)
        while len(gateway.minutes) > MAX_MINUTES:
            gateway.minutes.popitem(last=False)

    def _forget_old_positions(self) -> None:
        while len(self._last) > MAX_POSITIONS:
            position, _ = self._last.popitem(last=False)
            self._confirmed.pop(position, None)


_MINUTE = timedelta(minutes=1)


def _floor(at: datetime) -> datetime:
    return at.replace(second=0, microsecond=0)


def _add(sums: dict[_Key, VariantSample], key: _Key, sample: VariantSample) -> None:
    before = sums.get(key)
    if before is None:
        sums[key] = sample
        return
    bins: dict[tuple[float, float], int] = {(low, wide): n for low, wide, n in before.latency}
    for low, wide, count in sample.latency:
        bins[low, wide] = bins.get((low, wide), 0) + count
    replicas = dict(before.replicas)
    for name, replica in sample.replicas.items():
        known = replicas.get(name)
        replicas[name] = (
            replica
            if known is None
            else known.with_(
                attempts=known.attempts + replica.attempts,
                failures=known.failures + replica.failures,
            )
        )
    sums[key] = before.with_(
        requests=before.requests + sample.requests,
        failures=before.failures + sample.failures,
        client_failures=before.client_failures + sample.client_failures,
        latency=tuple((low, wide, bins[low, wide]) for low, wide in sorted(bins)),
        replicas=replicas,
    )
