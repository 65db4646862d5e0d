"""``reproduce``: what it asks before it runs recorded code, what it reports, how it exits."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from modelplane.cli.reproduction_environment import build_environment
from modelplane.client.artifacts import digest_tree
from modelplane.client.capture import capture_packages
from modelplane.resources.model import ModelVersion, ModelVersionSpec, Training
from modelplane.resources.revision import Artifact
from tests.cli.conftest import Run
from tests.cli.fakes import FakeClient, metadata

SCRIPT = "import pathlib, sys; pathlib.Path('model.onnx').write_text(sys.argv[1])"


@pytest.fixture
def team(tmp_path: Path) -> Path:
    """A folder with a training script that writes the word it is given, under git."""
    folder = tmp_path / "team"
    folder.mkdir()
    (folder / "train.py").write_text(SCRIPT)
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "first"]):
        subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)
    return folder


def commit_of(folder: Path) -> str:
    words = ["git", "rev-parse", "HEAD"]
    return subprocess.check_output(words, cwd=folder, text=True).strip()


def record(client: FakeClient, team: Path, tmp_path: Path, **training: Any) -> ModelVersion:
    """Let the registry know fraud@1.0.0, whose file holds `old`."""
    file = tmp_path / "model.onnx"
    file.write_text("old")
    known: dict[str, Any] = {
        "python": sys.version.split()[0],
        "packages": capture_packages(),
        "git_commit": commit_of(team),
        "git_dirty": False,
        "command": "/home/ana/.venv/bin/python /home/ana/team/train.py old",
        "directory": ".",
        **training,
    }
    version = ModelVersion(
        metadata=metadata("fraud@1.0.0", None),
        spec=ModelVersionSpec(
            model="fraud",
            version="1.0.0",
            artifact=Artifact(format="onnx", digest=digest_tree(file).digest, size_bytes=3),
            training=Training(**known),
            author="ana",
        ),
    )
    client.resources[version.key] = version
    return version


def words(team: Path, *more: str) -> tuple[str, ...]:
    return (
        "reproduce", "fraud@1.0.0", "--source", str(team), "--environment", "current",
        "--artifact", "model.onnx", *more,
    )  # fmt: skip


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only place where temporary folders are made; its path is short, as sockets need it."""
    with tempfile.TemporaryDirectory(prefix="mp-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_the_same_bytes_are_a_reproduction(
    run: Run, client: FakeClient, team: Path, tmp_path: Path
) -> None:
    record(client, team, tmp_path)
    result = run(*words(team, "--yes"))
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "fraud@1.0.0: reproduced"
    assert "train.py old" in result.stderr
    assert not (team / "model.onnx").exists()


def test_other_bytes_without_requests_are_none_and_the_report_says_what_to_do(
    run: Run, client: FakeClient, team: Path, tmp_path: Path
) -> None:
    record(client, team, tmp_path, command="python train.py new")
    result = run(*words(team, "--yes", "-o", "json"))
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["result"] == "not reproduced"
    found = {step["step"]: step["outcome"] for step in report["steps"]}
    assert found == {
        "code": "match", "environment": "match", "command": "match", "artifact": "differs",
        "predictions": "not reproducible",
    }  # fmt: skip
    assert any("--inputs" in reason for reason in report["reasons"])


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"command": "unknown"}, "no command was recorded"),
        ({"command": "python train.py --token '***'"}, "--secret token=VARIABLE"),
        ({"command": "python gone.py"}, "gone.py"),
        ({"command": "/opt/train-it --fast"}, "/opt/train-it cannot be started"),
        ({"command": "python train.py"}, "IndexError"),
        ({"command": "python -c pass"}, "wrote nothing at model.onnx"),
        ({"directory": "gone"}, "the code has no folder gone"),
        ({"packages": {"numpy": "0.1"}}, "recorded 0.1"),
        ({"git_commit": "unknown"}, "no commit was recorded"),
        ({"git_commit": "a" * 40}, "aaaaaaaaaaaa is not in"),
    ],
)
def test_what_cannot_be_reproduced_is_named(
    run: Run,
    client: FakeClient,
    team: Path,
    tmp_path: Path,
    *,
    training: dict[str, Any],
    said: str,
) -> None:
    record(client, team, tmp_path, **training)
    result = run(*words(team, "--yes"))
    assert said in result.stdout
    assert result.stdout.splitlines()[-1].startswith("fraud@1.0.0: ")
    assert result.stdout.splitlines()[-1] != "fraud@1.0.0: reproduced"
    reproduced = "although" in result.stdout
    assert result.exit_code == (0 if reproduced else 1)


def test_recorded_code_runs_only_with_consent(
    run: Run, client: FakeClient, team: Path, tmp_path: Path, temporary: Path
) -> None:
    mark = tmp_path / "ran"
    record(client, team, tmp_path, command=f"touch {mark}")
    result = run(*words(team))
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert f"touch {mark}" in result.stderr
    assert not mark.exists()
    assert list(temporary.iterdir()) == []
    run(*words(team, "--yes"))
    assert mark.exists()


