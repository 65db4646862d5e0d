"""Who am I, and may I: ``GET /authorization`` and ``POST /authorization:check``.

Thin: the same decision as at the door of every route, without doing anything. Everybody may ask
about themselves; asking about others takes reading tokens.
"""

from __future__ import annotations

from typing import Any, cast, get_args

from fastapi import Request
from starlette.responses import Response

from modelplane.api.access import Context, context_of
from modelplane.api.answers import json_response
from modelplane.api.bodies import take_fields
from modelplane.api.identity import subject_of
from modelplane.api.routes import Routes
from modelplane.decisions.authorization import Access, Allowed, Verb, labels_of
from modelplane.decisions.roles import NOT_RESOURCES, THINGS
from modelplane.errors import FieldError, InvalidResource
from modelplane.resources.fields import suggest
from modelplane.resources.kinds import KINDS, find_kind
from modelplane.resources.meta import DEFAULT_ENVIRONMENT, Subject
from modelplane.resources.token import Token

_VERBS: tuple[Verb, ...] = get_args(Verb)
_OVER_ALL = frozenset({"list", "watch"})


def add_authorization_routes(routes: Routes) -> None:
    """Add the two routes."""

    async def whoami(request: Request) -> Response:
        """Say who asks, and which roles that subject has where."""
        context = context_of(request)
        subject = await context.identify(request)
        authority = await context.roles.current()
        roles = [
            {"binding": b.metadata.name, **b.spec.to_dict()} for b in authority.bindings_of(subject)
        ]
        return json_response({"name": subject.name, "groups": subject.groups, "roles": roles})

    async def check(request: Request) -> Response:
        """Say whether a subject may do something, and which rule says so."""
        context = context_of(request)
        subject = await context.identify(request)
        texts = dict.fromkeys(("verb", "kind", "environment", "model", "subject"), str)
        asked = take_fields(await context.read_object(request), **texts)
        about = await _find_subject(context, subject, asked.get("subject"))
        access = await _read_access(context, asked)
        decision = (await context.roles.current()).authorize(about, access)
        allowed = isinstance(decision, Allowed)
        message = "" if isinstance(decision, Allowed) else decision.message
        return json_response({"allowed": allowed, "rule": decision.rule, "message": message})

    text = {"type": "string"}
    properties: dict[str, Any] = {
        "verb": {"type": "string", "enum": list(_VERBS)},
        "kind": {"type": "string", "description": f"A kind, or {', '.join(NOT_RESOURCES)}."},
        "environment": {**text, "description": f"{DEFAULT_ENVIRONMENT} when left out."},
        "model": {**text, "description": "The model that the request would be about."},
        "subject": {**text, "description": "A token's name; the one who asks when left out."},
    }
    schema = {"type": "object", "required": ["verb", "kind"], "properties": properties}
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    routes.add(
        "GET", "/authorization", whoami, tag="Authorization", operation_id="getAuthorization"
    )
    routes.add(
        "POST",
        "/authorization:check",
        check,
        tag="Authorization",
        operation_id="checkAuthorization",
        openapi_extra={"requestBody": body},
    )


async def _find_subject(context: Context, asking: Subject, name: str | None) -> Subject:
    """Return whom a question is about.

    Raises
    ------
    NotFound
        There is no such token.
    Forbidden
        It is another one, and who asks may not read tokens.
    """
    if name is None or name == asking.name:
        return asking
    await context.allow(asking, "get", Token.__name__)
    return subject_of(await context.store.get(Token, name.removeprefix("system:")))


async def _read_access(context: Context, asked: dict[str, str]) -> Access:
    """Return the access that a question is about.

    Raises
    ------
    InvalidResource
        An unknown verb or kind.
    """
    verb, word = asked.get("verb", ""), asked.get("kind", "")
    kind = find_kind(word)
    name = (
        kind.__name__
        if kind is not None
        else next((thing for thing in NOT_RESOURCES if thing.lower() == word.lower()), None)
    )
    faults = []
    if verb not in _VERBS:
        faults.append(FieldError("verb", f"unknown verb; {suggest(verb, _VERBS)}"))
    if name is None:
        faults.append(FieldError("kind", f"unknown kind; {suggest(word, THINGS)}"))
    if faults or name is None:
        raise InvalidResource("the question is not valid", faults)
    place = asked.get("environment")
    if name in KINDS and not KINDS[name].scoped:
        place = None
    elif name in KINDS and verb not in _OVER_ALL:
        place = place or DEFAULT_ENVIRONMENT
    model = asked.get("model")
    index = await context.catalog.current() if model is not None else None
    labels = labels_of(index.models.get(model)) if index is not None and model else ()
    return Access(cast(Verb, verb), name, place, model, labels)
