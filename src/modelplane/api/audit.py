"""The audit log: read, verify, export. Nothing here writes it; the store does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import Query, Request
from pydantic_core import to_json
from starlette.responses import Response, StreamingResponse

from modelplane.api.access import Context
from modelplane.api.answers import encode, json_response
from modelplane.api.routes import Routes
from modelplane.errors import FieldError, InvalidResource
from modelplane.ports.store import AuditRecord
from modelplane.resources.kinds import KINDS, find_kind
from modelplane.resources.meta import API_VERSION, ResourceKey

_PAGE = 1000


def add_audit_routes(routes: Routes, context: Context) -> None:
    """Add the routes of the audit log."""
    dependencies = context.dependencies

    async def read(
        request: Request,
        *,
        after: Annotated[int, Query(ge=0, description="Only records after this one.")] = 0,
        limit: Annotated[int, Query(ge=1, le=_PAGE, description="At most so many.")] = 100,
        kind: Annotated[str | None, Query(description="Only of this kind.")] = None,
        name: Annotated[str | None, Query(description="Only of this resource.")] = None,
        environment: Annotated[str | None, Query(description="Only in it.")] = None,
    ) -> Response:
        """List audit records in order; `metadata.next` goes on where the page ended."""
        await context.admit(request, "list", "Audit", environment)
        given = {"kind": _kind_name(kind), "name": name, "environment": environment}
        wanted = {field: value for field, value in given.items() if value is not None}
        records, last = await _find(context, after, limit, wanted)
        head = {"next": last}
        items = b",".join(encode(record) for record in records)
        start = to_json({"apiVersion": API_VERSION, "kind": "AuditRecordList", "metadata": head})
        body = start[:-1] + b',"items":[' + items + b"]}"
        return Response(body, media_type="application/json")

    async def verify(request: Request) -> Response:
        """Check the whole chain against its signed head; names what was tampered with."""
        await context.admit(request, "get", "Audit")
        return json_response(await dependencies.verify_audit())

    async def export(request: Request) -> Response:
        """Return every record as a JSON line, and the signed head as the last line."""
        await context.admit(request, "list", "Audit")

        async def lines() -> AsyncIterator[bytes]:
            # The head is read first: what it signs is then surely among the records.
            head = await dependencies.signed_head()
            after = 0
            while records := await context.store.audit(after, _PAGE):
                yield b"".join(encode(record) + b"\n" for record in records)
                after = records[-1].sequence
            yield to_json({"signedHead": head}) + b"\n"

        return StreamingResponse(lines(), media_type="application/jsonl")

    routes.add("GET", "/audit", read, tag="Audit", operation_id="listAudit")
    routes.add("GET", "/audit:verify", verify, tag="Audit", operation_id="verifyAudit")
    routes.add("GET", "/audit:export", export, tag="Audit", operation_id="exportAudit")


def _kind_name(word: str | None) -> str | None:
    if word is None:
        return None
    kind = find_kind(word)
    if kind is None:
        raise InvalidResource("not a kind", [FieldError("query.kind", f"unknown: {word[:80]!r}")])
    return kind.__name__


def _key(wanted: dict[str, str]) -> ResourceKey | None:
    """Return the key of the one resource that is asked for; None when it is not just one."""
    if "kind" not in wanted or "name" not in wanted:
        return None
    scoped, place = KINDS[wanted["kind"]].scoped, wanted.get("environment")
    if scoped != (place is not None):
        return None
    return ResourceKey(wanted["kind"], place, wanted["name"])


async def _find(
    context: Context, after: int, limit: int, wanted: dict[str, str]
) -> tuple[Sequence[AuditRecord], int]:
    """Return the first `limit` records that have the wanted fields, and where they end."""
    key = _key(wanted)
    if key is not None:
        records = await context.store.audit(after, limit, key=key)
        return records, records[-1].sequence if records else after
    found: list[AuditRecord] = []
    while len(found) < limit:
        records = await context.store.audit(after, _PAGE if wanted else limit)
        for record in records:
            after = record.sequence
            if all(getattr(record, field) == value for field, value in wanted.items()):
                found.append(record)
                if len(found) == limit:
                    break
        if len(records) < (_PAGE if wanted else limit):
            break
    return found, after
