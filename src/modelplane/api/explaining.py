"""Which version a request meets, and why: ``POST /model-deployments/{name}:explain``.

Thin: `decisions.assignment` answers, from the split that the gateway was given. Also used by
`ofrep`, which asks the same question in another protocol. Changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from fastapi import Request
from pydantic import Field
from starlette.responses import Response

from modelplane.api.access import context_of
from modelplane.api.actions import EnvironmentQuery
from modelplane.api.answers import part_response
from modelplane.api.bodies import parse_part
from modelplane.api.deployments import load_deployment
from modelplane.api.routes import Routes
from modelplane.decisions.agent_routing import plan_route
from modelplane.decisions.assignment import Explanation, assign, find_user
from modelplane.decisions.routing import RoutePlan
from modelplane.errors import Conflict, FieldError, InvalidResource
from modelplane.expressions.predicates import Predicate, RequestFacts, compile_predicate
from modelplane.ports.store import Store
from modelplane.resources.environment import Environment
from modelplane.resources.meta import DEFAULT_ENVIRONMENT, Part
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.traffic_split import TrafficSplit

_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_NO_TEXT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

MAX_USER_CHARS = 1000
"""Of the user in a question; gateways take longer ones."""


class ExplainRequest(Part):
    """A request as somebody would send it."""

    user: str | None = Field(
        default=None,
        max_length=MAX_USER_CHARS,
        description="What tells the user apart: the value of the deployment's user header or "
        "cookie.",
    )
    headers: dict[str, str] = Field(default_factory=dict, max_length=100)
    inputs: dict[str, bool | float | str | None] = Field(
        default_factory=dict, max_length=200, description="Scalar fields of the body, by name."
    )
    method: str = "POST"
    path: str | None = Field(default=None, description="Absent: that of an inference request.")
    host: str = ""


def add_explaining_routes(routes: Routes) -> None:
    """Add the route."""

    async def explain(
        request: Request, name: str, environment: EnvironmentQuery = None
    ) -> Response:
        """Say which version a request meets, and why."""
        context = context_of(request)
        place = environment or DEFAULT_ENVIRONMENT
        await context.admit(request, "get", "ModelDeployment", place, name=name)
        asked = parse_part(ExplainRequest, await context.read_object(request))
        split = await load_split(context.store, name, place)
        notes = await _load_notes(context.store, split)
        return part_response(explain_split(split, asked, notes))

    schema = {"type": "object", "properties": {"user": {"type": "string"}}}
    routes.add(
        "POST",
        "/model-deployments/{name}:explain",
        explain,
        tag=ModelDeployment.__name__,
        operation_id="explainTraffic",
        summary="Which version a request meets, and why",
        openapi_extra={"requestBody": {"content": {"application/json": {"schema": schema}}}},
    )


async def load_split(store: Store, name: str, environment: str) -> TrafficSplit:
    """Return what the gateway of a deployment was told.

    Raises
    ------
    NotFound
        There is no such deployment.
    Conflict
        It serves nothing yet.
    """
    split = await store.find(TrafficSplit, name, environment)
    if split is not None:
        return split
    await load_deployment(store, name, environment)
    raise Conflict(
        f"{name} serves nothing in {environment} yet",
        hint="see modelplane status",
    )


def explain_split(
    split: TrafficSplit, asked: ExplainRequest, notes: tuple[str, ...] = ()
) -> Explanation:
    """Return which version a request meets under `split`.

    Raises
    ------
    InvalidResource
        The request is none.
    Conflict
        No gateway can do what the split says.
    """
    try:
        plan = plan_route(split)
    except ValueError as error:
        raise Conflict(
            f"no gateway can do what the split of {split.spec.deployment} says: {error}"
        ) from error
    facts = facts_of(plan, asked)
    user = asked.user if asked.user is not None else find_user(plan, facts)
    status, generation = split.status, split.metadata.generation
    acknowledged = status.accepted_generation == generation
    if status.refused_generation == generation:
        notes += (f"the gateway refused these routes and keeps the ones before: {status.message}",)
    elif not acknowledged:
        notes += ("the gateway has not acknowledged these routes yet",)
    assignment = assign(plan, facts, user)
    return Explanation(
        deployment=split.spec.deployment,
        environment=split.metadata.environment or DEFAULT_ENVIRONMENT,
        acknowledged=acknowledged,
        notes=(*notes, *_unknown_inputs(plan, asked)),
        **dict(assignment),
    )


def facts_of(plan: RoutePlan, asked: ExplainRequest) -> RequestFacts:
    """Return the request as the gateway would see it; raises `InvalidResource`."""
    headers: dict[str, str] = {}
    faults = []
    for name, value in asked.headers.items():
        lower = name.lower()
        if not _HEADER_NAME.fullmatch(lower):
            faults.append(FieldError("headers", f"no header is named {name[:60]!r}"))
        elif _NO_TEXT.search(value):
            faults.append(FieldError(f"headers.{lower}", "a header's value is one line of text"))
        else:
            trimmed = value.strip(" \t")
            headers[lower] = f"{headers[lower]},{trimmed}" if lower in headers else trimmed
    if asked.user is not None and _NO_TEXT.search(asked.user):
        faults.append(FieldError("user", "must be one line of text"))
    if faults:
        raise InvalidResource("the request is not valid", faults)
    if asked.user is not None and not plan.sticky_cookie:
        headers[plan.sticky_header] = asked.user
    return RequestFacts(
        method=asked.method,
        path=asked.path or f"/v2/models/{plan.deployment}/infer",
        host=asked.host,
        headers=headers,
        inputs={name: value for name, value in asked.inputs.items() if value is not None},
    )


def _unknown_inputs(plan: RoutePlan, asked: ExplainRequest) -> list[str]:
    """Say which inputs were given that no rule reads: most often a name that is misspelt."""
    read: set[str] = set()
    for rule in plan.all_rules:
        compiled = compile_predicate(rule.predicate, plan.input_types) if rule.predicate else None
        if isinstance(compiled, Predicate):
            read.update(compiled.input_names)
    unread = [name for name in asked.inputs if name not in read]
    return [f"no rule reads the input {name[:60]!r}" for name in unread[:5]]


async def _load_notes(store: Store, split: TrafficSplit) -> tuple[str, ...]:
    environment = await store.find(Environment, split.metadata.environment or DEFAULT_ENVIRONMENT)
    jwt = environment.spec.gateway.jwt if environment is not None else None
    if jwt is None:
        return ()
    claims: Mapping[str, None] = dict.fromkeys(f"user.{claim}" for claim in jwt.claims)
    return (f"the gateway takes {', '.join(claims)} from verified tokens, whatever clients send",)
