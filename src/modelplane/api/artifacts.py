"""Artifacts: the bytes of model versions, up and down as tar streams, found by their digest."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from modelplane.api.access import Context
from modelplane.api.answers import json_response
from modelplane.api.bodies import stream_body
from modelplane.api.routes import Routes
from modelplane.decisions.registration import check_digest
from modelplane.errors import NotFound
from modelplane.ports.blobs import StoredTree

TAR = "application/x-tar"


def add_artifact_routes(routes: Routes, context: Context) -> None:
    """Add the routes of artifacts."""
    blobs, limits = context.dependencies.blobs, context.dependencies.limits

    async def put(request: Request, digest: str) -> Response:
        """Store a tree of files, sent as a tar stream; its digest must be the one in the path."""
        await context.admit(request, "upload", "Artifact")
        check_digest(digest, "path.digest")
        body = stream_body(request, limits.artifact_bytes, limits.idle_timeout_s)
        stored = await blobs.find(digest)
        if stored is not None:
            async for _ in body:
                pass  # the client is sending already; an answer in between would confuse it
            return _describe(stored, 200)
        return _describe(await blobs.put(body, digest), 201)

    async def get(request: Request, digest: str) -> Response:
        """Return the tree as a tar stream."""
        await context.admit(request, "download", "Artifact")
        check_digest(digest, "path.digest")
        stream = blobs.read(digest)
        # The first piece tells whether it is there and whole, while a status can still say so.
        first = await anext(stream, b"")
        return StreamingResponse(_chain(first, stream), media_type=TAR)

    async def head(request: Request, digest: str) -> Response:
        """Say whether it is stored."""
        await context.admit(request, "download", "Artifact")
        check_digest(digest, "path.digest")
        stored = await blobs.find(digest)
        if stored is None:
            raise NotFound(f"no artifact {digest} is stored")
        return Response(headers={"x-size-bytes": str(stored.size_bytes)}, media_type=TAR)

    for method, endpoint in (("PUT", put), ("GET", get), ("HEAD", head)):
        name = f"{method.lower()}Artifact"
        routes.add(method, "/artifacts/{digest}", endpoint, tag="Artifact", operation_id=name)


def _describe(tree: StoredTree, status: int) -> Response:
    data = {"digest": tree.digest, "sizeBytes": tree.size_bytes, "files": tree.files}
    return json_response(data, status)


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece
