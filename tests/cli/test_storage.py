"""backup, restore and gc on real state directories."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelplane.adapters.blobs.trees import TreeBlobs
from modelplane.adapters.clock import SystemClock
from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.client.artifacts import digest_tree
from modelplane.decisions.registry_check import VersionLabel, label_of
from modelplane.errors import NoSpace
from modelplane.ports.store import Transaction
from modelplane.resources.gate_run import StageResult, StageResultSpec
from modelplane.resources.job import Job, JobSpec
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.model import Model, ModelVersion, ModelVersionSpec, ModelVersionStatus
from modelplane.settings import Paths
from modelplane.supervisor.lock import hold_lock
from modelplane.wiring.state import prepare_state
from tests.cli.conftest import Run
from tests.cli.fakes import NOW, metadata, revision

DAY_S = 86_400


@contextmanager
def opened(paths: Paths) -> Iterator[tuple[SqliteStore, asyncio.Runner]]:
    with asyncio.Runner() as runner:
        store = SqliteStore(
            paths.database,
            clock=SystemClock(),
            new_uid=lambda: uuid.uuid4().hex,
            audit_dir=paths.audit,
        )
        runner.run(store.open())
        try:
            yield store, runner
        finally:
            runner.run(store.close())


def add_model(paths: Paths, name: str) -> None:
    with opened(paths) as (store, runner):
        transaction = Transaction(Subject(name="anna"))
        transaction.create(Model(metadata=Metadata(name=name)))
        runner.run(store.commit(transaction))


def models(paths: Paths) -> list[str]:
    with opened(paths) as (store, runner):
        assert runner.run(store.verify_audit()).ok
        found, _ = runner.run(store.list(Model))
        return [model.metadata.name for model in found]


def add_tree(place: Path, content: str, *, old: bool = True) -> str:
    place.mkdir(parents=True, exist_ok=True)
    scratch = place / ".scratch"
    scratch.mkdir()
    (scratch / "model.onnx").write_text(content)
    digest = digest_tree(scratch).digest
    tree = scratch.rename(place / digest.removeprefix("sha256:"))
    if old:
        os.utime(tree, (time.time() - 3 * DAY_S,) * 2)
    return digest


@pytest.fixture
def state(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path / "state")
    prepare_state(paths)
    add_model(paths, "fraud")
    return paths


@pytest.mark.parametrize("failing", range(4))
def test_a_disk_that_is_full_leaves_a_state_that_can_be_prepared_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    paths = Paths(tmp_path / "state")
    calls = iter(range(100))

    def fsync(_: int) -> None:
        if next(calls) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("modelplane.wiring.state.os.fsync", fsync)
        with pytest.raises(NoSpace):
            prepare_state(paths)
    assert not paths.version.exists()
    prepare_state(paths)
    assert paths.version.read_text() == "1\n"
    for secret in (paths.admin_token, paths.agent_token, paths.gateway_token):
        assert secret.read_text().startswith("mp_")
    assert not list(paths.state_dir.glob("*.new"))


def test_a_backup_restores_into_another_directory(run: Run, state: Paths, tmp_path: Path) -> None:
    digest = add_tree(state.artifacts, "weights")
    to = tmp_path / "copy"
    assert run("backup", str(to), "--state", str(state.state_dir)).exit_code == 0
    secret = state.admin_token.read_text().strip()
    kept = [path.read_bytes() for path in to.rglob("*") if path.is_file()]
    assert not any(secret.encode() in content for content in kept)

    other = Paths(tmp_path / "other")
    result = run("restore", str(to), "--state", str(other.state_dir))
    assert result.exit_code == 0
    prepare_state(other)
    assert models(other) == ["fraud"]
    assert (other.artifacts / digest.removeprefix("sha256:") / "model.onnx").exists()


def test_a_restore_takes_the_state_back(run: Run, state: Paths, tmp_path: Path) -> None:
    to = str(tmp_path / "copy")
    run("backup", to, "--state", str(state.state_dir))
    add_model(state, "later")
    assert run("restore", to, "--state", str(state.state_dir)).exit_code == 0
    assert models(state) == ["fraud"]


def test_a_backup_replaces_nothing_and_needs_a_state(
    run: Run, state: Paths, tmp_path: Path
) -> None:
    to = str(tmp_path / "copy")
    run("backup", to, "--state", str(state.state_dir))
    assert run("backup", to, "--state", str(state.state_dir)).exit_code == 5
    nothing = run("backup", str(tmp_path / "b"), "--state", str(tmp_path / "none"))
    assert nothing.exit_code == 4
    assert not (tmp_path / "none").exists()


def test_a_backup_of_an_altered_artifact_is_refused(run: Run, state: Paths, tmp_path: Path) -> None:
    digest = add_tree(state.artifacts, "weights")
    tree = state.artifacts / digest.removeprefix("sha256:")
    (tree / "model.onnx").write_text("altered")
    result = run("backup", str(tmp_path / "copy"), "--state", str(state.state_dir))
    assert result.exit_code == 1
    assert f"{tree} was altered" in result.stderr
    assert "push the same bytes again" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_damaged_backup_changes_nothing(run: Run, state: Paths, tmp_path: Path) -> None:
    add_tree(state.artifacts, "weights")
    to = tmp_path / "copy"
    run("backup", str(to), "--state", str(state.state_dir))
    next((to / "artifacts").rglob("model.onnx")).write_text("altered")
    add_model(state, "later")
    result = run("restore", str(to), "--state", str(state.state_dir))
    assert result.exit_code == 1
    assert "was altered" in result.stderr
    assert models(state) == ["fraud", "later"]
    assert run("restore", str(tmp_path), "--state", str(state.state_dir)).exit_code == 4


def test_restore_refuses_a_running_state(run: Run, state: Paths, tmp_path: Path) -> None:
    to = str(tmp_path / "copy")
    run("backup", to, "--state", str(state.state_dir))
    with hold_lock(state.lock):
        result = run("restore", to, "--state", str(state.state_dir))
    assert result.exit_code == 5
    assert "modelplane down" in result.stderr


def test_gc_removes_only_what_is_old_and_unreferenced(run: Run, state: Paths) -> None:
    kept = add_tree(state.artifacts, "registered")
    young = add_tree(state.artifacts, "young", old=False)
    lost = add_tree(state.artifacts, "lost")
    cached = add_tree(state.agent / "artifacts", "lost")
    artifact = revision("1.0.0").artifact.with_(digest=kept)
    version = ModelVersion(
        metadata=metadata("fraud@1.0.0", None),
        spec=ModelVersionSpec(model="fraud", version="1.0.0", artifact=artifact),
    )
    with opened(state) as (store, runner):
        transaction = Transaction(Subject(name="anna"))
        transaction.create(version)
        runner.run(store.commit(transaction))
    words = ("gc", "--state", str(state.state_dir))
    planned = json.loads(run(*words, "--dry-run", "-o", "json").stdout)
    assert [(item["kind"], item["name"]) for item in planned] == [
        ("artifact", lost.removeprefix("sha256:")[:12]),
        ("cache", cached.removeprefix("sha256:")[:12]),
    ]
    assert run(*words).stdout.splitlines()[-1] == "removed 2 things, 8 B"
    left = {f"sha256:{tree.name}" for tree in state.artifacts.iterdir()}
    assert left == {kept, young}
    assert run(*words).stdout == "removed 0 things, 0 B\n"


def test_gc_keeps_the_evidence_of_gates(run: Run, state: Paths) -> None:
    evidence, further, output = (add_tree(state.artifacts, name) for name in ("a", "b", "c"))
    spec = {
        "key": "k", "inputs": {}, "check": "command", "stage": "s", "model": "fraud",
        "version": "1.0.0", "outcome": {"passed": True}, "evidence": evidence,
        "shardEvidence": [further], "run": "quality-1", "durationS": 1.0,
    }  # fmt: skip
    result = StageResult(metadata=Metadata(name="k"), spec=StageResultSpec.model_validate(spec))
    job = Job(metadata=metadata("quality-1.s.0.1"), spec=JobSpec(command=("true",)))
    with opened(state) as (store, runner):
        transaction = Transaction(Subject(name="anna"))
        transaction.create(result)
        transaction.create(job.with_status(output=output))
        runner.run(store.commit(transaction))
    done = run("gc", "--state", str(state.state_dir))
    assert done.stdout == "removed 0 things, 0 B\n"
    assert len(list(state.artifacts.iterdir())) == 3


def test_gc_removes_the_files_of_deleted_versions_with_their_records(
    run: Run, state: Paths
) -> None:
    digest = add_tree(state.artifacts, "deleted")
    artifact = revision("1.0.0").artifact.with_(digest=digest)
    version = ModelVersion(
        metadata=metadata("fraud@1.0.0", None),
        spec=ModelVersionSpec(model="fraud", version="1.0.0", artifact=artifact),
        status=ModelVersionStatus(deleted_at=NOW),
    )
    with opened(state) as (store, runner):
        transaction = Transaction(Subject(name="anna"))
        transaction.create(version)
        runner.run(store.commit(transaction))
        runner.run(TreeBlobs(str(state.artifacts)).label(label_of(version.spec, NOW)))
    words = ("gc", "--state", str(state.state_dir))
    assert run(*words).stdout.splitlines()[-1] == "removed 0 things, 0 B", "labelled just now"
    (record,) = (state.artifacts / ".versions").iterdir()
    os.utime(record, (time.time() - 3 * DAY_S,) * 2)
    assert run(*words).stdout.splitlines()[-1] == "removed 1 things, 7 B"
    assert not record.exists()


def test_what_describes_the_artifacts_is_backed_up_with_them(
    run: Run, state: Paths, tmp_path: Path
) -> None:
    digest = add_tree(state.artifacts, "weights")
    tree = state.artifacts / digest.removeprefix("sha256:")
    label = VersionLabel("mv-1", "fraud", "1.0.0", digest, NOW)
    asyncio.run(TreeBlobs(str(state.artifacts)).label(label))
    (state.artifacts / f".files-{tree.name}.json").write_text("[]")
    (state.artifacts / ".partial-x").mkdir()
    (state.artifacts / ".versions/mv-2.new").write_text("half")
    run("backup", str(tmp_path / "copy"), "--state", str(state.state_dir))
    other = Paths(tmp_path / "other")
    run("restore", str(tmp_path / "copy"), "--state", str(other.state_dir))
    names = {path.name for path in other.artifacts.rglob("*")}
    assert names == {tree.name, "model.onnx", f".files-{tree.name}.json", ".versions", "mv-1.json"}


def test_artifacts_in_a_bucket_stay_there(
    run: Run, state: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to, words = tmp_path / "copy", ("--state", str(tmp_path / "other"))
    monkeypatch.setenv("MODELPLANE_ARTIFACTS_URL", "s3://bucket/models")
    result = run("backup", str(to), "--state", str(state.state_dir))
    assert "the artifacts stay in s3://bucket/models" in result.stderr
    assert list((to / "artifacts").iterdir()) == []
    assert run("restore", str(to), *words).exit_code == 0
    monkeypatch.delenv("MODELPLANE_ARTIFACTS_URL")
    refused = run("restore", str(to), *words)
    assert refused.exit_code == 5
    assert "set artifacts_url to s3://bucket/models" in refused.stderr


@pytest.mark.parametrize(
    "url", ["artifacts", "ftp://x/y", "s3://", "s3:///", "s3://key:secret@bucket/x", "s3://b?x=1"]
)
def test_an_address_that_cannot_be_one_is_refused(
    run: Run, state: Paths, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("MODELPLANE_ARTIFACTS_URL", url)
    result = run("gc", "--state", str(state.state_dir))
    assert result.exit_code == 2
    assert "artifacts_url" in result.stderr
    assert "secret@" not in result.stderr
