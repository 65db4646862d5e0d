"""One-time links: a page to answer a request for approval without a token.

``GET /approvals/links/{token}`` shows the question and never changes anything, since mail
scanners and previews follow links; ``POST`` to the same address answers it, once. The seal in the
token admits; what it answers as is the subject that it names, through the very same roles and
the very same decision as with a token of that subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

from fastapi import Request
from starlette.responses import Response

from modelplane.api.access import Context, context_of
from modelplane.api.approval_page import Page, render_page
from modelplane.api.approvals import Question, answer, find_subject
from modelplane.api.bodies import read_body
from modelplane.api.routes import Routes
from modelplane.decisions.approval_answers import Answer
from modelplane.decisions.approval_links import PATH, Link, check_link, open_link
from modelplane.errors import Forbidden, InvalidResource, ModelplaneError
from modelplane.ports.store import Store
from modelplane.resources.approval import Approval
from modelplane.resources.gate_run import StageResult
from modelplane.resources.meta import Subject

MAX_FORM_BYTES = 64 * 2**10
_MAX_RESULTS = 50


def add_approval_link_routes(routes: Routes) -> None:
    """Add the page that links lead to, and what its form is sent to."""

    async def show(request: Request, token: str) -> Response:
        """Show what a link asks; changes nothing."""
        context = context_of(request)
        try:
            link = open_link(token, *_sealing(context))
            found = await context.store.find(Approval, link.name, link.environment)
            approval = check_link(link, found)
            await _find_approver(context, link)
        except ModelplaneError as error:
            return render_page(Page.of_error(error))
        results = await load_results(context.store, approval)
        return render_page(Page.of_question(approval, link.subject, results))

    async def take(request: Request, token: str) -> Response:
        """Take the answer that the page's form sends."""
        context = context_of(request)
        try:
            link = open_link(token, *_sealing(context))
            decision, reason = await _read_form(context, request)
            subject = await _find_approver(context, link)
            now = context.dependencies.clock.now()
            given = Answer(subject, decision, reason, now, link=link.id)
            question = Question(link.name, link.environment, lambda found: check_link(link, found))
            answered = await answer(context, question, given)
        except ModelplaneError as error:
            return render_page(Page.of_error(error))
        return render_page(Page.of_answer(answered, decision))

    described: dict[str, Any] = {"security": []}
    for method, endpoint, name in (("GET", show, "show"), ("POST", take, "answer")):
        routes.add(
            method,
            f"{PATH}/{{token}}",
            endpoint,
            tag="Approval",
            prefix="",
            operation_id=f"{name}ApprovalLink",
            openapi_extra=described,
            responses={200: {"content": {"text/html": {}}}},
        )


async def load_results(store: Store, approval: Approval) -> Sequence[StageResult]:
    """Return the results that an approval rests on, as far as they are kept."""
    found = [await store.find(StageResult, name) for name in approval.spec.results[:_MAX_RESULTS]]
    return [result for result in found if result is not None]


def _sealing(context: Context) -> tuple[bytes, Any]:
    return context.dependencies.link_key, context.dependencies.clock.now()


async def _find_approver(context: Context, link: Link) -> Subject:
    """Return whom a link answers as, if that subject may answer approvals now."""
    now = context.dependencies.clock.now()
    subject = await find_subject(context.store, link.subject, now)
    if subject is None:
        raise Forbidden(f"{link.subject!r} has no token here any more")
    await context.allow(subject, "approve", "Approval", link.environment, name=link.name)
    return subject


async def _read_form(context: Context, request: Request) -> tuple[Any, str]:
    limits = context.dependencies.limits
    body = await read_body(request, MAX_FORM_BYTES, limits.idle_timeout_s)
    try:
        fields = parse_qs(body.decode(), max_num_fields=10, encoding="utf-8", errors="strict")
    except ValueError:
        raise InvalidResource("the form cannot be read") from None
    decision = fields.get("decision", [""])[-1]
    if decision not in {"approve", "reject"}:
        raise InvalidResource("the form says neither approve nor reject")
    return decision, fields.get("reason", [""])[-1]
