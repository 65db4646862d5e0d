"""What gateways report becomes series: counters since the process began, latencies of a minute.

Pure bookkeeping. `MetricsRing` hands each new batch over, `controllers.measuring` takes samples. A
batch tells of revisions; people think in versions, so counts of revisions of one version are added
up, and those of a revision whose version is not known yet wait until it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from modelplane.decisions.series import Sample, sample
from modelplane.decisions.traffic_report import compute_quantile
from modelplane.resources.telemetry import TelemetryBatch, VariantSample

GATEWAY_SILENT = timedelta(seconds=5)
"""After this without a batch a gateway counts as down."""

GATEWAY_FORGOTTEN = timedelta(hours=1)
LATENCY_WINDOW = timedelta(minutes=1)
MAX_REVISIONS = 20_000
QUANTILES = ("0.5", "0.95", "0.99")

RevisionPlace = tuple[str, str, str]
"""Environment, deployment, short digest."""


@dataclass(slots=True)
class _Revision:
    requests: int = 0
    failures: int = 0
    client_failures: int = 0
    latency: deque[tuple[datetime, tuple[tuple[float, float, int], ...]]] = field(
        default_factory=deque
    )

    def add(self, counts: VariantSample, at: datetime) -> None:
        self.requests += counts.requests
        self.failures += counts.failures
        self.client_failures += counts.client_failures
        if counts.latency:
            self.latency.append((at, counts.latency))
        while self.latency and self.latency[0][0] <= at - LATENCY_WINDOW:
            self.latency.popleft()


class TelemetrySeries:
    """Adds batches up; all of one process."""

    def __init__(self) -> None:
        self._revisions: dict[RevisionPlace, _Revision] = {}
        self._unrouted: dict[tuple[str, str], int] = {}
        self._reported: set[tuple[str, str]] = set()
        self._heard_at: dict[tuple[str, str], datetime] = {}

    def add(self, batch: TelemetryBatch) -> None:
        """Take in a batch that was not there before."""
        gateway = (batch.environment, batch.proxy)
        self._reported.add(gateway)
        self._unrouted[gateway] = self._unrouted.get(gateway, 0) + batch.unrouted
        for counts in batch.samples:
            place = (batch.environment, counts.deployment, counts.revision)
            known = self._revisions.get(place)
            if known is None:
                if len(self._revisions) >= MAX_REVISIONS:
                    del self._revisions[next(iter(self._revisions))]
                known = self._revisions[place] = _Revision()
            known.add(counts, batch.at)

    def samples(self, versions: Mapping[RevisionPlace, str], now: datetime) -> Iterator[Sample]:
        """Return the samples now.

        Parameters
        ----------
        versions
            The version of each revision; revisions that are not in it have no samples.
        now
            By the clock that gateways' batches are heard by.
        """
        yield from self._gateways(now)
        by_version: dict[tuple[str, str, str], list[_Revision]] = {}
        for place, counts in self._revisions.items():
            version = versions.get(place)
            if version is not None:
                by_version.setdefault((place[0], place[1], version), []).append(counts)
        for (environment, deployment, version), revisions in by_version.items():
            labels = {"environment": environment, "deployment": deployment, "version": version}
            for name, value in (
                ("modelplane_requests_total", sum(one.requests for one in revisions)),
                ("modelplane_request_failures_total", sum(one.failures for one in revisions)),
                ("modelplane_client_failures_total", sum(one.client_failures for one in revisions)),
            ):
                yield sample(name, float(value), **labels)
            bins = _recent_bins(revisions, now)
            for quantile in QUANTILES if bins else ():
                latency_us = compute_quantile(bins, float(quantile))
                if latency_us is not None:
                    yield sample(
                        "modelplane_request_latency_seconds",
                        latency_us / 1e6,
                        quantile=quantile,
                        **labels,
                    )

    def _gateways(self, now: datetime) -> Iterator[Sample]:
        self._heard_at.update(dict.fromkeys(self._reported, now))
        self._reported.clear()
        for gateway, heard_at in list(self._heard_at.items()):
            if now - heard_at > GATEWAY_FORGOTTEN:
                del self._heard_at[gateway]
                self._unrouted.pop(gateway, None)
                continue
            labels = {"environment": gateway[0], "proxy": gateway[1]}
            is_up = now - heard_at <= GATEWAY_SILENT
            yield sample("modelplane_gateway_up", float(is_up), **labels)
            unrouted = self._unrouted.get(gateway, 0)
            yield sample("modelplane_gateway_unrouted_total", float(unrouted), **labels)


def _recent_bins(revisions: list[_Revision], now: datetime) -> dict[tuple[float, float], int]:
    bins: dict[tuple[float, float], int] = {}
    for revision in revisions:
        for at, latency in revision.latency:
            if at > now - LATENCY_WINDOW:
                for lower_us, width_us, count in latency:
                    place = (lower_us, width_us)
                    bins[place] = bins.get(place, 0) + count
    return bins
