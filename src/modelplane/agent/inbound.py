"""The inbound proxies of this node: one for each environment with mutual TLS, before its servers.

Told by `gateways` which environments have one, asked by each `replica_runner` for the address at
which the gateway is to reach its server. Like a gateway's, the proxy process belongs to the
process keeper and outlives the agent; what it listens for is written down before it does, so that
an agent that comes back takes nothing away.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import structlog

from modelplane.agent.certificates import Certificates
from modelplane.agent.node import Node, short_id
from modelplane.decisions.identity import gateway_id, trust_domain_of
from modelplane.decisions.restarts import RestartHistory, StartAfter, decide_restart, record_exit
from modelplane.errors import ModelplaneError, TerminalError, TransientError
from modelplane.ports.identity import Credentials
from modelplane.ports.inbound import InboundFactory, InboundProxy, InboundRoute
from modelplane.ports.processes import ProcessSpec
from modelplane.resources.certificates import Workload
from modelplane.resources.environment import Environment
from modelplane.resources.replica import Replica

log = structlog.get_logger(__name__)

PROCESS_PREFIX = "inbound-"
_PORT_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class ReplicaAddress:
    """Where the gateway reaches a replica, and who answers there; no identity: no TLS."""

    address: str
    identity: str = ""


class Inbound:
    """One environment's inbound proxy.

    Parameters
    ----------
    environment
        Its name.
    identity
        SPIFFE id of the proxy.
    node, factory
        The machine, and what makes the proxy's adapter.
    """

    def __init__(
        self, environment: str, identity: str, *, node: Node, factory: InboundFactory
    ) -> None:
        self.identity = identity
        self._environment = environment
        self._node = node
        self._name = f"{PROCESS_PREFIX}{environment}"
        self._path = node.places.agent_dir / "inbound" / f"{environment}.json"
        self._routes = _load(self._path)
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        gateway = gateway_id(trust_domain_of(identity), environment)
        self.proxy: InboundProxy = factory(environment, gateway, tuple(self._routes.values()))

    async def start(self) -> None:
        """Serve configuration, then take back or start the proxy process."""
        await self.proxy.start()
        self._task = asyncio.create_task(self._keep_running(), name=self._name)

    async def close(self) -> None:
        """Look after it no longer; the proxy serves on with what it has."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self.proxy.stop()

    async def stop(self) -> None:
        """Stop the process, and forget what it listened for."""
        await self.close()
        await self._node.processes.stop(self._name, drain_s=2.0)
        self._path.unlink(missing_ok=True)

    async def address_of(self, uid: str, server: Path) -> ReplicaAddress:
        """Have the proxy listen for a replica; raises `TransientError` while it does not."""
        key = short_id(uid)
        async with self._lock:
            for _ in range(_PORT_ATTEMPTS):
                route = self._routes.get(key)
                if route is None or route.socket != str(server):
                    route = InboundRoute(key, _free_address(), str(server))
                    self._routes[key] = route
                    self._save()
                fault = await self.proxy.expose(route)
                if not fault:
                    return ReplicaAddress(route.address, self.identity)
                # Somebody took the port while nobody listened: another one will do.
                log.warning("inbound_port_lost", environment=self._environment, fault=fault)
                del self._routes[key]
        raise TransientError(f"the inbound proxy of {self._environment} gets no port: {fault}")

    async def release(self, uid: str) -> None:
        """Listen for a replica no more."""
        key = short_id(uid)
        async with self._lock:
            if self._routes.pop(key, None) is not None:
                self._save()
                await self.proxy.withdraw(key)

    async def release_others(self, uids: Collection[str]) -> None:
        """Listen for none but these."""
        keys = {short_id(uid) for uid in uids}
        async with self._lock:
            for key in [key for key in self._routes if key not in keys]:
                del self._routes[key]
                await self.proxy.withdraw(key)
            self._save()

    def _save(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        scratch = self._path.with_suffix(".new")
        scratch.write_text(
            json.dumps(
                {route.key: [route.address, route.socket] for route in self._routes.values()}
            )
        )
        scratch.replace(self._path)

    # The process ------------------------------------------------------------------------------

    async def _keep_running(self) -> None:
        policy, clock = self._node.options.gateway_restarts, self._node.clock
        history = RestartHistory(was_ready=True)
        while True:
            started_at_s = clock.monotonic_s()
            try:
                process = self._node.processes.find(self._name)
                if process is None or process.exit is not None:
                    await self._start_process()
                fault = f"the process ended ({await self._node.processes.wait(self._name)})"
            except (ModelplaneError, OSError) as error:
                fault = str(error)
            log.error("inbound_down", inbound=self._name, fault=fault)
            now_s = clock.monotonic_s()
            history = record_exit(history, policy, started_at_s=started_at_s, ended_at_s=now_s)
            wait = decide_restart(history, policy, now_s=now_s)
            await clock.sleep(wait.delay_s if isinstance(wait, StartAfter) else 0.0)

    async def _start_process(self) -> None:
        command = self.proxy.prepare_command()
        await self._node.processes.start(
            ProcessSpec(
                name=self._name,
                command=command.command,
                env=command.env,
                cwd=self._node.places.agent_dir,
                log_path=self._node.places.log_dir / "gateways" / f"{self._environment}+in.log",
            )
        )


class Inbounds:
    """The inbound proxies of a node.

    Parameters
    ----------
    node
        The machine.
    certificates, factory
        Without them environments with mutual TLS are not served.
    """

    def __init__(
        self, node: Node, certificates: Certificates | None, factory: InboundFactory | None
    ) -> None:
        self._node = node
        self._certificates = certificates
        self._factory = factory
        self._strict: set[str] = set()
        self._running: dict[str, Inbound] = {}
        self._known: set[str] | None = None

    def observe(self, environment: Environment) -> None:
        """Take an environment as it is now; from now on its replicas go by that."""
        name = environment.metadata.name
        if environment.spec.mtls == "STRICT":
            self._strict.add(name)
        else:
            self._strict.discard(name)

    def forget(self, environment: str) -> None:
        """Take that an environment is no longer declared."""
        self._strict.discard(environment)

    def peers(self, environment: str) -> tuple[str, ...]:
        """Return the SPIFFE ids that the environment's gateway may meet here."""
        inbound = self._running.get(environment)
        return (inbound.identity,) if inbound else ()

    async def ensure(self, environment: str) -> None:
        """Have an environment's proxy run if it is to have one, or look after one that is left.

        Raises `ModelplaneError` when there is no certificate for it.
        """
        wanted = environment in self._strict or self._is_left(environment)
        if not wanted or environment in self._running:
            return
        if self._factory is None or self._certificates is None:
            raise TerminalError("this agent cannot serve environments with mutual TLS")
        workload = self._workload(environment)
        credentials = await self._certificates.obtain(workload)
        await self._begin(environment, credentials, self._factory)
        self._certificates.follow(workload, functools.partial(self._present, environment))

    def _is_left(self, environment: str) -> bool:
        """Whether an agent before this one had a proxy run, which routes may still lead to."""
        process = self._node.processes.find(f"{PROCESS_PREFIX}{environment}")
        return process is not None and process.exit is None

    async def _begin(
        self, environment: str, credentials: Credentials, factory: InboundFactory
    ) -> None:
        inbound = Inbound(environment, credentials.identity, node=self._node, factory=factory)
        await inbound.proxy.present(credentials)
        await inbound.start()
        if self._known is not None:
            await inbound.release_others(self._known)
        self._running[environment] = inbound

    async def _present(self, environment: str, credentials: Credentials) -> None:
        inbound = self._running.get(environment)
        if inbound is None or self._factory is None:
            return
        if inbound.identity == credentials.identity:
            await inbound.proxy.present(credentials)
        else:  # of another trust domain: it admits another name, too
            await inbound.close()
            await self._begin(environment, credentials, self._factory)

    async def retire(self, environment: str) -> None:
        """Stop an environment's proxy; to be called once no gateway leads to it."""
        inbound = self._running.pop(environment, None)
        if inbound is not None:
            await inbound.stop()
        if self._certificates is not None:
            self._certificates.forget(self._workload(environment))

    async def address_of(self, replica: Replica, server: Path) -> ReplicaAddress:
        """Return where the gateway reaches a replica whose server listens on a Unix socket.

        Raises `TransientError` while that is nowhere.
        """
        environment = replica.metadata.environment or ""
        if environment not in self._strict:
            return ReplicaAddress(f"unix:{server}")
        inbound = self._running.get(environment)
        if inbound is None:
            raise TransientError(f"the inbound proxy of {environment} does not run yet")
        if self._known is not None:
            self._known.add(replica.metadata.uid)
        return await inbound.address_of(replica.metadata.uid, server)

    async def release(self, replica: Replica) -> None:
        """Take that a replica has stopped."""
        if self._known is not None:
            self._known.discard(replica.metadata.uid)
        inbound = self._running.get(replica.metadata.environment or "")
        if inbound is not None:
            await inbound.release(replica.metadata.uid)

    async def release_others(self, uids: Collection[str]) -> None:
        """Take that there are no other replicas than these."""
        self._known = set(uids)
        for inbound in list(self._running.values()):
            await inbound.release_others(uids)

    async def stop_orphans(self, environments: Collection[str]) -> None:
        """Stop the proxies of environments that are no more."""
        for process in self._node.processes.list():
            name = process.name.removeprefix(PROCESS_PREFIX)
            if name != process.name and name not in environments:
                log.info("orphan_stopped", process=process.name)
                await self._node.processes.stop(process.name, drain_s=2.0)

    async def stop_all(self) -> None:
        """Stop every proxy; what they listen for is kept for their next start."""
        await self.close()
        for process in self._node.processes.list():
            if process.name.startswith(PROCESS_PREFIX):
                await self._node.processes.stop(process.name, drain_s=2.0)

    async def close(self) -> None:
        """Look after them no longer; the proxies serve on."""
        await asyncio.gather(*(inbound.close() for inbound in self._running.values()))

    def _workload(self, environment: str) -> Workload:
        return Workload(environment=environment, role="inbound", node=self._node.name)


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _load(path: Path) -> dict[str, InboundRoute]:
    routes = {}
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        for key, (address, server) in json.loads(path.read_text()).items():
            routes[key] = InboundRoute(key, address, server)
    return routes
