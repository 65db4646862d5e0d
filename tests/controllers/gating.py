"""A registry with pipelines, the reconcilers of gates, and a stand-in for the agent's jobs."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.controllers.gate_triggers import TriggerController
from modelplane.controllers.gates import GateController
from modelplane.controllers.loop import LEASE_NAME, Fence, Reconciler
from modelplane.decisions.gate_keys import StagePlace
from modelplane.decisions.gate_runs import make_run
from modelplane.errors import Conflict
from modelplane.ports.gate_runs import (
    find_champion,
    first_revision,
    next_number,
    served_model,
)
from modelplane.ports.store import Store, Transaction
from modelplane.resources.contract import Contract, ContractSpec
from modelplane.resources.dataset import DatasetVersion, DatasetVersionSpec
from modelplane.resources.environment import Environment
from modelplane.resources.gate_run import GateRun, StageResult
from modelplane.resources.job import FINISHED_JOB, Job, JobStatus
from modelplane.resources.kinds import KINDS
from modelplane.resources.manifest import read_document
from modelplane.resources.meta import Metadata, Resource, ResourceKey, Subject
from modelplane.resources.model import Model, ModelVersion, ModelVersionSpec
from modelplane.resources.model_deployment import ModelDeployment, ModelDeploymentSpec
from modelplane.resources.revision import Artifact
from modelplane.resources.validation_pipeline import ValidationPipeline
from modelplane.testing.clock import ManualClock
from tests.controllers.stores import open_store

ANA = Subject(name="ana", groups=("admin",))
R = TypeVar("R", bound=Resource[Any, Any])
Ending = Mapping[str, Any]
PASSED: Ending = {"phase": "Succeeded", "result": {"passed": True, "message": "fine"}}
FAILED: Ending = {"phase": "Succeeded", "result": {"passed": False, "message": "worse"}}
LOST: Ending = {"phase": "Failed", "reason": "Lost", "message": "the machine went away"}


class Gates:
    """Two environments, one model, and what runs its pipelines."""

    def __init__(self, store: SqliteStore, clock: ManualClock) -> None:
        self.real = store
        self.store: Store = store
        self.clock = clock
        self.fence = Fence()
        self.place = StagePlace(code="code", environment="lock")
        self.ending: Callable[[Job], Ending | None] = lambda job: PASSED
        self.ran: list[str] = []
        self.restart()

    def restart(self) -> None:
        """Begin anew, with nothing in memory."""
        self.gates = GateController(self.store, self.fence, self.clock, self.place)
        self.triggers = TriggerController(self.store, self.fence, self.clock)

    async def take_lease(self, holder: str = "one") -> None:
        self.fence.set(await self.real.claim(LEASE_NAME, holder, 1_000_000))

    async def write(self, *resources: Resource[Any, Any]) -> None:
        transaction = Transaction(ANA)
        for resource in resources:
            transaction.put(resource, "test")
        await self.real.commit(transaction)

    async def declare(self) -> None:
        await self.write(
            *(
                Environment.model_validate(
                    {
                        "kind": "Environment",
                        "metadata": {"name": name},
                        "spec": {"stage": name, "order": order, "gateway": {"port": 7000 + order}},
                    }
                )
                for name, order in (("staging", 10), ("production", 20))
            ),
            Model(metadata=Metadata(name="fraud", labels={"team": "risk"})),
        )

    async def apply(self, name: str, *stages: Any, **spec: Any) -> ValidationPipeline:
        """Declare a pipeline as a manifest would."""
        document = {"pipeline": {"name": name, "stages": list(stages), **spec}}
        declared = read_document(document)
        before = await self.real.find(ValidationPipeline, name)
        if before is not None:
            declared = before.with_(spec=declared.spec)
        await self.write(declared)
        return await self.real.get(ValidationPipeline, name)

    async def push(self, version: str, content: str = "", **spec: Any) -> ModelVersion:
        number = len((await self.real.list(ModelVersion))[0]) + 1
        artifact = Artifact(format="skops", digest=f"sha256:{content or version}")
        fields = {"artifact": artifact, "number": number, **spec}
        made = ModelVersion(
            metadata=Metadata(name=f"fraud@{version}"),
            spec=ModelVersionSpec(model="fraud", version=version, **fields),
        )
        await self.write(made)
        return await self.real.get(ModelVersion, made.metadata.name)

    async def push_data(self, name: str, version: str, content: str = "") -> None:
        spec = DatasetVersionSpec(
            dataset=name,
            version=version,
            number=int(version),
            digest=f"sha256:{content or version}",
        )
        metadata = Metadata(name=f"{name}@{version}")
        await self.write(DatasetVersion(metadata=metadata, spec=spec))

    async def publish(self, consumer: str, version: str) -> None:
        spec = ContractSpec(consumer=consumer, consumer_version=version, model="fraud", pact={})
        name = f"{consumer}.fraud@{version}"
        await self.write(Contract(metadata=Metadata(name=name), spec=spec))

    async def serve(self, version: str, environment: str = "production") -> None:
        """Make a version the champion."""
        found = await self.real.get(ModelVersion, f"fraud@{version}")
        revision = await first_revision(self.real, found)
        deployment = await self.real.find(ModelDeployment, "fraud", environment)
        if deployment is None:
            deployment = ModelDeployment(
                metadata=Metadata(name="fraud", environment=environment),
                spec=ModelDeploymentSpec(model="fraud"),
            )
        await self.write(deployment.with_status(stable=revision))

    async def start(self, pipeline: str, version: str, **fields: Any) -> GateRun:
        """Start a run by hand."""
        declared = await self.real.get(ValidationPipeline, pipeline)
        found = await self.real.get(ModelVersion, f"fraud@{version}")
        revision = await first_revision(self.real, found)
        run = make_run(
            declared,
            await served_model(self.real, found, revision),
            await find_champion(self.real, "fraud"),
            number=await next_number(self.real, pipeline),
            trigger="hand",
            subject=ANA,
            **fields,
        )
        await self.write(run)
        return run

    # -- moving ---------------------------------------------------------------------------

    async def settle(self, rounds: int = 200) -> None:
        """Reconcile everything until nothing changes, jobs included."""
        for _ in itertools.repeat(None, rounds):
            before = await self._version()
            for reconciler in (self.triggers, self.gates):
                await self.reconcile_all(reconciler)
            await self.act_as_agent()
            if await self._version() == before:
                return
        raise AssertionError("it does not settle")

    async def reconcile_all(self, reconciler: Reconciler) -> None:
        for key in await self._keys(reconciler):
            try:
                await reconciler.reconcile(key)
            except Conflict:
                continue

    async def act_as_agent(self) -> None:
        """End every job as `ending` says; those it says nothing of run on."""
        for job in (await self.real.list(Job))[0]:
            if job.status.phase in FINISHED_JOB:
                continue
            ending = {"phase": "Cancelled"} if job.spec.cancelled else self.ending(job)
            if ending is None:
                continue
            self.ran.append(job.metadata.labels["stage"])
            now = self.clock.now()
            status = JobStatus.model_validate({"startedAt": now, "finishedAt": now, **ending})
            transaction = Transaction(Subject(name="system:agent"))
            transaction.update(job.with_(status=status), "report")
            await self.real.commit(transaction)

    async def _version(self) -> int:
        _, version = await self.real.list(Environment)
        return version

    async def _keys(self, reconciler: Reconciler) -> list[ResourceKey]:
        keys: dict[ResourceKey, None] = {}
        for kind in reconciler.kinds:
            resources, _ = await self.real.list(KINDS[kind.__name__])
            for resource in resources:
                keys.update(dict.fromkeys(reconciler.keys(resource)))
        return list(keys)

    # -- looking --------------------------------------------------------------------------

    async def run(self, name: str) -> GateRun:
        return await self.real.get(GateRun, name)

    async def runs(self) -> list[GateRun]:
        return list((await self.real.list(GateRun))[0])

    async def all(self, kind: type[R]) -> list[R]:
        return list((await self.real.list(kind))[0])

    async def results(self) -> list[StageResult]:
        return await self.all(StageResult)


@asynccontextmanager
async def open_gates(directory: Path) -> AsyncIterator[Gates]:
    async with open_store(directory) as (store, clock):
        gates = Gates(store, clock)
        await gates.take_lease()
        await gates.declare()
        yield gates
