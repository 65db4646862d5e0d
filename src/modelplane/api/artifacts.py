"""Artifacts: the bytes of model versions, up and down as tar streams, found by their digest.

Also whose they are, and whether what is registered and what is stored agree; what agreeing means
is in `decisions.registry_check`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import Query, Request
from starlette.responses import Response, StreamingResponse

from modelplane.api.access import Context, context_of
from modelplane.api.actions import read_action
from modelplane.api.answers import json_response
from modelplane.api.bodies import stream_body
from modelplane.api.routes import Routes
from modelplane.decisions.registration import check_digest
from modelplane.decisions.registry_check import (
    REMOVABLE,
    Fault,
    RegistryReport,
    check_registry,
    is_living,
    kept_digests,
    label_of,
    users_by_digest,
)
from modelplane.errors import FieldError, InvalidResource, NotFound
from modelplane.ports.blobs import Blobs, StoredTree
from modelplane.ports.store import Transaction
from modelplane.resources.gate_run import StageResult
from modelplane.resources.job import Job
from modelplane.resources.model import ModelVersion
from modelplane.resources.promotion import Promotion
from modelplane.resources.quantities import parse_duration
from modelplane.resources.replica import Replica

TAR = "application/x-tar"
DEFAULT_GRACE = "24h"
_MAX_REMOVED = 1000

GraceQuery = Annotated[
    str,
    Query(description="Files without a version count as orphaned when they are older: `24h`."),
]


def add_artifact_routes(routes: Routes) -> None:
    """Add the routes of artifacts."""

    async def put(request: Request, digest: str) -> Response:
        """Store a tree of files, sent as a tar stream; its digest must be the one in the path."""
        context = context_of(request)
        await context.admit(request, "upload", "Artifact")
        check_digest(digest, "path.digest")
        limits, blobs = context.dependencies.limits, context.dependencies.blobs
        body = stream_body(request, limits.artifact_bytes, limits.idle_timeout_s)
        stored = await blobs.find(digest)
        if stored is not None:
            async for _ in body:
                pass  # the client is sending already; an answer in between would confuse it
            return _describe(stored, 200)
        return _describe(await blobs.put(body, digest), 201)

    async def get(request: Request, digest: str) -> Response:
        """Return the tree as a tar stream."""
        context = context_of(request)
        await context.admit(request, "download", "Artifact")
        check_digest(digest, "path.digest")
        stream = context.dependencies.blobs.read(digest)
        # The first piece tells whether it is there and whole, while a status can still say so.
        first = await anext(stream, b"")
        return StreamingResponse(_chain(first, stream), media_type=TAR)

    async def head(request: Request, digest: str) -> Response:
        """Say whether it is stored."""
        context = context_of(request)
        await context.admit(request, "download", "Artifact")
        check_digest(digest, "path.digest")
        stored = await context.dependencies.blobs.find(digest)
        if stored is None:
            raise NotFound(f"no artifact {digest} is stored")
        return Response(headers={"x-size-bytes": str(stored.size_bytes)}, media_type=TAR)

    for method, endpoint in (("PUT", put), ("GET", get), ("HEAD", head)):
        name = f"{method.lower()}Artifact"
        routes.add(method, "/artifacts/{digest}", endpoint, tag="Artifact", operation_id=name)
    _add_listing(routes)
    _add_checking(routes)


def _add_listing(routes: Routes) -> None:
    async def list_(request: Request) -> Response:
        """List what is stored, by digest, with the versions that have these files."""
        context = context_of(request)
        await context.admit(request, "list", "Artifact")
        trees = await context.dependencies.blobs.list()
        users = users_by_digest((await context.catalog.current()).versions.values())
        return json_response({"items": [_show(t, users.get(t.digest, ())) for t in trees]})

    async def info(request: Request, digest: str) -> Response:
        """Say how large it is and which versions have it."""
        context = context_of(request)
        await context.admit(request, "get", "Artifact")
        check_digest(digest, "path.digest")
        stored = await context.dependencies.blobs.find(digest)
        if stored is None:
            raise NotFound(f"no artifact {digest} is stored")
        users = users_by_digest((await context.catalog.current()).versions.values())
        return json_response(_show(stored, users.get(digest, ())))

    async def verify(request: Request, digest: str) -> Response:
        """Read all of it again and say whether the bytes are those that were stored."""
        context = context_of(request)
        await context.admit(request, "act", "Artifact")
        check_digest(digest, "path.digest")
        verified = await context.dependencies.blobs.verify(digest)
        return json_response(
            {
                "digest": digest,
                "sizeBytes": verified.size_bytes,
                "whole": not verified.difference,
                "difference": verified.difference,
            }
        )

    for method, path, endpoint in (
        ("GET", "/artifacts", list_),
        ("GET", "/artifacts/{digest}/info", info),
        ("POST", "/artifacts/{digest}:verify", verify),
    ):
        name = f"{endpoint.__name__.rstrip('_')}Artifact"
        routes.add(method, path, endpoint, tag="Artifact", operation_id=name)


def _add_checking(routes: Routes) -> None:
    async def check(request: Request, grace: GraceQuery = DEFAULT_GRACE) -> Response:
        """Compare what is registered with what is stored, without reading the bytes."""
        context = context_of(request)
        await context.admit(request, "get", "Artifact")
        before = context.dependencies.clock.now() - _read_grace(grace, "query.grace")
        report = await _compare(context, before)
        return json_response(
            {
                "versions": report.versions,
                "artifacts": report.artifacts,
                "faults": [_show_fault(fault) for fault in report.faults],
                "unused": {"artifacts": report.unused, "sizeBytes": report.unused_bytes},
            }
        )

    async def repair(request: Request) -> Response:
        """Write lacking records again, and remove the orphans and stray records named."""
        context = context_of(request)
        subject = await context.admit(request, "delete", "Artifact")
        body, asked = await read_action(context, request, subject, remove=list, grace=str)
        wanted = _read_names(body.get("remove", []))
        before = asked.now - _read_grace(body.get("grace", DEFAULT_GRACE), "grace")
        faults = (await _compare(context, before)).faults
        chosen = [fault for fault in faults if fault.kind in REMOVABLE and _key(fault) in wanted]
        lacking = [fault for fault in faults if fault.kind == "unrecorded"]
        transaction = Transaction(asked.subject, asked.reason)
        for fault in chosen:
            transaction.note("remove", artifact=fault.digest, versions=fault.versions)
        if lacking:
            transaction.note("record", records=len(lacking))
        if transaction:  # said before it is done: doing it again does no harm
            await context.store.commit(transaction)
        recorded = await _write_records(context, lacking)
        removed = [_key(f) for f in chosen if await _remove(context.dependencies.blobs, f, before)]
        return json_response({"recorded": recorded, "removed": removed})

    routes.add("GET", "/artifacts:check", check, tag="Artifact", operation_id="checkArtifacts")
    routes.add("POST", "/artifacts:repair", repair, tag="Artifact", operation_id="repairArtifacts")


async def _compare(context: Context, before: datetime) -> RegistryReport:
    blobs = context.dependencies.blobs
    versions = list((await context.catalog.current()).versions.values())
    replicas, _ = await context.store.list(Replica)
    running = {replica.spec.revision.artifact.digest for replica in replicas}
    jobs, _ = await context.store.list(Job)
    results, _ = await context.store.list(StageResult)
    promotions, _ = await context.store.list(Promotion)
    running |= kept_digests(results, jobs, promotions)
    trees, labels = await blobs.list(), await blobs.labels()
    return check_registry(versions, running, trees, labels, before=before)


async def _write_records(context: Context, lacking: Sequence[Fault]) -> list[str]:
    """Write the records of versions again; return the names of the versions."""
    index, written = await context.catalog.current(), []
    found = [index.versions.get(name) for fault in lacking for name in fault.versions]
    for version in found:
        if version is not None and version.spec.artifact is not None:
            label = label_of(version.spec, version.metadata.created_at)
            await context.dependencies.blobs.label(label)
            written.append(version.metadata.name)
    return written


async def _remove(blobs: Blobs, fault: Fault, before: datetime) -> bool:
    """Remove what a fault names; False when it is in use after all."""
    if fault.kind == "orphaned" and not await blobs.delete(fault.digest, unless_since=before):
        return False
    for record in fault.records:
        await blobs.unlabel(record)
    return True


def _key(fault: Fault) -> str:
    """Return what names a removable fault: its artifact, or its record."""
    return fault.digest if fault.kind == "orphaned" else fault.records[0]


def _read_names(names: list[Any]) -> set[str]:
    if len(names) > _MAX_REMOVED or not all(isinstance(name, str) for name in names):
        message = f"must be at most {_MAX_REMOVED:,} digests of artifacts and ids of records"
        raise InvalidResource("the body is not valid", [FieldError("remove", message)])
    return set(names)


def _read_grace(text: str, path: str) -> timedelta:
    try:
        return timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError) as error:
        raise InvalidResource("not a time", [FieldError(path, str(error))]) from None


def _show(tree: StoredTree, users: Sequence[ModelVersion]) -> dict[str, Any]:
    return {
        "digest": tree.digest,
        "sizeBytes": tree.size_bytes,
        "files": tree.files,
        "storedAt": tree.stored_at,
        "whole": tree.whole,
        "versions": [{"name": v.metadata.name, "id": v.spec.id} for v in users if is_living(v)],
    }


def _show_fault(fault: Fault) -> dict[str, Any]:
    return {
        "kind": fault.kind,
        "key": _key(fault) if fault.kind in REMOVABLE else fault.digest,
        "digest": fault.digest,
        "versions": fault.versions,
        "message": fault.message,
        "sizeBytes": fault.size_bytes,
        "records": fault.records,
    }


def _describe(tree: StoredTree, status: int) -> Response:
    data = {"digest": tree.digest, "sizeBytes": tree.size_bytes, "files": tree.files}
    return json_response(data, status)


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece
