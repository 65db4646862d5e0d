"""``GET /model-deployments/{name}/traffic``: who gets which version, and how each of them does."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from modelplane.api.access import context_of
from modelplane.api.answers import part_response
from modelplane.api.deployments import load_deployment
from modelplane.api.routes import Routes
from modelplane.decisions.judgements import read_judgement
from modelplane.decisions.traffic_report import TrafficReport, report_traffic
from modelplane.ports.store import Store
from modelplane.resources.meta import DEFAULT_ENVIRONMENT
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.rollout import Rollout
from modelplane.resources.traffic_split import TrafficSplit

LONGEST_WINDOW_S = 1800
"""How long telemetry is kept rule by rule."""


def add_traffic_report_routes(routes: Routes) -> None:
    """Add the route."""

    async def report(
        request: Request,
        name: str,
        environment: Annotated[str | None, Query(description="The environment.")] = None,
        seconds: Annotated[
            int, Query(ge=1, le=LONGEST_WINDOW_S, description="How far back.")
        ] = 300,
    ) -> Response:
        """Return rules, shares and counts of each live version, and what the shield saved."""
        context = context_of(request)
        place = environment or DEFAULT_ENVIRONMENT
        await context.admit(request, "get", "ModelDeployment", place, name=name)
        deployment = await load_deployment(context.store, name, place)
        split = await context.store.find(TrafficSplit, name, place)
        running = await _running(context.store, deployment)
        evidence = await context.store.evidence([rollout.metadata.uid for rollout in running])
        metrics = context.dependencies.metrics
        since = context.dependencies.clock.now() - timedelta(seconds=seconds)
        found = report_traffic(
            deployment,
            split,
            metrics.batches(place, name, since=since),
            [(r, read_judgement(evidence.get(r.metadata.uid))) for r in running],
            seconds=seconds,
            last_seen=metrics.last_seen(place),
        )
        return part_response(found)

    routes.add(
        "GET",
        "/model-deployments/{name}/traffic",
        report,
        responses={200: {"model": TrafficReport}},
        tag="ModelDeployment",
        operation_id="getTrafficReport",
        summary="Who gets which version of a deployment, and how each does",
    )


async def _running(store: Store, deployment: ModelDeployment) -> list[Rollout]:
    status, place = deployment.status, deployment.metadata.environment
    names = [status.rollout, *(lane.rollout for lane in status.lanes.values())]
    found = [await store.find(Rollout, name, place) for name in names if name]
    return [rollout for rollout in found if rollout is not None and not rollout.finished]
