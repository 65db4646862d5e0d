"""The entry point: quick help, suggestions, shared options, and no tracebacks."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from modelplane.cli.document import walk_commands
from modelplane.cli.main import COMMANDS, app
from modelplane.cli.session import Session
from tests.cli.conftest import Run
from tests.cli.fakes import FakeClient

HEAVY = ("pydantic", "httpx", "rich.console", "ruamel", "sqlalchemy", "numpy")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from modelplane.cli.main import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_lists_every_command(run: Run) -> None:
    text = run("--help").stdout
    for name in COMMANDS:
        assert f"  {name} " in text


@pytest.mark.parametrize("name", [name for name, _ in walk_commands()])
def test_every_command_has_help_with_examples_and_the_shared_options(run: Run, name: str) -> None:
    result = run(*name.split(), "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.stdout
    assert f"modelplane {name}" in result.stdout
    for option in ("--state", "--url", "--debug"):
        assert option in result.stdout


def test_an_unknown_command_gets_a_suggestion(run: Run) -> None:
    result = run("aply")
    assert result.exit_code == 2
    assert result.stderr == "error: no command 'aply'\nhint: did you mean 'apply'?\n"


def test_usage_errors_exit_with_2(run: Run) -> None:
    for words in (("apply",), ("get",), ("get", "x", "--nope"), ("token", "create"), ()):
        assert run(*words).exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("--state", "here", "--url", "http://a", "status"),
        ("status", "--state", "here", "--url", "http://a"),
        ("--state", "elsewhere", "status", "--state", "here", "--url", "http://a"),
    ],
)
def test_state_and_address_may_stand_before_or_behind_the_command(words: tuple[str, ...]) -> None:
    seen = []

    def connect(url: str | None, state: object) -> FakeClient:
        seen.append((url, str(state)))
        return FakeClient()

    CliRunner().invoke(app, list(words), obj=Session(connector=connect))
    assert seen == [("http://a", "here")]


def test_without_a_server_it_says_how_to_start_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("MODELPLANE_URL", "http://127.0.0.1:1")
    result = CliRunner().invoke(app, ["status", "--state", str(tmp_path)])
    assert result.exit_code == 6
    assert "hint: is modelplane running? start it: modelplane up" in result.stderr


def test_explain_needs_no_server(run: Run) -> None:
    text = run("explain", "deployment.spec.strategy.canary").stdout
    assert "minBake <duration>  (default: 2m)" in text
    assert "Least time of the whole rollout." in text
    unknown = run("explain", "deployment.spec.replcas")
    assert unknown.exit_code == 4
    assert "hint: did you mean 'replicas'?" in unknown.stderr
    assert "ModelVersion" in run("explain").stdout
    assert "alpha" in run("explain", "environment", "--recursive").stdout
