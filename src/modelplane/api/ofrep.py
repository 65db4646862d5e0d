"""The OpenFeature Remote Evaluation Protocol 0.3: which version is this user on?

``POST /ofrep/v1/evaluate/flags/{key}`` and ``/ofrep/v1/evaluate/flags``. A flag is a deployment,
its value the version that the user's requests meet. The same answer as `explaining` gives, in
that protocol's words; errors too are as it wants them. Changes nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Header, Request
from pydantic_core import to_json
from starlette.responses import Response

from modelplane.api.access import Context, context_of
from modelplane.api.answers import JSON, json_response
from modelplane.api.explaining import MAX_USER_CHARS, ExplainRequest, explain_split
from modelplane.api.routes import Routes
from modelplane.decisions.assignment import Explanation
from modelplane.errors import Conflict, InvalidResource
from modelplane.resources.meta import DEFAULT_ENVIRONMENT
from modelplane.resources.traffic_split import DEFAULT_RULE, TrafficSplit

_PREFIX = "/ofrep/v1"
ENVIRONMENT_HEADER = "x-modelplane-environment"
"""Says which environment; the protocol has no word for it."""

EnvironmentHeader = Annotated[
    str | None,
    Header(
        alias=ENVIRONMENT_HEADER,
        description=f"The environment; {DEFAULT_ENVIRONMENT} when left out.",
    ),
]
_TARGETING_KEY = "targetingKey"
_ATTRIBUTE = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_INPUT = "input."
_MAX_ATTRIBUTES = 100


class _BadContext(Exception):
    def __init__(self, code: str, details: str) -> None:
        super().__init__(details)
        self.code, self.details = code, details


def add_ofrep_routes(routes: Routes) -> None:
    """Add the two routes of the protocol's core."""
    schema = {"type": "object", "properties": {"context": {"type": "object"}}}
    body = {"requestBody": {"content": {"application/json": {"schema": schema}}}}
    routes.add(
        "POST",
        "/evaluate/flags/{key}",
        _evaluate,
        tag="OFREP",
        prefix=_PREFIX,
        operation_id="evaluateFlag",
        summary="Which version of a deployment a user is on",
        openapi_extra=body,
    )
    routes.add(
        "POST",
        "/evaluate/flags",
        _evaluate_all,
        tag="OFREP",
        prefix=_PREFIX,
        operation_id="evaluateFlags",
        summary="Which version of every deployment a user is on",
        openapi_extra=body,
    )


async def _evaluate(request: Request, key: str, environment: EnvironmentHeader = None) -> Response:
    """Say which version of a deployment a user is on."""
    context = context_of(request)
    place = environment or DEFAULT_ENVIRONMENT
    await context.admit(request, "get", "ModelDeployment", place, name=key)
    try:
        asked = await _read_context(context, request)
    except _BadContext as bad:
        return _failure(HTTPStatus.BAD_REQUEST, key, bad.code, bad.details)
    split = await context.store.find(TrafficSplit, key, place)
    if split is None:
        details = f"no deployment {key[:80]!r} serves in {place[:80]}"
        return _failure(HTTPStatus.NOT_FOUND, key, "FLAG_NOT_FOUND", details)
    told = _tell(split, asked)
    status = HTTPStatus.BAD_REQUEST if "errorCode" in told else HTTPStatus.OK
    return json_response(told, status)


async def _evaluate_all(
    request: Request,
    environment: EnvironmentHeader = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Say which version of every deployment a user is on."""
    context = context_of(request)
    place = environment or DEFAULT_ENVIRONMENT
    await context.admit(request, "list", "ModelDeployment", place)
    try:
        asked = await _read_context(context, request)
    except _BadContext as bad:
        told = {"errorCode": bad.code, "errorDetails": bad.details}
        return json_response(told, HTTPStatus.BAD_REQUEST)
    splits, _ = await context.store.list(TrafficSplit, place)
    body = to_json({"flags": [_tell(split, asked) for split in splits]})
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    if tag in [part.strip().removeprefix("W/") for part in (if_none_match or "").split(",")]:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers={"etag": tag})
    return Response(body, media_type=JSON, headers={"etag": tag})


async def _read_context(context: Context, request: Request) -> ExplainRequest:
    """Return the request that the evaluation context stands for.

    ``targetingKey`` is the user; ``input.NAME`` is a field of the body; every other scalar is
    ``user.NAME``.
    """
    try:
        body = await context.read_object(request)
    except InvalidResource as error:
        raise _BadContext("PARSE_ERROR", error.message) from None
    given = body.get("context", {})
    if not isinstance(given, dict) or len(given) > _MAX_ATTRIBUTES:
        words = f"context must be an object of at most {_MAX_ATTRIBUTES} attributes"
        raise _BadContext("INVALID_CONTEXT", words)
    user = given.get(_TARGETING_KEY)
    if user is not None and not (isinstance(user, str) and len(user) <= MAX_USER_CHARS):
        words = f"targetingKey must be text of at most {MAX_USER_CHARS} characters"
        raise _BadContext("INVALID_CONTEXT", words)
    headers: dict[str, str] = {}
    inputs: dict[str, bool | float | str | None] = {}
    for name, value in given.items():
        if not isinstance(value, str | bool | int | float) or name == _TARGETING_KEY:
            continue
        if name.startswith(_INPUT):
            inputs[name.removeprefix(_INPUT)] = _as_input(value)
        elif _ATTRIBUTE.fullmatch(name.lower()):
            headers[f"x-user-{name.lower().replace('_', '-')}"] = _as_header(value)
    return ExplainRequest(user=user or None, headers=headers, inputs=inputs)


def _as_input(value: str | bool | int | float) -> str | bool | float | None:
    """Return what the gateway reads of a field; a number that is no double is missing there."""
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return None
    return value


def _as_header(value: str | bool | float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _tell(split: TrafficSplit, asked: ExplainRequest) -> dict[str, Any]:
    """Return the evaluation of one flag, or why there is none."""
    key = split.spec.deployment
    try:
        found = explain_split(split, asked)
    except (InvalidResource, Conflict) as error:
        code = "INVALID_CONTEXT" if isinstance(error, InvalidResource) else "GENERAL"
        return {"key": key, "errorCode": code, "errorDetails": str(error)[:500]}
    if found.version is None:
        details = "the version depends on the user: give context.targetingKey"
        return {"key": key, "errorCode": "TARGETING_KEY_MISSING", "errorDetails": details}
    metadata: Mapping[str, Any] = {
        "rule": found.rule,
        "environment": found.environment,
        "acknowledged": found.acknowledged,
    }
    if found.bucket is not None:
        metadata = {**metadata, "bucket": found.bucket}
    return {
        "key": key,
        "value": found.version,
        "variant": found.version,
        "reason": _reason(split, found),
        "metadata": metadata,
    }


def _reason(split: TrafficSplit, found: Explanation) -> str:
    if found.reason == "user":
        return "SPLIT"
    if found.rule != DEFAULT_RULE:
        return "TARGETING_MATCH"
    return "DEFAULT" if any(rule.predicate for rule in split.spec.rules) else "STATIC"


def _failure(status: HTTPStatus, key: str, code: str, details: str) -> Response:
    told = {"key": key, "errorCode": code, "errorDetails": details}
    return json_response(told, status)
