"""Pipelines and their runs: start one, cancel it, its report, and what the cache would do.

Thin: rules are in `decisions.gate_runs`, `gate_plans` and `gate_reports`. Pipelines themselves are
declared like every other kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Query, Request
from starlette.responses import Response

from modelplane.api.access import Context, context_of
from modelplane.api.actions import read_action
from modelplane.api.answers import json_response, part_response
from modelplane.api.committing import commit
from modelplane.api.deployments import Applied, find_version, load_version
from modelplane.api.routes import Routes
from modelplane.decisions.admission import Asked
from modelplane.decisions.gate_plans import CacheExplanation, explain_stage, plan_stage
from modelplane.decisions.gate_reports import (
    MEDIA_TYPES,
    GateReport,
    ReportFormat,
    format_html,
    format_junit,
    make_report,
)
from modelplane.decisions.gate_runs import check_meant, make_run
from modelplane.decisions.versions import LATEST
from modelplane.errors import Conflict, FieldError, InvalidResource, NotFound
from modelplane.ports.gate_runs import (
    find_champion,
    first_revision,
    last_result,
    load_surroundings,
    next_number,
    results_of,
    served_model,
)
from modelplane.ports.store import Store, Transaction
from modelplane.resources.fields import suggest
from modelplane.resources.gate_run import GateRun, StageResult
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.validation_pipeline import ValidationPipeline

_PIPELINE, _RUN = ValidationPipeline.__name__, GateRun.__name__

FormatQuery = Annotated[ReportFormat, Query(description="json, junit (XML) or html.")]
VersionQuery = Annotated[str, Query(description="The version, `MODEL@VERSION`.")]


def add_gate_routes(routes: Routes) -> None:
    """Add the routes of pipelines and runs; those of every kind come with `kinds`."""
    text = {"type": "string"}
    properties = {"model": text, "version": text, "noCache": {"type": "boolean"}, "reason": text}
    schema = {"type": "object", "required": ["model"], "properties": properties}
    routes.add(
        "POST",
        "/validation-pipelines/{name}:{verb}",
        _act_on_pipeline,
        tag=_PIPELINE,
        operation_id="runValidationPipeline",
        summary="run: take a version through the stages",
        openapi_extra={"requestBody": {"content": {"application/json": {"schema": schema}}}},
    )
    routes.add(
        "GET",
        "/validation-pipelines/{name}/cache",
        _explain_cache,
        tag=_PIPELINE,
        operation_id="explainCache",
        summary="Which stages would be reused for a version, and why not the others",
    )
    routes.add(
        "POST",
        "/gate-runs/{name}:{verb}",
        _act_on_run,
        tag=_RUN,
        operation_id="cancelGateRun",
        summary="cancel",
    )
    routes.add(
        "GET",
        "/gate-runs/{name}/report",
        _report,
        tag=_RUN,
        operation_id="getGateReport",
        summary="Get everything that a run found, as JSON, JUnit XML or HTML",
        responses={200: {"model": GateReport}},
    )


# -- pipelines ----------------------------------------------------------------------------


async def _act_on_pipeline(request: Request, name: str, verb: str) -> Response:
    """Start a run."""
    context = context_of(request)
    subject = await context.admit_somewhere(request, "run", _PIPELINE)
    if verb != "run":
        raise NotFound(f"a pipeline has no action {verb[:80]!r}", hint="it has: run")
    body, asked = await read_action(context, request, subject, model=str, version=str, noCache=bool)
    if not body.get("model"):
        fault = FieldError("model", "required: the model to run on")
        raise InvalidResource("the body is not valid", [fault])
    await context.allow(subject, "run", _PIPELINE, model=body["model"])
    return (await _start(context, name, body, asked)).response()


async def _start(context: Context, name: str, body: dict[str, Any], asked: Asked) -> Applied:
    store = context.store

    async def prepare() -> tuple[Transaction, GateRun]:
        pipeline = await load_pipeline(store, name)
        version = await load_version(store, body["model"], body.get("version") or LATEST)
        run = await _make_run(store, pipeline, version, asked, no_cache=bool(body.get("noCache")))
        transaction = Transaction(asked.subject, asked.reason)
        transaction.create(run, "gate.hand")
        return transaction, run

    run, written = await commit(store, prepare)
    return Applied("created", written[0] if written else run)


async def _make_run(
    store: Store,
    pipeline: ValidationPipeline,
    version: ModelVersion,
    asked: Asked,
    *,
    no_cache: bool = False,
) -> GateRun:
    """Return the next run of a pipeline, for a version as its first promotion would run it."""
    model = version.spec.model
    check_meant(pipeline, model, await store.find(Model, model))
    revision = await first_revision(store, version)
    return make_run(
        pipeline,
        await served_model(store, version, revision),
        await find_champion(store, model),
        number=await next_number(store, pipeline.metadata.name),
        trigger="hand",
        subject=asked.subject,
        reason=asked.reason,
        no_cache=no_cache,
    )


async def load_pipeline(store: Store, name: str) -> ValidationPipeline:
    """Return a pipeline; `NotFound` says which there are."""
    found = await store.find(ValidationPipeline, name)
    if found is not None:
        return found
    known = [p.metadata.name for p in (await store.list(ValidationPipeline))[0]]
    hint = suggest(name, known) if known else "there are no pipelines; apply one"
    raise NotFound(f"there is no pipeline {name[:80]!r}", hint=hint)


async def _explain_cache(request: Request, name: str, version: VersionQuery = "") -> Response:
    """Say for each stage whether a result would be reused now."""
    context = context_of(request)
    subject = await context.admit(request, "get", _PIPELINE, name=name)
    store = context.store
    pipeline = await load_pipeline(store, name)
    record = await find_version(store, version)
    asked = Asked(subject, context.dependencies.clock.now())
    run = await _make_run(store, pipeline, record, asked)
    place = context.dependencies.stage_place
    around = await load_surroundings(store, run.spec.candidate, run.spec.stages, place)
    explained = []
    for stage in run.spec.stages:
        plan = plan_stage(stage, run, around)
        before = await last_result(store, record.spec.model, stage.name)
        told = explain_stage(plan, await results_of(store, plan.key), before)
        explained.append(_explanation(told) | {"key": plan.key, "inputs": dict(plan.inputs)})
    stages = {"pipeline": name, "version": record.metadata.name, "stages": explained}
    return json_response(stages)


def _explanation(told: CacheExplanation) -> dict[str, Any]:
    hit, before = told.hit, told.before
    return {
        "stage": told.stage,
        "check": told.check,
        "hit": hit is not None,
        "reason": told.reason,
        "result": hit.metadata.name if hit else None,
        "run": hit.spec.run if hit else None,
        "madeAt": hit.metadata.created_at if hit else None,
        "passed": hit.spec.outcome.passed if hit else None,
        "changed": list(told.changed),
        "before": before.metadata.name if before else None,
    }


# -- runs ---------------------------------------------------------------------------------


async def _act_on_run(request: Request, name: str, verb: str) -> Response:
    """Cancel a run: what runs is ended, nothing else is started."""
    context = context_of(request)
    subject = await context.admit(request, "run", _RUN, name=name)
    if verb != "cancel":
        raise NotFound(f"a run has no action {verb[:80]!r}", hint="it has: cancel")
    _, asked = await read_action(context, request, subject)
    store = context.store

    async def prepare() -> tuple[Transaction, GateRun]:
        run = await store.get(GateRun, name)
        transaction = Transaction(asked.subject, asked.reason)
        if run.finished and run.status.phase != "Cancelled":
            raise Conflict(f"{name} has ended: {run.status.phase}")
        cancelled = run.with_spec(cancelled=True)
        if cancelled != run:
            transaction.update(cancelled, "gate.cancel")
        return transaction, cancelled

    run, written = await commit(store, prepare)
    return Applied("changed" if written else "unchanged", written[0] if written else run).response()


async def _report(request: Request, name: str, format: FormatQuery = "json") -> Response:
    """Return the report of a run, finished or not."""
    context = context_of(request)
    await context.admit(request, "get", _RUN, name=name)
    run = await context.store.get(GateRun, name)
    report = make_report(run, {r.metadata.name: r for r in await _results(context.store, run)})
    if format == "json":
        return part_response(report)
    text = format_junit(report) if format == "junit" else format_html(report)
    headers = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return Response(text, media_type=f"{MEDIA_TYPES[format]}; charset=utf-8", headers=headers)


async def _results(store: Store, run: GateRun) -> Sequence[StageResult]:
    names = [stage.result for stage in run.status.stages if stage.result]
    found = [await store.find(StageResult, name) for name in names]
    return [result for result in found if result is not None]
