"""`ports.proxy.Proxy` on a real Envoy.

Built by wiring, used by the agent, in whose process it serves Envoy's configuration. It neither
starts nor stops Envoy: the agent's process keeper does, with `bootstrap.envoy_command`. Envoy
serves on while this object is away; when it comes back with the same plans, nothing changes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from importlib import metadata
from urllib.parse import quote

from modelplane.adapters.proxy.admin import Admin
from modelplane.adapters.proxy.ads import ConfigServer
from modelplane.adapters.proxy.book import RouteBook
from modelplane.adapters.proxy.bootstrap import GatewayConfig
from modelplane.adapters.proxy.limits import within
from modelplane.adapters.proxy.listener import listener
from modelplane.adapters.proxy.mesh import mesh_listener
from modelplane.adapters.proxy.secrets import secrets
from modelplane.adapters.proxy.snapshot import gateway_scopes
from modelplane.adapters.proxy.stream import Stream
from modelplane.adapters.proxy.traffic import STATS_FILTER, read_counts
from modelplane.adapters.proxy.xds import LISTENER, SCOPE, SECRET, XdsResource
from modelplane.decisions.routing import RoutePlan
from modelplane.errors import TransientError
from modelplane.ports.identity import Credentials
from modelplane.ports.proxy import RouteAck, TrafficReading

_STATS_TARGET = "/stats?format=json&usedonly&histogram_buckets=detailed&filter=" + quote(
    STATS_FILTER
)
_DRAIN_POLL_S = 0.05


class EnvoyProxy:
    """One gateway behind the port.

    Parameters
    ----------
    config
        The gateway; the same one as given to `bootstrap.write_bootstrap`.
    plans
        What the gateway served when the agent last ran. They are loaded before Envoy can
        connect: an Envoy that were told of none would stop serving.
    """

    def __init__(self, config: GatewayConfig, plans: Iterable[RoutePlan] = ()) -> None:
        self._config = config
        self._book = RouteBook()
        self._book.fix(LISTENER, [listener(config)])
        self._book.fix(SCOPE, gateway_scopes(metadata.version("modelplane")))
        self._max_body_bytes = config.max_body_bytes
        for plan in plans:
            self._book.want(within(plan, self._max_body_bytes))
        self._verdicts = asyncio.Event()
        self._server = ConfigServer(
            lambda write: Stream(self._book, write, self._verdicts.set), config.ads_socket
        )
        self._admin = Admin(config.admin_socket)

    @property
    def listener_fault(self) -> str | None:
        """Why the connected Envoy does not listen (a port in use, say); None otherwise."""
        return self._server.listener_fault

    async def start(self) -> None:
        """Begin to serve configuration; raises `TerminalError` when the socket is unusable."""
        await self._server.start()

    async def stop(self) -> None:
        """Stop serving configuration; Envoy goes on with what it has."""
        await self._server.stop()

    async def present(self, credentials: Credentials) -> None:
        """Speak mutual TLS with `credentials` from the next connection on.

        The first ones come before `start`: the listener for other gateways, if there is to be one,
        needs them.
        """
        mesh = mesh_listener(self._config, credentials.identity)
        if mesh is not None:
            self._book.fix(LISTENER, [mesh])
        self._book.fix(SECRET, secrets(credentials))
        self._server.wake()

    def renew(self, kind: str, resource: XdsResource) -> None:
        """Use `resource`, a secret or a filter that the listener names, from now on."""
        self._book.fix(kind, [resource])
        self._server.wake()

    async def publish(self, plan: RoutePlan) -> None:
        """Queue `plan`; of several not yet offered for one deployment the last one counts."""
        self._book.want(within(plan, self._max_body_bytes))
        self._told()

    async def withdraw(self, deployment: str) -> None:
        """Queue the end of `deployment`; unknown names change nothing."""
        if self._book.want_gone(deployment):
            self._told()

    async def acks(self) -> AsyncIterator[RouteAck]:
        """Yield verdicts as they arrive; of several for one deployment at least the last."""
        while True:
            await self._verdicts.wait()
            self._verdicts.clear()
            while self._book.acks:
                yield self._book.acks.pop(next(iter(self._book.acks)))

    async def read_traffic(self) -> TrafficReading:
        """Read Envoy's counters; raises `TransientError` when it does not answer."""
        answer = await self._admin.get(_STATS_TARGET)
        if answer.status != 200:
            raise TransientError(f"Envoy's statistics answered {answer.status}")
        return read_counts(answer.body, boot_id=answer.boot_id)

    async def is_ready(self) -> bool:
        """Whether Envoy answers, is connected, and listens with its configuration."""
        if not self._server.connected:
            return False
        try:
            return (await self._admin.get("/ready")).status == 200
        except TransientError:
            return False

    async def drain(self, timeout_s: float) -> None:
        """Close the listener, tell clients to leave, wait for their requests.

        Returns when no request is in flight, Envoy is gone, or `timeout_s` is over.
        """
        until = time.monotonic() + timeout_s
        try:
            await self._admin.post("/drain_listeners?graceful&skip_exit")
            await self._admin.post("/drain_listeners")
            while time.monotonic() < until and await self._requests_in_flight():  # noqa: ASYNC110
                await asyncio.sleep(_DRAIN_POLL_S)
        except TransientError:
            return  # nothing is in flight in a proxy that is gone

    async def _requests_in_flight(self) -> int:
        answer = await self._admin.get("/stats?filter=^http\\.in\\.downstream_rq_active$")
        return int(answer.body.rpartition(b":")[2] or 0)

    def _told(self) -> None:
        self._verdicts.set()
        self._server.wake()
