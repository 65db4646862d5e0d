"""A watched registry: the real store and blobs, a registry in memory, a manual clock."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelplane.adapters.blobs.trees import TreeBlobs
from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.controllers.loop import LEASE_NAME, Fence
from modelplane.controllers.sources import SourceController
from modelplane.controllers.sources_fetching import VersionFetcher
from modelplane.decisions.aliases import Mover, move_alias
from modelplane.ports.store import AnyResource, Transaction
from modelplane.resources.meta import Condition, Metadata, Subject
from modelplane.resources.model import AliasMove, Model, ModelVersion
from modelplane.resources.model_source import ModelSource, ModelSourceSpec
from modelplane.testing.clock import ManualClock
from modelplane.testing.registries import FakeRegistry

ANA = Subject(name="ana", groups=("admin",))


@dataclass
class Watch:
    """A watched registry: the real store and blobs, a registry in memory."""

    store: SqliteStore
    blobs: TreeBlobs
    clock: ManualClock
    folder: Path
    registry: FakeRegistry = field(default_factory=FakeRegistry)
    fence: Fence = field(default_factory=Fence)
    secrets: dict[str, str] = field(default_factory=dict)
    refusal: Exception | None = None
    controller: SourceController = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin with nothing remembered, as a control plane that was down."""
        self.controller = SourceController(
            self.store,
            self.fence,
            self.clock,
            connect=self.connect,
            secret=self.secrets.get,
            fetcher=VersionFetcher(self.blobs, self.folder / "imports"),
            api_url="http://127.0.0.1:7080",
        )

    def connect(self, source: ModelSource) -> FakeRegistry:
        if self.refusal is not None:
            raise self.refusal
        return self.registry

    async def declare(self, **spec: Any) -> None:
        given = ModelSourceSpec.model_validate({"url": "http://mlflow:5000", **spec})
        transaction = Transaction(ANA)
        transaction.create(ModelSource(metadata=Metadata(name="mlflow"), spec=given))
        await self.store.commit(transaction)

    async def poll(self) -> float:
        return await self.controller.poll("mlflow")

    async def settle(self) -> None:
        """Poll until nothing changes."""
        for _ in range(10):
            before = await self.records()
            await self.poll()
            if await self.records() == before:
                return
        raise AssertionError("it does not settle")

    async def records(self) -> int:
        newest = await self.store.audit(last=1)
        return newest[0].sequence if newest else 0

    async def put(self, resource: AnyResource) -> None:
        transaction = Transaction(ANA)
        transaction.put(resource, "test")
        await self.store.commit(transaction)

    async def move_here(self, model: str, alias: str, version: str | None) -> None:
        """Move an alias as a person does here."""
        found = await self.store.get(Model, model)
        moved = move_alias(found, alias, version, Mover("ana", self.clock.now(), "better"))
        transaction = Transaction(ANA)
        for changed in moved.written:
            transaction.put(changed, "alias")
        await self.store.commit(transaction)

    async def versions(self) -> dict[str, ModelVersion]:
        versions, _ = await self.store.list(ModelVersion)
        return {version.metadata.name: version for version in versions}

    async def living(self) -> list[str]:
        found = await self.versions()
        return [name for name, v in found.items() if v.status.deleted_at is None]

    async def aliases(self, model: str = "fraud") -> dict[str, str]:
        return (await self.store.get(Model, model)).status.aliases

    async def moves(self) -> list[tuple[str, str | None, str | None, str, str]]:
        moves, _ = await self.store.list(AliasMove)
        return [
            (m.spec.alias, m.spec.before, m.spec.after, m.spec.origin, m.spec.subject)
            for m in moves
        ]

    async def source(self) -> ModelSource:
        return await self.store.get(ModelSource, "mlflow")

    async def condition(self, kind: str) -> Condition:
        source = await self.source()
        return next(c for c in source.status.conditions if c.type == kind)


@asynccontextmanager
async def open_watch() -> AsyncIterator[Watch]:
    folder = Path(tempfile.mkdtemp(prefix="mp-sources-"))
    clock, uids = ManualClock(), itertools.count(1)
    store = SqliteStore(
        folder / "store.db",
        clock=clock,
        new_uid=lambda: f"uid-{next(uids)}",
        audit_dir=folder / "audit",
    )
    await store.open()
    made = Watch(store, TreeBlobs(str(folder / "artifacts")), clock, folder)
    try:
        made.fence.set(await store.claim(LEASE_NAME, "one", 1e9))
        yield made
    finally:
        await store.close()
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
