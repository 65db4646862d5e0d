"""What the store of predictions holds of a deployment: counts, and rows with their labels."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import Query, Request
from pydantic_core import to_json
from starlette.responses import Response

from modelplane.api.access import context_of
from modelplane.api.answers import JSON, json_response
from modelplane.api.deployments import load_deployment
from modelplane.api.predictions import store_of
from modelplane.api.routes import Routes
from modelplane.decisions.feedback import read_moment
from modelplane.errors import FieldError, InvalidResource
from modelplane.ports.predictions import Place, Prediction, Tally
from modelplane.resources.meta import DEFAULT_ENVIRONMENT

LARGEST_PAGE = 10_000


def add_prediction_row_routes(routes: Routes) -> None:
    """Add the routes that read."""
    _add_counts(routes)
    _add_rows(routes)


def _add_counts(routes: Routes) -> None:

    async def counts(
        request: Request,
        name: str,
        *,
        environment: Annotated[str | None, Query(description="The environment.")] = None,
        seconds: Annotated[int, Query(ge=1, le=10 * 366 * 86_400, description="How far back.")] = (
            86_400
        ),
    ) -> Response:
        """Return how many predictions were kept and lost, and how complete their labels are."""
        context = context_of(request)
        place = environment or DEFAULT_ENVIRONMENT
        await context.admit(request, "get", "ModelDeployment", place, name=name)
        deployment = await load_deployment(context.store, name, place)
        store = store_of(context)
        since = context.dependencies.clock.now() - timedelta(seconds=seconds)
        horizon_s = deployment.spec.labels.horizon_s
        tallies = await store.tallies(place, name, since=since, horizon_s=horizon_s)
        totals = await store.totals(place, name)
        return json_response(
            {
                "deployment": name,
                "environment": place,
                "seconds": seconds,
                "horizonSeconds": horizon_s,
                "isLogged": deployment.spec.predictions is not None,
                "places": [_show_tally(tally) for tally in tallies],
                "totals": [_show_tally(tally) for tally in totals],
            }
        )

    routes.add(
        "GET",
        "/model-deployments/{name}/predictions",
        counts,
        tag="Prediction",
        operation_id="countPredictions",
        summary="How many predictions were kept and lost, and how many have labels",
    )


def _add_rows(routes: Routes) -> None:
    async def rows(
        request: Request,
        name: str,
        *,
        environment: Annotated[str | None, Query(description="The environment.")] = None,
        since: Annotated[str | None, Query(description="RFC 3339; default a day ago.")] = None,
        until: Annotated[str | None, Query(description="RFC 3339; default now.")] = None,
        limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="Most rows.")] = 1_000,
        skip: Annotated[int, Query(ge=0, le=10_000_000, description="Rows to leave out.")] = 0,
    ) -> Response:
        """Return stored predictions with inputs, outputs and labels, oldest first.

        ``next`` holds ``since`` and ``skip`` of the page after this one.
        """
        context = context_of(request)
        place = environment or DEFAULT_ENVIRONMENT
        await context.admit(request, "download", "Prediction", place)
        await load_deployment(context.store, name, place)
        now = context.dependencies.clock.now()
        start = _moment("since", since) or now - timedelta(days=1)
        end = _moment("until", until) or now + timedelta(seconds=1)
        store = store_of(context)
        found = await store.rows(place, name, since=start, until=end, limit=limit + skip)
        page = found[skip:]
        said = await store.said(place, name, page)
        items = [
            {**_show_row(row), "label": label, "reward": reward}
            for row, (label, reward) in zip(page, said, strict=True)
        ]
        answer: dict[str, Any] = {"items": items}
        if len(page) == limit:
            last = page[-1].at
            again = sum(row.at == last for row in found)
            answer["next"] = {"since": last.isoformat(), "skip": again}
        # Models are sent, and answer, numbers that JSON does not have.
        return await asyncio.to_thread(
            lambda: Response(to_json(answer, inf_nan_mode="null"), media_type=JSON)
        )

    routes.add(
        "GET",
        "/model-deployments/{name}/predictions/rows",
        rows,
        tag="Prediction",
        operation_id="listPredictions",
        summary="Stored predictions with inputs, outputs and labels",
    )


def _moment(name: str, text: str | None) -> datetime | None:
    at = read_moment(text)
    if at is None and text is not None:
        message = "must be a time such as 2026-01-05T09:00:00Z"
        raise InvalidResource("the query is not valid", [FieldError(f"query.{name}", message)])
    return at


def _show_place(place: Place) -> dict[str, Any]:
    return {
        "version": place.version,
        "revision": place.revision,
        "rule": place.rule,
        "mirrored": place.mirrored,
    }


def _show_tally(tally: Tally) -> dict[str, Any]:
    return {
        **_show_place(tally.place),
        "predictions": tally.predictions,
        "labelled": tally.labelled,
        "rewarded": tally.rewarded,
        "due": tally.due,
        "dueLabelled": tally.due_labelled,
        "dropped": tally.dropped,
    }


def _show_row(row: Prediction) -> dict[str, Any]:
    return {
        "requestId": row.request_id,
        "row": row.row,
        **_show_place(row.place),
        "at": row.at.isoformat(),
        "predicted": row.predicted,
        "score": row.score,
        "latencyS": row.latency_s,
        "key": row.key,
        "parts": row.parts,
        "inputs": row.inputs,
        "outputs": row.outputs,
    }
