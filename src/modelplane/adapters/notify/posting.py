"""One HTTP POST to a receiver outside, and what its answer means.

Used by `webhook` and `slack`. Redirects are not followed, for what is sent is meant for the
declared address alone; of the answer only the status is looked at, its body is not read.
Addresses may be secrets, so that no message holds one.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Mapping

import httpx

from modelplane.decisions.notifications import Delivery

_PASSING = frozenset({408, 425, 429})
"""Refusals that say: later."""

_MAX_CONNECTIONS = 32


def make_client() -> httpx.AsyncClient:
    """Return the client that a notifier keeps."""
    limits = httpx.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=8)
    # Proxies of the environment are used; credentials of a netrc file are nobody's business here.
    return httpx.AsyncClient(follow_redirects=False, auth=_no_credentials, limits=limits)


async def post(
    client: httpx.AsyncClient,
    url: str,
    body: bytes,
    *,
    headers: Mapping[str, str],
    timeout_s: float,
) -> Delivery:
    """Send `body` once.

    Parameters
    ----------
    client
        As `make_client` made it.
    url
        Where to.
    body, headers
        What is sent.
    timeout_s
        How long all of it may take.
    """
    try:
        async with (
            asyncio.timeout(timeout_s),
            client.stream("POST", url, content=body, headers=dict(headers), timeout=timeout_s) as r,
        ):
            return _judge(r.status_code)
    except (TimeoutError, httpx.TimeoutException):
        return Delivery("unavailable", f"no answer within {timeout_s:g} s")
    except httpx.ConnectError as error:
        return Delivery("unavailable", f"no connection: {_say_cause(error)}")
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        return Delivery("refused", "the channel's address is no http or https address")
    except httpx.HTTPError as error:
        return Delivery("unavailable", f"the connection broke: {type(error).__name__}")


def _no_credentials(request: httpx.Request) -> httpx.Request:
    return request


def _judge(status: int) -> Delivery:
    if 200 <= status < 300:
        return Delivery("delivered")
    if 300 <= status < 400:
        return Delivery("refused", f"the receiver answered {status}; redirects are not followed")
    outcome = f"the receiver answered {status}"
    if status in _PASSING or status >= 500:
        return Delivery("unavailable", outcome)
    return Delivery("refused", outcome)


def _say_cause(error: BaseException) -> str:
    """Return the kind of what lies at the bottom: words of others may hold the address."""
    cause: BaseException = error
    while (below := cause.__cause__ or cause.__context__) is not None:
        cause = below
    if isinstance(cause, ssl.SSLError):
        return f"TLS: {cause.reason or 'not verified'}"
    if isinstance(cause, socket.gaierror):
        return "the name is not known"
    if isinstance(cause, OSError) and cause.errno:
        return os.strerror(cause.errno)  # what the error itself says may name the address
    return type(cause).__name__
