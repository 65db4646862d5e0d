"""Playbooks: run by hand, answered, cancelled; and who may apply one.

``POST /playbooks/{name}:run`` and ``POST /playbook-runs/{name}:{answer|cancel}``. Thin: loads what
`decisions.playbook_starts` and `decisions.playbook_answers` need, commits what they return.
Playbooks are declared like every other kind, and what becomes of runs is `controllers.playbooks`.
"""

from __future__ import annotations

import re
from typing import Any

from fastapi import Request
from starlette.responses import Response

from modelplane.api.access import Context, context_of
from modelplane.api.actions import read_action
from modelplane.api.answers import part_response
from modelplane.api.committing import commit
from modelplane.api.routes import Routes
from modelplane.decisions.admission import Asked
from modelplane.decisions.authorization import Verb
from modelplane.decisions.playbook_answers import answer_step, cancel_run, may_answer
from modelplane.decisions.playbook_checks import find_faults
from modelplane.decisions.playbook_rights import rights_of
from modelplane.decisions.playbook_runs import surplus
from modelplane.decisions.playbook_starts import choose_subject, start_by_hand
from modelplane.errors import FieldError, Forbidden, InvalidResource, NotFound
from modelplane.ports.store import Transaction
from modelplane.resources.alerting import Alert
from modelplane.resources.meta import Subject
from modelplane.resources.playbook import Playbook, PlaybookRun

_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_PLAYBOOK, _RUN = Playbook.__name__, PlaybookRun.__name__


async def allow_playbook(context: Context, subject: Subject, declared: Playbook) -> None:
    """Raise `Forbidden` unless `subject` may do all that the playbook does, wherever it may."""
    await context.allow(subject, "run", _PLAYBOOK)
    for right in rights_of(declared.spec):
        try:
            await context.allow(subject, right.verb, right.kind, right.environment, name=right.name)
        except Forbidden as error:
            raise Forbidden(f"step {right.step}: {error.message}") from None


def check_playbook(declared: Playbook) -> None:
    """Raise `InvalidResource` when something in it can never work."""
    faults = find_faults(declared.spec)
    if faults:
        raise InvalidResource(f"Playbook {declared.metadata.name} is not valid", faults)


def add_playbook_routes(routes: Routes) -> None:
    """Add the actions on playbooks and on their runs."""
    begin = {"alert": "ReplicaDown-6f0d", "dryRun": True, "reason": "why"}
    routes.add(
        "POST",
        f"/{Playbook.plural}/{{name}}:{{verb}}",
        _act_on_playbook,
        responses={201: {"model": PlaybookRun}},
        tag=_PLAYBOOK,
        operation_id="runPlaybook",
        summary="run: deal with an alert now, or say what that would do",
        openapi_extra=_body(begin),
    )
    answer = {"step": "ask", "agrees": True, "reason": "why"}
    routes.add(
        "POST",
        f"/{PlaybookRun.plural}/{{name}}:{{verb}}",
        _act_on_run,
        responses={200: {"model": PlaybookRun}},
        tag=_RUN,
        operation_id="actOnPlaybookRun",
        summary="answer, cancel",
        openapi_extra=_body(answer),
    )


def _body(example: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "example": example}
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}


async def _act_on_playbook(request: Request, name: str, verb: str) -> Response:
    """Begin a run by hand."""
    context = context_of(request)
    subject = await context.admit(request, "run", _PLAYBOOK, name=name)
    if verb != "run":
        raise NotFound(f"a playbook has no action {verb[:80]!r}", hint="it has: run")
    body, asked = await read_action(context, request, subject, alert=str, labels=dict, dryRun=bool)
    labels = _read_labels(body.get("labels", {}))

    async def prepare() -> tuple[Transaction, PlaybookRun]:
        playbook = await context.store.get(Playbook, name)
        alerts, _ = await context.store.list(Alert)
        runs, _ = await context.store.list(PlaybookRun)
        alert, about = choose_subject(playbook, alerts, body.get("alert"), labels)
        counted, run = start_by_hand(
            playbook,
            runs,
            alert,
            labels=about,
            dry_run=body.get("dryRun", False),
            subject=subject.name,
        )
        transaction = Transaction(asked.subject, asked.reason)
        transaction.update(counted, "playbook.begin")
        transaction.create(run, "playbook.run")
        for old in surplus(name, runs, alerts, asked.now):
            transaction.delete(old, "playbook.forget")
        if alert is not None and not run.spec.dry_run:
            transaction.update(alert.with_status(run=run.metadata.name), "playbook.begin")
        return transaction, run

    run, written = await commit(context.store, prepare)
    return part_response(next((r for r in written if r.key == run.key), run), 201)


def _read_labels(given: dict[Any, Any]) -> dict[str, str]:
    faults = [
        FieldError(f"labels.{str(name)[:80]}", "must be text")
        for name, value in given.items()
        if not isinstance(value, str)
    ]
    faults += [
        FieldError(f"labels.{name[:80]}", "not the name of a label: letters, digits and '_'")
        for name in given
        if not _LABEL.fullmatch(name)
    ]
    if faults:
        raise InvalidResource("the labels are not valid", faults)
    return given


async def _act_on_run(request: Request, name: str, verb: str) -> Response:
    """Answer a step that asks, or end a run."""
    context = context_of(request)
    right: Verb = "approve" if verb == "answer" else "run"
    subject = await context.admit(request, right, _RUN, name=name)
    if verb == "cancel":
        _, asked = await read_action(context, request, subject)
        return await _change(context, name, verb, asked)
    if verb != "answer":
        raise NotFound(f"a playbook run has no action {verb[:80]!r}", hint="it has: answer, cancel")
    body, asked = await read_action(context, request, subject, step=str, agrees=bool)
    missing = [FieldError(field, "required") for field in ("step", "agrees") if field not in body]
    if missing:
        raise InvalidResource("the answer is not valid", missing)
    return await _change(context, name, verb, asked, step=body["step"], agrees=body["agrees"])


async def _change(
    context: Context, name: str, verb: str, asked: Asked, *, step: str = "", agrees: bool = False
) -> Response:
    may_run = await _may_run(context, asked.subject)

    async def prepare() -> tuple[Transaction, PlaybookRun]:
        run = await context.store.get(PlaybookRun, name)
        if verb == "cancel":
            changed = cancel_run(run)
        else:
            may_answer(run, step, asked.subject, may_run=may_run)
            changed = answer_step(run, step, agrees=agrees, asked=asked)
        transaction = Transaction(asked.subject, asked.reason)
        if changed != run:
            transaction.update(changed, f"playbook.{verb}")
        return transaction, changed

    run, written = await commit(context.store, prepare)
    return part_response(written[0] if written else run)


async def _may_run(context: Context, subject: Subject) -> bool:
    try:
        await context.allow(subject, "run", _PLAYBOOK)
    except Forbidden:
        return False
    return True
