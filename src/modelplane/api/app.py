"""Builds the API from its dependencies. Called by wiring, and by tests in process."""

from __future__ import annotations

import ipaddress
from functools import cache
from typing import Any

from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import BaseRoute

from modelplane.api import problems
from modelplane.api.access import Context
from modelplane.api.actions import add_action_routes
from modelplane.api.alertmanager import add_alertmanager_routes
from modelplane.api.analysis_replay import add_analysis_replay_routes
from modelplane.api.answers import json_response
from modelplane.api.approval_links import add_approval_link_routes
from modelplane.api.approvals import add_approval_routes
from modelplane.api.artifacts import add_artifact_routes
from modelplane.api.audit import add_audit_routes
from modelplane.api.authorization import add_authorization_routes
from modelplane.api.catalog import Catalog
from modelplane.api.certificates import add_certificate_routes
from modelplane.api.contracts import add_contract_routes
from modelplane.api.datasets import add_dataset_routes
from modelplane.api.delegations import add_delegation_routes
from modelplane.api.dependencies import ApiDependencies
from modelplane.api.drift import add_drift_routes
from modelplane.api.evidence import add_evidence_routes
from modelplane.api.explaining import add_explaining_routes
from modelplane.api.feedback import add_feedback_routes
from modelplane.api.gate import Gate, RequestCounts
from modelplane.api.gates import add_gate_routes
from modelplane.api.history import add_history_routes
from modelplane.api.identity import Identities
from modelplane.api.kinds import add_kind_routes
from modelplane.api.lineage import add_lineage_routes
from modelplane.api.metrics import format_samples
from modelplane.api.mlflow.routes import add_mlflow_routes
from modelplane.api.notifications import add_notification_routes
from modelplane.api.ofrep import add_ofrep_routes
from modelplane.api.playbooks import add_playbook_routes
from modelplane.api.policies import add_policy_routes
from modelplane.api.prediction_rows import add_prediction_row_routes
from modelplane.api.predictions import add_prediction_routes
from modelplane.api.preflight import add_preflight_routes
from modelplane.api.publishing import add_publishing_routes
from modelplane.api.quality import add_quality_routes
from modelplane.api.registry import add_registry_routes
from modelplane.api.roles import Roles
from modelplane.api.routes import Routes
from modelplane.api.telemetry import add_telemetry_routes
from modelplane.api.tokens import add_token_routes
from modelplane.api.traffic_policies import add_traffic_policy_routes
from modelplane.api.traffic_report import add_traffic_report_routes
from modelplane.api.training import add_training_routes
from modelplane.api.webhooks import add_webhook_routes
from modelplane.resources.environment import Environment


def create_app(dependencies: ApiDependencies) -> FastAPI:
    """Return the API as an ASGI application.

    Parameters
    ----------
    dependencies
        The ports and settings it works with; nothing else is read from anywhere.
    """
    identities = Identities(dependencies.store, dependencies.clock)
    store = dependencies.store
    context = Context(dependencies, identities, Roles(store), Catalog(store))
    registry = CollectorRegistry()
    app = FastAPI(
        title="modelplane",
        version="1",
        description="A model control plane.",
        docs_url=None,
        redoc_url=None,
        middleware=[Middleware(Gate, dependencies, RequestCounts(registry))],
    )
    app.state.context = context
    problems.install(app)
    add_mlflow_routes(app, context)
    app.router.routes.extend(_routes())
    _add_probes(app, context, registry)
    _describe_tokens(app)
    return app


@cache
def _routes() -> tuple[BaseRoute, ...]:
    """Return modelplane's own surface: stateless, and so the same for every application."""
    routes = Routes()
    # Routes with a fixed ending come before those whose name would take it in.
    add_telemetry_routes(routes)
    add_prediction_routes(routes)
    add_prediction_row_routes(routes)
    add_feedback_routes(routes)
    add_audit_routes(routes)
    add_artifact_routes(routes)
    add_certificate_routes(routes)
    add_registry_routes(routes)
    add_dataset_routes(routes)
    add_lineage_routes(routes)
    add_history_routes(routes)
    add_publishing_routes(routes)
    add_token_routes(routes)
    add_authorization_routes(routes)
    add_webhook_routes(routes)
    add_alertmanager_routes(routes)
    add_analysis_replay_routes(routes)
    add_evidence_routes(routes)
    add_approval_routes(routes)
    add_approval_link_routes(routes)
    add_delegation_routes(routes)
    add_notification_routes(routes)
    add_contract_routes(routes)
    add_gate_routes(routes)
    add_training_routes(routes)
    add_policy_routes(routes)
    add_explaining_routes(routes)
    add_ofrep_routes(routes)
    add_traffic_policy_routes(routes)
    add_traffic_report_routes(routes)
    add_quality_routes(routes)
    add_drift_routes(routes)
    add_playbook_routes(routes)
    add_preflight_routes(routes)
    add_action_routes(routes)
    add_kind_routes(routes)
    return tuple(routes.all)


def _add_probes(app: FastAPI, context: Context, registry: CollectorRegistry) -> None:
    async def healthz() -> Response:
        await context.store.list(Environment)
        return json_response({"status": "ok"})

    async def metrics(request: Request) -> Response:
        if not (context.dependencies.on_loopback or _is_loopback(request)):
            await context.admit(request, "get", "Metrics")
        series = context.dependencies.series
        measured = format_samples(series.latest()[1]) if series is not None else ""
        own = generate_latest(registry)
        return Response(measured.encode() + own, media_type=CONTENT_TYPE_LATEST)

    app.add_api_route("/healthz", healthz, methods=["GET"], response_model=None)
    app.add_api_route(
        "/metrics", metrics, methods=["GET"], response_model=None, include_in_schema=False
    )


def _describe_tokens(app: FastAPI) -> None:
    """Say in the description of the surface that requests carry a bearer token."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        schema = describe()
        schemes = schema.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["bearer"] = {"type": "http", "scheme": "bearer"}
        schema["security"] = [{"bearer": []}]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _is_loopback(request: Request) -> bool:
    try:
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False
