"""One environment's gateway: its proxy process, its plans, their acknowledgements.

Run by `gateways.Gateways`, one per environment. The proxy process belongs to the process keeper
and outlives the agent; configuration is served before the process is looked at, with the plans
that it served last, so that taking it back changes nothing for traffic.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable
from dataclasses import replace

import structlog

from modelplane.agent.node import Node, Report
from modelplane.decisions.agent_routing import plan_route
from modelplane.decisions.identity import gateway_id, trust_domain_of
from modelplane.decisions.restarts import RestartHistory, StartAfter, decide_restart, record_exit
from modelplane.decisions.routing import TOTAL_WEIGHT, Remote, RoutePlan
from modelplane.errors import ModelplaneError, TerminalError, TransientError
from modelplane.ports.gateways import GatewayFactory, GatewayProxy
from modelplane.ports.identity import Credentials
from modelplane.ports.processes import KeptProcess, ProcessExit, ProcessSpec
from modelplane.ports.proxy import RouteAck, TrafficReading
from modelplane.resources.environment import Environment
from modelplane.resources.traffic_split import SplitVariant, TrafficSplit, TrafficSplitStatus

log = structlog.get_logger(__name__)

PROCESS_PREFIX = "gateway-"


class Gateway:
    """Keeps one gateway running and doing what the splits say.

    Parameters
    ----------
    environment
        The environment it serves.
    accepted
        The splits that the proxy last acknowledged.
    node, factory
        The machine, and what makes the proxy's adapter.
    report
        Takes the status of splits.
    on_accepted
        Told of each acknowledged split before it counts.

    Attributes
    ----------
    accepted
        The acknowledged splits, by deployment.
    """

    def __init__(
        self,
        environment: Environment,
        accepted: Iterable[TrafficSplit],
        *,
        node: Node,
        factory: GatewayFactory,
        report: Report,
        on_accepted: Callable[[TrafficSplit], None],
    ) -> None:
        self.environment = environment
        self.accepted = {split.spec.deployment: split for split in accepted}
        self._fault = ""
        self._peers: tuple[str, ...] = ()
        self._trust_domain = ""
        self._node = node
        self._report = report
        self._on_accepted = on_accepted
        self._name = f"{PROCESS_PREFIX}{environment.metadata.name}"
        self._splits: dict[str, TrafficSplit] = {}
        self._published: dict[str, TrafficSplit] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._proxy: GatewayProxy = factory(environment, _plans(self.accepted.values()))

    @property
    def address(self) -> str:
        """``host:port`` of its listener."""
        gateway = self.environment.spec.gateway
        return f"{gateway.host}:{gateway.port}"

    @property
    def _declared(self) -> str:
        """What a proxy was started for: one that asks nobody for a token is not taken back when
        tokens are declared."""
        return self.environment.spec.gateway.model_dump_json()

    @property
    def fault(self) -> str:
        """Why it does not serve, in words; empty when it does."""
        return self._fault or self._proxy.listener_fault or ""

    async def present(self, credentials: Credentials) -> None:
        """Speak mutual TLS with `credentials` from the next connection on."""
        await self._proxy.present(credentials)
        trust_domain = trust_domain_of(credentials.identity)
        if trust_domain != self._trust_domain:
            self._trust_domain = trust_domain
            await self._publish_again()

    async def expect_peers(self, peers: tuple[str, ...]) -> None:
        """Be prepared for replicas with these SPIFFE ids, before a split names them."""
        if peers == self._peers:
            return
        self._peers = peers
        await self._publish_again()

    async def _publish_again(self) -> None:
        for split in list(self._published.values()):
            await self._proxy.publish(self._plan(split))

    async def start(self) -> None:
        """Serve configuration, then take back or start the proxy process."""
        await self._proxy.start()
        self._tasks = [
            asyncio.create_task(self._follow_acks(), name=f"{self._name} acks"),
            asyncio.create_task(self._keep_running(), name=self._name),
        ]

    async def close(self) -> None:
        """Look after it no longer; the proxy serves on with what it has."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self._proxy.stop()

    async def stop(self) -> None:
        """Refuse new connections, let requests in flight end, stop the process."""
        for task in self._tasks[1:]:
            task.cancel()
        await asyncio.gather(*self._tasks[1:], return_exceptions=True)
        process = self._node.processes.find(self._name)
        if process is not None and process.exit is None:
            drain_s = self._node.options.gateway_drain_s
            with contextlib.suppress(ModelplaneError, TimeoutError):
                async with asyncio.timeout(drain_s + 1):
                    await self._proxy.drain(drain_s)
        await self._node.processes.stop(self._name, drain_s=2.0)
        await self.close()

    # Routes -----------------------------------------------------------------------------------

    async def put(self, split: TrafficSplit) -> None:
        """Make the gateway do what `split` says; its status follows the acknowledgement."""
        deployment = split.spec.deployment
        self._splits[deployment] = split
        status = split.status
        generation = split.metadata.generation
        published = self._published.get(deployment)
        if published is not None and _same_generation(published, split):
            if max(status.accepted_generation, status.refused_generation) < generation:
                self._report_again(split)
            return
        try:
            plan = self._plan(split)
        except ValueError as error:
            self._refused(split, str(error))
            return
        self._published[deployment] = split
        await self._proxy.publish(plan)

    def _plan(self, split: TrafficSplit) -> RoutePlan:
        remotes = (
            Remote(
                remote.environment,
                remote.address,
                gateway_id(self._trust_domain, remote.environment),
                round(remote.percentage * TOTAL_WEIGHT / 100),
            )
            for remote in split.spec.remotes
            if self._trust_domain  # without a certificate nobody lets it in
        )
        return replace(plan_route(split), peers=self._peers, remotes=tuple(remotes))

    async def remove(self, deployment: str) -> None:
        """Stop serving a deployment."""
        self._splits.pop(deployment, None)
        self._published.pop(deployment, None)
        self.accepted.pop(deployment, None)
        await self._proxy.withdraw(deployment)

    def names_replica(self, deployment: str, replica: str) -> bool:
        """Whether a split in force, or on its way, has the replica among its endpoints."""
        return any(
            endpoint.replica == replica
            for variant in self._in_force(deployment)
            for endpoint in variant.endpoints
        )

    def names_revision(self, deployment: str, revision: str) -> bool:
        """Whether a split in force, or on its way, has endpoints of the revision."""
        return any(
            variant.revision.startswith(revision) and variant.endpoints
            for variant in self._in_force(deployment)
        )

    def names_identity(self) -> bool:
        """Whether a split in force, or on its way, has an endpoint behind mutual TLS."""
        return any(
            endpoint.identity
            for deployment in {*self.accepted, *self._published}
            for variant in self._in_force(deployment)
            for endpoint in variant.endpoints
        )

    async def read_traffic(self) -> TrafficReading:
        """Read the counts; raises `TransientError` when the proxy does not answer."""
        return await self._proxy.read_traffic()

    def _in_force(self, deployment: str) -> Iterable[SplitVariant]:
        for split in (self.accepted.get(deployment), self._published.get(deployment)):
            if split is not None:
                yield from split.spec.variants

    async def _follow_acks(self) -> None:
        async for ack in self._proxy.acks():
            self._take(ack)

    def _take(self, ack: RouteAck) -> None:
        split = self._published.get(ack.deployment)
        if split is None or split.metadata.generation != ack.generation:
            return  # of one that was replaced meanwhile
        if not ack.accepted:
            self._refused(split, ack.message)
            return
        before = self.accepted.get(ack.deployment)
        accepted_at = self._node.clock.now()
        if before is not None and _same_generation(before, split):
            accepted_at = before.status.accepted_at or accepted_at
        status = TrafficSplitStatus(accepted_generation=ack.generation, accepted_at=accepted_at)
        accepted = split.with_(status=status)
        self._on_accepted(accepted)
        self.accepted[ack.deployment] = accepted
        current = self._splits.get(ack.deployment, split)
        if current.status.accepted_generation != ack.generation:
            self._remember(current, status)

    def _refused(self, split: TrafficSplit, message: str) -> None:
        log.error("route_refused", deployment=split.spec.deployment, message=message)
        # What is still in force is known here first: the stored status may lag behind.
        accepted = self.accepted.get(split.spec.deployment)
        ours = accepted is not None and accepted.metadata.uid == split.metadata.uid
        status = accepted.status if accepted is not None and ours else split.status
        refused = status.with_(refused_generation=split.metadata.generation, message=message)
        if refused != split.status:
            self._remember(split, refused)

    def _remember(self, split: TrafficSplit, status: TrafficSplitStatus) -> None:
        self._splits[split.spec.deployment] = split.with_(status=status)
        self._report(split, status)

    def _report_again(self, split: TrafficSplit) -> None:
        accepted = self.accepted.get(split.spec.deployment)
        if accepted is not None and _same_generation(accepted, split):
            self._remember(split, accepted.status)

    # The process ------------------------------------------------------------------------------

    async def _keep_running(self) -> None:
        policy, clock = self._node.options.gateway_restarts, self._node.clock
        history = RestartHistory(was_ready=True)
        while True:
            started_at_s = clock.monotonic_s()
            try:
                how = await self._run_once()
                self._fault = f"the proxy process ended ({how})"
            except ModelplaneError as error:
                self._fault = str(error)
            except OSError as error:
                self._fault = f"the proxy process cannot be started: {error}"
            log.error("gateway_down", gateway=self._name, fault=self._fault)
            now_s = clock.monotonic_s()
            history = record_exit(history, policy, started_at_s=started_at_s, ended_at_s=now_s)
            wait = decide_restart(history, policy, now_s=now_s)
            await clock.sleep(wait.delay_s if isinstance(wait, StartAfter) else 0.0)

    async def _run_once(self) -> ProcessExit:
        """Take the process back or start it; returns how it ended."""
        process = self._node.processes.find(self._name)
        if process is not None and process.exit is None:
            if process.labels.get("gateway") != self._declared:
                await self._end_what_was_declared_before(process)
                process = None
        else:
            process = None
        if process is None:
            check_port(self.environment)
            process = await self._start_process()
        self._fault = ""
        return await self._node.processes.wait(self._name)

    async def _end_what_was_declared_before(self, process: KeptProcess) -> None:
        log.info("gateway_changed", gateway=self._name, old=process.labels.get("gateway"))
        with contextlib.suppress(TransientError):
            await self._proxy.drain(self._node.options.gateway_drain_s)
        await self._node.processes.stop(self._name, drain_s=2.0)

    async def _start_process(self) -> KeptProcess:
        command = self._proxy.prepare_command()
        return await self._node.processes.start(
            ProcessSpec(
                name=self._name,
                command=command.command,
                env=command.env,
                cwd=self._node.places.agent_dir,
                log_path=self._node.places.log_dir
                / "gateways"
                / f"{self.environment.metadata.name}.log",
                labels={"gateway": self._declared},
            )
        )


def check_port(environment: Environment) -> None:
    """Raise `TerminalError` when the gateway's port cannot be had.

    The proxy itself would start and serve nothing. Only for a proxy that does not run yet.
    """
    gateway, name = environment.spec.gateway, environment.metadata.name
    family = socket.AF_INET6 if ":" in gateway.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((gateway.host, gateway.port))
            probe.listen(1)
        except OSError as error:
            raise TerminalError(
                f"the gateway of {name} cannot listen on {gateway.host}:{gateway.port}: "
                f"{error.strerror}",
                hint="stop what uses the port, or set another: `modelplane up "
                f"--{name}-port`, or spec.gateway of Environment {name}",
            ) from error


def _plans(splits: Iterable[TrafficSplit]) -> list[RoutePlan]:
    plans = []
    for split in splits:
        with contextlib.suppress(ValueError):
            plans.append(plan_route(split))
    return plans


def _same_generation(one: TrafficSplit, other: TrafficSplit) -> bool:
    return (one.metadata.uid, one.metadata.generation) == (
        other.metadata.uid,
        other.metadata.generation,
    )
