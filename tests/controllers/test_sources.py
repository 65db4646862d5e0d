"""What watching a registry elsewhere promises: everything there is here, once and whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from modelplane.decisions.external import ExternalRun
from modelplane.errors import Conflict
from modelplane.ports.registries import (
    ArtifactUnavailable,
    DigestMismatch,
    SourceRefused,
    SourceUnavailable,
)
from modelplane.ports.store import Transaction
from modelplane.resources.dataset import Dataset, DatasetReference, DatasetVersion
from modelplane.resources.meta import Metadata, ResourceKey
from modelplane.resources.model import Model
from modelplane.resources.model_deployment import ModelDeployment, ModelDeploymentSpec
from tests.controllers.watching import ANA, Watch, open_watch


@pytest.fixture
async def watch() -> AsyncIterator[Watch]:
    async with open_watch() as made:
        yield made


async def test_a_version_there_appears_here_with_everything(watch: Watch) -> None:
    data = DatasetReference(name="s3://b/train", digest="mlflow:f7a7", rows=50, format="mlflow")
    watch.registry.runs["r1"] = ExternalRun(
        "r1", "bea", {"accuracy": 0.95}, {"C": "0.5"},
        {"team": "risk", "mlflow.source.git.commit": "abc"}, (data,),
    )  # fmt: skip
    there = watch.registry.register(
        "fraud model", run_id="r1", tags={"k": "v"}, description="first", stage="Staging"
    )
    watch.registry.describe_model("fraud model", description="about", tags={"tier": "1"})
    watch.registry.move_alias("fraud model", "champion", 1)
    await watch.declare()
    await watch.settle()
    version = (await watch.versions())["fraud model@1.0.0"]
    spec = version.spec
    assert (spec.number, spec.registered_at, spec.author) == (1, there.created_at, "bea")
    assert (spec.metrics, spec.parameters, spec.flavour) == (
        {"accuracy": 0.95}, {"C": "0.5"}, "skops",
    )  # fmt: skip
    assert (spec.training.git_commit, spec.training.run_id) == ("abc", "r1")
    assert spec.artifact is not None
    assert spec.id.startswith("mv-")
    assert await watch.blobs.find(spec.artifact.digest) is not None
    assert (version.status.tags, version.status.stage) == ({"k": "v", "team": "risk"}, "Staging")
    assert version.status.description == "first"
    (reference,) = spec.datasets
    assert (reference.name, reference.version, reference.rows) == ("s3-b-train", "1", 50)
    assert await watch.store.get(DatasetVersion, "s3-b-train@1")
    assert await watch.store.get(Dataset, "s3-b-train")
    model = await watch.store.get(Model, "fraud model")
    assert (model.spec.description, model.status.tags) == ("about", {"tier": "1"})
    assert (model.status.source, model.status.last_number) == ("mlflow", 1)
    assert model.status.aliases == model.status.mirrored_aliases == {"champion": "1.0.0"}
    assert await watch.moves() == [("champion", None, "1.0.0", "outside", "mlflow")]
    assert (await watch.condition("Ready")).status == "True"
    assert (await watch.condition("Imported")).status == "True"
    status = (await watch.source()).status
    assert (status.models, status.versions) == (1, 1)


async def test_nothing_new_writes_nothing(watch: Watch) -> None:
    watch.registry.register("fraud")
    await watch.declare()
    await watch.settle()
    before = await watch.records()
    for _ in range(3):
        await watch.poll()
    watch.restart()
    await watch.poll()
    assert await watch.records() == before


@pytest.mark.slow
async def test_a_thousand_versions_come_once_even_when_asked_twice(watch: Watch) -> None:
    for number in range(1000):
        watch.registry.register(f"model-{number % 20}")
    await watch.declare(pollInterval="10s")
    await watch.poll()
    watch.restart()
    await watch.settle()
    versions = await watch.versions()
    assert len(versions) == 1000
    assert len({(v.spec.model, v.spec.number) for v in versions.values()}) == 1000
    assert watch.registry.calls.count("download") == 1000
    status = (await watch.source()).status
    assert (status.models, status.versions, status.failures) == (20, 1000, ())


async def test_what_changes_there_is_followed(watch: Watch) -> None:
    watch.registry.register("fraud", tags={"k": "v", "gone": "soon"})
    await watch.declare()
    await watch.settle()
    name = "fraud@1.0.0"
    version = (await watch.versions())[name]
    local = version.with_status(tags={**version.status.tags, "mine": "1"}, description="ours")
    await watch.put(local)
    watch.registry.tag("fraud", 1, "k", "w")
    watch.registry.tag("fraud", 1, "gone", None)
    await watch.settle()
    status = (await watch.versions())[name].status
    assert status.tags == {"k": "w", "mine": "1"}
    assert status.description == "ours"
    watch.registry.change("fraud", 1, description="theirs", stage="Production")
    await watch.settle()
    status = (await watch.versions())[name].status
    assert (status.description, status.stage) == ("theirs", "Production")


async def test_a_version_deleted_there_is_a_tombstone_here_and_may_come_back(watch: Watch) -> None:
    watch.registry.register("fraud")
    second = watch.registry.register("fraud")
    watch.registry.move_alias("fraud", "champion", 2)
    await watch.declare()
    await watch.settle()
    watch.registry.delete_version("fraud", 2)
    await watch.settle()
    assert await watch.living() == ["fraud@1.0.0"]
    assert await watch.aliases() == {}
    assert (await watch.source()).status.versions == 1
    watch.registry._versions["fraud", 2] = second
    await watch.settle()
    assert await watch.living() == ["fraud@1.0.0", "fraud@2.0.0"]


async def test_a_model_made_anew_there_takes_the_next_free_version(watch: Watch) -> None:
    watch.registry.register("fraud")
    await watch.declare()
    await watch.settle()
    watch.registry.delete_model("fraud")
    watch.registry.register("fraud")
    await watch.settle()
    assert await watch.living() == ["fraud@1.0.1"]
    assert (await watch.versions())["fraud@1.0.1"].spec.number == 1


async def test_what_was_deleted_here_stays_deleted(watch: Watch) -> None:
    watch.registry.register("fraud")
    await watch.declare()
    await watch.settle()
    version = (await watch.versions())["fraud@1.0.0"]
    await watch.put(version.with_status(deleted_at=watch.clock.now()))
    watch.registry.tag("fraud", 1, "a", "b")
    await watch.settle()
    assert await watch.living() == []


async def test_a_deployed_version_deleted_there_stays_and_says_so(watch: Watch) -> None:
    watch.registry.register("fraud")
    await watch.declare()
    await watch.settle()
    deployment = ModelDeployment(
        metadata=Metadata(name="fraud", environment="production"),
        spec=ModelDeploymentSpec(model="fraud", version="1.0.0"),
    )
    await watch.put(deployment)
    watch.registry.delete_version("fraud", 1)
    await watch.settle()
    (version,) = (await watch.versions()).values()
    assert version.status.deleted_at is None
    (condition,) = version.status.conditions
    assert (condition.type, condition.status) == ("InSource", "False")
    assert "production/fraud" in condition.message
    transaction = Transaction(ANA)
    transaction.delete(await watch.store.get(ModelDeployment, "fraud", "production"), "test")
    await watch.store.commit(transaction)
    await watch.settle()
    assert await watch.living() == []


async def test_a_version_that_fails_is_told_and_tried_again_with_back_off(watch: Watch) -> None:
    watch.registry.register("fraud")
    watch.registry.register("fraud")
    watch.registry.broken["fraud", 1] = ArtifactUnavailable("ArtifactMissing", "nothing is there")
    await watch.declare()
    delays = []
    for attempt in range(1, 5):
        delays.append(await watch.poll())
        (failure,) = (await watch.source()).status.failures
        assert (failure.version, failure.reason, failure.attempts) == (
            "1", "ArtifactMissing", attempt,
        )  # fmt: skip
        watch.clock.step(delays[-1])
    assert delays == [1.0, 2.0, 4.0, 8.0]
    condition = await watch.condition("Imported")
    assert (condition.status, condition.reason) == ("False", "ArtifactMissing")
    assert await watch.living() == ["fraud@2.0.0"]
    before = await watch.records()
    await watch.poll()
    await watch.poll()
    assert await watch.records() <= before + 1
    watch.registry.broken.clear()
    watch.clock.step(600)
    await watch.settle()
    assert await watch.living() == ["fraud@1.0.0", "fraud@2.0.0"]
    assert (await watch.source()).status.failures == ()
    assert (await watch.condition("Imported")).status == "True"


async def test_files_with_another_digest_than_stated_are_not_taken(watch: Watch) -> None:
    watch.registry.register("fraud", tags={"modelplane.digest": "sha256:" + 64 * "0"})
    watch.registry.register("other")
    watch.registry.broken["other", 1] = DigestMismatch("the files are not complete")
    await watch.declare()
    await watch.poll()
    failures = (await watch.source()).status.failures
    assert {failure.reason for failure in failures} == {"DigestMismatch"}
    assert len(failures) == 2
    assert await watch.living() == []
    assert await watch.blobs.list() == []


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (SourceUnavailable("Unreachable", "mlflow:5000 cannot be reached"), "Unreachable"),
        (SourceUnavailable("NotMlflow", "it answered with HTML"), "NotMlflow"),
        (SourceRefused("Unauthorized", "mlflow:5000 answered 401"), "Unauthorized"),
    ],
)
async def test_a_source_that_is_away_is_told_and_caught_up_with(
    watch: Watch, trouble: Exception, reason: str
) -> None:
    watch.registry.register("fraud")
    await watch.declare(pollInterval="5s")
    await watch.settle()
    watch.registry.register("fraud")
    watch.registry.trouble = trouble
    assert [await watch.poll() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    condition = await watch.condition("Ready")
    assert (condition.status, condition.reason) == ("False", reason)
    assert condition.message == str(trouble)
    assert (await watch.source()).status.versions == 1
    watch.registry.trouble = None
    await watch.settle()
    assert await watch.living() == ["fraud@1.0.0", "fraud@2.0.0"]
    assert (await watch.condition("Ready")).status == "True"


async def test_a_missing_secret_is_told(watch: Watch) -> None:
    watch.refusal = SourceRefused("SecretMissing", "there is no secret 'tracker'")
    await watch.declare(token="tracker")
    await watch.poll()
    assert (await watch.condition("Ready")).reason == "SecretMissing"
    watch.refusal = None
    watch.registry.register("fraud")
    await watch.settle()
    assert await watch.living() == ["fraud@1.0.0"]


async def test_a_source_that_fails_in_the_middle_leaves_nothing_half(watch: Watch) -> None:
    for _ in range(8):
        watch.registry.register("fraud")
    for number in range(1, 7):
        watch.registry.broken["fraud", number] = SourceUnavailable("TimedOut", "no answer")
    await watch.declare()
    await watch.poll()
    assert (await watch.condition("Ready")).reason == "TimedOut"
    for version in (await watch.versions()).values():
        assert version.spec.artifact is not None
        assert await watch.blobs.find(version.spec.artifact.digest) is not None
    watch.registry.broken.clear()
    watch.clock.step(600)
    await watch.settle()
    assert len(await watch.living()) == 8


async def test_a_model_registered_here_is_not_taken_over(watch: Watch) -> None:
    await watch.put(Model(metadata=Metadata(name="fraud")).with_status(last_number=3))
    watch.registry.register("fraud")
    watch.registry.register("a?b")
    watch.registry.register("fine")
    await watch.declare()
    await watch.poll()
    failures = {f.model: f.reason for f in (await watch.source()).status.failures}
    assert failures == {"fraud": "Conflict", "a?b": "NameNotAllowed"}
    assert await watch.living() == ["fine@1.0.0"]


async def test_a_source_declared_under_another_name_goes_on_with_its_models(watch: Watch) -> None:
    watch.registry.register("fraud")
    await watch.declare()
    await watch.settle()
    model = await watch.store.get(Model, "fraud")
    await watch.put(model.with_status(source="before"))
    watch.registry.register("fraud")
    watch.restart()
    await watch.settle()
    assert await watch.living() == ["fraud@1.0.0", "fraud@2.0.0"]
    assert (await watch.store.get(Model, "fraud")).status.source == "mlflow"


async def test_only_the_models_that_are_wanted_come(watch: Watch) -> None:
    for name in ("risk-a", "risk-b", "other"):
        watch.registry.register(name)
    await watch.declare(models=["risk-*"])
    await watch.settle()
    assert await watch.living() == ["risk-a@1.0.0", "risk-b@1.0.0"]


async def test_the_webhook_is_registered_there(watch: Watch) -> None:
    watch.secrets["hook"] = "s3cret"
    await watch.declare(webhookUrl="http://plane:7080/", webhookSecret="hook")
    await watch.settle()
    url = "http://plane:7080/api/v1/webhooks/mlflow/mlflow"
    assert watch.registry.webhooks == {"modelplane-mlflow": (url, "s3cret")}
    assert (await watch.source()).status.webhook_id == "modelplane-mlflow"
    assert (await watch.condition("WebhookRegistered")).status == "True"


async def test_without_the_webhooks_secret_polling_goes_on(watch: Watch) -> None:
    await watch.declare(webhookUrl="http://plane:7080", webhookSecret="hook")
    watch.registry.register("fraud")
    await watch.settle()
    assert (await watch.condition("WebhookRegistered")).reason == "SecretMissing"
    assert await watch.living() == ["fraud@1.0.0"]


async def wait_until(probe: Any) -> None:
    """Wait in real time, while the manual clock stands still."""
    async with asyncio.timeout(10):
        while not await probe():  # noqa: ASYNC110 - the watchers have no event for this
            await asyncio.sleep(0.01)


async def test_a_watcher_polls_wakes_and_ends(watch: Watch) -> None:
    watch.registry.register("fraud")
    await watch.declare()
    running = asyncio.create_task(watch.controller.run())
    key = ResourceKey("ModelSource", None, "mlflow")
    await watch.controller.reconcile(key)

    async def has(name: str) -> bool:
        return name in await watch.living()

    await wait_until(lambda: has("fraud@1.0.0"))
    watch.registry.register("fraud")
    watch.controller.wake("mlflow", "fraud", 2)
    await wait_until(lambda: has("fraud@2.0.0"))
    watch.registry.register("other")
    watch.controller.wake("mlflow")
    await wait_until(lambda: has("other@1.0.0"))
    watch.registry.register("late")

    async def has_in_time() -> bool:
        await watch.clock.advance(31)
        return await has("late@1.0.0")

    await wait_until(has_in_time)
    await watch.move_here("late", "champion", "1.0.0")
    list(watch.controller.keys(await watch.store.get(Model, "late")))

    async def written() -> bool:
        return watch.registry.aliases("late") == {"champion": 1}

    await wait_until(written)
    transaction = Transaction(ANA)
    transaction.delete(await watch.source(), "test")
    await watch.store.commit(transaction)
    await watch.controller.reconcile(key)
    watch.registry.calls.clear()
    await watch.clock.advance(100)
    assert watch.registry.calls == []
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_an_announced_version_need_not_wait_for_the_poll(watch: Watch) -> None:
    """A version that is announced comes while the poll is busy with others."""
    held = asyncio.Event()
    slow = watch.registry.download

    async def download(version: Any, into: Path) -> Any:
        if version.model == "slow":
            await held.wait()
        return await slow(version, into)

    watch.registry.download = download  # type: ignore[method-assign]
    for _ in range(10):
        watch.registry.register("slow")
    await watch.declare()
    running = asyncio.create_task(watch.controller.run())
    await watch.controller.reconcile(ResourceKey("ModelSource", None, "mlflow"))

    async def busy() -> bool:
        return watch.registry.calls.count("describe") >= 4

    await wait_until(busy)
    watch.registry.register("fraud")
    watch.controller.wake("mlflow", "fraud", 1)

    async def here() -> bool:
        return await watch.living() == ["fraud@1.0.0"]

    await wait_until(here)
    held.set()

    async def all_here() -> bool:
        return len(await watch.living()) == 11

    await wait_until(all_here)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_without_the_lease_nothing_is_written(watch: Watch) -> None:
    watch.registry.register("fraud")
    await watch.declare()
    watch.fence.set(None)
    with pytest.raises(Conflict):
        await watch.poll()
    assert await watch.living() == []
