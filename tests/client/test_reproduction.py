"""What a reproduction does on a user's machine: code, data, command, and the push that is kept."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path, PurePosixPath

import psutil
import pytest

from modelplane.client import Client
from modelplane.client.artifacts import digest_tree
from modelplane.client.datasets import describe_data
from modelplane.client.reproduction import (
    VARIABLE,
    choose_push,
    read_pushes,
    record_push,
)
from modelplane.client.reproduction_code import CheckedOut, check_out, find_below, locate_script
from modelplane.client.reproduction_command import LOG_BYTES, command_environment, run_command
from modelplane.client.reproduction_data import Places, place_data
from modelplane.errors import TerminalError
from modelplane.resources.dataset import DatasetReference
from modelplane.resources.model import ModelVersion, Training


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with two commits; its tree has the second, and data that is not committed."""
    folder = tmp_path.resolve() / "team"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / ".gitignore").write_text("data/\n")
    for text in ("first", "second"):
        (folder / "train.py").write_text(f"print('{text}')\n")
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "-m", text)
    (folder / "data").mkdir()
    (folder / "data" / "train.csv").write_text("a,b\n1,2\n")
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path.resolve() / "work"
    folder.mkdir()
    return folder


def first_commit(repository: Path) -> str:
    return git(repository, "rev-list", "--max-parents=0", "HEAD")


# -- code ---------------------------------------------------------------------------------------


def test_the_recorded_commit_is_checked_out_beside_the_users_tree(
    repository: Path, work: Path
) -> None:
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {work}/hooked\n")
    hook.chmod(0o755)
    (repository / "train.py").write_text("print('changed')\n")
    status = git(repository, "status", "--porcelain", "--branch")
    training = Training(git_commit=first_commit(repository), git_dirty=False)

    code = check_out(training, repository, work / "code", copy=False)

    assert code.finding.outcome == "match"
    assert (work / "code" / "train.py").read_text() == "print('first')\n"
    assert git(repository, "status", "--porcelain", "--branch") == status
    assert not (work / "hooked").exists()
    code.remove()
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert not (work / "code").exists()


@pytest.mark.parametrize(
    ("dirty", "outcome", "said"),
    [(True, "differs", "were not recorded"), (None, "match", "is not known")],
)
def test_a_commit_is_not_all_where_files_had_changed(
    repository: Path, work: Path, dirty: bool | None, outcome: str, said: str
) -> None:
    training = Training(git_commit=first_commit(repository), git_dirty=dirty)
    finding = check_out(training, repository, work / "code", copy=False).finding
    assert finding.outcome == outcome
    assert said in finding.message


def test_a_commit_that_is_not_here_is_cloned_from_the_remote(
    repository: Path, work: Path, tmp_path: Path
) -> None:
    commit = first_commit(repository)
    training = Training(git_commit=commit, git_dirty=False, git_remote=str(repository))
    code = check_out(training, tmp_path, work / "code", copy=False)
    assert code.finding.outcome == "match"
    assert git(work / "code", "rev-parse", "HEAD") == commit


@pytest.mark.parametrize(
    ("training", "said"),
    [
        (Training(), "no commit was recorded: name the folder"),
        (Training(git_commit="--upload-pack=x"), "no commit: '--upload-pack=x'"),
        (Training(git_commit="a" * 40), "is not in"),
        (Training(git_commit="a" * 40, git_remote="/does/not/exist"), "cannot be cloned"),
        (Training(git_commit="a" * 40, git_remote="ext::touch hacked"), "cannot be cloned"),
        (Training(git_commit="a" * 40, git_remote="HERE"), "neither in"),
    ],
)
def test_code_that_cannot_be_had_is_named(
    repository: Path, work: Path, training: Training, said: str
) -> None:
    if training.git_remote == "HERE":
        training = training.with_(git_remote=str(repository))
    code = check_out(training, repository, work / "code", copy=False)
    assert code.finding.outcome == "not reproducible"
    assert said in code.finding.message
    assert code.top is None
    assert list(work.iterdir()) == []


def test_without_a_commit_a_named_folder_is_copied_and_that_is_said(
    repository: Path, work: Path
) -> None:
    code = check_out(Training(), repository, work / "code", copy=True)
    assert code.finding.outcome == "not reproducible"
    assert "the present files" in code.finding.message
    assert (work / "code" / "train.py").read_text() == "print('second')\n"
    assert not (work / "code" / ".git").exists()


def test_paths_of_another_machine_are_found_by_their_end(repository: Path, work: Path) -> None:
    train = repository / "train.py"
    assert find_below(PurePosixPath("/home/ana/team/data/train.csv"), repository) == (
        repository / "data" / "train.csv"
    )
    assert find_below(PurePosixPath("/etc/passwd"), repository) is None
    assert locate_script("/home/ana/team/train.py", repository, None) == str(train)
    assert locate_script("/home/ana/team/data", repository, None) is None
    (work / "team-train").write_text("")
    found = locate_script("/home/ana/.venv/bin/team-train", repository, work)
    assert found == str(work / "team-train")


