"""Approvals: answered, and listed by who may answer them.

``POST /approvals/{name}:{approve|reject}`` and ``GET /approvals:mine``. Who may answer is
`decisions.approval_answers`; one-time links (`approval_links`) end in the same `answer`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from fastapi import Request
from starlette.responses import Response

from modelplane.api.access import Context, context_of
from modelplane.api.actions import EnvironmentQuery
from modelplane.api.answers import list_response, part_response
from modelplane.api.bodies import take_fields
from modelplane.api.committing import commit
from modelplane.api.identity import subject_of
from modelplane.api.routes import Routes
from modelplane.decisions.approval_answers import (
    Answer,
    Representation,
    Verdict,
    answer_approval,
    may_answer,
)
from modelplane.decisions.notifications import approval_event
from modelplane.errors import Forbidden, NotFound
from modelplane.ports.outbox import add_notifications
from modelplane.ports.store import Store, Transaction
from modelplane.resources.approval import Approval, Delegation
from modelplane.resources.meta import DEFAULT_ENVIRONMENT, Subject
from modelplane.resources.notification import EventType
from modelplane.resources.token import Token

_VERBS: dict[str, Verdict] = {"approve": "approve", "reject": "reject"}
_EVENTS: dict[str, EventType] = {
    "Approved": "approval.approved",
    "Rejected": "approval.rejected",
}


@dataclass(frozen=True, slots=True)
class Question:
    """Which approval is answered; `check` is called with it each time it was read."""

    name: str
    environment: str
    check: Callable[[Approval | None], Approval] | None = None


async def load_representation(store: Store, now: datetime) -> Representation:
    """Return who may answer for whom, and who has what groups now."""
    delegations, _ = await store.list(Delegation)
    subjects = [subject_of(token) for token in (await store.list(Token))[0] if _lives(token, now)]
    return Representation(delegations, {subject.name: subject for subject in subjects})


async def find_subject(store: Store, name: str, now: datetime) -> Subject | None:
    """Return the subject of the token `name`, with the groups it has now; None without one."""
    try:
        token = await store.find(Token, name)
    except ValueError:
        return None
    return subject_of(token) if token is not None and _lives(token, now) else None


async def answer(context: Context, question: Question, given: Answer) -> Approval:
    """Take an answer, and tell the channels what came of it.

    Raises
    ------
    NotFound, Forbidden, Conflict, InvalidResource
        There is no such approval, or the answer does not count.
    """
    store = context.store

    async def prepare() -> tuple[Transaction, Approval]:
        if question.check is not None:
            found = await store.find(Approval, question.name, question.environment)
            approval = question.check(found)
        else:
            approval = await store.get(Approval, question.name, question.environment)
        representation = await load_representation(store, given.at)
        answered = answer_approval(approval, given, representation)
        transaction = Transaction(given.subject, given.reason)
        transaction.update(answered, f"approval.{given.decision}")
        event = _EVENTS.get(answered.status.phase)
        if event is not None:
            await add_notifications(store, transaction, approval_event(answered, event, given.at))
        return transaction, answered

    _, written = await commit(store, prepare)
    answered = written[0]
    assert isinstance(answered, Approval)
    return answered


def add_approval_routes(routes: Routes) -> None:
    """Add the actions on approvals."""

    async def act(
        request: Request, name: str, verb: str, environment: EnvironmentQuery = None
    ) -> Response:
        """Approve or reject (body: reason; a rejection needs one)."""
        context = context_of(request)
        place = environment or DEFAULT_ENVIRONMENT
        subject = await context.admit(request, "approve", "Approval", place, name=name)
        if verb not in _VERBS:
            hint = f"it has: {', '.join(_VERBS)}"
            raise NotFound(f"an approval has no action {verb[:80]!r}", hint=hint)
        body = take_fields(await context.read_object(request), reason=str)
        now = context.dependencies.clock.now()
        given = Answer(subject, _VERBS[verb], body.get("reason", ""), now)
        return part_response(await answer(context, Question(name, place), given))

    async def list_mine(request: Request) -> Response:
        """List the open approvals that the one who asks may answer, also for others."""
        context = context_of(request)
        subject = await context.admit_somewhere(request, "list", "Approval")
        now = context.dependencies.clock.now()
        approvals, version = await context.store.list(Approval)
        representation = await load_representation(context.store, now)
        named = [a for a in approvals if may_answer(a, subject, representation, now)]
        mine = [a for a in named if await _may_approve(context, subject, a)]
        mine.sort(key=lambda approval: approval.spec.expires_at)
        return list_response("Approval", mine, version)

    routes.add(
        "GET",
        "/approvals:mine",
        list_mine,
        tag="Approval",
        operation_id="listMyApprovals",
        summary="List the approvals that one may answer",
    )
    routes.add(
        "POST",
        "/approvals/{name}:{verb}",
        act,
        responses={200: {"model": Approval}},
        tag="Approval",
        operation_id="actOnApproval",
        summary="approve or reject",
    )


async def _may_approve(context: Context, subject: Subject, approval: Approval) -> bool:
    """Whether the roles of `subject` let it answer `approval`, whoever a policy names."""
    place, model = approval.metadata.environment, approval.spec.model
    try:
        await context.allow(subject, "approve", "Approval", place, model=model)
    except Forbidden:
        return False
    return True


def _lives(token: Token, now: datetime) -> bool:
    return token.spec.expires_at is None or token.spec.expires_at > now
