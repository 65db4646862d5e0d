"""All gateways of this node: one per environment, each with the splits that belong to it.

Called by `agent.Agent` with what it sees of `Environment` and `TrafficSplit` resources; answers
the replicas' question whether a gateway still uses them.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterable, Mapping

import structlog

from modelplane.agent.cache import Cache
from modelplane.agent.certificates import Certificates
from modelplane.agent.gateway import PROCESS_PREFIX, Gateway
from modelplane.agent.inbound import Inbounds
from modelplane.agent.node import Node, Report
from modelplane.decisions.agent_routing import split_cluster_name
from modelplane.errors import ModelplaneError, TerminalError, TransientError
from modelplane.ports.gateways import GatewayFactory
from modelplane.ports.identity import Credentials
from modelplane.resources.certificates import Workload
from modelplane.resources.environment import Environment
from modelplane.resources.meta import ResourceKey
from modelplane.resources.traffic_split import TrafficSplit

log = structlog.get_logger(__name__)

_RETRY_S = 5.0
_LOOK_S = 1.0


class Gateways:
    """Runs the gateways of a node.

    Parameters
    ----------
    node, factory
        The machine, and what makes the proxies' adapters.
    cache
        Has the splits that gateways acknowledged.
    report
        Takes the status of splits.
    inbounds
        The proxies before the model servers, for environments with mutual TLS.
    certificates
        What gateways speak mutual TLS with; without it they cannot.
    """

    def __init__(
        self,
        node: Node,
        factory: GatewayFactory,
        cache: Cache,
        report: Report,
        *,
        inbounds: Inbounds,
        certificates: Certificates | None,
    ) -> None:
        self._inbounds = inbounds
        self._certificates = certificates
        self._node = node
        self._factory = factory
        self._cache = cache
        self._report = report
        self._environments: dict[str, Environment] = {}
        self._splits: dict[str, dict[str, TrafficSplit]] = {}
        self._gateways: dict[str, Gateway] = {}
        self._accepted: dict[str, list[TrafficSplit]] = {}
        for split in cache.accepted():
            self._accepted.setdefault(split.metadata.environment or "", []).append(split)
        self._dirty: dict[tuple[str, str], None] = {}
        self._later: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> Mapping[str, Gateway]:
        """The gateways by environment."""
        return self._gateways

    def start(self) -> None:
        """Begin to act on what is observed."""
        self._task = asyncio.create_task(self._apply_changes(), name="gateways")

    def observe(self, resource: Environment | TrafficSplit) -> None:
        """Take an environment or a split as it is now."""
        if isinstance(resource, Environment):
            name = resource.metadata.name
            self._environments[name] = resource
            self._inbounds.observe(resource)
            self._mark(name, "")
        else:
            environment = resource.metadata.environment or ""
            self._splits.setdefault(environment, {})[resource.metadata.name] = resource
            self._mark(environment, resource.metadata.name)

    def forget(self, key: ResourceKey) -> None:
        """Take that an environment or a split is no longer declared."""
        if key.kind == "Environment":
            self._environments.pop(key.name, None)
            self._inbounds.forget(key.name)
            self._mark(key.name, "")
        else:
            environment = key.environment or ""
            self._splits.get(environment, {}).pop(key.name, None)
            self._mark(environment, key.name)

    async def stop_orphans(self) -> None:
        """Stop the proxies of environments that were deleted while no agent ran."""
        for process in self._node.processes.list():
            name = process.name.removeprefix(PROCESS_PREFIX)
            if name != process.name and name not in self._environments:
                log.info("orphan_stopped", process=process.name)
                await self._node.processes.stop(process.name, drain_s=2.0)
        await self._inbounds.stop_orphans(self._environments)

    async def stop_all(self) -> None:
        """Drain and stop every gateway."""
        await self._stop_task()
        await asyncio.gather(*(gateway.stop() for gateway in self._gateways.values()))
        for process in self._node.processes.list():
            if process.name.startswith(PROCESS_PREFIX):
                await self._node.processes.stop(process.name, drain_s=2.0)

    async def close(self) -> None:
        """Look after them no longer; the proxies serve on."""
        await self._stop_task()
        await asyncio.gather(*(gateway.close() for gateway in self._gateways.values()))

    def names_replica(self, environment: str, deployment: str, replica: str) -> bool:
        """Whether the environment's gateway may still send requests to the replica."""
        gateway = self._gateways.get(environment)
        return gateway is not None and gateway.names_replica(deployment, replica)

    def names_cluster(self, environment: str, cluster: str) -> bool:
        """Whether the environment's gateway may still send requests to the cluster."""
        gateway = self._gateways.get(environment)
        return gateway is not None and gateway.names_revision(*split_cluster_name(cluster))

    async def in_flight(self, environment: str, cluster: str) -> int:
        """Return the cluster's requests in flight; 0 when the gateway does not answer."""
        gateway = self._gateways.get(environment)
        if gateway is None:
            return 0
        try:
            reading = await gateway.read_traffic()
        except TransientError:
            return 0
        return reading.active_requests.get(cluster, 0)

    # Acting -----------------------------------------------------------------------------------

    def _mark(self, environment: str, split: str) -> None:
        self._dirty[environment, split] = None
        self._news.set()

    def _mark_later(self, key: tuple[str, str], delay_s: float) -> None:
        """Mark it in a while, once, however often that is asked meanwhile."""
        if key not in self._later:
            self._later[key] = asyncio.create_task(self._wait_and_mark(key, delay_s))

    async def _wait_and_mark(self, key: tuple[str, str], delay_s: float) -> None:
        await self._node.clock.sleep(delay_s)
        del self._later[key]
        self._mark(*key)

    async def _apply_changes(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._dirty:
                environment, split = key = next(iter(self._dirty))
                del self._dirty[key]
                try:
                    await self._apply(environment, split)
                except (ModelplaneError, OSError) as error:
                    log.error("gateway_not_changed", environment=environment, error=str(error))
                    self._mark_later(key, _RETRY_S)

    async def _apply(self, environment: str, split_name: str) -> None:
        if not split_name:
            await self._apply_environment(environment)
            return
        gateway = self._gateways.get(environment)
        if gateway is None:
            return  # its splits are given to it when it is made
        split = self._splits.get(environment, {}).get(split_name)
        if split is None:
            await gateway.remove(split_name)
        else:
            await gateway.put(split)

    async def _apply_environment(self, name: str) -> None:
        wanted, gateway = self._environments.get(name), self._gateways.get(name)
        if gateway is not None and wanted is not None:
            if gateway.environment.spec.gateway == wanted.spec.gateway:
                gateway.environment = wanted
                await self._secure(gateway)
                return
            log.info("gateway_changes", environment=name)
        accepted: Iterable[TrafficSplit] = self._accepted.pop(name, [])
        if gateway is not None:
            accepted = gateway.accepted.values()
            del self._gateways[name]
            await gateway.stop()
        if wanted is None:
            await self._inbounds.retire(name)
            self._forget_certificate(name)
            return
        gateway = Gateway(
            wanted,
            accepted,
            node=self._node,
            factory=self._factory,
            report=self._report,
            on_accepted=self._cache.put_accepted,
        )
        await self._secure(gateway)
        # The splits first: an adopted proxy hears of what is new as soon as it connects.
        for split in self._splits.get(name, {}).values():
            await gateway.put(split)
        await gateway.start()
        self._gateways[name] = gateway

    async def _secure(self, gateway: Gateway) -> None:
        """Give a gateway its certificate, and have what it leads to run, if there is to be any.

        An environment that gives up mutual TLS keeps both until no route needs them.
        """
        environment = gateway.environment
        name, strict = environment.metadata.name, environment.spec.mtls == "STRICT"
        await self._inbounds.ensure(name)
        if not strict and self._inbounds.peers(name):
            if gateway.names_identity():
                self._mark_later((name, ""), _LOOK_S)
            else:
                await gateway.expect_peers(())
                await self._inbounds.retire(name)
        peers = self._inbounds.peers(name)
        if strict or peers or environment.spec.gateway.mesh is not None:
            if self._certificates is None:
                raise TerminalError("this agent has no certificates for mutual TLS")
            workload = Workload(environment=name, role="gateway")
            await gateway.present(await self._certificates.obtain(workload))
            self._certificates.follow(workload, functools.partial(self._present, gateway))
        else:
            self._forget_certificate(name)
        await gateway.expect_peers(peers)

    async def _present(self, gateway: Gateway, credentials: Credentials) -> None:
        await gateway.present(credentials)
        # Of another trust domain, those before the servers have other names, too.
        await gateway.expect_peers(self._inbounds.peers(gateway.environment.metadata.name))

    def _forget_certificate(self, environment: str) -> None:
        if self._certificates is not None:
            self._certificates.forget(Workload(environment=environment, role="gateway"))

    async def _stop_task(self) -> None:
        tasks = [*self._later.values(), *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = None
        self._later = {}
