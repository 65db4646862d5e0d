"""Request bodies: bounded, in time, strict JSON, and the resources in them.

Used by the routes. Nothing read here is trusted before it is validated.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from modelplane.api.problems import RequestTimedOut, TooLarge
from modelplane.errors import FieldError, InvalidResource
from modelplane.resources.documents import format_location
from modelplane.resources.faults import describe_faults
from modelplane.resources.meta import Part

P = TypeVar("P", bound=Part)


async def stream_body(
    request: Request, max_bytes: int, idle_timeout_s: float
) -> AsyncIterator[bytes]:
    """Yield the body in pieces.

    Raises
    ------
    TooLarge
        It says, or turns out, to be larger than `max_bytes`.
    RequestTimedOut
        The client paused for longer than `idle_timeout_s`, or went away.
    """
    declared = request.headers.get("content-length", "")
    seen = int(declared) if declared.isdecimal() else 0
    if seen > max_bytes:
        raise _too_large(max_bytes)
    seen = 0
    pieces = request.stream()
    while True:
        try:
            async with asyncio.timeout(idle_timeout_s):
                piece = await anext(pieces)
        except StopAsyncIteration:
            return
        except (TimeoutError, ClientDisconnect):
            raise RequestTimedOut("the request's body did not arrive") from None
        seen += len(piece)
        if seen > max_bytes:
            raise _too_large(max_bytes)
        if piece:
            yield piece


async def read_body(request: Request, max_bytes: int, idle_timeout_s: float) -> bytes:
    """Return the whole body; raises as `stream_body` does."""
    return b"".join([piece async for piece in stream_body(request, max_bytes, idle_timeout_s)])


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`; an empty body is an empty object.

    Raises
    ------
    InvalidResource
        It is not JSON (NaN and half characters are not), no object, or nested too deep.
    """
    if not body.strip():
        return {}
    try:
        data = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidResource(f"the body is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise InvalidResource("the body must be a JSON object")
    _check_finite(data)
    return data


def _check_finite(data: object) -> None:
    """Refuse numbers such as 1e999, which JSON can write and cannot mean."""
    waiting = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise InvalidResource("the body holds a number that is too large")


def parse_part(part: type[P], data: object, *, path: str = "") -> P:
    """Return `data` as `part`.

    Parameters
    ----------
    part
        What it should be.
    data
        Plain data, camelCase.
    path
        Where `data` stands, for messages.

    Raises
    ------
    InvalidResource
        With every fault and its path.
    """
    try:
        return part.model_validate(data, by_alias=True, by_name=False)
    except ValidationError as error:
        fields = []
        for location, message in describe_faults(error, part, data):
            place = format_location(location)
            fields.append(FieldError(".".join(p for p in (path, place) if p), message))
        raise InvalidResource("the body is not valid", fields) from None


def take_fields(data: dict[str, Any], **types: type) -> dict[str, Any]:
    """Return the fields of an action's body, each of its type or absent; no others.

    Null is absent, except where a field may be anything (`object`).

    Raises
    ------
    InvalidResource
        An unknown field, or one of another type.
    """
    faults = []
    for name, value in data.items():
        wanted = types.get(name)
        if wanted is None:
            known = ", ".join(types)
            faults.append(FieldError(name[:80], f"unknown field; known are {known}"))
        elif value is not None and not isinstance(value, wanted):
            faults.append(FieldError(name, f"must be {_TYPE_NAMES.get(wanted, wanted.__name__)}"))
    if faults:
        raise InvalidResource("the body is not valid", faults)
    return {
        name: value for name, value in data.items() if value is not None or types[name] is object
    }


_TYPE_NAMES = {str: "text", bool: "true or false", dict: "a map", list: "a list"}


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the body is larger than {max_bytes:,} bytes, the limit here")
