"""A node and a control plane in memory: what the agent's tests play in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from modelplane.adapters.identity.authority import FolderAuthority
from modelplane.adapters.identity.keys import EllipticKeys
from modelplane.agent.agent import Agent
from modelplane.agent.node import AgentOptions, Places
from modelplane.client.artifacts import digest_tree
from modelplane.client.training_calls import TrainingAccess
from modelplane.decisions.routing import RoutePlan
from modelplane.errors import Conflict, NotFound, TransientError
from modelplane.ports.gateways import GatewayCommand
from modelplane.ports.identity import CertificateAuthority, Credentials
from modelplane.ports.inbound import InboundRoute
from modelplane.ports.signatures import SignatureVerifier
from modelplane.ports.store import Change
from modelplane.resources.certificates import (
    CertificateRequest,
    IssuedCertificate,
    TrustBundle,
)
from modelplane.resources.environment import Environment, EnvironmentSpec, Gateway
from modelplane.resources.job import Job, JobSpec
from modelplane.resources.meta import Metadata, Resource, ResourceKey
from modelplane.resources.replica import Replica, ReplicaSpec
from modelplane.resources.revision import Artifact, Revision, RuntimeSpec, make_revision
from modelplane.resources.telemetry import TelemetryBatch, TelemetryReceipt
from modelplane.resources.traffic_split import (
    SplitEndpoint,
    SplitVariant,
    TrafficSplit,
    TrafficSplitSpec,
)
from modelplane.testing.clock import ManualClock
from modelplane.testing.processes import FakeMachine, FakeProcesses
from modelplane.testing.proxy import FakeProxy
from tests.agent.servers import FakeServers

AnyResource = Resource[Any, Any]
R = TypeVar("R", bound=AnyResource)


class FakeControlPlane:
    """The API in memory; `away` makes every call fail as a dead server does."""

    def __init__(self) -> None:
        self.resources: dict[ResourceKey, AnyResource] = {}
        self.changes: list[Change] = []
        self.oldest = 0
        self.version = 0
        self.artifacts: dict[str, bytes] = {}
        self.batches: list[TelemetryBatch] = []
        self.confirmed = 0
        self.statuses: list[tuple[str, str, Any]] = []
        self.uploads: dict[str, dict[str, bytes]] = {}
        self.refuse_uploads: Exception | None = None
        self.refuse_statuses: Exception | None = None
        self.prediction_batches: list[list[dict[str, Any]]] = []
        self.refuse_predictions: Exception | None = None
        self.trained: list[tuple[str, str]] = []
        self.ended_trainings: set[str] = set()
        self.authority: CertificateAuthority | None = None
        self.certified: list[str] = []
        self.certifies = True
        self.uncertified: set[str] = set()
        self._away = False
        self._news = asyncio.Event()

    def set_away(self, away: bool) -> None:
        self._away = away
        self._news.set()

    def put(self, resource: R) -> R:
        """Write a resource as the store does: uid, generation and version are given here."""
        self.version += 1
        before = self.resources.get(resource.key)
        metadata = resource.metadata
        generation = 1
        if before is not None:
            changed = before.spec != resource.spec
            generation = before.metadata.generation + changed
        written = resource.with_(
            metadata=metadata.with_(
                uid=metadata.uid or (before.metadata.uid if before else f"uid-{self.version}"),
                generation=generation,
                resource_version=self.version,
            )
        )
        self.resources[written.key] = written
        self._log(Change(self.version, "put", written))
        return written

    def remove(self, resource: AnyResource) -> None:
        self.version += 1
        self._log(Change(self.version, "delete", self.resources.pop(resource.key)))

    def read(self, resource: R) -> R:
        return cast("R", self.resources[resource.key])

    def expire_log(self) -> None:
        """Forget the change log and end all watches, as a long absence does."""
        self.oldest = self.version
        self.changes.clear()
        self._news.set()

    async def list(self, kind: type[R]) -> tuple[Sequence[R], int]:
        self._check()
        return [r for r in self.resources.values() if isinstance(r, kind)], self.version

    async def watch(self, kind: type[AnyResource], since: int) -> AsyncIterator[Change]:
        while True:
            self._check()
            if since < self.oldest:
                raise Conflict("the log begins later")
            for change in [c for c in self.changes if c.resource_version > since]:
                since = change.resource_version
                if isinstance(change.resource, kind):
                    yield change
            self._news.clear()
            await self._news.wait()

    async def put_status(self, resource: R) -> R:
        self._check()
        if self.refuse_statuses is not None:
            raise self.refuse_statuses
        current = self.resources.get(resource.key)
        if current is None:
            raise NotFound(f"no {resource.key}")
        if current.metadata.uid != resource.metadata.uid:
            raise Conflict("another one")
        self.statuses.append((resource.kind, resource.metadata.name, resource.status))
        if current.status != resource.status:
            current = self.put(current.with_(status=resource.status))
        return cast("R", current)

    async def post_telemetry(self, batch: TelemetryBatch) -> TelemetryReceipt:
        self._check()
        self.batches.append(batch)
        return TelemetryReceipt(confirmed_sequence=self.confirmed)

    async def post_predictions(self, batch: bytes) -> None:
        self._check()
        if self.refuse_predictions is not None:
            raise self.refuse_predictions
        self.prediction_batches.append(json.loads(batch))

    async def request_certificate(self, request: CertificateRequest) -> IssuedCertificate:
        self._check()
        assert self.authority is not None
        if not self.certifies or request.workload.role in self.uncertified:
            raise TransientError("it certifies nobody now")
        issued = self.authority.issue(request)
        self.certified.append(issued.identity.partition("/environments/")[2])
        return issued

    async def get_training_access(self, run: str, job: str) -> TrainingAccess:
        self._check()
        self.trained.append((run, job))
        if run in self.ended_trainings:
            raise Conflict(f"{run} is not trained by the job {job!r} now")
        return TrainingAccess("http://127.0.0.1:7080", f"secret-of-{run}")

    async def get_trust_bundle(self) -> TrustBundle:
        self._check()
        assert self.authority is not None
        bundle = self.authority.trust()
        if bundle is None:
            raise NotFound("no certificate was ever asked for")
        return bundle

    async def upload_artifact(self, path: Path, digest: str) -> None:
        self._check()
        if self.refuse_uploads is not None:
            raise self.refuse_uploads
        assert digest_tree(path).digest == digest
        self.uploads[digest] = {
            found.relative_to(path).as_posix(): found.read_bytes()
            for found in path.rglob("*")
            if found.is_file()
        }

    async def download_artifact(self, digest: str, destination: Path) -> None:
        self._check()
        if digest not in self.artifacts:
            raise NotFound(f"no artifact {digest}")
        destination.mkdir(parents=True)
        (destination / "model.onnx").write_bytes(self.artifacts[digest])

    def _check(self) -> None:
        if self._away:
            raise TransientError("the control plane does not answer")

    def _log(self, change: Change) -> None:
        self.changes.append(change)
        news, self._news = self._news, asyncio.Event()
        news.set()


class FakeGateway(FakeProxy):
    """`FakeProxy` with what the agent needs to run one."""

    def __init__(self, environment: Environment, plans: Iterable[RoutePlan]) -> None:
        self.first_plans = list(plans)
        super().__init__(self.first_plans)
        self.environment = environment
        self.serving = False
        self.fault: str | None = None

    @property
    def listener_fault(self) -> str | None:
        return self.fault

    async def start(self) -> None:
        self.serving = True

    async def stop(self) -> None:
        self.serving = False

    def prepare_command(self) -> GatewayCommand:
        return GatewayCommand(("proxy", self.environment.metadata.name), {})


class FakeInbound:
    """An inbound proxy that notes what it is told; `refuse` makes ports unusable."""

    def __init__(
        self, environment: str, gateway: str, routes: Sequence[InboundRoute], refused: set[str]
    ) -> None:
        self.environment = environment
        self.gateway = gateway
        self.routes = {route.key: route for route in routes}
        self.refused = refused
        self.presented: list[Credentials] = []
        self.serving = False
        self.stuck = False

    async def start(self) -> None:
        self.serving = True

    async def stop(self) -> None:
        self.serving = False

    def prepare_command(self) -> GatewayCommand:
        return GatewayCommand(("inbound", self.environment), {})

    async def present(self, credentials: Credentials) -> None:
        self.presented.append(credentials)

    async def expose(self, route: InboundRoute) -> str:
        if self.stuck:
            raise TransientError("it does not answer")
        self.routes[route.key] = route
        return "cannot bind" if route.address in self.refused else ""

    async def withdraw(self, key: str) -> None:
        self.routes.pop(key, None)


_to_thread = asyncio.to_thread


class World:
    """One machine, one control plane, and agents on it, one after the other."""

    def __init__(self, directory: Path, *, port: int) -> None:
        self.clock = ManualClock()
        self.control_plane = FakeControlPlane()
        self.machine = FakeMachine(now=self.clock.now)
        self.servers = FakeServers()
        self.gateways: list[FakeGateway] = []
        self.inbounds: list[FakeInbound] = []
        self.refused_addresses: set[str] = set()
        self.control_plane.authority = FolderAuthority(directory / "ca", self.clock)
        self.places = Places(directory / "agent", directory / "run", directory / "logs")
        self.options = AgentOptions(probe_interval_s=1.0)
        self.port = port
        self.agent: Agent | None = None
        self.signatures: SignatureVerifier | None = None
        self._in_threads = 0
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start_agent(self) -> None:
        self._stopping = asyncio.Event()
        self.agent = Agent(
            control_plane=self.control_plane,
            processes=FakeProcesses(self.machine),
            servers=self.servers,
            gateway_factory=self._make_gateway,
            clock=self.clock,
            places=self.places,
            options=self.options,
            signatures=self.signatures,
            inbound_factory=self._make_inbound,
            keys=EllipticKeys(),
        )
        self._task = asyncio.create_task(self.agent.run(self._stopping))

    async def kill_agent(self) -> None:
        """End the agent without letting it do anything."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None

    async def stop_agent(self, *, leave_running: bool = False) -> None:
        assert self._task is not None
        assert self.agent is not None
        self.agent.leave_running = leave_running
        self._stopping.set()
        for _ in range(200):
            if self._task.done():
                break
            await self.settle(0.1)
        self._task.result()
        self._task = None

    async def close(self) -> None:
        if self._task is not None:
            await self.kill_agent()

    async def settle(self, seconds: float = 0.0) -> None:
        """Let everybody do what they would do in that time."""
        steps = max(1, round(seconds / 0.1))
        for _ in range(steps):
            await self._breathe()
            await self.clock.advance(seconds / steps)
        await self._breathe()

    async def _breathe(self) -> None:
        """Give every task its turns, and threads that read files the time they take."""
        for _ in range(20):
            await asyncio.sleep(0)
        while self._in_threads:
            await asyncio.sleep(0.0005)
            for _ in range(20):
                await asyncio.sleep(0)

    async def to_thread(self, function: Callable[..., Any], /, *args: Any, **named: Any) -> Any:
        """Do as `asyncio.to_thread`, while the clock of this world waits."""
        self._in_threads += 1
        try:
            return await _to_thread(function, *args, **named)
        finally:
            self._in_threads -= 1

    async def until(self, condition: Callable[[], bool], *, within_s: float = 60.0) -> None:
        """Let time pass until `condition` holds."""
        for _ in range(round(within_s / 0.1)):
            if condition():
                return
            await self.settle(0.1)
        assert condition(), "it did not come to pass"

    @property
    def gateway(self) -> FakeGateway:
        return self.gateways[-1]

    def running(self, prefix: str = "") -> list[str]:
        """Names of the running processes."""
        return [
            name
            for name, entry in sorted(self.machine.entries.items())
            if name.startswith(prefix) and entry.process.exit is None
        ]

    def _make_gateway(self, environment: Environment, plans: Sequence[RoutePlan]) -> FakeGateway:
        self.gateways.append(FakeGateway(environment, plans))
        return self.gateways[-1]

    def _make_inbound(
        self, environment: str, gateway: str, routes: Sequence[InboundRoute]
    ) -> FakeInbound:
        self.inbounds.append(FakeInbound(environment, gateway, routes, self.refused_addresses))
        return self.inbounds[-1]

    # What people and controllers declare ------------------------------------------------------

    def artifact(self, content: bytes = b"model") -> Artifact:
        """Store an artifact in the control plane."""
        scratch = self.places.agent_dir.parent / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        (scratch / "model.onnx").write_bytes(content)
        digest = digest_tree(scratch).digest
        self.control_plane.artifacts[digest] = content
        return Artifact(format="onnx", digest=digest)

    def revision(self, version: str = "1.0.0", **runtime: Any) -> Revision:
        return make_revision("fraud", version, self.artifact(), RuntimeSpec(**runtime))

    def put_environment(
        self, name: str = "production", port: int | None = None, **spec_fields: Any
    ) -> Environment:
        gateway = Gateway(port=port or self.port)
        spec = EnvironmentSpec(stage="production", gateway=gateway, **spec_fields)
        return self.control_plane.put(Environment(metadata=Metadata(name=name), spec=spec))

    def put_replica(self, name: str = "fraud-a-0", **spec: Any) -> Replica:
        revision = spec.pop("revision", None) or self.revision()
        values = {"deployment": "fraud", "revision": revision, "index": 0, **spec}
        return self.control_plane.put(
            Replica(
                metadata=Metadata(name=name, environment="production"),
                spec=ReplicaSpec(**values),
            )
        )

    def put_split(
        self, *weights: tuple[Revision, float], rollout: str = "", step: int = 0, **spec: Any
    ) -> TrafficSplit:
        """Declare a split; the first revision is stable, replicas are named r0, r1.

        `renamed` gives stable's replica another name.
        """
        names = {0: spec.pop("renamed", "r0")}
        variants = tuple(
            SplitVariant(
                revision=revision.digest,
                version=revision.version,
                role="candidate" if index else "stable",
                weight_pct=weight,
                endpoints=(
                    SplitEndpoint(
                        replica=names.get(index, f"r{index}"), address=f"unix:/run/r{index}.sock"
                    ),
                ),
            )
            for index, (revision, weight) in enumerate(weights)
        )
        steps = {rollout: step} if rollout else {}
        values = {"deployment": "fraud", "variants": variants, "steps": steps}
        return self.control_plane.put(
            TrafficSplit(
                metadata=Metadata(name="fraud", environment="production"),
                spec=TrafficSplitSpec(**{**values, **spec}),
            )
        )

    def put_job(self, name: str = "train", **spec: Any) -> Job:
        values = {"command": ("train",), **spec}
        return self.control_plane.put(
            Job(metadata=Metadata(name=name, environment="production"), spec=JobSpec(**values))
        )
