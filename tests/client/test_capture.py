"""What a training process leaves with its version: what is known, and "unknown" for the rest."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.client.artifacts import digest_tree
from modelplane.client.capture import (
    capture_command,
    capture_git,
    capture_hardware,
    capture_training,
    describe_datasets,
)
from modelplane.errors import InvalidResource
from modelplane.resources.dataset import DatasetReference


def test_this_process_is_described() -> None:
    training = capture_training()
    assert training.python == sys.version.split()[0]
    assert training.packages["pytest"] == pytest.__version__
    assert "cores" in training.hardware
    assert training.command != "unknown"


def run_git(directory: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    subprocess.run(["git", *identity, *arguments], cwd=directory, check=True, capture_output=True)


def test_the_commit_is_known_and_whether_files_changed(tmp_path: Path) -> None:
    run_git(tmp_path, "init")
    (tmp_path / "train.py").write_text("1")
    run_git(tmp_path, "add", ".")
    run_git(tmp_path, "commit", "-m", "first")
    commit, dirty = capture_git(tmp_path)
    assert len(commit) == 40
    assert dirty is False
    (tmp_path / "train.py").write_text("2")
    assert capture_git(tmp_path) == (commit, True)


def test_outside_of_a_repository_or_without_git_it_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert capture_git(tmp_path) == ("unknown", None)
    monkeypatch.setenv("PATH", "")
    assert capture_git(tmp_path) == ("unknown", None)


@given(
    secret=st.text("abcdefgh", min_size=8, max_size=12),
    option=st.sampled_from(["--token", "--db-password", "--API_KEY", "--client-secret"]),
    joined=st.booleans(),
)
def test_a_recorded_command_line_holds_no_secret(secret: str, option: str, joined: bool) -> None:
    given_ = [f"{option}={secret}"] if joined else [option, secret]
    shown = capture_command(["python", "train.py", *given_, "--rows", "5"])
    assert secret not in shown
    assert shlex.split(shown)[-2:] == ["--rows", "5"]


def test_datasets_are_paths_references_or_frames(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    file = tmp_path / "train.csv"
    file.write_text("a,b\n1,2\n")
    frame = pandas.DataFrame({"a": [1.0, None], "b": ["x", "y"]})
    known = DatasetReference(name="test", digest="sha256:known")
    by_path, by_reference, by_frame = describe_datasets(
        {"train": file, "judged": known, "live": frame}
    )
    assert by_path.digest == digest_tree(file).digest
    assert (by_reference.name, by_reference.digest) == ("judged", "sha256:known")
    assert by_frame.rows == 2
    assert describe_datasets({"live": frame.copy()})[0].digest == by_frame.digest
    changed = frame.assign(a=[1.0, 2.0])
    assert describe_datasets({"live": changed})[0].digest != by_frame.digest
    renamed = frame.rename(columns={"a": "c"})
    assert describe_datasets({"live": renamed})[0].digest != by_frame.digest
    assert [d.name for d in describe_datasets([file, known])] == ["train.csv", "test"]


def test_data_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidResource, match="no dataset"):
        describe_datasets([tmp_path / "missing.csv"])
    with pytest.raises(InvalidResource, match="not int"):
        describe_datasets({"x": 3})


def test_hardware_is_unknown_rather_than_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> int:
        raise OSError

    monkeypatch.setattr(os, "sysconf", fail)
    assert "GiB" not in capture_hardware()
