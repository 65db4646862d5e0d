"""What gateways report each second: counts and latencies per live revision. Pure data.

Not resources: telemetry is data, kept in a ring and outside the change log and the audit log.
The agent makes batches, the API takes them, analysis reads them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from modelplane.resources.meta import Part

MAX_SCRAPES = 256
"""Scrapes in one batch."""

MAX_SCRAPED_SAMPLES = 50
MAX_SAMPLE_NAME_CHARS = 300
MAX_SCRAPE_ERROR_CHARS = 500
MAX_EXAMPLES = 3
MAX_EXAMPLE_CHARS = 300


class ReplicaSample(Part):
    """Attempts sent to one replica in the interval, and the failed ones among them."""

    attempts: int = Field(ge=0)
    failures: int = Field(ge=0)


class SliceSample(Part):
    """Requests of one part of the users in the interval, and the failed ones among them."""

    requests: int = Field(ge=0)
    failures: int = Field(ge=0)


class VariantSample(Part):
    """What one revision of one deployment did in the interval.

    ``latency`` holds sparse histogram bins ``(lower_us, width_us, count)`` in rising order.
    ``failures`` counts what the revision failed, ``client_failures`` what clients saw of it.
    """

    deployment: str
    revision: str = Field(description="Short digest of the revision.")
    requests: int = Field(ge=0)
    failures: int = Field(ge=0)
    client_failures: int = Field(default=0, ge=0)
    latency: tuple[tuple[float, float, int], ...] = ()
    replicas: dict[str, ReplicaSample] = Field(default_factory=dict)
    rule: str = Field(
        default="", description="The routing rule of these requests; empty: the default one."
    )
    slices: dict[str, SliceSample] = Field(
        default_factory=dict, description="By `user.region=west`; who is in none is in no entry."
    )
    compared: int = Field(default=0, ge=0, description="Of a shadow: pairs of answers compared.")
    different: int = Field(default=0, ge=0, description="Pairs whose answers differ.")
    examples: tuple[Annotated[str, Field(max_length=MAX_EXAMPLE_CHARS)], ...] = Field(
        default=(), max_length=MAX_EXAMPLES, description="How some of them differ, in words."
    )


class ScrapedMetrics(Part):
    """What one replica's model server said of itself when its `metricsEndpoint` was scraped.

    ``samples`` are counters and gauges by name and labels, ``name{label="value"}``.
    """

    deployment: str
    revision: str = Field(description="Short digest of the revision.")
    replica: str
    at: datetime = Field(description="When it was asked.")
    samples: dict[Annotated[str, Field(max_length=MAX_SAMPLE_NAME_CHARS)], float] = Field(
        default_factory=dict, max_length=MAX_SCRAPED_SAMPLES
    )
    truncated: bool = Field(default=False, description="Whether it told more than is kept.")
    error: str = Field(
        default="",
        max_length=MAX_SCRAPE_ERROR_CHARS,
        description="Why there are no samples; empty when the scrape succeeded.",
    )


class TelemetryBatch(Part):
    """One interval of one gateway.

    A batch is named by (proxy, boot id, sequence); one that arrives twice changes nothing.
    """

    environment: str
    proxy: str = Field(description="`ENVIRONMENT/NODE`.")
    boot_id: str = Field(description="Changes when the counts start anew at zero.")
    sequence: int = Field(ge=1)
    at: datetime = Field(description="End of the interval.")
    seconds: float = Field(gt=0, description="Its length.")
    samples: tuple[VariantSample, ...] = ()
    steps: dict[str, dict[str, int]] = Field(
        default_factory=dict,
        description="By deployment: its running rollouts by uid, and the step of each that the "
        "gateway had acknowledged before the interval began.",
    )
    unrouted: int = Field(default=0, ge=0)
    scraped: tuple[ScrapedMetrics, ...] = Field(
        default=(), max_length=MAX_SCRAPES, description="Replicas scraped since the last batch."
    )


class TelemetryReceipt(Part):
    """The answer to a batch: up to which sequence the agent may forget."""

    confirmed_sequence: int = 0
