"""Training: start a run of a trigger, cancel it, and the token that its Job works with.

Thin: rules are in `decisions.training`. Triggers themselves are declared like every other kind,
and what becomes of a run is `controllers.training_runs`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fastapi import Request
from starlette.responses import Response

from modelplane.api.access import Context, context_of
from modelplane.api.actions import read_action
from modelplane.api.answers import json_response
from modelplane.api.committing import commit
from modelplane.api.deployments import Applied
from modelplane.api.identity import make_token
from modelplane.api.routes import Routes
from modelplane.decisions.admission import Asked
from modelplane.decisions.roles import AGENT_GROUP
from modelplane.decisions.training import start_run
from modelplane.decisions.training_names import is_training_token, token_name, training_group
from modelplane.errors import Conflict, Forbidden, NotFound
from modelplane.ports.store import Store, Transaction
from modelplane.resources.fields import suggest
from modelplane.resources.job import Job
from modelplane.resources.meta import Subject
from modelplane.resources.model import ModelVersion
from modelplane.resources.notification import NotificationChannel
from modelplane.resources.token import Token
from modelplane.resources.training import TrainingRun, TrainingTrigger

_TRIGGER, _RUN = TrainingTrigger.__name__, TrainingRun.__name__
_SPARE = timedelta(minutes=10)
"""How much longer than its run may take a token is good: it goes with the run, as a rule."""


async def allow_trigger(context: Context, subject: Subject, declared: TrainingTrigger) -> None:
    """Raise `Forbidden` unless `subject` may do by hand what the runs of a trigger do."""
    spec, run = declared.spec, declared.spec.run
    await context.allow(subject, "apply", ModelVersion.__name__, model=spec.model)
    job = run.command or run.mlflow
    if job is not None:
        await context.allow(subject, "apply", Job.__name__, job.environment)
    else:
        # What is posted is signed with a secret, as what goes to a channel is.
        await context.allow(subject, "apply", NotificationChannel.__name__)


def add_training_routes(routes: Routes) -> None:
    """Add the actions on triggers and runs; reading and declaring come with `kinds`."""
    content = {"application/json": {"schema": {"type": "object", "example": {"reason": "why"}}}}
    routes.add(
        "POST",
        f"/{TrainingTrigger.plural}/{{name}}:{{verb}}",
        _act_on_trigger,
        tag=_TRIGGER,
        operation_id="startTraining",
        summary="start: begin a training now",
        openapi_extra={"requestBody": {"content": content}},
    )
    routes.add(
        "POST",
        f"/{TrainingRun.plural}/{{name}}:{{verb}}",
        _act_on_run,
        tag=_RUN,
        operation_id="actOnTrainingRun",
        summary="cancel; token (for agents: what the Job of a run registers with)",
        openapi_extra={"requestBody": {"content": content}},
    )


async def _act_on_trigger(request: Request, name: str, verb: str) -> Response:
    """Begin a run."""
    context = context_of(request)
    subject = await context.admit(request, "run", _TRIGGER, name=name)
    if verb != "start":
        raise NotFound(f"a training trigger has no action {verb[:80]!r}", hint="it has: start")
    _, asked = await read_action(context, request, subject)

    async def prepare() -> tuple[Transaction, TrainingRun]:
        return await prepare_training(context.store, name, asked)

    run, written = await commit(context.store, prepare)
    begun = next((r for r in written if isinstance(r, TrainingRun)), run)
    return Applied("created", begun).response()


async def prepare_training(
    store: Store, name: str, asked: Asked
) -> tuple[Transaction, TrainingRun]:
    """Return what begins a run of a trigger by hand, and the run.

    Raises
    ------
    NotFound
        There is no such trigger; says which there are.
    Conflict
        A run of it or of its model is under way.
    """
    trigger = await store.find(TrainingTrigger, name)
    if trigger is None:
        known = [one.metadata.name for one in (await store.list(TrainingTrigger))[0]]
        hint = suggest(name, known) if known else "there are none; apply one"
        raise NotFound(f"there is no training trigger {name[:80]!r}", hint=hint)
    runs, _ = await store.list(TrainingRun)
    detail = asked.reason or f"{asked.subject.name} asked for it"
    counted, run = start_run(
        trigger, runs, "hand", subject=asked.subject, detail=detail, now=asked.now
    )
    transaction = Transaction(asked.subject, asked.reason)
    transaction.update(counted, "training.count")
    transaction.create(run, "training.hand")
    return transaction, run


async def _act_on_run(request: Request, name: str, verb: str) -> Response:
    """Cancel a run; or give the agent that runs its Job the token for it."""
    context = context_of(request)
    if verb == "token":
        return await _issue(context, request, name)
    subject = await context.admit(request, "run", _RUN, name=name)
    if verb != "cancel":
        raise NotFound(f"a training has no action {verb[:80]!r}", hint="it has: cancel")
    _, asked = await read_action(context, request, subject)
    return (await _cancel(context, name, asked)).response()


async def _cancel(context: Context, name: str, asked: Asked) -> Applied:
    async def prepare() -> tuple[Transaction, TrainingRun]:
        run = await context.store.get(TrainingRun, name)
        transaction = Transaction(asked.subject, asked.reason)
        if run.finished and run.status.phase != "Cancelled":
            raise Conflict(f"{name} has ended: {run.status.phase}")
        cancelled = run if run.finished else run.with_spec(cancelled=True)
        if cancelled != run:
            transaction.update(cancelled, "training.cancel")
        return transaction, cancelled

    run, written = await commit(context.store, prepare)
    return Applied("changed" if written else "unchanged", written[0] if written else run)


async def _issue(context: Context, request: Request, name: str) -> Response:
    """Make the token of a run anew; one that was made before is good no more."""
    subject = await context.admit(request, "act", _RUN)
    if AGENT_GROUP not in subject.groups:
        raise Forbidden(
            "only agents get the tokens of trainings", hint="they ask for the Jobs they run"
        )
    body, asked = await read_action(context, request, subject, job=str)
    secret = context.dependencies.new_secret()

    async def prepare() -> tuple[Transaction, Token]:
        run = await context.store.get(TrainingRun, name)
        if run.finished or not run.status.job or run.status.job != body.get("job"):
            raise Conflict(f"{name} is not trained by the job {str(body.get('job'))[:200]!r} now")
        token = _make_token(run, secret, asked)
        transaction = Transaction(asked.subject, asked.reason)
        before = await context.store.find(Token, token.metadata.name)
        if before is not None and not is_training_token(before):
            raise Conflict(f"there is a token {token.metadata.name!r}, and it is somebody's")
        if before is not None:
            token = before.with_(spec=token.spec)
        transaction.put(token, "training.token")
        # Written with it, so that a run that ends meanwhile leaves no token behind.
        transaction.update(run.with_status(token=token.metadata.name), "training.token")
        return transaction, token

    token, _ = await commit(context.store, prepare)
    context.identities.forget()
    answer: dict[str, Any] = {"name": token.metadata.name, "secret": secret}
    return json_response(answer, 201)


def _make_token(run: TrainingRun, secret: str, asked: Asked) -> Token:
    expires_at = asked.now + timedelta(seconds=run.spec.timeout_s) + _SPARE
    groups = (training_group(run.spec.model),)
    return make_token(token_name(run.metadata.name), groups, secret, expires_at=expires_at)
