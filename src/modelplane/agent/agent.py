"""The agent: sees what should run on its node, makes it so, and says what is.

Built and run by wiring. Its children outlive it: killed, it comes back, takes them back and goes
on; asked to stop, it drains and stops them all, unless it is told to leave them to the next
agent. What it saw last is on disk, so that it needs no control plane to serve.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from modelplane.agent.artifacts import ArtifactCache
from modelplane.agent.cache import Cache
from modelplane.agent.certificates import Certificates
from modelplane.agent.comparing import Comparer
from modelplane.agent.control_plane import ControlPlane
from modelplane.agent.gateways import Gateways
from modelplane.agent.inbound import Inbounds
from modelplane.agent.jobs import Jobs
from modelplane.agent.node import AgentOptions, Node, Places
from modelplane.agent.predictions import PredictionCollector
from modelplane.agent.replicas import Replicas
from modelplane.agent.reporting import Reporter
from modelplane.agent.scraping import Scraper
from modelplane.agent.telemetry import Telemetry
from modelplane.agent.watching import Watcher
from modelplane.ports.clock import Clock
from modelplane.ports.gateways import GatewayFactory
from modelplane.ports.identity import KeyMaker
from modelplane.ports.inbound import InboundFactory
from modelplane.ports.processes import Processes
from modelplane.ports.servers import ModelServers
from modelplane.ports.signatures import SignatureVerifier
from modelplane.resources.environment import Environment, EnvironmentStatus
from modelplane.resources.job import Job
from modelplane.resources.meta import Part, Resource
from modelplane.resources.replica import Replica
from modelplane.resources.traffic_split import TrafficSplit

log = structlog.get_logger(__name__)

DEFAULT_NODE = "local"
_FLUSH_S = 2.0
_FAULTS_S = 2.0
_HOUSEKEEPING_S = 10.0
# Gateways come last: they are made once the splits that they begin with are known.
_KINDS: tuple[type[Resource[Any, Any]], ...] = (Job, Replica, TrafficSplit, Environment)


class Agent:
    """One node's agent.

    Parameters
    ----------
    control_plane
        The API.
    processes
        The keeper of its children; only this agent uses its records.
    servers, gateway_factory
        How model servers and gateways are run here.
    clock
        Time.
    places
        Where its files lie.
    node
        This node's name, as in the resources.
    options
        How often it looks and how long it waits.
    signatures
        Verifies what an environment requires to be signed.
    inbound_factory, keys
        How proxies before model servers are run here, and what makes keys for their certificates
        and the gateways'; without both, environments with mutual TLS are not served.

    Attributes
    ----------
    leave_running
        Whether what it started is left to the next agent when it stops, as for an upgrade.
    """

    def __init__(  # noqa: PLR0913 - the machine's ports, each by name
        self,
        *,
        control_plane: ControlPlane,
        processes: Processes,
        servers: ModelServers,
        gateway_factory: GatewayFactory,
        clock: Clock,
        places: Places,
        node: str = DEFAULT_NODE,
        options: AgentOptions | None = None,
        signatures: SignatureVerifier | None = None,
        inbound_factory: InboundFactory | None = None,
        keys: KeyMaker | None = None,
    ) -> None:
        self.leave_running = False
        options = options or AgentOptions()
        self._control_plane = control_plane
        self._clock = clock
        self._node = Node(
            name=node,
            processes=processes,
            servers=servers,
            artifacts=ArtifactCache(places.agent_dir / "artifacts", control_plane),
            clock=clock,
            places=places,
            options=options,
            preparations=asyncio.Semaphore(options.max_preparations),
            signatures=signatures,
        )
        self._cache = Cache(places.agent_dir / "cache.jsonl")
        self._reporter = Reporter(control_plane, clock)
        self._certificates = (
            Certificates(control_plane, keys, clock, places.runtime_dir / "identity")
            if keys is not None
            else None
        )
        self._inbounds = Inbounds(self._node, self._certificates, inbound_factory)
        self._gateways = Gateways(
            self._node,
            gateway_factory,
            self._cache,
            self._report,
            inbounds=self._inbounds,
            certificates=self._certificates,
        )
        self._predictions = PredictionCollector(self._node, control_plane)
        self._replicas = Replicas(
            self._node,
            self._gateways,
            self._inbounds,
            self._report,
            before_stop=self._predictions.fetch,
        )
        self._jobs = Jobs(self._node, control_plane, self._report)
        self._scraper = Scraper(self._node, self._replicas)
        self._comparer = Comparer(self._node, self._replicas, self._gateways)
        self._telemetry = Telemetry(
            self._node, self._gateways, control_plane, self._scraper.take, self._comparer.take
        )
        self._errands: set[asyncio.Task[None]] = set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Run until `stopping` is set, then stop, or leave, everything it started."""
        self._node.places.agent_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for process in await self._node.processes.adopt():
            log.info("adopted", process=process.name, pid=process.pid, exit=str(process.exit))
        known = list(self._cache.seen())
        for kind in _KINDS:
            for resource in known:
                if isinstance(resource, kind):
                    self._observe(resource)
        self._gateways.start()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._reporter.run(), name="reporter"),
                    group.create_task(self._telemetry.run(), name="telemetry"),
                    group.create_task(self._scraper.run(), name="scraper"),
                    group.create_task(self._comparer.run(), name="comparer"),
                    group.create_task(
                        self._predictions.run(self._replicas.serving), name="predictions"
                    ),
                    group.create_task(self._keep_house(), name="housekeeping"),
                    group.create_task(self._report_faults(), name="faults"),
                    group.create_task(self._renew_certificates(), name="certificates"),
                    *(group.create_task(self._watch(kind, known).run()) for kind in _KINDS),
                ]
                await stopping.wait()
                if not self.leave_running:
                    await self._stop_everything()
                await self._reporter.flush(_FLUSH_S)
                for task in tasks:
                    task.cancel()
        finally:
            await self._close()

    def faults(self) -> dict[str, str]:
        """Return why gateways do not serve, by environment; empty when all do."""
        gateways = self._gateways.running.items()
        return {name: gateway.fault for name, gateway in gateways if gateway.fault}

    def _watch(self, kind: type[Resource[Any, Any]], known: list[Resource[Any, Any]]) -> Watcher:
        return Watcher(
            self._control_plane,
            self._clock,
            kind,
            known=[resource for resource in known if isinstance(resource, kind)],
            on_put=self._take,
            on_delete=self._drop,
            on_synced=lambda: self._synced(kind),
        )

    # What it sees -----------------------------------------------------------------------------

    def _take(self, resource: Resource[Any, Any]) -> None:
        # Written down before anything is done about it: an agent that is killed in between does
        # not go back behind what its children already do.
        self._cache.put(resource)
        self._observe(resource)

    def _observe(self, resource: Resource[Any, Any]) -> None:
        if isinstance(resource, Replica):
            self._replicas.observe(resource)
        elif isinstance(resource, TrafficSplit | Environment):
            self._gateways.observe(resource)
        elif isinstance(resource, Job):
            self._jobs.observe(resource)

    def _drop(self, resource: Resource[Any, Any]) -> None:
        self._cache.remove(resource)
        if isinstance(resource, Replica):
            self._replicas.forget(resource.key)
        elif isinstance(resource, TrafficSplit | Environment):
            self._gateways.forget(resource.key)
        elif isinstance(resource, Job):
            self._jobs.forget(resource.key)

    def _synced(self, kind: type[Resource[Any, Any]]) -> None:
        log.info("synced", kind=kind.__name__)
        errands = {
            Replica: self._replicas.stop_orphans,
            Environment: self._gateways.stop_orphans,
            Job: self._jobs.synced,
        }
        if kind in errands:
            errand = asyncio.create_task(errands[kind]())
            self._errands.add(errand)
            errand.add_done_callback(self._errands.discard)

    def _report(self, resource: Resource[Any, Any], status: Part) -> None:
        self._cache.put(resource.with_(status=status))
        self._reporter.report(resource, status)

    # What it does by itself -------------------------------------------------------------------

    async def _keep_house(self) -> None:
        while True:
            await self._clock.sleep(_HOUSEKEEPING_S)
            self._node.processes.trim_logs()

    async def _report_faults(self) -> None:
        while True:
            for gateway in list(self._gateways.running.values()):
                environment, status = gateway.environment, EnvironmentStatus()
                if gateway.fault:
                    status = EnvironmentStatus(gateway_fault=gateway.fault)
                if status != environment.status:
                    self._report(environment, status)
            await self._clock.sleep(_FAULTS_S)

    async def _renew_certificates(self) -> None:
        if self._certificates is not None:
            await self._certificates.run()

    async def _stop_everything(self) -> None:
        """Stop what was started, so that no request fails that a client still waits for."""
        log.info("stopping")
        await self._telemetry.tick()
        await self._gateways.stop_all()
        await self._inbounds.stop_all()
        await self._predictions.tick(self._replicas.serving())
        await asyncio.gather(self._replicas.stop_all(), self._jobs.stop_all())

    async def _close(self) -> None:
        for errand in self._errands:
            errand.cancel()
        await asyncio.gather(*self._errands, return_exceptions=True)
        await self._replicas.close()
        await self._jobs.close()
        await self._gateways.close()
        await self._inbounds.close()
        self._node.processes.close()
