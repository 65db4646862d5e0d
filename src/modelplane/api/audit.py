"""The audit log: read, verify, export. Nothing here writes it; the store does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import Query, Request
from pydantic_core import to_json
from starlette.responses import Response, StreamingResponse

from modelplane.api.access import context_of
from modelplane.api.answers import encode, json_response
from modelplane.api.routes import Routes
from modelplane.errors import FieldError, InvalidResource, NotFound
from modelplane.ports.store import AuditRecord
from modelplane.resources.kinds import find_kind
from modelplane.resources.meta import API_VERSION

_PAGE = 1000
_LARGEST = 2**63 - 1


def add_audit_routes(routes: Routes) -> None:
    """Add the routes of the audit log."""

    async def read(
        request: Request,
        *,
        after: Annotated[
            int | None, Query(ge=0, le=_LARGEST, description="Only records after this one.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=_PAGE, description="At most so many.")] = 100,
        last: Annotated[
            int | None,
            Query(ge=1, le=_PAGE, description="The newest so many; without `after`, `limit`."),
        ] = None,
        kind: Annotated[str | None, Query(description="Only of this kind.")] = None,
        name: Annotated[str | None, Query(description="Only of this resource.")] = None,
        environment: Annotated[str | None, Query(description="Only in it.")] = None,
    ) -> Response:
        """List audit records in order; `metadata.next` goes on where the page ended.

        Begins with the oldest, or with `last` shows the newest.
        """
        context = context_of(request)
        await context.admit(request, "list", "Audit", environment)
        if last is not None and after is not None:
            fault = FieldError("query.last", "cannot be combined with `after`")
            raise InvalidResource("the newest records come after none in particular", [fault])
        records = await context.store.audit(
            after or 0,
            limit,
            last=last,
            kind=_kind_name(kind),
            name=name,
            environment=environment,
        )
        return _page_response(records, end=after or 0)

    routes.add("GET", "/audit", read, tag="Audit", operation_id="listAudit")
    routes.add("GET", "/audit:verify", _verify, tag="Audit", operation_id="verifyAudit")
    routes.add("GET", "/audit:export", _export, tag="Audit", operation_id="exportAudit")
    routes.add("GET", "/audit:head", _head, tag="Audit", operation_id="getAuditHead")


async def _verify(request: Request) -> Response:
    """Check the whole chain against its signed head; names what was tampered with."""
    context = context_of(request)
    await context.admit(request, "get", "Audit")
    return json_response(await context.dependencies.verify_audit())


async def _export(request: Request) -> Response:
    """Return every record as a JSON line, and the signed head as the last line."""
    context = context_of(request)
    await context.admit(request, "list", "Audit")

    async def lines() -> AsyncIterator[bytes]:
        # The head is read first: what it signs is then surely among the records.
        head = await context.dependencies.signed_head()
        after = 0
        while records := await context.store.audit(after, _PAGE):
            yield b"".join(encode(record) + b"\n" for record in records)
            after = records[-1].sequence
        yield to_json({"signedHead": head}) + b"\n"

    return StreamingResponse(lines(), media_type="application/jsonl")


async def _head(request: Request) -> Response:
    """Return the newest signed link, and the public key that evidence is signed with too."""
    context = context_of(request)
    await context.admit(request, "get", "Evidence")
    signed = await context.dependencies.signed_head()
    if signed is None:
        raise NotFound("the audit log has no signed head yet")
    return json_response(signed)


def _page_response(records: Sequence[AuditRecord], *, end: int) -> Response:
    """Return a page; `end` is where it ends when it is empty."""
    head = {"next": records[-1].sequence if records else end}
    items = b",".join(encode(record) for record in records)
    start = to_json({"apiVersion": API_VERSION, "kind": "AuditRecordList", "metadata": head})
    body = start[:-1] + b',"items":[' + items + b"]}"
    return Response(body, media_type="application/json")


def _kind_name(word: str | None) -> str | None:
    if word is None:
        return None
    kind = find_kind(word)
    if kind is None:
        raise InvalidResource("not a kind", [FieldError("query.kind", f"unknown: {word[:80]!r}")])
    return kind.__name__
