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

from modelplane.client.capture import (
    Code,
    capture_code,
    capture_command,
    capture_flavour,
    capture_hardware,
    capture_training,
    read_feature_configuration,
)
from modelplane.client.pushing import describe_push
from modelplane.errors import InvalidResource
from modelplane.resources.model import Training
from modelplane.resources.revision import ArtifactFormat


def test_this_process_is_described() -> None:
    training = capture_training()
    assert training.python == sys.version.split()[0]
    assert training.packages["pytest"] == pytest.__version__
    assert "cores" in training.hardware
    assert training.command != "unknown"


def run_git(directory: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    subprocess.run(["git", *identity, *arguments], cwd=directory, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    run_git(tmp_path, "init")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").write_text("1")
    run_git(tmp_path, "add", ".")
    run_git(tmp_path, "commit", "-m", "first")
    return tmp_path


def test_the_commit_is_known_and_whether_files_changed(repository: Path) -> None:
    before = capture_code(repository)
    assert len(before.commit) == 40
    assert before.is_dirty is False
    (repository / "src" / "train.py").write_text("2")
    after = capture_code(repository)
    assert (after.commit, after.is_dirty) == (before.commit, True)


def test_where_the_command_ran_is_told_from_the_top(repository: Path) -> None:
    assert capture_code(repository).directory == "."
    assert capture_code(repository / "src").directory == "src"


@pytest.mark.parametrize(
    ("given_url", "kept"),
    [
        ("https://ana:s3cret@example.com/team/code.git", "https://example.com/team/code.git"),
        ("https://s3cret@example.com/team/code.git", "https://example.com/team/code.git"),
        ("git@example.com:team/code.git", "git@example.com:team/code.git"),
        ("ssh://git:s3cret@example.com/code.git", "ssh://git@example.com/code.git"),
        ("/srv/git/code.git", "/srv/git/code.git"),
    ],
)
def test_the_remote_is_kept_without_credentials(
    repository: Path, given_url: str, kept: str
) -> None:
    run_git(repository, "remote", "add", "upstream", given_url)
    assert capture_code(repository).remote == kept
    run_git(repository, "remote", "add", "origin", "https://x:y@host/o.git")
    assert capture_code(repository).remote == "https://host/o.git"


def test_which_of_several_remotes_it_was_is_not_guessed(repository: Path) -> None:
    run_git(repository, "remote", "add", "a", "https://host/a.git")
    run_git(repository, "remote", "add", "b", "https://host/b.git")
    assert capture_code(repository).remote == "unknown"


def test_outside_of_a_repository_or_without_git_it_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert capture_code(tmp_path) == Code()
    monkeypatch.setenv("PATH", "")
    assert capture_code(tmp_path) == Code()


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


def test_hardware_is_unknown_rather_than_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> int:
        raise OSError

    monkeypatch.setattr(os, "sysconf", fail)
    assert "GiB" not in capture_hardware()


@pytest.mark.parametrize(
    ("text", "flavour"),
    [
        ("flavors:\n  python_function: {}\n  sklearn:\n    code: null\n", "sklearn"),
        ("flavors:\n  python_function: {}\n", "python_function"),
        ("flavors: {}", ""),
        ("flavors: [", ""),
        ("x" * (2**20 + 1), ""),
    ],
)
def test_an_mlflow_model_tells_its_flavour(tmp_path: Path, text: str, flavour: str) -> None:
    (tmp_path / "MLmodel").write_text(text)
    assert capture_flavour(tmp_path, "mlflow") == flavour


@pytest.mark.parametrize(
    ("artifact_format", "flavour"),
    [("onnx", "onnx"), ("skops", "sklearn"), ("joblib", ""), ("command", ""), ("mlflow", "")],
)
def test_other_formats_tell_it_where_they_can(
    tmp_path: Path, artifact_format: ArtifactFormat, flavour: str
) -> None:
    assert capture_flavour(tmp_path, artifact_format) == flavour


def test_a_feature_configuration_is_a_map_or_a_file_with_one(tmp_path: Path) -> None:
    configuration = {"windows": [1, 7], "target": {"name": "fraud", "threshold": 0.5}}
    file = tmp_path / "features.yaml"
    file.write_text("windows: [1, 7]\ntarget: {name: fraud, threshold: 0.5}\n")
    assert read_feature_configuration(configuration) == configuration
    assert read_feature_configuration(file) == configuration
    assert read_feature_configuration(str(file)) == configuration


@pytest.mark.parametrize(
    ("text", "said"),
    [("- 1", "one map"), ("a: 1\n---\nb: 2", "one map"), ("a: [", "not YAML"), ("", "one map")],
)
def test_a_file_with_something_else_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "features.yaml"
    file.write_text(text)
    with pytest.raises(InvalidResource, match=said) as failed:
        read_feature_configuration(file)
    assert "features.yaml" in failed.value.message


def test_what_json_cannot_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidResource, match="not plain data"):
        read_feature_configuration({"at": object()})
    with pytest.raises(InvalidResource, match="cannot be read"):
        read_feature_configuration(tmp_path / "none.json")


def test_a_push_says_all_of_it(tmp_path: Path) -> None:
    model, data = tmp_path / "model.onnx", tmp_path / "march.csv"
    model.write_bytes(b"onnx")
    data.write_text("a,b\n1,2\n")
    body = describe_push(
        "fraud",
        "1.0.0",
        model,
        {
            "datasets": {"transactions": data},
            "feature_configuration": {"window": 7},
            "training": Training(),
        },
    )
    assert body["flavour"] == "onnx"
    assert body["featureConfiguration"] == {"window": 7}
    (dataset,) = body["datasets"]
    assert (dataset["name"], dataset["rows"], dataset["uri"]) == ("transactions", 1, str(data))
    named = describe_push("fraud", "1.0.0", model, {"flavour": "torch", "training": Training()})
    assert (named["flavour"], named["featureConfiguration"]) == ("torch", {})
