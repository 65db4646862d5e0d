"""The routes that every kind has: list, watch, get; apply and delete; status reports.

Declared kinds take PUT and DELETE; the others are made by the system and only read. Thin:
loading, deciding and committing are in `applying`.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import Query, Request
from pydantic import create_model
from starlette.responses import Response

from modelplane.api.access import Context
from modelplane.api.answers import AnyResource, list_response, page, part_response, show
from modelplane.api.applying import apply, delete, read_declared, report_status
from modelplane.api.bodies import parse_object, read_body
from modelplane.api.routes import Routes
from modelplane.api.watching import WatchResponse
from modelplane.decisions.admission import Asked
from modelplane.decisions.authorization import AGENT_KINDS
from modelplane.decisions.judgements import read_judgement, show_judgement
from modelplane.errors import FieldError, InvalidResource
from modelplane.resources.kinds import KINDS
from modelplane.resources.meta import DEFAULT_ENVIRONMENT, Part, ResourceKey, Subject
from modelplane.resources.model import ModelVersion
from modelplane.resources.rollout import Rollout

EnvironmentQuery = Annotated[str | None, Query(description="Only this environment's.")]
SelectorQuery = Annotated[
    str | None, Query(alias="labelSelector", description="Labels they carry: `a=b,c=d`.")
]
LimitQuery = Annotated[int | None, Query(ge=1, le=10_000, description="At most so many.")]
ContinueQuery = Annotated[
    str | None, Query(alias="continue", description="`metadata.continue` of the page before.")
]
WatchQuery = Annotated[bool, Query(description="Stream changes as server-sent events.")]
SinceQuery = Annotated[
    int | None,
    Query(ge=0, description="Watch from this resource version; left out: from now."),
]
DryRunQuery = Annotated[bool, Query(alias="dryRun", description="Only say what would happen.")]
ReasonQuery = Annotated[str, Query(max_length=2000, description="Why; goes into the audit log.")]


def add_kind_routes(routes: Routes, context: Context) -> None:
    """Add the routes of all kinds."""
    for kind in KINDS.values():
        _add_listing(routes, context, kind)
        _add_getting(routes, context, kind)
        if kind.declared:
            _add_apply(routes, context, kind)
        if kind.declared or kind is ModelVersion:
            _add_delete(routes, context, kind)
        if kind.__name__ in AGENT_KINDS:
            _add_status(routes, context, kind)


def _add_listing(routes: Routes, context: Context, kind: type[AnyResource]) -> None:
    name_of_kind = kind.__name__

    async def list_(
        request: Request,
        *,
        environment: EnvironmentQuery = None,
        selector: SelectorQuery = None,
        limit: LimitQuery = None,
        continue_: ContinueQuery = None,
        watch: WatchQuery = False,
        since: SinceQuery = None,
    ) -> Response:
        labels = parse_selector(selector)
        if watch:

            async def recheck() -> Subject:
                return await context.admit(request, "watch", name_of_kind, environment)

            await recheck()
            last = request.headers.get("last-event-id", "")
            if last.isdecimal():
                since = int(last)
            elif since is None:
                _, since = await context.store.list(kind, environment)
            wanted = partial(_is_wanted, environment=environment, labels=labels)
            return WatchResponse(context.dependencies, kind, since, wanted=wanted, recheck=recheck)
        await context.admit(request, "list", name_of_kind, environment)
        resources, version = await context.store.list(kind, environment, labels=labels)
        shown, token = page(resources, limit, continue_)
        return list_response(name_of_kind, shown, version, token)

    listing = create_model(
        f"{name_of_kind}List",
        __base__=Part,
        api_version=(str, ...),
        kind=(str, ...),
        metadata=(dict[str, Any], ...),
        items=(tuple[kind, ...], ...),  # type: ignore[valid-type]
    )
    routes.add(
        "GET",
        f"/{kind.plural}",
        list_,
        responses={200: {"model": listing}},
        tag=name_of_kind,
        operation_id=f"list{name_of_kind}",
        summary=f"List or watch {kind.plural}",
    )


def _add_getting(routes: Routes, context: Context, kind: type[AnyResource]) -> None:
    name_of_kind = kind.__name__

    async def get(request: Request, name: str, environment: EnvironmentQuery = None) -> Response:
        key = _key(kind, name, environment)
        await context.admit(request, "get", name_of_kind, key.environment)
        found: AnyResource = await context.store.get(kind, name, key.environment)
        if isinstance(found, Rollout) and not found.finished:
            evidence = await context.store.evidence([found.metadata.uid])
            found = show_judgement(found, read_judgement(evidence.get(found.metadata.uid)))
        return part_response(show(found))

    routes.add(
        "GET",
        f"/{kind.plural}/{{name}}",
        get,
        responses={200: {"model": kind}},
        tag=name_of_kind,
        operation_id=f"get{name_of_kind}",
        summary=f"Get one of the {kind.plural}",
    )


def _is_wanted(resource: AnyResource, *, environment: str | None, labels: dict[str, str]) -> bool:
    metadata = resource.metadata
    return (environment is None or metadata.environment == environment) and (
        labels.items() <= metadata.labels.items()
    )


def _add_apply(routes: Routes, context: Context, kind: type[AnyResource]) -> None:
    async def put(
        request: Request,
        name: str,
        environment: EnvironmentQuery = None,
        dry_run: DryRunQuery = False,
        reason: ReasonQuery = "",
    ) -> Response:
        place = environment if kind.scoped else None
        subject = await context.admit(request, "apply", kind.__name__, place)
        declared = read_declared(await _read(context, request), kind, name, environment)
        # The manifest may name the environment: what counts is where it leads.
        place = declared.metadata.environment
        subject = await context.admit(request, "apply", kind.__name__, place)
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


def _add_delete(routes: Routes, context: Context, kind: type[AnyResource]) -> None:
    async def remove(
        request: Request,
        name: str,
        environment: EnvironmentQuery = None,
        reason: ReasonQuery = "",
    ) -> Response:
        key = _key(kind, name, environment)
        subject = await context.admit(request, "delete", kind.__name__, key.environment)
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


def _add_status(routes: Routes, context: Context, kind: type[AnyResource]) -> None:
    async def put_status(
        request: Request, name: str, environment: EnvironmentQuery = None
    ) -> Response:
        key = _key(kind, name, environment)
        subject = await context.admit(request, "status", kind.__name__, key.environment)
        body = await _read(context, request)
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


async def _read(context: Context, request: Request) -> dict[str, Any]:
    limits = context.dependencies.limits
    return parse_object(await read_body(request, limits.json_bytes, limits.idle_timeout_s))


def _body_schema(kind: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{kind}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def parse_selector(text: str | None) -> dict[str, str]:
    """Return the labels in ``a=b,c=d``.

    Raises
    ------
    InvalidResource
        It has another form, or asks for two values of one label.
    """
    labels: dict[str, str] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name or "=" in value or labels.get(name, value) != value:
            fault = FieldError("query.labelSelector", f"write it like a=b,c=d; got {part[:80]!r}")
            raise InvalidResource("not a label selector", [fault])
        labels[name] = value
    return labels
