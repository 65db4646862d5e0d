"""``POST /feedback``: labels and rewards, late and out of order.

Reads with `decisions.feedback`, joins in the store of predictions. Bad labels spoil no good ones.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from fastapi import Request
from starlette.responses import Response

from modelplane.api.access import context_of
from modelplane.api.answers import json_response
from modelplane.api.bodies import parse_object, read_body
from modelplane.api.deployments import load_deployment
from modelplane.api.predictions import store_of
from modelplane.api.routes import Routes
from modelplane.decisions.feedback import read_feedback, with_numbers
from modelplane.errors import FieldError, InvalidResource
from modelplane.resources.meta import DEFAULT_ENVIRONMENT

_EXAMPLE = {
    "deployment": "fraud",
    "environment": "production",
    "labels": [{"requestId": "7c1f", "label": 1}, {"key": "order-17", "reward": 2.5}],
}
_REFUSED = {
    "contradicts": "something else was said before, and stands",
    "too_late": "is dated before anything that is still kept",
    "no_room": "too many labels wait for their predictions; send it again later",
}


def add_feedback_routes(routes: Routes) -> None:
    """Add the route."""

    async def post(request: Request) -> Response:
        """Join labels or rewards with predictions, those that come later too.

        ``fates`` counts what became of them; ``faults`` names those that were refused.
        """
        context = context_of(request)
        subject = await context.admit_somewhere(request, "report", "Feedback")
        limits = context.dependencies.limits
        body = await read_body(request, limits.telemetry_bytes, limits.idle_timeout_s)
        feedback = await asyncio.to_thread(lambda: read_feedback(parse_object(body)))
        place = feedback.environment or DEFAULT_ENVIRONMENT
        deployment = await load_deployment(context.store, feedback.deployment, place)
        model = deployment.spec.model
        await context.allow(subject, "report", "Feedback", place, model=model)
        if deployment.spec.labels.task == "regression":
            feedback = with_numbers(feedback)
        if feedback.faults and not feedback.labels:
            raise InvalidResource("no label is valid; nothing was kept", feedback.faults)
        name = deployment.metadata.name
        fates = await store_of(context).label(place, name, feedback.labels)
        faults = list(feedback.faults)
        for position, fate in zip(feedback.positions, fates, strict=True):
            if fate in _REFUSED:
                faults.append(FieldError(f"labels[{position}]", f"{fate}: {_REFUSED[fate]}"))
        counts = Counter(fates)
        return json_response(
            {
                "deployment": name,
                "environment": place,
                "fates": {**counts, "invalid": len(feedback.faults)},
                "faults": [{"path": f.path, "message": f.message} for f in faults],
            }
        )

    schema = {"type": "object", "example": _EXAMPLE}
    routes.add(
        "POST",
        "/feedback",
        post,
        tag="Feedback",
        operation_id="postFeedback",
        summary="Tell what turned out to be true",
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}
        },
    )
