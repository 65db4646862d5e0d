"""The evidence of a promotion: ``GET /promotions/{name}/evidence``. Thin and read-only.

The stored bundle is sent as it is; one that was never stored (an older release ended the
promotion) is made now.
"""

from __future__ import annotations

from fastapi import Request
from pydantic_core import to_json
from starlette.responses import Response

from modelplane.api.access import Context, context_of
from modelplane.api.actions import EnvironmentQuery
from modelplane.api.routes import Routes
from modelplane.errors import NotFound
from modelplane.ports.evidence import build_bundle
from modelplane.resources.meta import DEFAULT_ENVIRONMENT
from modelplane.resources.promotion import Promotion


def add_evidence_routes(routes: Routes) -> None:
    """Add the route."""

    async def get(request: Request, name: str, environment: EnvironmentQuery = None) -> Response:
        """Return the signed bundle of a finished promotion."""
        context = context_of(request)
        place = environment or DEFAULT_ENVIRONMENT
        await context.admit(request, "get", "Evidence", place)
        promotion = await context.store.get(Promotion, name, place)
        return Response(await _read(context, promotion), media_type="application/json")

    routes.add(
        "GET",
        "/promotions/{name}/evidence",
        get,
        tag="Promotion",
        operation_id="getEvidence",
        summary="Get the signed evidence of a promotion that is over",
    )


async def _read(context: Context, promotion: Promotion) -> bytes:
    dependencies = context.dependencies
    digest = promotion.status.evidence
    if digest is not None:
        files = await dependencies.blobs.list_files(digest)
        if not files:
            raise NotFound(f"the artifact {digest} holds no evidence")
        read = dependencies.blobs.read_file(digest, files[0].path)
        return b"".join([piece async for piece in read])
    bundle = await build_bundle(
        context.store,
        promotion,
        dependencies.signed_head,
        dependencies.sign,
        now=dependencies.clock.now(),
    )
    return to_json(bundle.to_dict(), indent=1)