# -- data ---------------------------------------------------------------------------------------


@pytest.fixture
def places(repository: Path, work: Path) -> Places:
    training = Training(git_commit=first_commit(repository), git_dirty=False)
    code = check_out(training, repository, work / "code", copy=False)
    assert isinstance(code, CheckedOut)
    assert code.top is not None
    return Places(code.top, PurePosixPath("."), repository, work)


def reference(path: Path, uri: str | None = None) -> DatasetReference:
    return describe_data(path).with_(name="rows", uri=uri or str(path))


@pytest.mark.parametrize("absolute", [False, True])
def test_data_that_is_not_committed_is_linked_to_where_the_code_reads_it(
    places: Places, absolute: bool
) -> None:
    file = places.source / "data" / "train.csv"
    finding = place_data(reference(file, str(file) if absolute else "data/train.csv"), places)
    assert finding.outcome == "match"
    assert (places.top / "data" / "train.csv").read_bytes() == file.read_bytes()


def test_data_is_told_apart_by_its_digest(places: Places) -> None:
    file = places.source / "data" / "train.csv"
    recorded = reference(file, "data/train.csv")
    file.write_text("a,b\n1,3\n")
    assert place_data(recorded, places).outcome == "differs"


def test_data_in_the_code_itself_goes_before_what_lies_in_the_users_tree(places: Places) -> None:
    recorded = reference(places.source / "train.py", "train.py")
    finding = place_data(recorded, places)
    assert finding.outcome == "differs"
    assert str(places.top) in finding.message


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        (DatasetReference(name="a", uri="data/train.csv"), "digest was not recorded"),
        (DatasetReference(name="a", digest="sha256:1"), "where it lay"),
        (DatasetReference(name="a", digest="sha256:1", format="frame"), "in memory"),
        (DatasetReference(name="a", digest="sha256:1", uri="s3://b/c"), "another tool's"),
        (DatasetReference(name="a", digest="crc:1", uri="data/train.csv"), "another tool's"),
        (DatasetReference(name="a", digest="sha256:1", uri="data/gone.csv"), "a is not at"),
        (DatasetReference(name="a", digest="delta:1", uri="data/gone@3"), "a is not at"),
    ],
)
def test_data_that_cannot_be_looked_at_is_named(
    places: Places, recorded: DatasetReference, said: str
) -> None:
    finding = place_data(recorded, places)
    assert finding.outcome == "not reproducible"
    assert said in finding.message


def test_a_version_of_a_delta_table_is_found_after_later_ones(places: Places) -> None:
    deltalake = pytest.importorskip("deltalake")
    pyarrow = pytest.importorskip("pyarrow")
    table = places.source / "data" / "rows"
    deltalake.write_deltalake(str(table), pyarrow.table({"a": [1, 2]}))
    recorded = describe_data(table)
    deltalake.write_deltalake(str(table), pyarrow.table({"a": [3]}), mode="append")
    assert place_data(recorded.with_(uri="data/rows@0"), places).outcome == "match"
    assert place_data(recorded.with_(uri="data/rows@1"), places).outcome == "differs"


def test_files_under_dvc_are_read_themselves(places: Places) -> None:
    file = places.source / "data" / "train.csv"
    digest = hashlib.md5(file.read_bytes()).hexdigest()
    recorded = DatasetReference(
        name="rows", digest=f"md5:{digest}", uri="data/train.csv", format="dvc"
    )
    assert place_data(recorded, places).outcome == "match"
    file.write_text("other")
    assert place_data(recorded, places).outcome == "differs"


def test_no_link_leaves_the_folder_of_the_run(places: Places) -> None:
    outside = places.source.parent / "shared.csv"
    outside.write_text("a\n")
    before = sorted(places.work.parent.iterdir())
    deep = replace(places, source=places.source / "data")
    assert place_data(reference(outside, "../../shared.csv"), deep).outcome == "match"
    assert sorted(places.work.parent.iterdir()) == before
    assert place_data(reference(outside, "../shared.csv"), places).outcome == "match"
    assert (places.work / "shared.csv").read_text() == "a\n"
    assert sorted(places.work.parent.iterdir()) == before


# -- the command --------------------------------------------------------------------------------


def test_a_command_gets_the_users_variables_but_nothing_that_opens_a_control_plane(
    tmp_path: Path,
) -> None:
    (tmp_path / "bin").mkdir()
    inherited = {
        "PATH": "/usr/bin", "AWS_PROFILE": "team", "MODELPLANE_TOKEN": "mp_secret",
        "MODELPLANE_STATE": "/state", "PYTHONPATH": "/present/code", "VIRTUAL_ENV": "/present",
    }  # fmt: skip
    child = command_environment(inherited, tmp_path / "pushes", tmp_path / "bin")
    assert child == {
        "PATH": f"{tmp_path}/bin:/usr/bin",
        "AWS_PROFILE": "team",
        "PYTHONUNBUFFERED": "1",
        VARIABLE: f"{tmp_path}/pushes",
    }