def test_a_secret_comes_from_a_variable_and_stays_out_of_the_report(
    run: Run, client: FakeClient, team: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = 'import sys; open("model.onnx", "w").write("old"); sys.exit(" ".join(sys.argv))'
    record(client, team, tmp_path, command=f"python -c '{code}' --api-key '***'")
    monkeypatch.setenv("FRAUD_KEY", "k-12345")
    result = run(*words(team, "--yes", "--secret", "api-key=FRAUD_KEY", "-o", "json"))
    assert "--api-key ***" in result.stdout
    assert "k-12345" not in result.output
    assert run(*words(team, "--yes", "--secret", "api-key=NOT_SET")).exit_code == 2


def test_the_folder_is_kept_when_that_is_asked_for(
    run: Run, client: FakeClient, team: Path, tmp_path: Path, temporary: Path
) -> None:
    record(client, team, tmp_path)
    assert run(*words(team, "--yes")).exit_code == 0
    assert list(temporary.iterdir()) == []
    result = run(*words(team, "--yes", "--keep", "-o", "json"))
    kept = Path(json.loads(result.stdout)["folder"])
    assert kept.is_relative_to(temporary.resolve())
    assert (kept / "code" / "model.onnx").read_text() == "old"
    assert (kept / "command.log").exists()


def test_sigterm_ends_the_command_too_and_leaves_nothing(
    run: Run, client: FakeClient, team: Path, tmp_path: Path, temporary: Path
) -> None:
    mark = tmp_path / "pid"
    code = (
        f"import os, signal, time; open({str(mark)!r}, 'w').write(str(os.getpid())); "
        "os.kill(os.getppid(), signal.SIGTERM); time.sleep(20)"
    )
    record(client, team, tmp_path, command=shlex.join(["python", "-c", code]))
    # Should the command not take the signal, it must not end the tests.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        result = run(*words(team, "--yes"))
        assert signal.getsignal(signal.SIGTERM) not in {signal.SIG_DFL, signal.default_int_handler}
    finally:
        signal.signal(signal.SIGTERM, before)
    assert result.exit_code == 130
    assert not psutil.pid_exists(int(mark.read_text()))
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--inputs", "none.json"), "none.json"),
        (("--inputs", "bad.json"), "not an inference request"),
        (("--timeout", "soon"), "--timeout"),
        (("--tolerance", "-1"), "--tolerance"),
        (("--source", "/does/not/exist"), "no such folder"),
        (("--secret", "api-key"), "--secret"),
    ],
)
def test_bad_options_are_usage_errors_and_nothing_runs(
    run: Run,
    client: FakeClient,
    team: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    more: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text('[{"rows": 3}]')
    record(client, team, tmp_path, command=f"touch {tmp_path / 'ran'}")
    result = run(*words(team, "--yes", *more))
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "ran").exists()


def test_a_version_that_is_not_there_is_not_found(run: Run, team: Path) -> None:
    assert run(*words(team, "--yes")).exit_code == 4


# -- the recorded environment -------------------------------------------------------------------


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place packages come from: a folder with `spam` 1.0 and `ham` 2.0."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name, version in (("spam", "1.0"), ("ham", "2.0")):
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}.py", f"version = '{version}'\n")
            text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            wheel.writestr(f"{info}/METADATA", text)
            tag = "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            wheel.writestr(f"{info}/WHEEL", tag)
            wheel.writestr(f"{info}/RECORD", "")
    for name in [name for name in os.environ if name.startswith(("UV_", "PIP_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("wheels")
def test_recorded_packages_are_installed_and_those_that_cannot_be_are_named(
    tmp_path: Path,
) -> None:
    packages = {"spam": "1.0", "eggs": "3.0", "Ham": "2.0", "bacon": "0.1", "modelplane": "0.0.1"}
    training = Training(python=sys.version.split()[0], packages=packages)
    built = build_environment(training, tmp_path, tmp_path / "venv", timeout_s=60)
    assert built.finding.outcome == "not reproducible"
    assert built.finding.details["notInstalled"] == ["bacon", "eggs"]
    assert "bacon==0.1; eggs==3.0" in built.finding.message
    assert built.python is not None
    code = "import ham, spam, importlib.metadata as m; print(spam.version, m.version('modelplane'))"
    printed = subprocess.check_output([built.python, "-c", code], text=True)
    assert printed.split() == ["1.0", capture_packages()["modelplane"]]


@pytest.mark.slow
@pytest.mark.usefixtures("wheels")
def test_an_environment_as_it_was_matches(tmp_path: Path) -> None:
    training = Training(python=sys.version.split()[0], packages={"spam": "1.0", "ham": "2.0"})
    built = build_environment(training, tmp_path, tmp_path / "venv", timeout_s=60)
    assert built.finding.outcome == "match"
    assert built.programs == tmp_path / "venv" / "bin"


@pytest.mark.slow
@pytest.mark.usefixtures("wheels")
def test_a_python_that_is_not_here_is_replaced_and_named(tmp_path: Path) -> None:
    training = Training(python="3.0.1", packages={"spam": "1.0"})
    built = build_environment(training, tmp_path, tmp_path / "venv", timeout_s=60)
    assert built.finding.outcome == "differs"
    assert built.finding.message == f"Python {sys.version.split()[0]}, recorded 3.0.1"
    assert built.python is not None


def test_what_was_never_recorded_is_not_made_up(tmp_path: Path) -> None:
    built = build_environment(Training(), tmp_path, tmp_path / "venv", timeout_s=60)
    assert built.finding.outcome == "not reproducible"
    assert not (tmp_path / "venv").exists()
