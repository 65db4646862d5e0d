"""``GET /model-deployments/{name}:quality``: how right each version was, as far as labels tell."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from modelplane.api.access import context_of
from modelplane.api.answers import part_response
from modelplane.api.deployments import load_deployment
from modelplane.api.routes import Routes
from modelplane.decisions.quality import QualityReport
from modelplane.errors import TransientError
from modelplane.resources.meta import DEFAULT_ENVIRONMENT


def add_quality_routes(routes: Routes) -> None:
    """Add the route."""

    async def quality(
        request: Request,
        name: str,
        environment: Annotated[str | None, Query(description="The environment.")] = None,
        part: Annotated[
            str | None,
            Query(alias="slice", description="One slice, such as `user.region=west`."),
        ] = None,
    ) -> Response:
        """Return figures by version and slice with 95 % intervals, and how complete labels are."""
        context = context_of(request)
        place = environment or DEFAULT_ENVIRONMENT
        await context.admit(request, "get", "ModelDeployment", place, name=name)
        deployment = await load_deployment(context.store, name, place)
        book = context.dependencies.quality
        if book is None:
            raise TransientError("this control plane keeps no predictions", retry_after_s=60.0)
        report = await book.report(deployment)
        if part is not None:
            chosen = tuple(one for one in report.versions if one.slice == part)
            report = report.with_(versions=chosen)
        return part_response(report)

    routes.add(
        "GET",
        "/model-deployments/{name}:quality",
        quality,
        responses={200: {"model": QualityReport}},
        tag="ModelDeployment",
        operation_id="getQuality",
        summary="Quality of a deployment's versions by labels",
    )
