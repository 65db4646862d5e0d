"""Versions registered without their files get them, once, or say why not."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from modelplane.adapters.blobs.trees import TreeBlobs
from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.client.artifacts import digest_tree, tar_stream
from modelplane.controllers.artifacts import ArtifactController
from modelplane.controllers.loop import LEASE_NAME, Fence
from modelplane.controllers.sources_fetching import VersionFetcher
from modelplane.decisions.external import ExternalRun
from modelplane.decisions.registration import await_files
from modelplane.ports.registries import ArtifactUnavailable, SourceRefused, SourceUnavailable
from modelplane.ports.store import AnyResource, Transaction
from modelplane.resources.dataset import DatasetReference
from modelplane.resources.meta import Condition, Metadata, Subject
from modelplane.resources.model import ModelVersion, ModelVersionSpec, Training
from modelplane.resources.model_source import ModelSource, ModelSourceSpec
from modelplane.resources.revision import Artifact
from modelplane.testing.clock import ManualClock
from modelplane.testing.registries import FakeRegistry

ANA = Subject(name="ana", groups=("admin",))


@dataclass
class Plane:
    store: SqliteStore
    blobs: TreeBlobs
    clock: ManualClock
    controller: ArtifactController
    registries: dict[str, FakeRegistry] = field(default_factory=dict)

    async def put(self, resource: AnyResource) -> None:
        transaction = Transaction(ANA)
        transaction.put(resource, "test")
        await self.store.commit(transaction)

    async def declare(self, name: str, registry: FakeRegistry) -> None:
        self.registries[name] = registry
        spec = ModelSourceSpec(url="http://mlflow:5000")
        await self.put(ModelSource(metadata=Metadata(name=name), spec=spec))

    async def register(self, number: int = 1, **spec: Any) -> None:
        given = {"source": "models:/m-1", **spec}
        version = ModelVersionSpec(model="fraud", version=f"{number}.0.0", number=number, **given)
        record = ModelVersion(metadata=Metadata(name=f"fraud@{number}.0.0"), spec=version)
        await self.put(await_files(record, self.clock.now()))

    async def version(self, number: int = 1) -> ModelVersion:
        return await self.store.get(ModelVersion, f"fraud@{number}.0.0")

    async def condition(self, number: int = 1) -> Condition:
        (condition,) = (await self.version(number)).status.conditions
        assert condition.type == "ArtifactReady"
        return condition

    async def work(self) -> dict[str, float | None]:
        """Reconcile everything once, as the loop does; return when each is looked at again."""
        after: dict[str, float | None] = {}
        for kind in (ModelSource, ModelVersion):
            resources, _ = await self.store.list(kind)
            for resource in resources:
                for key in list(self.controller.keys(resource)):
                    after[key.name] = await self.controller.reconcile(key)
        return after

    async def retry(self) -> float | None:
        version = await self.version()
        return await self.controller.reconcile(version.key)


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    folder = Path(tempfile.mkdtemp(prefix="mp-artifacts-"))
    clock, uids, fence = ManualClock(), itertools.count(1), Fence()
    store = SqliteStore(
        folder / "store.db",
        clock=clock,
        new_uid=lambda: f"uid-{next(uids)}",
        audit_dir=folder / "audit",
    )
    await store.open()
    blobs = TreeBlobs(str(folder / "artifacts"))
    registries: dict[str, FakeRegistry] = {}
    controller = ArtifactController(
        store,
        fence,
        clock,
        connect=lambda source: registries[source.metadata.name],
        fetcher=VersionFetcher(blobs, folder / "imports"),
    )
    try:
        fence.set(await store.claim(LEASE_NAME, "one", 1e9))
        yield Plane(store, blobs, clock, controller, registries)
    finally:
        await store.close()
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def test_the_files_come_with_what_they_say(plane: Plane) -> None:
    registry = FakeRegistry()
    data = DatasetReference(name="rows", digest="mlflow:1")
    registry.runs["r1"] = ExternalRun("r1", "bea", {"auc": 0.9}, {"C": "1"}, {}, (data,))
    await plane.declare("mlflow", registry)
    await plane.register(training=Training(run_id="r1"))
    assert await plane.work() == {"fraud@1.0.0": None}
    version = await plane.version()
    spec = version.spec
    assert spec.artifact is not None
    assert await plane.blobs.find(spec.artifact.digest) is not None
    assert (spec.metrics, spec.parameters, spec.flavour) == ({"auc": 0.9}, {"C": "1"}, "skops")
    assert [(d.name, d.version) for d in spec.datasets] == [("rows", "1")]
    assert [label.id for label in await plane.blobs.labels()] == [spec.id]
    assert (await plane.condition()).status == "True"
    assert await plane.work() == {}
    assert await plane.version() == version


async def test_a_source_declared_while_the_sources_are_read_is_not_overlooked(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plane.register()
    await plane.declare("first", FakeRegistry(trouble=ArtifactUnavailable("ArtifactMissing", "no")))
    (version,), _ = await plane.store.list(ModelVersion)
    (first,), _ = await plane.store.list(ModelSource)
    assert [*plane.controller.keys(version), *plane.controller.keys(first)]
    read = plane.store.list

    async def list_then_change(kind: Any, *words: Any, **names: Any) -> Any:
        found = await read(kind, *words, **names)
        if kind is ModelSource:
            monkeypatch.undo()
            await plane.declare("second", FakeRegistry())
            second = await plane.store.get(ModelSource, "second")
            assert list(plane.controller.keys(second)) == [version.key]
        return found

    monkeypatch.setattr(plane.store, "list", list_then_change)
    await plane.controller.reconcile(version.key)
    await plane.controller.reconcile(version.key)  # as the change has the loop do
    assert (await plane.version()).spec.artifact is not None


async def test_without_a_source_nothing_is_written_until_one_is_declared(plane: Plane) -> None:
    for number in range(1, 6):
        await plane.register(number)
    before = await plane.store.audit()
    await plane.work()
    await plane.work()
    condition = await plane.condition(5)
    assert (condition.status, condition.reason) == ("False", "Waiting")
    assert "as soon as a ModelSource is declared" in condition.message
    assert len(await plane.store.audit()) == len(before)
    await plane.declare("mlflow", FakeRegistry())
    await plane.work()
    assert (await plane.condition(5)).status == "True"


async def test_a_source_that_is_taken_away_is_missed(plane: Plane) -> None:
    registry = FakeRegistry()
    registry.broken["fraud", 1] = SourceUnavailable("TimedOut", "mlflow did not answer")
    await plane.declare("mlflow", registry)
    await plane.register()
    await plane.work()
    (source,), _ = await plane.store.list(ModelSource)
    transaction = Transaction(ANA)
    transaction.delete(source)
    await plane.store.commit(transaction)
    assert list(plane.controller.keys(source)) == [(await plane.version()).key]
    await plane.retry()
    assert (await plane.condition()).reason == "NoSource"


@pytest.mark.parametrize(
    "error",
    [
        ArtifactUnavailable("ArtifactMissing", "the logged model is gone"),
        SourceUnavailable("TimedOut", "mlflow did not answer"),
        SourceRefused("Unauthorized", "mlflow answered 401"),
    ],
)
async def test_what_cannot_be_had_is_told_once_and_tried_again(
    plane: Plane, error: ArtifactUnavailable | SourceUnavailable | SourceRefused
) -> None:
    registry = FakeRegistry()
    registry.broken["fraud", 1] = error
    await plane.declare("mlflow", registry)
    await plane.register()
    assert await plane.work() == {"fraud@1.0.0": 1.0}
    condition = await plane.condition()
    assert (condition.status, condition.reason, condition.message) == (
        "False", error.reason, str(error),
    )  # fmt: skip
    before = await plane.store.audit()
    assert [await plane.retry() for _ in range(3)] == [2.0, 4.0, 8.0]
    assert await plane.store.audit() == before
    registry.broken.clear()
    assert await plane.retry() is None
    assert (await plane.condition()).status == "True"


async def test_the_source_that_has_them_is_found(plane: Plane) -> None:
    empty, full = FakeRegistry(), FakeRegistry()
    empty.broken["fraud", 1] = ArtifactUnavailable("ArtifactMissing", "not here")
    await plane.declare("a", empty)
    await plane.declare("b", full)
    await plane.register()
    await plane.work()
    assert (await plane.version()).spec.artifact is not None


async def test_a_copy_takes_the_files_of_what_it_was_made_from(plane: Plane) -> None:
    artifact = Artifact(format="skops", digest=f"sha256:{64 * '0'}", size_bytes=3)
    await plane.register(2, source="models:/fraud/1")
    await plane.work()
    assert (await plane.condition(2)).reason == "ArtifactMissing"

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.skops"
        file.write_bytes(b"content")
        digest = digest_tree(file).digest

        async def pieces() -> AsyncIterator[bytes]:
            for piece in tar_stream(file):
                yield piece

        await plane.blobs.put(pieces(), digest)
    await plane.register(1, source=None, artifact=artifact.with_(digest=digest))
    version = await plane.version(2)
    assert await plane.controller.reconcile(version.key) is None
    copied = (await plane.version(2)).spec
    assert copied.artifact is not None
    assert copied.artifact.digest == digest


async def test_what_was_deleted_or_pushed_or_is_a_prompt_is_left_alone(plane: Plane) -> None:
    await plane.declare("mlflow", FakeRegistry())
    await plane.register()
    await plane.put((await plane.version()).with_status(deleted_at=plane.clock.now()))
    await plane.register(2, source=None)
    await plane.register(3)
    prompt = (await plane.version(3)).with_status(tags={"mlflow.prompt.is_prompt": "true"})
    await plane.put(prompt)
    assert await plane.work() == {}
