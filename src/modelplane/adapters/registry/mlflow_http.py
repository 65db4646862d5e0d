"""Requests to an MLflow server: bounded in time and size, with errors that say what came back.

Used by the other modules of this adapter. What the server sends is not trusted; credentials go
to the address of the source alone, so no redirect is followed, and they stand in no message.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from modelplane.errors import NoSpace, NotFound, TransientError
from modelplane.ports.registries import ArtifactUnavailable, SourceRefused, SourceUnavailable

MAX_ANSWER_BYTES = 64 * 2**20
_MAX_ERROR_BYTES = 64 * 2**10
_MAX_CONNECTIONS = 16
_NO_SPACE = {28, 122}


@dataclass(frozen=True, slots=True)
class Credentials:
    """A bearer token, or user and password; secrets are not shown."""

    token: str | None = None
    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return "Credentials(…)"

    @property
    def header(self) -> str | None:
        """The value of the ``Authorization`` header; None without credentials."""
        if self.token:
            return f"Bearer {self.token}"
        if self.username is not None:
            pair = f"{self.username}:{self.password or ''}".encode()
            return f"Basic {base64.b64encode(pair).decode()}"
        return None


class _Authorization(httpx.Auth):
    """Sends the given header and nothing found elsewhere, such as in a netrc file."""

    def __init__(self, header: str | None) -> None:
        self._header = header

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self._header is not None:
            request.headers["authorization"] = self._header
        yield request


class MlflowHttp:
    """One server.

    Parameters
    ----------
    url
        Its address; a path in it is kept.
    credentials
        How to be let in.
    timeout_s
        How long one request may take; for a file, how long it may pause.
    """

    def __init__(self, url: str, credentials: Credentials, timeout_s: float) -> None:
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(
            auth=_Authorization(credentials.header),
            timeout=httpx.Timeout(timeout_s),
            limits=httpx.Limits(max_connections=_MAX_CONNECTIONS),
            follow_redirects=False,
            headers={"user-agent": "modelplane", "accept-encoding": "identity"},
        )

    @property
    def host(self) -> str:
        """Host and port of the server, as they stand in its address."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the JSON object that answers one request.

        Parameters
        ----------
        method, path
            Of the request; the path below ``/api/2.0``.
        query, body
            Its parameters; the body is sent as JSON.

        Raises
        ------
        NotFound
            The server knows no such thing.
        SourceUnavailable, SourceRefused
            It did not answer as MLflow does, or refused.
        """
        request = self._client.build_request(
            method, f"{self.url}/api/2.0{path}", params=query, json=body
        )
        try:
            async with asyncio.timeout(self._timeout_s), self._answer(request) as answer:
                content = await _read(answer, MAX_ANSWER_BYTES)
        except TimeoutError:
            raise self._timed_out() from None
        if content is None:
            message = f"{self.host} answered with more than {MAX_ANSWER_BYTES:,} bytes"
            raise SourceUnavailable("NotMlflow", message)
        return self._parse(answer, content)

    async def fetch(self, path: str, target: Path, max_bytes: int) -> int:
        """Write one file below ``/api/2.0`` to `target` and return its length, bytes.

        Raises
        ------
        NotFound
            There is none.
        ArtifactUnavailable
            It is larger than `max_bytes`.
        SourceUnavailable, SourceRefused
            As for `call`.
        """
        request = self._client.build_request("GET", f"{self.url}/api/2.0{path}")
        written = 0
        try:
            async with self._answer(request) as answer:
                with target.open("wb") as file:
                    async for piece in answer.aiter_bytes(1 << 20):
                        written += len(piece)
                        if written > max_bytes:
                            message = f"the files have more than {max_bytes:,} bytes, the limit"
                            raise ArtifactUnavailable("ArtifactTooLarge", message)
                        await asyncio.to_thread(file.write, piece)
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise NoSpace(f"no space left in {target.parent}") from error
            raise TransientError(f"{target} cannot be written: {error.strerror}") from error
        return written

    @asynccontextmanager
    async def _answer(self, request: httpx.Request) -> AsyncIterator[httpx.Response]:
        """Give a good answer, its body not read yet; raise what any other means."""
        try:
            answer = await self._client.send(request, stream=True)
            try:
                if not answer.is_success:
                    content = await _read(answer, _MAX_ERROR_BYTES)
                    raise self._error(answer, content or b"")
                yield answer
            finally:
                await answer.aclose()
        except httpx.TimeoutException:
            raise self._timed_out() from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            # The name of the error, not its text: that may hold the address with a password.
            message = f"{self.host} cannot be reached: {type(error).__name__}"
            raise SourceUnavailable("Unreachable", message) from None

    def _timed_out(self) -> SourceUnavailable:
        message = f"{self.host} did not answer within {self._timeout_s:g} s"
        return SourceUnavailable("TimedOut", message, hint="it may be busy; spec.timeout is longer")

    def _parse(self, answer: httpx.Response, content: bytes) -> dict[str, Any]:
        try:
            data = json.loads(content)
        except (ValueError, RecursionError):
            data = None
        if isinstance(data, dict):
            return data
        message = f"{self.host} answered {_describe(answer, content)} where MLflow sends JSON"
        raise SourceUnavailable("NotMlflow", message, hint="is spec.url the address of MLflow?")

    def _error(self, answer: httpx.Response, content: bytes) -> Exception:
        """Return what an answer other than 2xx means."""
        status = answer.status_code
        code, told = _told(content)
        what = f"{self.host} answered {_describe(answer, content)}"
        if status in {401, 403}:
            reason = "Unauthorized" if status == 401 else "Forbidden"
            hint = "check the secret that spec.token or spec.password names, and its rights"
            return SourceRefused(reason, f"{what}{told}", hint=hint)
        if answer.is_redirect:
            message = f"{what}: a redirect, which is not followed"
            return SourceUnavailable("NotMlflow", message, hint="put the final address in spec.url")
        if status == 404 and code in {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}:
            return NotFound(f"{what}{told}")
        if status == 429:
            return SourceUnavailable("RateLimited", what)
        if status >= 500:
            return SourceUnavailable("ServerError", f"{what}{told}")
        if code:
            return SourceRefused("Rejected", f"{what}{told}")
        return SourceUnavailable("NotMlflow", f"{what}, not an error of MLflow")

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()


async def _read(answer: httpx.Response, max_bytes: int) -> bytes | None:
    """Return a body, or None when it is larger than `max_bytes`."""
    content = bytearray()
    async for piece in answer.aiter_bytes():
        content += piece
        if len(content) > max_bytes:
            return None
    return bytes(content)


def _told(content: bytes) -> tuple[str, str]:
    """Return the error code in an error of MLflow, and its message for ours; else nothing."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(data, dict) or not isinstance(data.get("error_code"), str):
        return "", ""
    words = " ".join(str(data.get("message", "")).split())
    return data["error_code"], f": {data['error_code'][:60]}: {words[:300]}"


def _describe(answer: httpx.Response, content: bytes) -> str:
    kind = answer.headers.get("content-type", "").partition(";")[0].strip()[:60]
    body = kind or ("an empty body" if not content else "bytes of no stated kind")
    return f"status {answer.status_code} with {body}"
