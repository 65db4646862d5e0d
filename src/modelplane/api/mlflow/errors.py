"""Errors as MLflow's clients read them: ``{"error_code", "message"}``.

Used by the routes of this package. MLflow's clients repeat a request that is answered with 429
or 5xx, so those are answered only where repeating helps.
"""

from __future__ import annotations

from starlette.responses import Response

from modelplane.api.answers import json_response
from modelplane.decisions.mlflow_registry import MlflowError
from modelplane.decisions.search import MlflowFilterError
from modelplane.errors import ModelplaneError, TransientError

_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    408: "DEADLINE_EXCEEDED",
    409: "INVALID_STATE",
    413: "BAD_REQUEST",
    422: "INVALID_PARAMETER_VALUE",
    503: "TEMPORARILY_UNAVAILABLE",
    507: "TEMPORARILY_UNAVAILABLE",
}
_STATUSES = {
    "RESOURCE_DOES_NOT_EXIST": 404,
    "ENDPOINT_NOT_FOUND": 404,
}
"""As MLflow answers; every other code is a 400."""


def error_response(error: ModelplaneError) -> Response:
    """Return the answer for an error that was raised on purpose."""
    if isinstance(error, MlflowFilterError):
        error = MlflowError(error.message)
    if isinstance(error, MlflowError):
        status = _STATUSES.get(error.error_code, 400)
        return _answer(status, error.error_code, error.message)
    status = 400 if error.status == 422 else error.status
    answer = _answer(status, _CODES.get(error.status, "INTERNAL_ERROR"), str(error))
    if isinstance(error, TransientError):
        answer.headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    if status == 401:
        answer.headers["www-authenticate"] = "Bearer"
    return answer


def _answer(status: int, code: str, message: str) -> Response:
    return json_response({"error_code": code, "message": message}, status)
