"""``GET /model-deployments/{name}:drift``: whether inputs and outputs are still as they were."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from modelplane.api.access import context_of
from modelplane.api.answers import part_response
from modelplane.api.deployments import load_deployment
from modelplane.api.routes import Routes
from modelplane.decisions.drift_report import DriftReport, read_report, record_key
from modelplane.decisions.hooks import watches_drift
from modelplane.resources.meta import DEFAULT_ENVIRONMENT
from modelplane.resources.traffic_policy import TrafficPolicy


def add_drift_routes(routes: Routes) -> None:
    """Add the route."""

    async def drift(
        request: Request,
        name: str,
        environment: Annotated[str | None, Query(description="The environment.")] = None,
    ) -> Response:
        """Return what the last look at each version found, feature by feature."""
        context = context_of(request)
        place = environment or DEFAULT_ENVIRONMENT
        await context.admit(request, "get", "ModelDeployment", place, name=name)
        deployment = await load_deployment(context.store, name, place)
        policies, _ = await context.store.list(TrafficPolicy, place)
        is_hooked = any(
            policy.spec.deployment == name and watches_drift(policy.spec.monitoring_hooks)
            for policy in policies
        )
        key = record_key(place, name)
        record = (await context.store.evidence([key])).get(key)
        return part_response(read_report(deployment, record, is_hooked=is_hooked))

    routes.add(
        "GET",
        "/model-deployments/{name}:drift",
        drift,
        responses={200: {"model": DriftReport}},
        tag="ModelDeployment",
        operation_id="getDrift",
        summary="Drift of the inputs and outputs of a deployment's versions",
    )
