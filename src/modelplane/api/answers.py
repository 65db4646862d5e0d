"""Answers: resources and lists of them as JSON, and what of them nobody gets to see.

Used by the routes. Resources were validated when they were stored and are not validated again.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json, to_json
from starlette.responses import Response

from modelplane.errors import FieldError, InvalidResource
from modelplane.resources.meta import API_VERSION, Part, Resource
from modelplane.resources.token import Token

AnyResource = Resource[Any, Any]

JSON = "application/json"


def show(resource: AnyResource) -> AnyResource:
    """Return `resource` as it may be seen: a token without its digest."""
    if isinstance(resource, Token):
        return resource.with_spec(digest="")
    return resource


def encode(part: Part) -> bytes:
    """Return the outside form as JSON."""
    return part.model_dump_json(by_alias=True, exclude_none=True).encode()


def part_response(part: Part, status: int = 200) -> Response:
    """Answer with one resource or other part."""
    return Response(encode(part), status, media_type=JSON)


def json_response(data: object, status: int = 200) -> Response:
    """Answer with plain data."""
    return Response(to_json(data), status, media_type=JSON)


def list_response(
    kind: str, resources: Sequence[AnyResource], resource_version: int, token: str = ""
) -> Response:
    """Answer with a list; `token` continues it when there is more."""
    head: dict[str, Any] = {"resourceVersion": resource_version}
    if token:
        head["continue"] = token
    items = b",".join(encode(show(resource)) for resource in resources)
    start = to_json({"apiVersion": API_VERSION, "kind": f"{kind}List", "metadata": head})
    return Response(start[:-1] + b',"items":[' + items + b"]}", media_type=JSON)


def page(
    resources: Sequence[AnyResource], limit: int | None, token: str | None
) -> tuple[Sequence[AnyResource], str]:
    """Return at most `limit` resources after the place in `token`, and the next token.

    The order is by name, then environment. Pages are cut from the present state: what was
    written meanwhile may be missed or seen, nothing is seen twice.
    """
    if limit is None and token is None:
        return resources, ""
    ordered = sorted(resources, key=_place)
    if token is not None:
        after = _read_token(token)
        ordered = [resource for resource in ordered if _place(resource) > after]
    if limit is None or len(ordered) <= limit:
        return ordered, ""
    ordered = ordered[:limit]
    return ordered, base64.urlsafe_b64encode(to_json(_place(ordered[-1]))).decode()


def _place(resource: AnyResource) -> tuple[str, str]:
    return resource.metadata.name, resource.metadata.environment or ""


def _read_token(token: str) -> tuple[str, str]:
    try:
        name, environment = from_json(base64.urlsafe_b64decode(token.encode()))
        return str(name), str(environment)
    except (ValueError, TypeError, binascii.Error):
        fields = [FieldError("query.continue", "use the one that the last page gave")]
        raise InvalidResource("not a token to continue a list", fields) from None
