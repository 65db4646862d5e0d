"""What a request of MLflow's client carries: a query for GET, a JSON object for the rest.

Used by `routes`. Checks types as MLflow's server does, with its words; what the values mean is
checked by the decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from starlette.requests import Request

from modelplane.api.bodies import parse_object, read_body
from modelplane.api.dependencies import ApiLimits
from modelplane.decisions.mlflow_registry import describe_value, invalid

_MORE = " See the API docs for more information about request parameters."
_Type = Literal["string", "integer", "boolean", "strings", "tags"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a request; `at_most` bounds an integer."""

    name: str
    type: _Type = "string"
    required: bool = False
    at_most: int | None = None


Values = Mapping[str, Any]
"""The parameters that were given, by name: strings, integers, booleans, lists, tags as a dict."""


async def read_parameters(
    request: Request, parameters: tuple[Parameter, ...], limits: ApiLimits
) -> Values:
    """Return the parameters of a request; null counts as not given, others are left out.

    Raises
    ------
    MlflowError
        INVALID_PARAMETER_VALUE: one is missing or of another type.
    InvalidResource, TooLarge, RequestTimedOut
        The body is no JSON object, too large or does not arrive.
    """
    if request.method == "GET":
        given = _read_query(request, parameters)
    else:
        given = parse_object(await read_body(request, limits.json_bytes, limits.idle_timeout_s))
    values: dict[str, Any] = {}
    for parameter in parameters:
        value = given.get(parameter.name)
        if value is None or (value == "" and parameter.required):
            if parameter.required:
                message = f"Missing value for required parameter '{parameter.name}'."
                raise invalid(message + _MORE)
            continue
        values[parameter.name] = _read(parameter, value)
    return values


def _read_query(request: Request, parameters: tuple[Parameter, ...]) -> dict[str, Any]:
    query = request.query_params
    given: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.name not in query:
            continue
        if parameter.type == "strings":
            given[parameter.name] = query.getlist(parameter.name)
        elif parameter.type == "boolean":
            given[parameter.name] = _read_boolean(query[parameter.name])
        else:
            given[parameter.name] = query[parameter.name]
    return given


def _read_boolean(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise invalid(f"Invalid boolean value: {text}, must be 'true' or 'false'.")
    return text.lower() == "true"


def _read(parameter: Parameter, value: Any) -> Any:
    try:
        read = _READERS[parameter.type](value)
        if parameter.at_most is not None and read > parameter.at_most:
            raise ValueError
    except (TypeError, ValueError):
        hint = f" Hint: Value was of type '{type(value).__name__}'."
        raise invalid(describe_value(parameter.name, value, hint) + _MORE) from None
    return read


def _read_string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _read_integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError
    return int(value)


def _read_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _read_strings(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise TypeError
    return [_read_string(item) for item in value]


def _read_tags(value: Any) -> dict[str, str]:
    """Return tags by key, the last of a key; what a tag leaves out is empty."""
    if not isinstance(value, list):
        raise TypeError
    tags: dict[str, str] = {}
    for item in value:
        if not isinstance(item, dict):
            raise TypeError
        tags[_read_string(item.get("key") or "")] = _read_string(item.get("value") or "")
    return tags


_READERS: dict[_Type, Callable[[Any], Any]] = {
    "string": _read_string,
    "integer": _read_integer,
    "boolean": _read_flag,
    "strings": _read_strings,
    "tags": _read_tags,
}
