"""Telemetry: batches in from the agents, totals per version out to status pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any

from fastapi import Query, Request
from pydantic import ValidationError
from starlette.responses import Response

from modelplane.api.access import context_of
from modelplane.api.answers import json_response, part_response
from modelplane.api.bodies import read_body
from modelplane.api.deployments import load_deployment
from modelplane.api.routes import Routes
from modelplane.errors import FieldError, InvalidResource
from modelplane.resources.meta import DEFAULT_ENVIRONMENT
from modelplane.resources.telemetry import ScrapedMetrics, TelemetryBatch, VariantSample
from modelplane.resources.traffic_split import SplitVariant, TrafficSplit

_QUANTILES = {"p50Us": 0.5, "p95Us": 0.95, "p99Us": 0.99}


def add_telemetry_routes(routes: Routes) -> None:
    """Add the routes of telemetry."""

    async def report(request: Request) -> Response:
        """Take one interval of one gateway; one that came before changes nothing."""
        context = context_of(request)
        await context.admit(request, "report", "Telemetry")
        limits = context.dependencies.limits
        body = await read_body(request, limits.telemetry_bytes, limits.idle_timeout_s)
        try:
            batch = TelemetryBatch.model_validate_json(body, by_alias=True, by_name=False)
        except ValidationError as error:
            faults = [
                FieldError(".".join(map(str, fault["loc"])), fault["msg"])
                for fault in error.errors(include_url=False)[:20]
            ]
            raise InvalidResource("not a batch of telemetry", faults) from None
        return part_response(context.dependencies.metrics.record(batch))

    async def traffic(
        request: Request,
        name: str,
        environment: Annotated[str | None, Query(description="The environment.")] = None,
        seconds: Annotated[int, Query(ge=1, le=86_400, description="How far back.")] = 60,
    ) -> Response:
        """Return what each live version answered lately, and its model servers' own metrics."""
        context = context_of(request)
        dependencies = context.dependencies
        place = environment or DEFAULT_ENVIRONMENT
        await context.admit(request, "get", "ModelDeployment", place, name=name)
        deployment = await load_deployment(context.store, name, place)
        split = await context.store.find(TrafficSplit, name, place)
        since = dependencies.clock.now() - timedelta(seconds=seconds)
        totals = dependencies.metrics.totals(place, name, since=since)
        scraped = dependencies.metrics.scraped(place, name)
        last_seen = dependencies.metrics.last_seen(place)
        variants = {v.revision[:10]: v for v in split.spec.variants} if split else {}
        return json_response(
            {
                "deployment": deployment.metadata.name,
                "environment": place,
                "seconds": seconds,
                "lastSeen": last_seen,
                "variants": describe_traffic(totals, variants, scraped),
            }
        )

    routes.add("POST", "/telemetry", report, tag="Telemetry", operation_id="reportTelemetry")
    routes.add(
        "GET",
        "/model-deployments/{name}:traffic",
        traffic,
        tag="ModelDeployment",
        operation_id="getTraffic",
    )


def describe_traffic(
    totals: Mapping[str, VariantSample],
    variants: Mapping[str, SplitVariant],
    scraped: Sequence[ScrapedMetrics],
) -> list[dict[str, Any]]:
    """Return the totals of each revision that serves or served, those that serve first.

    Parameters
    ----------
    totals
        By short digest of the revision.
    variants
        The deployment's traffic split, likewise.
    scraped
        The last scrape of each of its replicas.
    """
    described = []
    metrics: dict[str, dict[str, Any]] = {}
    for scrape in scraped:
        told = scrape.model_dump(by_alias=True, include={"at", "samples", "truncated", "error"})
        metrics.setdefault(scrape.revision, {})[scrape.replica] = told
    for revision in dict.fromkeys([*variants, *totals, *metrics]):
        variant = variants.get(revision)
        sample = totals.get(revision)
        latency = sample.latency if sample else ()
        described.append(
            {
                "revision": revision,
                "version": variant.version if variant else None,
                "role": variant.role if variant else None,
                "weightPct": variant.weight_pct if variant else 0.0,
                "requests": sample.requests if sample else 0,
                "failures": sample.failures if sample else 0,
                "clientFailures": sample.client_failures if sample else 0,
                **{name: compute_quantile(latency, q) for name, q in _QUANTILES.items()},
                "metrics": metrics.get(revision, {}),
            }
        )
    return described


def compute_quantile(bins: tuple[tuple[float, float, int], ...], q: float) -> float | None:
    """Return the `q`-quantile (0 to 1) of histogram bins, linear within a bin; None if empty.

    Parameters
    ----------
    bins
        ``(lower_us, width_us, count)`` in any order.
    q
        Which quantile.

    Returns
    -------
    float or None
        Microseconds.

    Examples
    --------
    >>> compute_quantile(((0.0, 100.0, 1), (100.0, 100.0, 1)), 0.75)
    150.0
    """
    ordered = sorted(bins)
    total = sum(count for _, _, count in ordered)
    if not total:
        return None
    wanted, seen = q * total, 0
    for lower_us, width_us, count in ordered:
        if count and seen + count >= wanted:
            return lower_us + width_us * (wanted - seen) / count
        seen += count
    raise AssertionError("the counts sum to the total")
