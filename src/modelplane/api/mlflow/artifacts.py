"""The files of versions that are stored here, for MLflow's clients to load.

Added by `routes`. MLflow's ``HttpArtifactRepository`` lists a folder, then reads each file:
``GET …/artifacts?path=FOLDER`` and ``GET …/artifacts/PATH``. The first folders of a path are
``modelplane`` and the unique id of a version. Nothing is written here.
"""

from __future__ import annotations

import mimetypes
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from modelplane.api.access import Context
from modelplane.api.answers import json_response
from modelplane.api.mlflow.admission import authorization_of
from modelplane.api.mlflow.errors import error_response
from modelplane.decisions.mlflow_registry import invalid, missing
from modelplane.errors import ModelplaneError
from modelplane.ports.blobs import StoredFile

PREFIX = "/api/2.0/mlflow-artifacts/artifacts"
ROOT = "modelplane"


def download_uri(base_url: str, unique_id: str) -> str:
    """Return where MLflow's clients find the files of a version that is stored here."""
    return f"{base_url.rstrip('/')}{PREFIX}/{ROOT}/{unique_id}"


def add_artifact_routes(app: FastAPI, context: Context) -> None:
    """Add the two routes that MLflow's clients read artifacts through."""
    blobs = context.dependencies.blobs

    async def find(request: Request, path: str) -> tuple[str, str]:
        """Return the digest of the version that a path names, and the path within it."""
        subject = await context.identities.identify(authorization_of(request))
        await context.allow(subject, "download", "Artifact")
        root, _, rest = path.strip("/").partition("/")
        unique_id, _, inside = rest.partition("/")
        if ".." in path.split("/"):
            raise invalid("Invalid path")
        version = (await context.catalog.current()).find_id(unique_id) if root == ROOT else None
        if version is None or version.spec.artifact is None or version.status.deleted_at:
            raise missing(f"No artifact is stored under {path[:200]!r}")
        return version.spec.artifact.digest, inside

    async def list_(request: Request) -> Response:
        digest, folder = await find(request, request.query_params.get("path", ""))
        return json_response({"files": list_folder(await blobs.list_files(digest), folder)})

    async def get(request: Request) -> Response:
        digest, path = await find(request, request.path_params["path"])
        stream = blobs.read_file(digest, path)
        # The first piece tells whether it is there and whole, while a status can still say so.
        first = await anext(stream, b"")
        media_type = mimetypes.guess_type(path)[0] or "application/octet-stream"
        headers = {"x-content-type-options": "nosniff", "content-disposition": "attachment"}
        return StreamingResponse(_chain(first, stream), headers=headers, media_type=media_type)

    app.router.routes.append(Route(PREFIX, _explained(list_), methods=["GET"]))
    app.router.routes.append(Route(PREFIX + "/{path:path}", _explained(get), methods=["GET"]))


def list_folder(files: Iterable[StoredFile], folder: str) -> list[dict[str, Any]]:
    """Return what lies directly in a folder, as MLflow lists it; nothing for a file.

    Examples
    --------
    >>> list_folder([StoredFile("a/b.txt", 3), StoredFile("c", 1)], "")
    [{'path': 'a', 'is_dir': True}, {'path': 'c', 'is_dir': False, 'file_size': 1}]
    """
    prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        if not file.path.startswith(prefix):
            continue
        name, is_below, _ = file.path[len(prefix) :].partition("/")
        found[name] = {"path": name, "is_dir": bool(is_below)}
        if not is_below:
            found[name]["file_size"] = file.size_bytes
    return [found[name] for name in sorted(found)]


def _explained(
    handle: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            return await handle(request)
        except ModelplaneError as error:
            return error_response(error)

    return answer


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece
