"""Answers as typed values, and problem documents as the errors they stand for.

The other half of the core that both clients share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from modelplane.errors import (
    Conflict,
    FieldError,
    Forbidden,
    InvalidResource,
    ModelplaneError,
    NoSpace,
    NotFound,
    TerminalError,
    TransientError,
    Unauthenticated,
)
from modelplane.ports.store import Change
from modelplane.resources.meta import Resource
from modelplane.resources.promotion import Promotion

AnyResource = Resource[Any, Any]
R = TypeVar("R", bound=AnyResource)

_BY_CODE: dict[str, type[ModelplaneError]] = {
    error.code: error
    for error in (
        InvalidResource, NotFound, Conflict, Unauthenticated, Forbidden, TransientError, NoSpace,
        TerminalError,
    )
}  # fmt: skip
_BY_STATUS: dict[int, type[ModelplaneError]] = {
    400: InvalidResource,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: InvalidResource,
    422: InvalidResource,
    502: TransientError,
    503: TransientError,
    504: TransientError,
}


class Listing(NamedTuple, Generic[R]):
    """A kind's resources, and the resource version that a watch may begin at."""

    items: tuple[R, ...]
    resource_version: int


@dataclass(frozen=True, slots=True)
class Applied(Generic[R]):
    """What a change did.

    Attributes
    ----------
    result
        ``created``, ``changed`` or ``unchanged``.
    resource
        What is there now.
    promotion
        The promotion that this made, if it made one.
    warnings
        What should be known about it.
    """

    result: Literal["created", "changed", "unchanged"]
    resource: R
    promotion: Promotion | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer of a model behind a gateway.

    Attributes
    ----------
    response
        The Open Inference Protocol's answer: `{model_name, outputs, …}`.
    version
        The version that answered.
    assigned
        The version that the user is assigned to; another when stable answered for a candidate.
    request_id
        Names the request in logs.
    """

    response: Mapping[str, Any]
    version: str
    assigned: str
    request_id: str


def error_of(status: int, body: bytes, url: str) -> ModelplaneError:
    """Return the error that an answer with `status` (400 or above) stands for."""
    try:
        problem = from_json(body)
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or not isinstance(problem.get("detail"), str):
        kind = _BY_STATUS.get(status, TerminalError if status >= 500 else InvalidResource)
        text = body[:200].decode(errors="replace").strip()
        return kind(f"{url} answered {status}" + (f": {text}" if text else ""))
    code, detail, hint = problem.get("code", ""), problem["detail"], problem.get("hint", "")
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status, TerminalError)
    if kind is InvalidResource:
        fields = [
            FieldError(str(field.get("path", "")), str(field.get("message", "")))
            for field in problem.get("fields", [])
            if isinstance(field, dict)
        ]
        return InvalidResource(detail, fields, hint=hint)
    error = kind(detail, hint=hint)
    error.code = code or kind.code  # a watch's `expired` is a Conflict with a code of its own
    return error


@cache
def _items_adapter(kind: type[R]) -> TypeAdapter[tuple[R, ...]]:
    return TypeAdapter(tuple[kind, ...])  # type: ignore[valid-type]


def read_resource(kind: type[R], body: bytes) -> R:
    """Return the resource in an answer.

    Raises
    ------
    TerminalError
        It is not one that this version of modelplane knows.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _unreadable(kind.__name__, error) from None


def read_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in an answer."""
    try:
        data = from_json(body)
    except ValueError as error:
        raise _unreadable("object", error) from None
    if not isinstance(data, dict):
        raise _unreadable("object", TypeError("not an object"))
    return data


def read_page(kind: type[R], body: bytes) -> tuple[Listing[R], str]:
    """Return a page of a list, and the token that continues it; empty when it is the last."""
    data = read_object(body)
    try:
        items = _items_adapter(kind).validate_python(data["items"])
        head = data["metadata"]
        return Listing(items, head["resourceVersion"]), str(head.get("continue", ""))
    except (ValidationError, KeyError, TypeError) as error:
        raise _unreadable(f"list of {kind.plural}", error) from None


def read_applied(kind: type[R], body: bytes) -> Applied[R]:
    """Return what a change did."""
    data = read_object(body)
    try:
        promotion = data.get("promotion")
        return Applied(
            result=data["result"],
            resource=kind.model_validate(data["resource"]),
            promotion=Promotion.model_validate(promotion) if promotion else None,
            warnings=tuple(data.get("warnings", ())),
        )
    except (ValidationError, KeyError) as error:
        raise _unreadable(kind.__name__, error) from None


class EventReader(Generic[R]):
    """Turns the lines of a watch into changes."""

    def __init__(self, kind: type[R], since: int) -> None:
        self._kind = kind
        self._fields: dict[str, str] = {"id": str(since)}

    def read(self, line: str) -> Change | None:
        """Take one line (without its end); return a change when that line completes one.

        Raises
        ------
        Conflict
            With code ``expired``: the log no longer reaches back so far; list again.
        ModelplaneError
            Whatever else the server says ended the watch.
        """
        if line:
            name, _, value = line.partition(":")
            if name:  # without one it is a comment, which only shows that the stream lives
                self._fields[name] = value.removeprefix(" ")
            return None
        event, data = self._fields.pop("event", ""), self._fields.pop("data", "")
        if event in {"put", "delete"}:
            resource = read_resource(self._kind, data.encode())
            kind: Literal["put", "delete"] = "put" if event == "put" else "delete"
            return Change(int(self._fields["id"]), kind, resource)
        if event:
            raise error_of(409 if event == "expired" else 503, data.encode(), "the watch")
        return None


def read_prediction(status: int, headers: Mapping[str, str], body: bytes, url: str) -> Prediction:
    """Return a model's answer.

    Raises
    ------
    InvalidResource
        The request does not fit the model (400).
    NotFound
        The gateway serves no deployment of that name.
    TransientError
        Nobody could answer now.
    TerminalError
        The model failed.
    """
    try:
        data = from_json(body)
    except ValueError:
        data = None
    if status < 400 and isinstance(data, dict):
        version = headers.get("x-modelplane-version", "")
        assigned = headers.get("x-modelplane-assigned", version)
        return Prediction(data, version, assigned, headers.get("x-request-id", ""))
    message = data.get("error") if isinstance(data, dict) else None
    said = str(message or body[:200].decode(errors="replace")).strip() or "nothing"
    kind = _BY_STATUS.get(status, InvalidResource if 400 <= status < 500 else TerminalError)
    raise kind(f"{url} answered {status}: {said}")


def _unreadable(what: str, error: Exception) -> TerminalError:
    detail = str(error).splitlines()[0]
    return TerminalError(
        f"the answer is no {what} that this version of modelplane knows: {detail}",
        hint="use the same version on both sides",
    )
