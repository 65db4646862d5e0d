"""The routes that every kind has: list, watch, get; apply and delete; status reports.

Declared kinds take PUT and DELETE; the others are made by the system and only read. Thin:
lists are in `listing`; loading, deciding and committing are in `applying`.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request
from starlette.responses import Response

from modelplane.api.access import context_of
from modelplane.api.answers import AnyResource, part_response, show
from modelplane.api.applying import (
    allow_apply,
    apply,
    delete,
    read_declared,
    report_status,
)
from modelplane.api.deployments import find_version
from modelplane.api.listing import add_listing
from modelplane.api.routes import Routes
from modelplane.decisions.admission import Asked
from modelplane.decisions.authorization import AGENT_KINDS
from modelplane.decisions.judgements import read_judgement, show_judgement
from modelplane.resources.kinds import KINDS
from modelplane.resources.meta import DEFAULT_ENVIRONMENT, ResourceKey
from modelplane.resources.model import ModelVersion
from modelplane.resources.rollout import Rollout

EnvironmentQuery = Annotated[str | None, Query(description="Only this environment's.")]
DryRunQuery = Annotated[bool, Query(alias="dryRun", description="Only say what would happen.")]
ReasonQuery = Annotated[str, Query(max_length=2000, description="Why; goes into the audit log.")]


def add_kind_routes(routes: Routes) -> None:
    """Add the routes of all kinds."""
    for kind in KINDS.values():
        add_listing(routes, kind)
        _add_getting(routes, kind)
        if kind.declared:
            _add_apply(routes, kind)
        if kind.declared or kind is ModelVersion:
            _add_delete(routes, kind)
        if kind.__name__ in AGENT_KINDS:
            _add_status(routes, kind)


def _add_getting(routes: Routes, kind: type[AnyResource]) -> None:
    name_of_kind = kind.__name__

    async def get(request: Request, name: str, environment: EnvironmentQuery = None) -> Response:
        context = context_of(request)
        key = _key(kind, name, environment)
        await context.admit(request, "get", name_of_kind, key.environment, name=name)
        found: AnyResource
        if kind is ModelVersion:
            found = await find_version(context.store, name)
        else:
            found = await context.store.get(kind, name, key.environment)
        if isinstance(found, Rollout) and not found.finished:
            evidence = await context.store.evidence([found.metadata.uid])
            found = show_judgement(found, read_judgement(evidence.get(found.metadata.uid)))
        index = await context.catalog.current() if kind is ModelVersion else None
        return part_response(show(found, index))

    routes.add(
        "GET",
        f"/{kind.plural}/{{name}}",
        get,
        responses={200: {"model": kind}},
        tag=name_of_kind,
        operation_id=f"get{name_of_kind}",
        summary=f"Get one of the {kind.plural}",
    )


def _add_apply(routes: Routes, kind: type[AnyResource]) -> None:
    async def put(
        request: Request,
        name: str,
        environment: EnvironmentQuery = None,
        dry_run: DryRunQuery = False,
        reason: ReasonQuery = "",
    ) -> Response:
        context = context_of(request)
        subject = await context.admit_somewhere(request, "apply", kind.__name__)
        declared = read_declared(await context.read_object(request), kind, name, environment)
        await allow_apply(context, subject, declared)
        asked = Asked(subject, context.dependencies.clock.now(), reason)
        return (await apply(context, declared, asked, dry_run=dry_run)).response()

    routes.add(
        "PUT",
        f"/{kind.plural}/{{name}}",
        put,
        tag=kind.__name__,
        operation_id=f"apply{kind.__name__}",
        summary=f"Apply one of the {kind.plural}: declare what it should be",
        openapi_extra=_body_schema(kind.__name__),
    )


def _add_delete(routes: Routes, kind: type[AnyResource]) -> None:
    async def remove(
        request: Request,
        name: str,
        environment: EnvironmentQuery = None,
        reason: ReasonQuery = "",
    ) -> Response:
        context = context_of(request)
        key = _key(kind, name, environment)
        subject = await context.admit(request, "delete", kind.__name__, key.environment, name=name)
        asked = Asked(subject, context.dependencies.clock.now(), reason)
        return part_response(await delete(context, kind, key, asked))

    routes.add(
        "DELETE",
        f"/{kind.plural}/{{name}}",
        remove,
        responses={200: {"model": kind}},
        tag=kind.__name__,
        operation_id=f"delete{kind.__name__}",
        summary=f"Delete one of the {kind.plural}",
    )


def _add_status(routes: Routes, kind: type[AnyResource]) -> None:
    async def put_status(
        request: Request, name: str, environment: EnvironmentQuery = None
    ) -> Response:
        context = context_of(request)
        key = _key(kind, name, environment)
        subject = await context.admit(request, "status", kind.__name__, key.environment)
        body = await context.read_object(request)
        asked = Asked(subject, context.dependencies.clock.now())
        return part_response(await report_status(context, kind, key, body, asked))

    routes.add(
        "PUT",
        f"/{kind.plural}/{{name}}/status",
        put_status,
        responses={200: {"model": kind}},
        tag=kind.__name__,
        operation_id=f"report{kind.__name__}",
        summary=f"Report the status of one of the {kind.plural}",
        openapi_extra=_body_schema(kind.__name__),
    )


def _key(kind: type[AnyResource], name: str, environment: str | None) -> ResourceKey:
    """Return the key that a path and query name; without an environment the default one."""
    place = (environment or DEFAULT_ENVIRONMENT) if kind.scoped else None
    return ResourceKey(kind.__name__, place, name)


def _body_schema(kind: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{kind}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
