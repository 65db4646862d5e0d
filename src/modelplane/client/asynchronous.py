"""The client for programs that run an event loop: the agent, tests, services.

Holds no rules: requests come from `calls`, answers go through `answers`.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from modelplane.client import calls
from modelplane.client.answers import (
    Applied,
    EventReader,
    Listing,
    Prediction,
    error_of,
    read_applied,
    read_object,
    read_prediction,
    read_resource,
)
from modelplane.client.artifacts import tar_stream
from modelplane.client.calls import Call, retry_delay_s
from modelplane.client.certificates import certify_call, read_part, trust_call
from modelplane.client.endpoint import find_endpoint
from modelplane.client.listing import LARGEST_PAGE, Pages
from modelplane.client.training_calls import TrainingAccess, read_access, token_call
from modelplane.client.transport import (
    STREAM_TIMEOUT,
    UPLOAD_TIMEOUT,
    describe_failure,
    encode_body,
    gateway_url,
    headers_of,
    predict_request,
    timeout_of,
)
from modelplane.client.trees import unpack_tree
from modelplane.errors import NotFound, TransientError
from modelplane.ports.store import Change
from modelplane.resources.certificates import (
    CertificateRequest,
    IssuedCertificate,
    TrustBundle,
)
from modelplane.resources.environment import Environment
from modelplane.resources.meta import DEFAULT_ENVIRONMENT, Resource
from modelplane.resources.telemetry import TelemetryBatch, TelemetryReceipt

R = TypeVar("R", bound=Resource[Any, Any])

_EVENTS = {"content-type": "application/cloudevents-batch+json"}


class AsyncClient:
    """Speaks to the API; use it as an async context manager, or `close` it.

    Parameters
    ----------
    url, token, state
        Where the API is and what opens it; see `endpoint.find_endpoint`.
    timeout_s
        How long one request may take to connect, and to go on after each pause.
    transport
        Replaces the network, in tests.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        state: str | Path | None = None,
        timeout_s: float = 10.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.endpoint = find_endpoint(url, token, state)
        self._http = httpx.AsyncClient(
            base_url=self.endpoint.url,
            headers=headers_of(self.endpoint),
            timeout=timeout_of(timeout_s),
            transport=transport,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    # -- resources ------------------------------------------------------------------------

    async def get(self, kind: type[R], name: str, environment: str | None = None) -> R:
        """Return one resource; raises `NotFound`."""
        return read_resource(kind, await self._send(calls.get(kind, name, environment)))

    async def find(self, kind: type[R], name: str, environment: str | None = None) -> R | None:
        """Return one resource, or None."""
        try:
            return await self.get(kind, name, environment)
        except NotFound:
            return None

    async def list(
        self,
        kind: type[R],
        environment: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
    ) -> Listing[R]:
        """Return a kind's resources, of all environments when none is named."""
        # In one page as far as the API goes, so that what is watched from there is of one moment.
        call = calls.list_(kind, environment, labels)
        pages = Pages(kind, call, page_size=LARGEST_PAGE)
        while pages.next is not None:
            pages.take(await self._send(pages.next))
        return pages.listing

    async def apply(self, resource: R, *, dry_run: bool = False, reason: str = "") -> Applied[R]:
        """Declare what `resource` should be; its status is not sent."""
        body = await self._send(calls.apply(resource, dry_run=dry_run, reason=reason))
        return read_applied(type(resource), body)

    async def delete(
        self, kind: type[R], name: str, environment: str | None = None, *, reason: str = ""
    ) -> R:
        """Delete one resource and return it as it was; raises `NotFound`, `Conflict`."""
        return read_resource(kind, await self._send(calls.delete(kind, name, environment, reason)))

    async def put_status(self, resource: R, *, if_unchanged: bool = False) -> R:
        """Report the status of this very resource (by its uid).

        Raises
        ------
        NotFound, Conflict
            It is gone, or one of its name was made anew; with `if_unchanged` also when it has
            changed since it was read.
        """
        call = calls.put_status(resource, if_unchanged=if_unchanged)
        return read_resource(type(resource), await self._send(call))

    async def act(
        self,
        kind: type[Resource[Any, Any]],
        name: str,
        verb: str,
        environment: str | None = None,
        **body: Any,
    ) -> dict[str, Any]:
        """Do `verb` to a resource and return the answer as plain data."""
        return read_object(await self._send(calls.act(kind, name, verb, environment, body)))

    async def watch(
        self, kind: type[R], since: int, environment: str | None = None
    ) -> AsyncIterator[Change]:
        """Yield the changes of a kind after resource version `since`, until something ends it.

        Raises
        ------
        Conflict
            With code ``expired``: list again, and watch from there.
        TransientError
            The connection was lost, or the server stops: watch again from the last version seen.
        """
        call = calls.watch(kind, since, environment)
        events = EventReader(kind, since)
        try:
            async with self._http.stream(
                call.method, call.path, params=call.query, timeout=STREAM_TIMEOUT
            ) as response:
                if response.status_code >= 400:
                    raise error_of(response.status_code, await response.aread(), call.path)
                async for line in response.aiter_lines():
                    change = events.read(line)
                    if change is not None:
                        yield change
        except httpx.HTTPError as error:
            raise describe_failure(error, self.endpoint.url) from error
        raise TransientError("the watch was ended by the server")

    # -- bytes and numbers ----------------------------------------------------------------

    async def download_artifact(self, digest: str, destination: Path) -> None:
        """Download an artifact as the folder `destination`, whole and verified or not at all.

        Raises
        ------
        NotFound
            Nothing is stored under `digest`.
        TerminalError
            The bytes do not have the digest: they were altered.
        """
        call = calls.artifact("GET", digest)
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=destination.parent) as file:
            try:
                async with self._http.stream(call.method, call.path) as response:
                    if response.status_code >= 400:
                        raise error_of(response.status_code, await response.aread(), call.path)
                    async for piece in response.aiter_bytes():
                        await asyncio.to_thread(file.write, piece)
            except httpx.HTTPError as error:
                raise describe_failure(error, self.endpoint.url) from error
            file.seek(0)
            await asyncio.to_thread(unpack_tree, file, destination, digest)

    async def upload_artifact(self, path: Path, digest: str) -> None:
        """Store a file or folder under its digest, unless it is there already.

        Raises
        ------
        InvalidResource
            It cannot be read, or its bytes do not have the digest.
        """
        try:
            await self._send(calls.artifact("HEAD", digest))
            return
        except NotFound:
            pass
        call = calls.artifact("PUT", digest)
        try:
            response = await self._http.request(
                call.method, call.path, content=_pieces(path), timeout=UPLOAD_TIMEOUT
            )
        except httpx.HTTPError as error:
            raise describe_failure(error, self.endpoint.url) from error
        if response.status_code >= 400:
            raise error_of(response.status_code, response.content, call.path)

    async def post_telemetry(self, batch: TelemetryBatch) -> TelemetryReceipt:
        """Send one batch; sending it again changes nothing."""
        call = Call("POST", f"{calls.PREFIX}/telemetry", body=batch.to_dict())
        return TelemetryReceipt.model_validate_json(await self._send(call))

    async def post_predictions(self, batch: bytes) -> None:
        """Send CloudEvents as a batch in JSON; sending it again changes nothing."""
        path = f"{calls.PREFIX}/predictions"
        try:
            response = await self._http.post(path, content=batch, headers=_EVENTS)
        except httpx.HTTPError as error:
            raise describe_failure(error, self.endpoint.url) from error
        if response.status_code >= 400:
            raise error_of(response.status_code, response.content, path)

    async def request_certificate(self, request: CertificateRequest) -> IssuedCertificate:
        """Have a new key of an agent's proxy certified."""
        return read_part(IssuedCertificate, await self._send(certify_call(request)))

    async def get_training_access(self, run: str, job: str) -> TrainingAccess:
        """Return what the Job ``ENVIRONMENT/NAME`` of a TrainingRun works with; for agents.

        Raises
        ------
        NotFound, Conflict
            The run is gone or over, or is not trained by this Job.
        """
        return read_access(self.endpoint.url, await self._send(token_call(run, job)))

    async def get_trust_bundle(self) -> TrustBundle:
        """Return whom to trust; raises `NotFound` while no certificate was ever issued."""
        return read_part(TrustBundle, await self._send(trust_call()))

    async def predict(
        self,
        deployment: str,
        request: Mapping[str, Any],
        *,
        environment: str = DEFAULT_ENVIRONMENT,
        user_id: str | None = None,
        gateway: str | None = None,
        timeout_s: float = 60.0,
    ) -> Prediction:
        """Send one Open Inference Protocol request through the environment's gateway."""
        if gateway is None:
            found = await self.get(Environment, environment)
            gateway = gateway_url(found, self.endpoint)
        url = f"{gateway}/v2/models/{deployment}/infer"
        sent = predict_request(url, request, self.endpoint, user_id, timeout_s)
        try:
            answer = await self._http.send(sent)
        except httpx.HTTPError as error:
            raise describe_failure(error, gateway) from error
        return read_prediction(answer.status_code, answer.headers, answer.content, url)

    async def _send(self, call: Call) -> bytes:
        """Send a call, again where that is safe, and return the body of a good answer."""
        attempt = 1
        while True:
            try:
                return await self._send_once(call)
            except TransientError as error:
                delay_s = retry_delay_s(call, error, attempt)
                if delay_s is None:
                    raise
            await asyncio.sleep(delay_s)
            attempt += 1

    async def _send_once(self, call: Call) -> bytes:
        try:
            response = await self._http.request(
                call.method, call.path, params=call.query, content=encode_body(call.body)
            )
        except httpx.HTTPError as error:
            raise describe_failure(error, self.endpoint.url) from error
        if response.status_code >= 400:
            raise error_of(response.status_code, response.content, call.path)
        return response.content


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    """Yield the tar stream of a file or folder; reads in threads."""
    pieces = tar_stream(path)
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        if piece:  # an empty one would end the body
            yield piece
