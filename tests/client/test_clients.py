"""Both clients against the real API on a real connection: what people do with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelplane.client import AsyncClient, Client
from modelplane.client.artifacts import digest_tree
from modelplane.errors import (
    Conflict,
    Forbidden,
    InvalidResource,
    NotFound,
    TerminalError,
    TransientError,
    Unauthenticated,
)
from modelplane.ports.store import Transaction
from modelplane.resources.manifest import read_document
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import Promotion
from modelplane.resources.token import Token
from modelplane.resources.traffic_split import TrafficSplitStatus
from tests.api.test_deployments import finish
from tests.api.test_kinds import make_replica
from tests.api.world import ADMIN, AGENT, READER, SYSTEM, World, make_world, serve
from tests.cli.fakes import split_of


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with make_world() as made:
        yield made


@pytest.fixture
async def url(world: World) -> AsyncIterator[str]:
    async with serve(world) as address:
        yield address


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "data").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}")
    (folder / "data" / "weights.bin").write_bytes(b"\1" * 5000)
    return folder


DEPLOYMENT = {
    "apiVersion": "modelplane.dev/v1",
    "kind": "ModelDeployment",
    "metadata": {"name": "fraud", "environment": "staging"},
    "spec": {"strategy": {"canary": {"traffic": "10%"}}, "replicas": 2},
}


async def test_from_push_to_promotion(world: World, url: str, model: Path, tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("scikit-learn==1.6.1\n")

    def use() -> None:
        with Client(url, ADMIN) as client:
            pushed = client.push(
                "fraud",
                "1.2.0",
                model,
                metrics={"auc": 0.93},
                parameters={"depth": 6},
                datasets={"train": model / "data"},
                requirements=requirements,
                input_example={"inputs": []},
                tags={"team": "risk"},
                description="with weather",
            )
            assert pushed.result == "created"
            spec = pushed.resource.spec
            assert spec.artifact is not None
            assert spec.artifact.format == "mlflow"
            assert spec.artifact.digest == digest_tree(model).digest
            assert (spec.parameters, spec.requirements) == ({"depth": "6"}, "scikit-learn==1.6.1\n")
            assert spec.training.packages["httpx"]
            assert spec.datasets[0].digest.startswith("sha256:")
            assert client.push("fraud", "1.2.0", model).result == "unchanged"

            declared = read_document(DEPLOYMENT)
            assert isinstance(declared, ModelDeployment)
            assert client.apply(declared, dry_run=True).result == "created"
            applied = client.apply(declared, reason="first")
            assert applied.result == "created"
            assert applied.promotion
            assert client.apply(applied.resource).result == "unchanged"
            assert client.apply(declared).resource == applied.resource
            promoted = client.promote("fraud", "1.2.0", to="production")
            assert promoted.result == "created"
            assert promoted.warnings
            assert client.audit(kind="ModelDeployment", name="fraud")[0].reason == "first"
            assert client.verify_audit()["verified"] is True
            assert b"".join(client.export_audit()).count(b"\n") > 3

    await asyncio.to_thread(use)


async def test_an_artifact_comes_down_as_it_went_up(url: str, model: Path, tmp_path: Path) -> None:
    digest = digest_tree(model).digest
    there, missing = tmp_path / "down" / "there", f"sha256:{'0' * 64}"
    with Client(url, ADMIN) as client:
        await asyncio.to_thread(client.push, "fraud", "1.0.0", model)
    async with AsyncClient(url, AGENT) as agent:
        await agent.download_artifact(digest, there)
        assert digest_tree(there).digest == digest
        with pytest.raises(NotFound):
            await agent.download_artifact(missing, tmp_path / "down" / "missing")
    assert [path.name for path in (tmp_path / "down").iterdir()] == ["there"]


async def test_an_agent_stores_what_a_job_left(url: str, tmp_path: Path) -> None:
    left, there = tmp_path / "left", tmp_path / "down" / "there"
    (left / "sub").mkdir(parents=True)
    for name, content in (("empty", b""), ("block", b"x" * 512), ("sub/z", b"y" * 30_000)):
        (left / name).write_bytes(content)
    digest = digest_tree(left).digest
    async with AsyncClient(url, AGENT) as agent:
        await agent.upload_artifact(left, digest)
        await agent.upload_artifact(left, digest)  # it is there: nothing is sent
        await agent.download_artifact(digest, there)
        assert digest_tree(there).digest == digest
        with pytest.raises(InvalidResource):
            await agent.upload_artifact(left, f"sha256:{'0' * 64}")


async def test_an_artifact_altered_in_the_store_never_arrives(
    world: World, url: str, model: Path, tmp_path: Path
) -> None:
    digest = digest_tree(model).digest
    with Client(url, ADMIN) as client:
        await asyncio.to_thread(client.push, "fraud", "1.0.0", model)
    (stored,) = [p for p in world.directory.rglob("weights.bin") if p.is_file()]
    stored.chmod(0o644)
    stored.write_bytes(b"\2" * 5000)
    async with AsyncClient(url, AGENT) as agent:
        with pytest.raises((TerminalError, TransientError)):
            await agent.download_artifact(digest, tmp_path / "down")
    assert not (tmp_path / "down").exists()


async def test_what_cannot_be_pushed_says_why(url: str, tmp_path: Path) -> None:
    strange = tmp_path / "model.h5"
    strange.write_bytes(b"1")

    def use() -> None:
        with Client(url, ADMIN) as client:
            with pytest.raises(InvalidResource, match="no artifact"):
                client.push("fraud", "1.0.0", tmp_path / "missing.onnx")
            with pytest.raises(InvalidResource, match="format"):
                client.push("fraud", "1.0.0", strange)
            with pytest.raises(InvalidResource, match="cannot be read"):
                client.push("fraud", "1.0.0", strange, format="onnx", requirements=tmp_path)
            with pytest.raises(InvalidResource) as raised:
                client.push("fraud", "one", strange, format="onnx")
            assert raised.value.fields[0].path == "version"
            assert client.list(ModelVersion).items == ()

    await asyncio.to_thread(use)


async def test_a_command_needs_no_files(url: str) -> None:
    def use() -> None:
        with Client(url, ADMIN) as client:
            command = ("python", "-m", "server", "{socket}")
            pushed = client.push("fraud", "1.0.0", command=command)
            files = pushed.resource.spec.artifact
            assert files is not None
            assert (files.format, files.command) == ("command", command)

    await asyncio.to_thread(use)


async def test_tokens_open_what_their_groups_allow(url: str) -> None:
    def use() -> None:
        with Client(url, ADMIN) as admin:
            token, secret, warnings = admin.create_token("ann", ("analysts",))
            assert warnings == ()
            assert token.spec.digest == ""
            with Client(url, secret) as reader:
                names = [t.metadata.name for t in reader.list(Token).items]
                assert "ann" in names
                with pytest.raises(Forbidden):
                    reader.delete(Model, "fraud")
                admin.revoke_token("ann")
                with pytest.raises(Unauthenticated):
                    reader.list(Model)

    await asyncio.to_thread(use)


async def test_an_agent_reports_for_the_very_replica_it_saw(world: World, url: str) -> None:
    replica = await make_replica(world)
    async with AsyncClient(url, AGENT) as agent:
        reported = await agent.put_status(replica.with_status(phase="Ready"))
        assert reported.status.phase == "Ready"
        with pytest.raises(Conflict):
            await agent.put_status(replica.with_status(phase="Failed"), if_unchanged=True)
        other = replica.with_(metadata=replica.metadata.with_(uid="of-another"))
        with pytest.raises(Conflict):
            await agent.put_status(other)
    async with AsyncClient(url, READER) as reader:
        with pytest.raises(Forbidden):
            await reader.put_status(replica)


async def test_waiting_for_a_rollout_follows_it_to_its_end(world: World, url: str) -> None:
    await world.push("fraud", "1.0.0")
    await world.deploy("fraud", version="1.0.0")
    seen: list[str] = []

    def wait() -> str | None:
        with Client(url, ADMIN) as client:
            rollout = client.wait_for_rollout(
                "fraud", timeout_s=20, on_change=lambda r: seen.append(r.status.phase)
            )
            return rollout.status.phase if rollout else None

    waiting = asyncio.create_task(asyncio.to_thread(wait))
    await finish(world, "fraud", "Promoted")
    promotion = await world.store.get(Promotion, "fraud-1", "production")
    transaction = Transaction(SYSTEM)
    transaction.update(promotion.with_status(rollout="fraud-1"))
    transaction.create(split_of(promotion).with_(status=TrafficSplitStatus(accepted_generation=1)))
    await world.store.commit(transaction)
    assert await waiting in {"Promoted", None}


async def test_waiting_gives_up_in_time_and_says_when_a_promotion_failed(
    world: World, url: str
) -> None:
    await world.push("fraud", "1.0.0")
    await world.deploy("fraud", version="1.0.0")

    def use(timeout_s: float) -> None:
        with Client(url, ADMIN) as client:
            client.wait_for_rollout("fraud", timeout_s=timeout_s)

    with pytest.raises(TransientError, match="still rolling out"):
        await asyncio.to_thread(use, 0.0)
    promotion = await world.store.get(Promotion, "fraud-1", "production")
    transaction = Transaction(SYSTEM)
    transaction.update(promotion.with_status(phase="Failed", message="deployment deleted"))
    await world.store.commit(transaction)
    with pytest.raises(TerminalError, match="deployment deleted"):
        await asyncio.to_thread(use, 5.0)