def run(code: str, folder: Path, timeout_s: float = 30.0) -> tuple[int | None, str, str]:
    words = (sys.executable, "-c", code)
    done = run_command(words, folder, dict(os.environ), folder / "log", timeout_s=timeout_s)
    return done.exit_code, done.error, done.log_tail


def test_a_command_ends_as_it_ends(tmp_path: Path) -> None:
    assert run("print('trained')", tmp_path) == (0, "", "trained")
    assert run("raise SystemExit('no rows')", tmp_path) == (1, "", "no rows")
    missing = run_command(("no-such-program",), tmp_path, {}, tmp_path / "log", timeout_s=1)
    assert missing.exit_code is None
    assert "no-such-program cannot be started" in missing.error


@pytest.mark.slow
def test_a_command_that_takes_too_long_ends_with_all_that_it_started(tmp_path: Path) -> None:
    words = ("/bin/sh", "-c", "sleep 60 & echo $!; wait")
    done = run_command(words, tmp_path, {"PATH": os.defpath}, tmp_path / "log", timeout_s=4.0)
    exit_code, printed = done.exit_code, done.log_tail
    assert exit_code is None
    deadline = time.monotonic() + 10
    while psutil.pid_exists(int(printed)) and time.monotonic() < deadline:
        if psutil.Process(int(printed)).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    assert not psutil.pid_exists(int(printed))


def test_a_talkative_command_fills_no_disk(tmp_path: Path) -> None:
    code = f"import sys\nsys.stdout.write('x' * {LOG_BYTES + 1000} + 'the end')"
    exit_code, _, printed = run(code, tmp_path)
    assert exit_code == 0
    assert printed.endswith("the end")
    assert (tmp_path / "log").stat().st_size == LOG_BYTES


# -- the push that is kept ----------------------------------------------------------------------


def test_a_push_is_kept_and_nothing_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "pushes"))
    model = tmp_path / "model.onnx"
    model.write_bytes(b"model")
    training = Training(python="3.11.7")
    # Nobody listens there, and nobody is asked.
    with Client("http://127.0.0.1:9", "token") as client:
        done = client.push(
            "fraud", "1.0.0", model, metrics={"auc": 0.9}, tags={"team": "risk"}, training=training
        )
        data = client.push_dataset("march/rows", model)
        with pytest.raises(TerminalError, match="is being reproduced"):
            client.promote("fraud", "1.0.0")
        with pytest.raises(TerminalError, match="is being reproduced"):
            client.delete(ModelVersion, "fraud@1.0.0")
    assert data.resource.metadata.name == "march-rows@1"
    assert data.resource.spec.digest == digest_tree(model).digest
    assert done.result == "created"
    assert "not sent" in done.warnings[0]
    (kept,) = read_pushes(tmp_path / "pushes")
    assert kept.version == done.resource
    assert kept.version.spec.metrics == {"auc": 0.9}
    assert kept.version.spec.training == training
    assert kept.version.status.tags == {"team": "risk"}
    assert kept.version.spec.artifact is not None
    assert digest_tree(kept.artifact).digest == kept.version.spec.artifact.digest


def push(folder: Path, model: str, version: str, content: str = "x") -> None:
    file = folder / "model.onnx"
    file.write_text(content)
    artifact = {"format": "onnx", "digest": digest_tree(file).digest, "command": []}
    record_push(folder / "pushes", file, {"model": model, "version": version, "artifact": artifact})


def test_of_several_pushes_the_one_of_the_version_counts(tmp_path: Path) -> None:
    assert choose_push(read_pushes(tmp_path / "pushes"), "fraud", "1.0.0") is None
    for number, (model, version) in enumerate(
        [("spam", "1.0.0"), ("fraud", "1.0.0"), ("fraud", "2.0.0")]
    ):
        push(tmp_path, model, version, str(number))
    pushes = read_pushes(tmp_path / "pushes")
    assert [one.artifact.joinpath("model.onnx").read_text() for one in pushes] == ["0", "1", "2"]
    assert choose_push(pushes, "fraud", "1.0.0") == pushes[1]
    assert choose_push(pushes, "fraud", "2025.3.1") == pushes[2]
    assert choose_push(pushes, "ham", "1.0.0") is None


def test_a_push_that_was_cut_off_does_not_count_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    push(tmp_path, "fraud", "1.0.0")
    (tmp_path / "pushes" / "push-0001" / "artifact").mkdir(parents=True)
    assert len(read_pushes(tmp_path / "pushes")) == 1
    (tmp_path / "pushes" / "push-0001" / "version.json").write_text("{")
    with pytest.raises(TerminalError, match="push-0001"):
        read_pushes(tmp_path / "pushes")
