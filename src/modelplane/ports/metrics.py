"""Recent telemetry: what gateways counted, second by second, in a bounded ring.

The API records batches, analysis and status pages read them. Lost with the process: what
decisions need of the past is in the evidence, and agents send again what was not confirmed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from modelplane.resources.telemetry import (
    ScrapedMetrics,
    TelemetryBatch,
    TelemetryReceipt,
    VariantSample,
)

BatchPosition = tuple[str, str]
"""(proxy, boot id): within it, sequences count up from 1."""


class Metrics(Protocol):
    """A bounded ring of telemetry batches per environment."""

    def record(self, batch: TelemetryBatch) -> TelemetryReceipt:
        """Keep `batch`; one already kept changes nothing. Never blocks."""

    def batches(
        self,
        environment: str,
        deployment: str,
        *,
        since: datetime | None = None,
        after: Mapping[BatchPosition, int] | None = None,
    ) -> Sequence[TelemetryBatch]:
        """Return batches that hold samples of `deployment`, oldest first.

        ``since`` leaves out batches that ended before it; ``after`` those at or below the given
        sequence of their position. Samples of other deployments are left out of the result.
        """

    def totals(
        self, environment: str, deployment: str, *, since: datetime
    ) -> Mapping[str, VariantSample]:
        """Return the sums since then by the short digest of the revision."""

    def scraped(self, environment: str, deployment: str) -> Sequence[ScrapedMetrics]:
        """Return the last scrape of each of the deployment's replicas, in name order.

        One that is minutes older than the environment's last batch is left out: the replica is
        gone.
        """

    def positions(self) -> Mapping[BatchPosition, int]:
        """Return the last sequence recorded of each gateway boot that is still remembered."""

    def confirm(self, proxy: str, boot_id: str, sequence: int) -> None:
        """Note that all evidence up to `sequence` is durable; the next receipt says so."""

    def last_seen(self, environment: str) -> datetime | None:
        """When the last batch of any of the environment's gateways ended."""
