"""Predictions as CloudEvents, from agents and from KServe's own logger.

``POST /predictions`` takes a batch (``application/cloudevents-batch+json``), one event
(``application/cloudevents+json``), or KServe's binary mode (``ce-`` headers, the body as it is).
Work that grows with the body is done off the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import structlog
from fastapi import Query, Request
from pydantic_core import from_json
from starlette.responses import Response

from modelplane.api.access import Context, context_of
from modelplane.api.answers import json_response
from modelplane.api.bodies import read_body
from modelplane.api.routes import Routes
from modelplane.decisions.prediction_events import (
    DROPPED_TYPE,
    PredictionEvent,
    count_unkept,
    make_predictions,
    read_event,
)
from modelplane.decisions.prediction_pairs import Pair
from modelplane.errors import FieldError, InvalidResource, NotFound, TransientError
from modelplane.ports.predictions import Place, Prediction, Predictions
from modelplane.resources.environment import Environment
from modelplane.resources.meta import DEFAULT_ENVIRONMENT
from modelplane.resources.model_deployment import ModelDeployment
from modelplane_runtime.predictions import is_sampled

BATCH, SINGLE = "application/cloudevents-batch+json", "application/cloudevents+json"
MAX_FAULTS = 20
_ANSWER: dict[int | str, dict[str, Any]] = {
    202: {"description": "How many predictions were kept, and what could not be."}
}
_UNKNOWN_NAMES = 1_000
_NOTED_LOSSES = 10_000
_log = structlog.get_logger(__name__)

_Deployments = Mapping[tuple[str, str], ModelDeployment]
_Loss = tuple[tuple[object, ...], Place, int]
"""What names it, whose it is, how many rows."""


def store_of(context: Context) -> Predictions:
    """Return the store of predictions.

    Raises
    ------
    TransientError
        This control plane has none.
    """
    store = context.dependencies.predictions
    if store is None:
        raise TransientError("this control plane keeps no predictions")
    return store


def add_prediction_routes(routes: Routes) -> None:
    """Add the routes of predictions."""

    async def post(
        request: Request,
        environment: Annotated[
            str | None,
            Query(description="Where, of events whose namespace is no environment."),
        ] = None,
    ) -> Response:
        """Take predictions; what came before changes nothing."""
        context = context_of(request)
        await context.admit(request, "report", "Prediction")
        store, limits = store_of(context), context.dependencies.limits
        body = await read_body(request, limits.telemetry_bytes, limits.idle_timeout_s)
        headers = dict(request.headers)
        events, faults = await asyncio.to_thread(_read_events, headers, body)
        deployments, unknown = await _find_deployments(context, events, environment)
        events = [event for event in events if _where(event) not in unknown]
        halves = [event for event in events if event.type != DROPPED_TYPE]
        told = [event for event in events if event.type == DROPPED_TYPE]
        clock = context.dependencies.clock
        paired = context.pairs.put(halves, clock.monotonic_s(), size_bytes=len(body))
        # What waited is of other requests, and its deployment may be gone meanwhile.
        waited = [*(response for _, response in paired.pairs), *paired.lost]
        more, _ = await _find_deployments(context, waited, environment)
        intake = _Intake({**deployments, **more})
        await asyncio.to_thread(intake.take, paired.pairs, clock.now())
        intake.note_lost([*told, *paired.lost])
        kept = await store.add(intake.rows) if intake.rows else 0
        await _note_losses(context, store, intake.lost)
        if unknown:
            raise _unknown_error(context, unknown, kept)
        if faults and not halves and not told:
            raise InvalidResource("not CloudEvents of predictions", faults[:MAX_FAULTS])
        answer = {
            "kept": kept,
            "known": len(intake.rows) - kept,
            "ignored": intake.ignored,
            "waiting": len(context.pairs),
            "faults": [{"path": f.path, "message": f.message} for f in faults[:MAX_FAULTS]],
        }
        return json_response(answer, 202)

    routes.add(
        "POST",
        "/predictions",
        post,
        tag="Prediction",
        operation_id="postPredictions",
        summary="Take predictions in KServe's logger format",
        responses=_ANSWER,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {BATCH: {}, SINGLE: {}, "application/json": {}},
            }
        },
    )


def _read_events(
    headers: Mapping[str, str], body: bytes
) -> tuple[list[PredictionEvent], list[FieldError]]:
    """Return the events of a request, and what is wrong with the others."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        data = from_json(body) if body.strip() else None
    except ValueError as error:
        raise InvalidResource(f"the body is not JSON: {error}") from None
    if media_type == BATCH:
        if not isinstance(data, list):
            raise InvalidResource("a batch of CloudEvents is a list")
        found = [read_event(item, f"[{index}]") for index, item in enumerate(data)]
    elif media_type == SINGLE:
        found = [read_event(data)]
    elif "ce-type" in headers:
        told = {n.removeprefix("ce-"): v for n, v in headers.items() if n.startswith("ce-")}
        found = [read_event({**told, "data": data})]
    else:
        raise InvalidResource(
            "not CloudEvents",
            [FieldError("content-type", f"must be {BATCH} or {SINGLE}, or send ce- headers")],
        )
    events = [event for event in found if isinstance(event, PredictionEvent)]
    return events, [fault for fault in found if isinstance(fault, FieldError)]


