"""The configuration server of one gateway: a gRPC service on a Unix socket.

Started by `envoy` in the agent's process; Envoy connects to it, and connects again whenever one
of the two was away. What is said on a connection is `stream`'s business.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
from envoy.service.discovery.v3 import discovery_pb2

from modelplane.adapters.proxy.book import RouteBook
from modelplane.adapters.proxy.stream import Stream, StreamStuck
from modelplane.errors import TerminalError

_log = logging.getLogger(__name__)

_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_MESSAGE_MAX = 64 * 1024 * 1024


class ConfigServer:
    """Serves one `RouteBook` to one Envoy on a Unix socket.

    Parameters
    ----------
    book
        What to serve; load it before `start`.
    socket_path
        Where to listen; mode 0600.
    on_verdict
        Called after Envoy accepted or refused something.
    """

    def __init__(self, book: RouteBook, socket_path: Path, on_verdict: Callable[[], None]) -> None:
        self._book = book
        self._socket_path = socket_path
        self._on_verdict = on_verdict
        self._changed = asyncio.Event()
        self._server: Any = None
        self._stream: Stream | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def listener_fault(self) -> str | None:
        """Why the connected Envoy does not listen (a port in use, say); None when it does."""
        return self._stream.listener_fault if self._stream else None

    @property
    def connected(self) -> bool:
        """Whether an Envoy is connected and has its listener."""
        return self._stream is not None and self._stream.listening

    async def start(self) -> None:
        """Listen. Raises `TerminalError` when the socket cannot be made."""
        self._socket_path.unlink(missing_ok=True)
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", _MESSAGE_MAX)])
        handler = grpc.stream_stream_rpc_method_handler(
            self._handle,
            request_deserializer=discovery_pb2.DeltaDiscoveryRequest.FromString,
            response_serializer=discovery_pb2.DeltaDiscoveryResponse.SerializeToString,
        )
        methods = {"DeltaAggregatedResources": handler}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, methods),))
        mask = os.umask(0o177)
        try:
            server.add_insecure_port(f"unix:{self._socket_path}")
        except RuntimeError as error:
            raise TerminalError(
                f"cannot serve configuration on {self._socket_path}: {error}",
                hint="check that the runtime directory exists and is writable",
            ) from error
        finally:
            os.umask(mask)
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Stop serving; Envoy goes on with what it has."""
        if self._server is not None:
            await self._server.stop(grace=None)
            self._server = None
        self._socket_path.unlink(missing_ok=True)

    def wake(self) -> None:
        """Say that the book has changed."""
        self._changed.set()

    async def _handle(self, requests: AsyncIterator[Any], context: Any) -> None:
        """Serve one connection; a newer one takes the place of an older one."""
        if self._serving is not None:
            self._serving.cancel()
        stream = Stream(self._book, context.write, self._on_verdict)
        serving = asyncio.ensure_future(stream.run(requests, self._changed))
        self._stream, self._serving = stream, serving
        try:
            await asyncio.wait((serving,))
            if not serving.cancelled():
                serving.result()
        except StreamStuck as stuck:
            _log.warning("the configuration stream is closed: %s", stuck)
        finally:
            serving.cancel()
            if self._stream is stream:
                self._stream = self._serving = None
