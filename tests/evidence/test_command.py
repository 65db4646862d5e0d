"""``evidence verify`` and ``evidence show`` need a file and no server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from modelplane.cli.main import app
from tests.evidence.story import open_story

pytestmark = pytest.mark.slow


@pytest.fixture
async def files(tmp_path: Path) -> Path:
    """A folder with a bundle, and the key that signed it."""
    async with open_story(tmp_path) as story:
        await story.go_the_whole_way()
        (tmp_path / "bundle.json").write_text(json.dumps(await story.bundle()))
        (tmp_path / "key.pub").write_text(story.public_key)
    return tmp_path


def run(*words: Any) -> Result:
    return CliRunner().invoke(app, ["evidence", *map(str, words)])


def test_what_holds_is_said_check_by_check(files: Path) -> None:
    done = run("verify", files / "bundle.json", "--key", files / "key.pub")
    assert done.exit_code == 0, done.output
    assert "signed with the given key" in done.stdout
    assert "NO" not in done.stdout.split()
    told = json.loads(run("verify", files / "bundle.json", "-o", "json").stdout)
    assert (told["verified"], told["promotion"]) == (True, "production/fraud-1")


def test_what_was_altered_exits_with_7_and_says_what(files: Path) -> None:
    text = (files / "bundle.json").read_text()
    (files / "altered.json").write_text(text.replace('"ana"', '"eve"'))
    done = run("verify", files / "altered.json")
    assert done.exit_code == 7
    assert "does not carry a valid signature" in done.output
    assert run("verify", files / "altered.json", "-o", "json").exit_code == 7


def test_what_happened_is_told_in_order(files: Path) -> None:
    lines = run("show", files / "bundle.json").stdout.splitlines()
    assert lines[0].startswith("Promotion production/fraud-1")
    assert any("lead  approve  Approval fraud-1.risk" in line for line in lines)


@pytest.mark.parametrize("text", ["no json", "[]", '{"format": "other"}', None])
def test_what_is_no_bundle_is_refused(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "file.json"
    if text is not None:
        file.write_text(text)
    done = run("verify", file)
    assert done.exit_code == 2, done.output
    assert "error: " in done.stderr
