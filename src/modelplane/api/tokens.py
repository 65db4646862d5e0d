"""Tokens: made and revoked; the secret is in the answer once and nowhere else."""

from __future__ import annotations

from datetime import datetime, timedelta

from fastapi import Request
from starlette.responses import Response

from modelplane.api.access import Context, context_of
from modelplane.api.actions import read_action
from modelplane.api.answers import json_response, part_response, show
from modelplane.api.granting import check_token_revoked
from modelplane.api.identity import make_token, subject_of
from modelplane.api.routes import Routes
from modelplane.errors import Conflict, FieldError, InvalidResource, NotFound
from modelplane.ports.store import Transaction
from modelplane.resources.meta import Subject, check_name
from modelplane.resources.quantities import parse_duration
from modelplane.resources.token import Token


def add_token_routes(routes: Routes) -> None:
    """Add the actions on tokens."""

    async def act(request: Request, name: str, verb: str) -> Response:
        """Create (body: groups, expiresIn) or revoke a token."""
        context = context_of(request)
        subject = await context.admit(request, "act", "Token")
        if verb not in {"create", "revoke"}:
            raise NotFound(f"a token has no action {verb[:80]!r}", hint="it has: create, revoke")
        fields: dict[str, type] = {"groups": list, "expiresIn": str} if verb == "create" else {}
        body, asked = await read_action(context, request, subject, **fields)
        transaction = Transaction(subject, asked.reason)
        if verb == "revoke":
            # One at a time: of two that are revoked at once, each would leave the other.
            async with context.identities.revoking:
                token = await context.store.get(Token, name)
                await check_token_revoked(context.store, token, asked.now)
                transaction.delete(token, "revoke")
                await context.store.commit(transaction)
            context.identities.forget()
            return part_response(show(token))
        _check(name, body.get("groups", []))
        if await context.store.find(Token, name) is not None:
            raise Conflict(f"there is a token {name!r}", hint="revoke it first")
        secret = context.dependencies.new_secret()
        expires_at = _expiry(body.get("expiresIn"), asked.now)
        groups = tuple(dict.fromkeys(body.get("groups", [])))
        token = make_token(name, groups, secret, expires_at=expires_at)
        transaction.create(token)
        (created,) = await context.store.commit(transaction)
        context.identities.forget()
        body = {"resource": show(created).to_dict(), "secret": secret}
        return json_response(body | {"warnings": await _warn(context, subject_of(token))}, 201)

    routes.add(
        "POST",
        "/tokens/{name}:{verb}",
        act,
        tag="Token",
        operation_id="actOnToken",
        summary="create or revoke",
    )


async def _warn(context: Context, subject: Subject) -> list[str]:
    authority = await context.roles.current()
    if authority.bindings_of(subject):
        return []
    return [
        f"{subject.name} may do nothing yet: no role is bound to its groups; see modelplane get "
        "role-bindings"
    ]


def _check(name: str, groups: list[object]) -> None:
    faults = []
    try:
        check_name(name)
    except ValueError as error:
        faults.append(FieldError("path.name", str(error)))
    for index, group in enumerate(groups):
        if not isinstance(group, str) or not 0 < len(group) <= 63:
            faults.append(FieldError(f"groups[{index}]", "must be text of 1 to 63 characters"))
    if len(groups) > 20:
        faults.append(FieldError("groups", "20 at most"))
    if faults:
        raise InvalidResource("the token is not valid", faults)


def _expiry(text: str | None, now: datetime) -> datetime | None:
    if text is None:
        return None
    try:
        return now + timedelta(seconds=parse_duration(text))
    except ValueError as error:
        raise InvalidResource("not valid", [FieldError("expiresIn", str(error))]) from None
