"""Lineage: one question, one walk over the registry in memory; and the events collectors follow.

Thin: the graph is in `decisions.lineage`, the events are in `decisions.openlineage`.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request
from starlette.responses import Response

from modelplane.api.access import Context, context_of
from modelplane.api.answers import json_response, part_response
from modelplane.api.routes import Routes
from modelplane.decisions.lineage import MAX_DEPTH, Direction, Lineage, walk_lineage
from modelplane.decisions.lineage_start import find_start
from modelplane.decisions.openlineage import NAMESPACE, deployment_event, is_deployment, run_event
from modelplane.decisions.registry_index import RegistryIndex
from modelplane.errors import FieldError, InvalidResource
from modelplane.ports.store import AuditRecord
from modelplane.resources.meta import API_VERSION
from modelplane.resources.model import AliasMove, ModelVersion

_MOST = 500
_PAGE = 1000
_PAGES_READ = 20
"""Of the audit log for one answer; a follower then asks again from where it ended."""
_LARGEST = 2**63 - 1
_TOLD_OF = (ModelVersion.__name__, AliasMove.__name__)

DirectionQuery = Annotated[
    Direction, Query(description="`up` to what made it, `down` to what depends on it.")
]
DepthQuery = Annotated[
    int,
    Query(ge=0, le=10, description="How many steps; from data to deployments it is two."),
]


def add_lineage_routes(routes: Routes) -> None:
    """Add the routes of the lineage graph."""

    async def read(
        request: Request,
        *,
        of: Annotated[
            str, Query(description="`fraud@1.2.0`, `dataset/tx@3`, `production/fraud` …")
        ] = "",
        direction: DirectionQuery = "both",
        depth: DepthQuery = MAX_DEPTH,
    ) -> Response:
        """Return what something came from and what depends on it, as nodes and edges."""
        context = context_of(request)
        await context.admit(request, "get", "Lineage")
        index = await context.catalog.current()
        return part_response(walk_lineage(index, find_start(index, of), direction, depth))

    async def events(
        request: Request,
        *,
        of: Annotated[str | None, Query(description="Only of the versions in its lineage.")] = None,
        direction: DirectionQuery = "both",
        depth: DepthQuery = MAX_DEPTH,
        after: Annotated[
            int | None, Query(ge=0, le=_LARGEST, description="`metadata.next` of the page before.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=_MOST, description="At most so many.")] = 100,
        namespace: Annotated[
            str, Query(min_length=1, max_length=200, description="Of jobs and datasets.")
        ] = NAMESPACE,
    ) -> Response:
        """Return OpenLineage run events: one for each model version, and for each that went live.

        With `of` the events of one lineage. Without it all of them in order, in pages: ask again
        with `after` as often as you like, and nothing is missed. A version whose record was
        completed later appears again.
        """
        context = context_of(request)
        await context.admit(request, "list", "Lineage")
        if of is None:
            return await _follow(context, after or 0, limit, namespace)
        if after is not None:
            fault = FieldError("query.after", "cannot be combined with `of`")
            raise InvalidResource("the events of one lineage come in one page", [fault])
        index = await context.catalog.current()
        lineage = walk_lineage(index, find_start(index, of), direction, depth)
        return _events_response(await _events_of(context, lineage, index, namespace))

    routes.add(
        "GET",
        "/lineage",
        read,
        responses={200: {"model": Lineage}},
        tag="Lineage",
        operation_id="getLineage",
    )
    routes.add("GET", "/lineage/events", events, tag="Lineage", operation_id="listLineageEvents")


async def _events_of(
    context: Context, lineage: Lineage, index: RegistryIndex, namespace: str
) -> list[dict[str, Any]]:
    """Return the events of a lineage: its versions', then those of its deployments with them."""
    names = [node.name for node in lineage.nodes if node.kind == "ModelVersion"]
    versions = [index.versions[name] for name in names if name in index.versions]
    events = [run_event(version, index, namespace) for version in versions]
    places = {(n.environment, n.name) for n in lineage.nodes if n.kind == "ModelDeployment"}
    for model in dict.fromkeys(version.spec.model for version in versions) if places else ():
        moves, _ = await context.store.list(AliasMove, prefix=f"{model}@")
        events += [
            deployment_event(move, namespace)
            for move in moves
            if is_deployment(move)
            and (move.spec.environment, move.spec.deployment) in places
            and f"{model}@{move.spec.after}" in names
        ]
    return events


async def _follow(context: Context, after: int, limit: int, namespace: str) -> Response:
    """Answer with the events after a place in the audit log: the order in which things happened.

    The log is never pruned and never reordered, so its sequence is the token.
    """
    events: dict[str, dict[str, Any]] = {}
    for _ in range(_PAGES_READ):
        records = await context.store.audit(after, _PAGE, kind=_TOLD_OF)
        index = await context.catalog.current()
        for record in records:
            after = record.sequence
            event = await _event(context, record, index, namespace)
            if event is not None:
                events.setdefault(f"{record.kind} {record.name}", event)
                if len(events) == limit:
                    return _events_response([*events.values()], after)
        if len(records) < _PAGE:
            break
    return _events_response([*events.values()], after)


async def _event(
    context: Context, record: AuditRecord, index: RegistryIndex, namespace: str
) -> dict[str, Any] | None:
    """Return the event that an audit record stands for, if it is one that catalogues hear of."""
    if record.kind == AliasMove.__name__:
        move = await context.store.find(AliasMove, record.name)
        return deployment_event(move, namespace) if move and is_deployment(move) else None
    version = index.versions.get(record.name)
    if version is None or not _tells(record, version.metadata.created_at):
        return None
    return run_event(version, index, namespace)


def _tells(record: AuditRecord, created_at: object) -> bool:
    """Whether a record is of a registration, or of a record's completion."""
    changed = record.details.get("changed", ())
    return record.at == created_at or any(name != "metadata" for name in changed)


def _events_response(events: list[dict[str, Any]], after: int | None = None) -> Response:
    head = {} if after is None else {"next": after}
    return json_response(
        {"apiVersion": API_VERSION, "kind": "LineageEventList", "metadata": head, "items": events}
    )