def _where(event: PredictionEvent) -> tuple[str, str]:
    """Return what an event calls environment and deployment."""
    return event.environment, event.deployment


async def _find_deployments(
    context: Context, events: Sequence[PredictionEvent], environment: str | None
) -> tuple[_Deployments, set[tuple[str, str]]]:
    """Return the deployments by what events call them, and the names of which there is none."""
    found: dict[tuple[str, str], ModelDeployment] = {}
    unknown: set[tuple[str, str]] = set()
    for where in dict.fromkeys(map(_where, events)):
        place = where[0]
        if environment is not None and await context.store.find(Environment, place) is None:
            place = environment
        deployment = await context.store.find(ModelDeployment, where[1], place) if place else None
        if deployment is None:
            unknown.add(where)
        else:
            found[where] = deployment
    return found, unknown


def _unknown_error(context: Context, unknown: set[tuple[str, str]], kept: int) -> NotFound:
    """Return the error for deployments that there are not; each is logged once."""
    for where in unknown - context.unknown_predictors:
        if len(context.unknown_predictors) < _UNKNOWN_NAMES:
            context.unknown_predictors.add(where)
            _log.warning("predictions_of_unknown", environment=where[0], deployment=where[1])
    names = ", ".join(f"{name!r} in {place!r}" for place, name in sorted(unknown)[:5])
    return NotFound(
        f"there is no deployment {names}; {kept} predictions of others were kept",
        hint="the namespace is the environment, or name one with ?environment=",
    )


async def _note_losses(context: Context, store: Predictions, losses: Sequence[_Loss]) -> None:
    """Count losses, each once: rows are known by their names, a loss by its event only."""
    new: dict[Place, dict[tuple[object, ...], int]] = {}
    for key, place, count in losses:
        if key not in context.noted_losses:
            new.setdefault(place, {})[key] = count
    for counts in new.values():
        context.noted_losses.update(dict.fromkeys(counts))
    try:
        for place in list(new):
            await store.add_dropped(place, sum(new[place].values()))
            del new[place]
    finally:
        for counts in new.values():  # not counted: who sends them again is heard
            for key in counts:
                context.noted_losses.pop(key, None)
        for key in list(context.noted_losses)[:-_NOTED_LOSSES]:
            context.noted_losses.pop(key, None)


def _place_of(event: PredictionEvent, deployment: ModelDeployment) -> Place:
    """Return who predicted; KServe knows no versions: then it is the stable one."""
    stable = deployment.status.stable
    version = event.version or (stable.version if stable else "") or deployment.spec.version
    rule = event.attributes.get("rule", "")
    return Place(
        deployment.metadata.environment or DEFAULT_ENVIRONMENT,
        deployment.metadata.name,
        version,
        event.endpoint,
        "" if rule == "default" else rule,
        event.is_mirrored,
    )


class _Intake:
    """What becomes of the events of one request."""

    def __init__(self, deployments: _Deployments) -> None:
        self._deployments = deployments
        self.rows: list[Prediction] = []
        self.lost: list[_Loss] = []
        self.ignored = 0

    def take(self, pairs: Sequence[Pair], now: datetime) -> None:
        """Make rows of answered requests, of deployments that keep them."""
        for request, response in pairs:
            deployment = self._deployments.get(_where(response))
            log = deployment.spec.predictions if deployment else None
            # Agents send what was sampled already; the same ids are in the sample everywhere.
            is_sample = log is not None and (
                bool(response.version) or is_sampled(response.id, log.sampling)
            )
            if deployment is None or log is None or not is_sample:
                self.ignored += 1
                continue
            place, labels = _place_of(response, deployment), deployment.spec.labels
            self.rows += make_predictions(request, response, place, log=log, labels=labels, now=now)
            if unkept := count_unkept(response):
                self.lost.append(((response.type, *response.pair_key), place, unkept))

    def note_lost(self, events: Sequence[PredictionEvent]) -> None:
        """Count rows that are said to be lost, and requests whose response did not come."""
        for event in events:
            deployment = self._deployments.get(_where(event))
            count = event.count("rows") if event.type == DROPPED_TYPE else 1
            if deployment is not None and count:
                place = _place_of(event, deployment)
                self.lost.append(((event.type, *event.pair_key), place, count))
