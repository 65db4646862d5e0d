"""What both clients set on their connections, and what a broken one means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic_core import to_json

from modelplane.client.endpoint import Endpoint
from modelplane.errors import TransientError
from modelplane.resources.environment import Environment

STREAM_TIMEOUT = httpx.Timeout(10.0, read=35.0)
"""A watch shows every ten seconds that it lives; after three silences it counts as lost."""

UPLOAD_TIMEOUT = httpx.Timeout(10.0, read=600.0, write=60.0)
"""The server answers an upload only when it has checked and stored all of it."""

_WILDCARDS = {"0.0.0.0", "::"}  # noqa: S104 - recognised here, not listened on


def timeout_of(timeout_s: float) -> httpx.Timeout:
    """Return the time-outs of a plain request."""
    return httpx.Timeout(timeout_s, connect=min(timeout_s, 5.0))


def headers_of(endpoint: Endpoint) -> dict[str, str]:
    """Return what every request to the API carries."""
    headers = {"accept": "application/json", "user-agent": "modelplane"}
    if endpoint.token:
        headers["authorization"] = f"Bearer {endpoint.token}"
    return headers


def encode_body(data: Any) -> bytes | None:
    """Return `data` as JSON; None stays None."""
    return None if data is None else to_json(data, inf_nan_mode="null")


def describe_failure(error: httpx.HTTPError, url: str) -> TransientError:
    """Return what a failure below HTTP means to people."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return TransientError(
            f"nobody answers at {url}", hint="is modelplane running? start it: modelplane up"
        )
    if isinstance(error, httpx.TimeoutException):
        return TimedOut(f"{url} took too long to answer")
    return ConnectionLost(f"the connection to {url} broke: {type(error).__name__}")


class TimedOut(TransientError):
    """The server has the request and did not answer in time: it may have been carried out."""

    code = "timed-out"
    status = 504


class ConnectionLost(TransientError):
    """The connection broke in the middle: the request may have been carried out."""

    code = "connection-lost"
    status = 502


def gateway_url(environment: Environment, endpoint: Endpoint) -> str:
    """Return where the gateway of `environment` is reached from where the API is reached."""
    gateway = environment.spec.gateway
    host = gateway.host
    if host in _WILDCARDS:
        host = urlsplit(endpoint.url).hostname or "127.0.0.1"
    return gateway.url_at(host)


def predict_request(
    url: str, request: Mapping[str, Any], endpoint: Endpoint, user_id: str | None, timeout_s: float
) -> httpx.Request:
    """Return an inference request; it never carries the API's token."""
    headers = {"content-type": "application/json", "user-agent": "modelplane"}
    if endpoint.gateway_token:
        headers["authorization"] = f"Bearer {endpoint.gateway_token}"
    if user_id is not None:
        headers["x-user-id"] = user_id
    return httpx.Request(
        "POST",
        url,
        headers=headers,
        content=encode_body(request),
        extensions={"timeout": timeout_of(timeout_s).as_dict()},
    )
