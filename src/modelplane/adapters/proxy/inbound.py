"""`ports.inbound.InboundProxy` on a real Envoy: the proxy before an environment's model servers.

Built by wiring, used by the agent, which keeps the process. One TCP port for each replica, mutual
TLS on all of them, the gateway's identity alone admitted; behind a port the replica's own Unix
socket. It passes bytes and does not look at requests: what happens to a connection behind it
happens to the connection before it, so that the gateway's retries, rests and counts per replica
stay as they are without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2

from modelplane.adapters.proxy.admin import Admin
from modelplane.adapters.proxy.ads import ConfigServer
from modelplane.adapters.proxy.bootstrap import GatewayConfig
from modelplane.adapters.proxy.clusters import address
from modelplane.adapters.proxy.secrets import CONNECTION_LIFE_S, secrets, server_socket
from modelplane.adapters.proxy.tables import ResourceTables, TableStream
from modelplane.adapters.proxy.xds import CLUSTER, LISTENER, SECRET, XdsResource, pack, resource
from modelplane.errors import TransientError
from modelplane.ports.identity import Credentials
from modelplane.ports.inbound import InboundRoute

_ANSWER_TIMEOUT_S = 3.0
_LISTEN_POLL_S = 0.02
_CONNECTION_MAX_S = 4 * CONNECTION_LIFE_S
"""The gateway ends its connections itself, and earlier; this is for a client that does not."""


def inbound_process(environment: str, runtime_dir: Path) -> GatewayConfig:
    """Return where the proxy's sockets and bootstrap lie; it has no port of its own."""
    # No environment has a plus in its name, so that no gateway has these sockets.
    return GatewayConfig(
        name=f"{environment}+in", host="127.0.0.1", port=0, runtime_dir=runtime_dir
    )


class EnvoyInbound:
    """One inbound proxy.

    Parameters
    ----------
    process
        `inbound_process`.
    gateway
        SPIFFE id that is admitted.
    routes
        What it served when the agent last ran; loaded before Envoy can connect.
    """

    def __init__(
        self, process: GatewayConfig, gateway: str, routes: Iterable[InboundRoute] = ()
    ) -> None:
        self._gateway = gateway
        self._tables = ResourceTables()
        for route in routes:
            self._put(route)
        self._listening: dict[str, str] = {}
        self._news = asyncio.Condition()
        self._server = ConfigServer(
            lambda write: TableStream(self._tables, write, self._tell), process.ads_socket
        )
        self._admin = Admin(process.admin_socket)
        self._tellers: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to serve configuration; raises `TerminalError` when the socket is unusable."""
        await self._server.start()

    async def stop(self) -> None:
        """Stop serving configuration; Envoy goes on with what it has."""
        await self._server.stop()

    async def present(self, credentials: Credentials) -> None:
        """Speak with `credentials` from the next connection on."""
        self._tables.put(SECRET, secrets(credentials))
        self._server.wake()

    async def expose(self, route: InboundRoute) -> str:
        """Listen for `route`; return why Envoy does not, or nothing once it does."""
        self._put(route)
        self._server.wake()

        def answered() -> bool:
            return self._tables.is_held(LISTENER, route.key) or bool(self._fault(route.key))

        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S), self._news:
                await self._news.wait_for(answered)
        except TimeoutError:
            raise TransientError("the inbound proxy does not take its configuration") from None
        fault = self._fault(route.key)
        if not fault and self._listening.get(route.key) != route.address:
            await self._until_listening(route.address)
            self._listening[route.key] = route.address
        return fault

    async def withdraw(self, key: str) -> None:
        """Listen for a replica no more; what is connected may finish."""
        self._tables.remove(LISTENER, key)
        self._tables.remove(CLUSTER, key)
        self._listening.pop(key, None)
        self._server.wake()

    async def is_ready(self) -> bool:
        """Whether Envoy answers and is connected."""
        if not self._server.connected:
            return False
        try:
            return (await self._admin.get("/ready")).status == 200
        except TransientError:
            return False

    async def _until_listening(self, address: str) -> None:
        """Wait until the port is open: Envoy acknowledges a listener before it has its secrets."""
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                while True:
                    try:
                        _, writer = await asyncio.open_connection(host, int(port))
                    except OSError:
                        await asyncio.sleep(_LISTEN_POLL_S)
                        continue
                    writer.close()
                    return
        except TimeoutError:
            raise TransientError(f"the inbound proxy does not listen on {address}") from None

    def _put(self, route: InboundRoute) -> None:
        self._tables.put(CLUSTER, [_cluster(route)])
        self._tables.put(LISTENER, [_listener(route, self._gateway)])

    def _fault(self, key: str) -> str:
        return self._tables.fault(LISTENER, key) or self._tables.fault(CLUSTER, key) or ""

    def _tell(self) -> None:
        task = asyncio.ensure_future(self._notify())
        self._tellers.add(task)
        task.add_done_callback(self._tellers.discard)

    async def _notify(self) -> None:
        async with self._news:
            self._news.notify_all()


def _listener(route: InboundRoute, gateway: str) -> XdsResource:
    proxy = tcp_proxy_pb2.TcpProxy(
        stat_prefix="inbound",
        cluster=route.key,
        # Connecting at once, and not after the handshake: a server that is gone then looks to
        # the gateway like one that cannot be reached, and rests.
        upstream_connect_mode="IMMEDIATE",
        max_connect_attempts={"value": 1},
        max_downstream_connection_duration={"seconds": _CONNECTION_MAX_S},
    )
    message = listener_pb2.Listener(
        name=route.key,
        address=address(route.address),
        enable_reuse_port={"value": False},
        filter_chains=[
            {
                "transport_socket": server_socket((gateway,)),
                "transport_socket_connect_timeout": {"seconds": 5},
                "filters": [
                    {"name": "envoy.filters.network.tcp_proxy", "typed_config": pack(proxy)}
                ],
            }
        ],
    )
    return resource(route.key, message)


def _cluster(route: InboundRoute) -> XdsResource:
    message = cluster_pb2.Cluster(
        name=route.key,
        type="STATIC",
        connect_timeout={"nanos": 250_000_000},
        load_assignment={
            "cluster_name": route.key,
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": route.socket}}}}]}
            ],
        },
        # The gateway bounds connections and requests; a second bound would only hide the first.
        circuit_breakers={
            "thresholds": [
                {
                    "max_connections": {"value": 1_000_000},
                    "max_pending_requests": {"value": 1_000_000},
                }
            ]
        },
    )
    return resource(route.key, message)
