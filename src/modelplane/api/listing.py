"""The route that lists or watches a kind: filters, order, pages.

Used by `kinds`. The registry's kinds are searched in memory (`catalog`), the others are read
from the store. Decides nothing: what a filter means is in `decisions.search`, what a page holds
in `decisions.pages`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import cache, partial
from typing import Annotated, Any

from fastapi import Query, Request
from pydantic import ConfigDict, Field, create_model
from pydantic_core import to_json
from starlette.responses import Response

from modelplane.api.access import Context, context_of
from modelplane.api.answers import AnyResource, list_response, show
from modelplane.api.routes import Routes
from modelplane.api.watching import WatchResponse
from modelplane.decisions.pages import cut
from modelplane.decisions.registry_index import KINDS, RegistryIndex
from modelplane.decisions.search import compile_filter, compile_order, required_text
from modelplane.decisions.search_candidates import candidates
from modelplane.decisions.search_fields import SEARCHED
from modelplane.errors import FieldError, InvalidResource
from modelplane.resources.meta import Part, Subject

_HELD = tuple(kind for kind in SEARCHED if kind in KINDS)
"""Searched in memory; the moves of aliases are searched too, but read from the store."""

DEFAULT_LIMIT = 500
"""Resources in a page when nobody says how many."""


class ListQuery(Part):
    """What a list is asked for. One class for all kinds: FastAPI then reads it only once."""

    model_config = ConfigDict(extra="ignore")  # what is unknown is refused at the door

    environment: str | None = Field(default=None, description="Only this environment's.")
    selector: str | None = Field(
        default=None, alias="labelSelector", description="Labels they carry: `a=b,c=d`."
    )
    limit: int = Field(
        default=DEFAULT_LIMIT,
        ge=1,
        le=10_000,
        description="At most so many; the others follow in pages.",
    )
    token: str = Field(
        default="", alias="continue", description="`metadata.continue` of the page before."
    )
    watch: bool = Field(default=False, description="Stream changes as server-sent events.")
    since: int | None = Field(
        default=None, ge=0, description="Watch from this resource version; left out: from now."
    )


class SearchQuery(ListQuery):
    """What a list of the registry's kinds is asked for."""

    filter: str = Field(
        default="",
        description="What has to hold: `metrics.accuracy > 0.9 and tags.team = 'risk'`.",
    )
    order: str = Field(
        default="", alias="orderBy", description="What comes first: `metrics.accuracy DESC, name`."
    )


def add_listing(routes: Routes, kind: type[AnyResource]) -> None:
    """Add the route that lists and watches `kind`."""
    routes.add(
        "GET",
        f"/{kind.plural}",
        (_searched if kind in SEARCHED else _plain)(kind),
        responses={200: {"model": _listing_of(kind)}},
        tag=kind.__name__,
        operation_id=f"list{kind.__name__}",
        summary=f"List or watch {kind.plural}",
    )


@cache
def _listing_of(kind: type[AnyResource]) -> type[Part]:
    """Return the shape of an answer, for the description of the surface."""
    return create_model(
        f"{kind.__name__}List",
        __base__=Part,
        api_version=(str, ...),
        kind=(str, ...),
        metadata=(dict[str, Any], ...),
        items=(tuple[kind, ...], ...),  # type: ignore[valid-type]
    )


def _plain(kind: type[AnyResource]) -> Callable[..., Awaitable[Response]]:
    async def list_(request: Request, query: Annotated[ListQuery, Query()]) -> Response:
        return await _answer(request, kind, query)

    return list_


def _searched(kind: type[AnyResource]) -> Callable[..., Awaitable[Response]]:
    async def list_(request: Request, query: Annotated[SearchQuery, Query()]) -> Response:
        return await _answer(request, kind, query)

    return list_


async def _answer(request: Request, kind: type[AnyResource], query: ListQuery) -> Response:
    context = context_of(request)
    if query.watch:
        return await _watch(context, request, kind, query)
    return await _list(context, request, kind, query)


async def _watch(
    context: Context, request: Request, kind: type[AnyResource], asked: ListQuery
) -> Response:
    labels = parse_selector(asked.selector)

    async def recheck() -> Subject:
        return await context.admit(request, "watch", kind.__name__, asked.environment)

    await recheck()
    if isinstance(asked, SearchQuery) and (asked.filter or asked.order):
        fault = FieldError("query.watch", "a watch takes no filter and no order")
        raise InvalidResource("the query is not valid", [fault])
    since = asked.since
    last = request.headers.get("last-event-id", "")
    if last.isdecimal():
        since = int(last)
    elif since is None:
        _, since = await context.store.list(kind, asked.environment)
    wanted = partial(_is_wanted, environment=asked.environment, labels=labels)
    return WatchResponse(context.dependencies, kind, since, wanted=wanted, recheck=recheck)


async def _list(
    context: Context, request: Request, kind: type[AnyResource], asked: ListQuery
) -> Response:
    await context.admit(request, "list", kind.__name__, asked.environment)
    labels = parse_selector(asked.selector)
    searched = asked if isinstance(asked, SearchQuery) else SearchQuery()
    order = compile_order(searched.order, kind)
    wanted = compile_filter(searched.filter, kind)
    index: RegistryIndex | None = None
    found: Sequence[AnyResource]
    if kind in _HELD:
        # Taken before the index is brought up to date, so that a watch from it misses nothing.
        version = context.store.newest_version()
        index = await context.catalog.current()
        found = candidates(index, kind, wanted)
        if asked.environment is not None or labels:
            found = [r for r in found if _is_wanted(r, asked.environment, labels)]
    else:
        model = required_text(wanted, kind, "model")
        prefix = f"{model}@" if model is not None else ""
        found, version = await context.store.list(
            kind, asked.environment, labels=labels, prefix=prefix
        )
    page = cut(
        found,
        order,
        index,
        limit=asked.limit,
        token=asked.token,
        query=to_json([asked.environment, sorted(labels.items())]).decode(),
        wanted=wanted,
        in_plain_order=index is not None,
    )
    shown = [show(resource, index) for resource in page.items]
    return list_response(kind.__name__, shown, version, page.token, encoded=context.encoded)


def _is_wanted(resource: AnyResource, environment: str | None, labels: dict[str, str]) -> bool:
    metadata = resource.metadata
    return (environment is None or metadata.environment == environment) and (
        labels.items() <= metadata.labels.items()
    )


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
