"""Requests to a Prometheus or an Alertmanager: bounded in time and size, errors that say why.

Used by the two modules beside it. Redirects are not followed and nothing is taken from a netrc
file: credentials go to the configured address alone, and they stand in no message.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from modelplane.errors import TransientError

TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 32 * 2**20
_MAX_CONNECTIONS = 8
_MAX_TOLD = 500
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)")


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to be let in: names of secrets, read each time, so that they can be changed.

    Attributes
    ----------
    secret
        Returns a secret by its name, or None.
    token
        Name of the secret that is a bearer token; empty: none.
    username, password
        Of basic authentication; the password is the name of a secret.
    """

    secret: Callable[[str], str | None] = lambda name: None
    token: str = ""
    username: str = ""
    password: str = ""

    def header(self) -> str | None:
        """Return the value of the ``Authorization`` header; None without credentials.

        Raises
        ------
        TransientError
            A secret is not there.
        """
        if self.token:
            return f"Bearer {self._need(self.token)}"
        if self.username:
            password = self._need(self.password) if self.password else ""
            pair = f"{self.username}:{password}".encode()
            return f"Basic {base64.b64encode(pair).decode()}"
        return None

    def _need(self, name: str) -> str:
        found = self.secret(name)
        if found is None:
            hint = f"write it to secrets/{name} in the state directory (mode 600)"
            raise TransientError(f"there is no secret {name!r}", hint=hint)
        return found


class _Authorization(httpx.Auth):
    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        header = self._credentials.header()
        if header is not None:
            request.headers["authorization"] = header
        yield request


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the status, the JSON in the body (None: it is none), and what it says."""

    status: int
    data: Any
    words: str

    @property
    def is_success(self) -> bool:
        """Whether it is a 2xx."""
        return 200 <= self.status < 300


class AlertingHttp:
    """One server.

    Parameters
    ----------
    what
        What it is, for messages: ``Prometheus``.
    url
        Its address; a path in it is kept.
    credentials
        How to be let in.
    timeout_s
        How long one request may take.
    """

    def __init__(
        self,
        what: str,
        url: str,
        credentials: Credentials | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.url = url.rstrip("/")
        self.name = f"{what} at {urlsplit(url).netloc.rpartition('@')[2]}"
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(
            auth=_Authorization(credentials or Credentials()),
            timeout=httpx.Timeout(timeout_s),
            limits=httpx.Limits(max_connections=_MAX_CONNECTIONS),
            follow_redirects=False,
            headers={"user-agent": "modelplane", "accept": "application/json"},
        )

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
        body: Any = None,
    ) -> Answer:
        """Send one request; a refusal (4xx, or a 500 that says why) is an answer too.

        Parameters
        ----------
        method, path
            Of the request; the path is appended to the address.
        query, form, body
            Its parameters; the body is sent as JSON.

        Raises
        ------
        TransientError
            It did not answer in time, refused the credentials, or said that it cannot now.
        """
        request = self._client.build_request(
            method, self.url + path, params=query, data=form, json=body
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._send(request)
        except (TimeoutError, httpx.TimeoutException):
            raise TransientError(
                f"{self.name} did not answer within {self._timeout_s:g} s"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            # The name of the error, not its text: that may hold the address.
            message = f"{self.name} cannot be reached: {type(error).__name__}"
            raise TransientError(message) from None
        if answer.status in {401, 403} and not answer.words.startswith("Lifecycle"):
            hint = "check the settings that name its user and secrets"
            raise TransientError(f"{self.name} refuses the credentials", hint=hint)
        if 300 <= answer.status < 400:
            message = f"{self.name} answered {answer.status}, a redirect, which is not followed"
            raise TransientError(message, hint="set its final address")
        if answer.status == 429 or answer.status > 500:
            raise TransientError(f"{self.name} answered {answer.status}: {answer.words}")
        return answer

    async def _send(self, request: httpx.Request) -> Answer:
        response = await self._client.send(request, stream=True)
        try:
            content = bytearray()
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > MAX_ANSWER_BYTES:
                    message = f"{self.name} answered with more than {MAX_ANSWER_BYTES:,} bytes"
                    raise TransientError(message)
        finally:
            await response.aclose()
        try:
            data = json.loads(content)
        except (ValueError, RecursionError):
            data = None
        return Answer(response.status_code, data, _words(data, bytes(content)))

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()


def _words(data: Any, content: bytes) -> str:
    """Return what an answer says in words: its field `error` or `message`, or its text."""
    told: Any = data
    if isinstance(data, dict):
        told = data.get("error") or data.get("message") or ""
    if not isinstance(told, str):
        told = content.decode(errors="replace") if data is None else ""
    return " ".join(told.split())[:_MAX_TOLD]


def read_time(text: str) -> datetime:
    """Return a time as Go writes it, which may have nine places after the second.

    Raises
    ------
    ValueError
        It is none.

    Examples
    --------
    >>> read_time("2026-03-01T12:00:00.123456789Z").isoformat()
    '2026-03-01T12:00:00.123456+00:00'
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"not a time: {text[:40]!r}")
    zone = "+00:00" if match[3] == "Z" else match[3]
    return datetime.fromisoformat(f"{match[1]}{(match[2] or '')[:7]}{zone}").astimezone(UTC)
