"""The configuration server of one gateway: a gRPC service on a Unix socket.

Started by `envoy` in the agent's process; Envoy connects to it, and connects again whenever one
of the two was away. What is said on a connection is `stream`'s business.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import grpc
from envoy.service.discovery.v3 import discovery_pb2

from modelplane.adapters.proxy.stream import StreamStuck
from modelplane.errors import TerminalError

_log = logging.getLogger(__name__)

_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_MESSAGE_MAX = 64 * 1024 * 1024


class Connection(Protocol):
    """One connection of Envoy, as `stream` and `tables` serve it."""

    listener_fault: str | None
    listening: bool

    @property
    def renewal_fault(self) -> str | None:
        """Why Envoy does not use what was renewed; None when it does."""

    async def run(self, requests: AsyncIterator[Any], changed: asyncio.Event) -> None:
        """Serve it until Envoy hangs up; `changed` is set when there is something new."""


class ConfigServer:
    """Serves configuration to one Envoy on a Unix socket.

    Parameters
    ----------
    connect
        Makes what serves a connection, from the function that writes to it. What it serves is to
        be loaded before `start`.
    socket_path
        Where to listen; mode 0600.
    """

    def __init__(
        self, connect: Callable[[Callable[[Any], Awaitable[None]]], Connection], socket_path: Path
    ) -> None:
        self._connect = connect
        self._socket_path = socket_path
        self._changed = asyncio.Event()
        self._server: Any = None
        self._stream: Connection | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def listener_fault(self) -> str | None:
        """Why the connected Envoy does not listen as it should; None when it does.

        A port in use, say, or a certificate that it refuses.
        """
        if self._stream is None:
            return None
        return self._stream.listener_fault or self._stream.renewal_fault

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
        """Say that there is something new."""
        self._changed.set()

    async def _handle(self, requests: AsyncIterator[Any], context: Any) -> None:
        """Serve one connection; a newer one takes the place of an older one."""
        if self._serving is not None:
            self._serving.cancel()
        stream = self._connect(context.write)
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
