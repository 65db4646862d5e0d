"""Delegations: made and ended by approvers.

``POST /delegations`` and ``POST /delegations/{name}:revoke``. Whether one means anything is
`decisions.approval_answers.check_delegation`; whether it counts is decided at each answer.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Any

from fastapi import Request
from starlette.responses import Response

from modelplane.api.access import context_of
from modelplane.api.answers import part_response
from modelplane.api.approvals import find_subject
from modelplane.api.bodies import parse_part, take_fields
from modelplane.api.committing import commit
from modelplane.api.routes import Routes
from modelplane.decisions.approval_answers import MAX_REASON, check_delegation
from modelplane.errors import FieldError, InvalidResource, NotFound
from modelplane.ports.store import Transaction
from modelplane.resources.approval import ApprovalPolicy, Delegation
from modelplane.resources.meta import Metadata
from modelplane.resources.quantities import parse_duration

MAX_DELEGATION = timedelta(days=366)
MAX_POLICIES = 100


def add_delegation_routes(routes: Routes) -> None:
    """Add the actions on delegations."""

    async def delegate(request: Request) -> Response:
        """Let somebody answer for the one who asks (body: to, until, policies, reason)."""
        context = context_of(request)
        subject = await context.admit_somewhere(request, "act", "Delegation")
        body = take_fields(
            await context.read_object(request), to=str, until=str, policies=list, reason=str
        )
        now = context.dependencies.clock.now()
        delegation = read_delegation(body, subject.name, now)
        if await find_subject(context.store, delegation.spec.delegate, now) is None:
            message = "there is no token of that name"
            raise InvalidResource("the delegation is not valid", [FieldError("to", message)])
        policies, _ = await context.store.list(ApprovalPolicy)
        check_delegation(delegation, subject, policies)

        async def prepare() -> tuple[Transaction, Delegation]:
            name = delegation.metadata.name
            existing = await context.store.find(Delegation, name)
            made = existing.with_(spec=delegation.spec) if existing is not None else delegation
            transaction = Transaction(subject, delegation.spec.reason)
            transaction.put(made, "delegate")
            return transaction, made

        made, written = await commit(context.store, prepare)
        return part_response(written[0] if written else made, 201)

    async def act_on_delegation(request: Request, name: str, verb: str) -> Response:
        """Revoke a delegation: one's own, or any where one may delete them."""
        context = context_of(request)
        subject = await context.admit_somewhere(request, "act", "Delegation")
        if verb != "revoke":
            raise NotFound(f"a delegation has no action {verb[:80]!r}", hint="it has: revoke")
        take_fields(await context.read_object(request))
        delegation = await context.store.get(Delegation, name)
        if delegation.spec.delegator != subject.name:
            await context.allow(subject, "delete", "Delegation")
        transaction = Transaction(subject)
        transaction.delete(delegation, "revoke")
        await context.store.commit(transaction)
        return part_response(delegation)

    routes.add(
        "POST",
        "/delegations",
        delegate,
        responses={201: {"model": Delegation}},
        tag="Delegation",
        operation_id="delegate",
        summary="Let somebody answer approvals for oneself",
    )
    routes.add(
        "POST",
        "/delegations/{name}:{verb}",
        act_on_delegation,
        responses={200: {"model": Delegation}},
        tag="Delegation",
        operation_id="actOnDelegation",
        summary="revoke",
    )


def read_delegation(body: dict[str, Any], delegator: str, now: datetime) -> Delegation:
    """Return the delegation that a request's body asks for.

    The same delegation made again takes the place of the earlier one.

    Raises
    ------
    InvalidResource
        A field is missing, or not valid.
    """
    missing = [FieldError(name, "required") for name in ("to", "until") if not body.get(name)]
    if missing:
        raise InvalidResource("the delegation is not valid", missing)
    reason, names = body.get("reason", ""), body.get("policies", [])
    faults = []
    if len(reason) > MAX_REASON:
        faults.append(FieldError("reason", f"at most {MAX_REASON:,} characters"))
    if len(names) > MAX_POLICIES:
        faults.append(FieldError("policies", f"at most {MAX_POLICIES}"))
    until = _read_until(body["until"], now)
    if until is None:
        faults.append(FieldError("until", "write 2d, or a time such as 2026-12-24T18:00:00Z"))
    elif until - now > MAX_DELEGATION:
        faults.append(FieldError("until", f"at most {MAX_DELEGATION.days} days from now"))
    if faults or until is None:
        raise InvalidResource("the delegation is not valid", faults)
    facts = {
        "delegator": delegator,
        "delegate": body["to"],
        "policies": list(dict.fromkeys(name for name in names if isinstance(name, str))),
    }
    digest = hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()[:12]
    dates = {"startsAt": now.isoformat(), "endsAt": until.isoformat()}
    document = {
        "metadata": Metadata(name=f"d-{digest}").to_dict(),
        "kind": "Delegation",
        "spec": {**facts, "policies": names, **dates, "reason": reason},
    }
    return parse_part(Delegation, document)


def _read_until(text: str, now: datetime) -> datetime | None:
    try:
        return now + timedelta(seconds=parse_duration(text))
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
