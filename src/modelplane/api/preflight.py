"""``POST /model-deployments:plan``: what a rollout would take, at the present traffic.

Loads what `decisions.preflight` needs and shows what it says; changes nothing. `apply_deployment`
takes its warnings from here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import Query, Request
from starlette.responses import Response

from modelplane.api.access import Context, context_of
from modelplane.api.answers import part_response
from modelplane.api.routes import Routes
from modelplane.decisions.analysis_inputs import LATENCY
from modelplane.decisions.preflight import Planned, RolloutPlan, plan_rollout
from modelplane.decisions.preflight_traffic import ObservedTraffic, observe_traffic
from modelplane.decisions.rollout import effective_strategy
from modelplane.decisions.traffic import rule_name
from modelplane.decisions.traffic_policies import choose_policy_deployment, versions_of
from modelplane.errors import FieldError, InvalidResource
from modelplane.resources.environment import Environment
from modelplane.resources.manifest import read_document
from modelplane.resources.meta import API_VERSION, DEFAULT_ENVIRONMENT
from modelplane.resources.model import ModelVersion
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.revision import Revision
from modelplane.resources.telemetry import TelemetryBatch
from modelplane.resources.traffic_policy import TrafficPolicy
from modelplane.resources.traffic_split import TrafficSplit

HISTORY = timedelta(minutes=30)
"""How far back stable's normal is looked at."""

Plannable = ModelDeployment | TrafficPolicy


def add_preflight_routes(routes: Routes) -> None:
    """Add the route."""

    async def plan(
        request: Request,
        environment: Annotated[
            str | None, Query(description="Where, if not in the body; default production.")
        ] = None,
    ) -> Response:
        """Say what rolling out a manifest would take."""
        context = context_of(request)
        subject = await context.admit_somewhere(request, "get", ModelDeployment.__name__)
        declared = read_plannable(await context.read_object(request), environment)
        place = declared.metadata.environment or DEFAULT_ENVIRONMENT
        await context.allow(
            subject, "get", ModelDeployment.__name__, place, model=declared.spec.model
        )
        return part_response(await plan_declared(context, declared))

    schema = {"type": "object", "required": ["metadata", "spec"]}
    routes.add(
        "POST",
        f"/{ModelDeployment.plural}:plan",
        plan,
        tag=ModelDeployment.__name__,
        operation_id="planRollout",
        summary="Say what rolling out a manifest would take",
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}
        },
    )


def read_plannable(data: dict[str, Any], environment: str | None) -> Plannable:
    """Return the deployment or traffic policy in a body; the query may say where.

    Raises
    ------
    InvalidResource
        It is neither, or is not valid.
    """
    declared = read_document({"apiVersion": API_VERSION, **data})
    if not isinstance(declared, ModelDeployment | TrafficPolicy):
        message = f"is {declared.kind}; a plan is of a ModelDeployment or a TrafficPolicy"
        raise InvalidResource("nothing to roll out", [FieldError("kind", message)])
    place = declared.metadata.environment
    if environment is None or environment == place:
        return declared
    if any(_names_environment(part) for part in (data, data.get("metadata"), data.get("spec"))):
        message = f"is {place!r}; the query says {environment[:80]!r}"
        raise InvalidResource(
            f"{declared.kind} {declared.metadata.name} is not valid",
            [FieldError("metadata.environment", message)],
        )
    return declared.with_(metadata=declared.metadata.with_(environment=environment))


def _names_environment(part: object) -> bool:
    return isinstance(part, dict) and not {"environment", "namespace"}.isdisjoint(part)


async def plan_declared(context: Context, declared: Plannable) -> RolloutPlan:
    """Return what rolling out `declared` would take.

    Raises
    ------
    InvalidResource
        A policy's deployment does not exist.
    NotFound
        There is no such environment.
    """
    store = context.store
    place = declared.metadata.environment or DEFAULT_ENVIRONMENT
    environment = await store.get(Environment, place)
    if isinstance(declared, TrafficPolicy):
        deployments, _ = await store.list(ModelDeployment, place)
        deployment = choose_policy_deployment(declared, deployments)
        strategy = effective_strategy(deployment.spec, environment.spec, declared)
        candidate = ", ".join(versions_of(declared))
    else:
        found = await store.find(ModelDeployment, declared.metadata.name, place)
        # What it would be, as it stands now.
        deployment = declared.with_(status=found.status) if found else declared
        strategy = effective_strategy(declared.spec, environment.spec)
        candidate = declared.spec.version
    stable = deployment.status.stable
    version = None
    if stable is not None:
        version = await store.find(ModelVersion, f"{deployment.spec.model}@{stable.version}")
    planned = Planned(
        environment=place,
        deployment=deployment.metadata.name,
        stable=stable.version if stable else "",
        candidate=candidate,
        strategy=strategy,
        shielded=deployment.spec.idempotent,
        replicas=deployment.spec.replicas,
        wrong_rates=_wrong_rates(version),
    )
    dependencies, name = context.dependencies, deployment.metadata.name
    now = dependencies.clock.now()
    # Read here, for the ring belongs to the event loop; what takes long is done beside it.
    batches = dependencies.metrics.batches(place, name, since=now - HISTORY)
    split = await store.find(TrafficSplit, name, place)
    return await asyncio.to_thread(_plan, planned, stable, _Counted(batches, _shadows(split)), now)


async def warn_of_plan(context: Context, declared: ModelDeployment) -> tuple[str, ...]:
    """Return what `apply` should say of the rollout that it starts; nothing without traffic."""
    plan = await plan_declared(context, declared)
    return plan.warnings if plan.request_rate_rps > 0 else ()


@dataclass(frozen=True, slots=True)
class _Counted:
    """What gateways reported lately, and the revisions in it that get copies only."""

    batches: Sequence[TelemetryBatch]
    shadows: frozenset[str]


def _plan(
    planned: Planned, stable: Revision | None, counted: _Counted, now: datetime
) -> RolloutPlan:
    if stable is None:
        return plan_rollout(planned, ObservedTraffic())
    strategy = planned.strategy
    analysis = strategy.analysis
    rules = analysis.metrics if analysis is not None else ()
    traffic = observe_traffic(
        counted.batches,
        planned.deployment,
        stable.short,
        rule=rule_name(strategy.predicate),
        shadows=counted.shadows,
        slowdown=next((rule.margin for rule in rules if rule.name == LATENCY), None),
        now=now,
    )
    return plan_rollout(planned, traffic)


def _shadows(split: TrafficSplit | None) -> frozenset[str]:
    variants = split.spec.variants if split is not None else ()
    return frozenset(v.revision[:10] for v in variants if v.role == "shadow")


def _wrong_rates(version: ModelVersion | None) -> dict[str, float]:
    metrics = version.spec.metrics if version is not None else {}
    return {name: 1 - value for name, value in metrics.items() if 0 <= value <= 1}
