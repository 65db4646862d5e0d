"""Trainings at work on the real store: stand-ins for the agent, a service, and data."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.api.training import prepare_training
from modelplane.controllers.loop import LEASE_NAME, Fence
from modelplane.controllers.training_data import DataWatcher
from modelplane.controllers.training_runs import TrainingRunController
from modelplane.controllers.training_triggers import TrainingTriggerController
from modelplane.decisions.admission import Asked
from modelplane.decisions.training_names import token_name, training_group
from modelplane.decisions.training_runs import ServiceAnswer
from modelplane.errors import ModelplaneError
from modelplane.ports.store import AnyResource, Transaction
from modelplane.resources.dataset import DatasetReference, DatasetVersion, DatasetVersionSpec
from modelplane.resources.job import Job
from modelplane.resources.meta import Metadata, Resource, Subject
from modelplane.resources.model import ModelVersion, ModelVersionSpec, Training
from modelplane.resources.token import Token, TokenSpec
from modelplane.resources.training import (
    TrainingRun,
    TrainingTrigger,
    TrainingTriggerSpec,
    WatchedData,
)
from modelplane.testing.clock import ManualClock
from tests.controllers.stores import open_store

ANA = Subject(name="ana", groups=("admin",))
COMMAND = {"command": {"command": ["train", "--all"], "env": {"EPOCHS": "3"}}}
SERVICE = {"http": {"url": "http://127.0.0.1:9/train", "every": "10s"}}
PLACE = "http://127.0.0.1:9/jobs/1"


class Crash(Exception):
    """The control plane dies."""


class CrashingStore:
    """A store that ends the process before or after one of its commits."""

    def __init__(self, store: SqliteStore, at: int, *, after: bool) -> None:
        self._store = store
        self._at = at
        self._after = after
        self.commits = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, transaction: Transaction) -> Sequence[AnyResource]:
        self.commits += 1
        if self.commits == self._at and not self._after:
            raise Crash
        written = await self._store.commit(transaction)
        if self.commits == self._at:
            raise Crash
        return written


class Places:
    """Data that tests put somewhere."""

    def __init__(self) -> None:
        self.data: dict[str, str | ModelplaneError] = {}

    async def fingerprint(self, data: WatchedData) -> str | None:
        found = self.data.get(data.uri)
        if isinstance(found, ModelplaneError):
            raise found
        return found

    async def describe(self, data: WatchedData) -> DatasetReference:
        return DatasetReference(name="x", digest=f"sha256:{self.data[data.uri]}", uri=data.uri)


class Service:
    """A training service: what it answers, and what it was told."""

    def __init__(self) -> None:
        self.answers: list[ServiceAnswer] = []
        self.told: list[str] = []

    async def start(self, run: TrainingRun) -> ServiceAnswer:
        self.told.append(f"start {run.metadata.uid}")
        return self.answers.pop(0)

    async def ask(self, run: TrainingRun) -> ServiceAnswer:
        self.told.append(f"ask {run.status.location}")
        return self.answers.pop(0)

    async def cancel(self, run: TrainingRun) -> None:
        self.told.append(f"cancel {run.status.location}")


class Plane:
    """Triggers, runs, and stand-ins for the agent, a service, and data."""

    def __init__(self, store: SqliteStore, clock: ManualClock) -> None:
        self.real = store
        self.clock = clock
        self.fence = Fence()
        self.places = Places()
        self.service = Service()
        self.watcher = DataWatcher(self.places, clock, lambda trigger: None)
        self.store: Any = store
        self.restart()

    def restart(self, store: Any = None) -> None:
        """Begin anew, with nothing in memory."""
        self.watcher.close()
        self.store = store or self.real
        self.watcher = DataWatcher(self.places, self.clock, lambda trigger: None)
        self.triggers = TrainingTriggerController(self.store, self.fence, self.clock, self.watcher)
        self.runs = TrainingRunController(self.store, self.fence, self.clock, self.service)

    async def write(self, *resources: Resource[Any, Any]) -> None:
        transaction = Transaction(ANA)
        for resource in resources:
            transaction.put(resource, "test")
        await self.real.commit(transaction)

    async def declare(self, name: str = "fraud", run: Any = COMMAND, **spec: Any) -> None:
        given = {"model": "fraud", "run": run, **spec}
        declared = TrainingTriggerSpec.model_validate(given)
        await self.write(TrainingTrigger(metadata=Metadata(name=name), spec=declared))
        await self.settle()

    async def start(self, trigger: str = "fraud") -> TrainingRun:
        """Start a run by hand, and see it begin."""
        asked = Asked(ANA, self.clock.now())
        transaction, run = await prepare_training(self.real, trigger, asked)
        await self.real.commit(transaction)
        await self.settle()
        return await self.run(run.metadata.name)

    async def settle(self) -> None:
        """Reconcile everything until nothing changes."""
        for _ in range(30):
            before = self.real.newest_version()
            for controller in (self.triggers, self.runs):
                for kind in controller.kinds:
                    for resource in (await self.real.list(kind))[0]:
                        for key in controller.keys(resource):
                            await controller.reconcile(key)
            if self.real.newest_version() == before:
                return
        raise AssertionError("it never settles")

    async def run(self, name: str = "fraud-1") -> TrainingRun:
        return await self.real.get(TrainingRun, name)

    async def all_runs(self) -> list[TrainingRun]:
        return list((await self.real.list(TrainingRun))[0])

    async def job(self, run: str = "fraud-1") -> Job:
        return await self.real.get(Job, f"{run}.training", "staging")

    async def report(self, run: str = "fraud-1", **status: Any) -> None:
        """Report the status of a run's Job as an agent does."""
        await self.write((await self.job(run)).with_status(**status))
        await self.settle()

    async def push(self, version: str, run: str | None = "fraud-1") -> None:
        number = len((await self.real.list(ModelVersion))[0]) + 1
        spec = ModelVersionSpec(
            model="fraud", version=version, number=number, training=Training(training_run=run)
        )
        await self.write(ModelVersion(metadata=Metadata(name=f"fraud@{version}"), spec=spec))

    async def push_data(self, number: int, author: str = "ana") -> None:
        spec = DatasetVersionSpec(
            dataset="payments", version=str(number), number=number, digest=f"sha256:{number}",
            author=author,
        )  # fmt: skip
        metadata = Metadata(name=f"payments@{number}")
        await self.write(DatasetVersion(metadata=metadata, spec=spec))
        await self.settle()

    async def give_token(self, run: str = "fraud-1") -> None:
        spec = TokenSpec(groups=(training_group("fraud"),), digest="ab")
        await self.write(Token(metadata=Metadata(name=token_name(run)), spec=spec))

    async def tokens(self) -> list[str]:
        return [token.metadata.name for token in (await self.real.list(Token))[0]]


@asynccontextmanager
async def open_training(directory: Path) -> AsyncIterator[Plane]:
    async with open_store(directory) as (store, clock):
        opened = Plane(store, clock)
        opened.fence.set(await store.claim(LEASE_NAME, "one", 1_000_000))
        yield opened
        opened.watcher.close()
