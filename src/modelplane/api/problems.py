"""Errors as RFC 9457 problem+json, one shape for all of them.

Installed by `app.create_app`; used by the middleware for what happens before routing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response

from modelplane.errors import FieldError, InvalidResource, ModelplaneError, TransientError

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "https://modelplane.dev/errors/"


class TooLarge(ModelplaneError):
    """The body of the request is larger than the limit."""

    code = "too-large"
    status = 413


class Misdirected(ModelplaneError):
    """The request names a host that this server does not answer for."""

    code = "host-not-allowed"
    status = 421


class RequestTimedOut(ModelplaneError):
    """The client stopped in the middle of its request."""

    code = "request-timeout"
    status = 408


_TITLES = {421: "Misdirected Request", 422: "Unprocessable Content", 507: "Insufficient Storage"}


def problem_of(error: ModelplaneError) -> dict[str, Any]:
    """Return the problem document of `error`."""
    fields = error.fields if isinstance(error, InvalidResource) else ()
    return make_problem(error.status, error.code, error.message, hint=error.hint, fields=fields)


def make_problem(
    status: int, code: str, detail: str, *, hint: str = "", fields: Sequence[FieldError] = ()
) -> dict[str, Any]:
    """Return a problem document; `code` is stable, `detail` is for people."""
    return {
        "type": TYPE_PREFIX + code,
        "title": _TITLES.get(status) or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "hint": hint,
        "fields": [{"path": field.path, "message": field.message} for field in fields],
    }


def problem_response(
    problem: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Response:
    """Return the HTTP answer for a problem document."""
    return Response(to_json(problem), problem["status"], headers, MEDIA_TYPE)


def error_response(error: ModelplaneError) -> Response:
    """Return the HTTP answer for an error that was raised on purpose."""
    headers = {}
    if isinstance(error, TransientError):
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    return problem_response(problem_of(error), headers)


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem document."""

    async def on_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ModelplaneError)
        return error_response(error)

    async def on_query(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        fields = [
            FieldError(".".join(str(part) for part in fault["loc"]), fault["msg"])
            for fault in error.errors()
        ]
        return error_response(InvalidResource("the request is not valid", fields))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.url.path
        code, detail = _describe_http(error, request.method, path)
        problem = make_problem(error.status_code, code, detail, hint="see /openapi.json")
        return problem_response(problem, error.headers)

    app.add_exception_handler(ModelplaneError, on_error)
    app.add_exception_handler(RequestValidationError, on_query)
    app.add_exception_handler(HTTPException, on_http)


def _describe_http(error: HTTPException, method: str, path: str) -> tuple[str, str]:
    if error.status_code == HTTPStatus.NOT_FOUND:
        return "not-found", f"there is nothing at {path[:200]}"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return "method-not-allowed", f"{path[:200]} does not take {method}"
    return "error", str(error.detail)
