"""One blocking connection to the API: sending calls, streams and files.

Used by `Client`; holds what it knows of HTTP, so that the client reads as what one can do.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from modelplane.client import calls
from modelplane.client.answers import error_of
from modelplane.client.artifacts import tar_stream
from modelplane.client.calls import Call, retry_delay_s
from modelplane.client.endpoint import Endpoint
from modelplane.client.transport import (
    UPLOAD_TIMEOUT,
    describe_failure,
    encode_body,
    headers_of,
    timeout_of,
)
from modelplane.client.trees import unpack_tree
from modelplane.errors import NotFound, TransientError


class Connection:
    """Sends requests; every failure is one of `modelplane.errors`."""

    def __init__(
        self, endpoint: Endpoint, timeout_s: float, transport: httpx.BaseTransport | None
    ) -> None:
        self.endpoint = endpoint
        self._http = httpx.Client(
            base_url=endpoint.url,
            headers=headers_of(endpoint),
            timeout=timeout_of(timeout_s),
            transport=transport,
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, call: Call, timeout: httpx.Timeout | None = None) -> bytes:
        """Send a call, again where that is safe, and return the body of a good answer."""
        attempt = 1
        while True:
            try:
                return self._send_once(call, timeout)
            except TransientError as error:
                delay_s = retry_delay_s(call, error, attempt)
                if delay_s is None:
                    raise
            time.sleep(delay_s)
            attempt += 1

    def _send_once(self, call: Call, timeout: httpx.Timeout | None) -> bytes:
        with self._failures():
            response = self._http.request(
                call.method,
                call.path,
                params=call.query,
                content=encode_body(call.body),
                timeout=timeout or httpx.USE_CLIENT_DEFAULT,
            )
        if response.status_code >= 400:
            raise error_of(response.status_code, response.content, call.path)
        return response.content

    @contextmanager
    def stream(self, call: Call, timeout: httpx.Timeout) -> Iterator[httpx.Response]:
        """Send a call and give its answer while it arrives."""
        with (
            self._failures(),
            self._http.stream(
                call.method, call.path, params=call.query, timeout=timeout
            ) as response,
        ):
            if response.status_code >= 400:
                raise error_of(response.status_code, response.read(), call.path)
            yield response

    def send_request(self, request: httpx.Request, url: str) -> httpx.Response:
        """Send a request that is not for the API; `url` names its receiver in errors."""
        with self._failures(url):
            return self._http.send(request)

    def upload(self, path: Path, digest: str) -> None:
        """Store a file or folder under its digest, unless it is there already."""
        if self.has_artifact(digest):
            return
        call = calls.artifact("PUT", digest)
        with self._failures():
            answer = self._http.put(call.path, content=tar_stream(path), timeout=UPLOAD_TIMEOUT)
        if answer.status_code >= 400:
            raise error_of(answer.status_code, answer.content, call.path)

    def has_artifact(self, digest: str) -> bool:
        """Return whether the bytes with this digest are stored."""
        try:
            self.send(calls.artifact("GET", digest, "/info"))
        except NotFound:
            return False
        return True

    def download(self, digest: str, destination: Path) -> None:
        """Download an artifact as the folder `destination`, whole and verified or not at all."""
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=destination.parent) as file:
            with self.stream(calls.artifact("GET", digest), UPLOAD_TIMEOUT) as response:
                for piece in response.iter_bytes():
                    file.write(piece)
            file.seek(0)
            unpack_tree(file, destination, digest)

    @contextmanager
    def _failures(self, url: str | None = None) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise describe_failure(error, url or self.endpoint.url) from error
