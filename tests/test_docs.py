"""The documentation says what is so: every command, option and setting in it exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from modelplane.cli.document import EXAMPLES, build_pages, walk_commands
from modelplane.cli.main import COMMANDS
from modelplane.decisions.rollout import Reason
from modelplane.resources.kinds import KINDS
from modelplane.resources.manifest import read_documents
from modelplane.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
TEXTS = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
KNOWN_COMMANDS: dict[str, Any] = dict(walk_commands())
OTHER_VARIABLES = {"URL", "TOKEN", "GATEWAY_TOKEN", "CONFIG", "SECRET_NAME"} | {
    "JOB_INPUT", "JOB_RESULT", "JOB_OUTPUT", "JOB_PROGRESS", "ARTIFACT_NAME", "CAUSE",
    "TRAINING_RUN",
}  # fmt: skip
_FENCED = re.compile(r"^```[a-z]*\n(.*?)^```", re.M | re.S)
_VARIABLE = re.compile(r"\bMODELPLANE_([A-Z][A-Z_]*)")


def command_lines(text: str) -> list[str]:
    """Return the command lines of ours in code blocks, those that end in a backslash joined."""
    blocks = "\n".join(_FENCED.findall(text)).replace("\\\n", " ")
    lines = (line.strip().removeprefix("$ ") for line in blocks.splitlines())
    piped = (part.strip() for line in lines for part in line.split(" | "))
    return [line for line in piped if line.startswith("modelplane ")]


def check_line(line: str) -> None:
    words = [word for word in shlex.split(line, comments=True) if word not in {"<", ">", "&"}][1:]
    if words[0].startswith("-"):
        return
    assert words[0] in COMMANDS, f"no such command: {line}"
    name = words[0] if words[0] in KNOWN_COMMANDS else " ".join(words[:2])
    if words[0] == "approvals" and (len(words) == 1 or words[1].startswith("-")):
        name = "approvals list"  # the one group that does something by itself
    if name not in KNOWN_COMMANDS:
        assert len(words) == 1 or words[1].startswith("["), f"no such command: {line}"
        return
    known = {option for p in KNOWN_COMMANDS[name].params for option in p.opts} | {"--help", "-h"}
    for word in words:
        if re.fullmatch(r"-[a-zA-Z]|--[a-z][-a-z]*(=.*)?", word):
            assert word.split("=")[0] in known, f"no such option {word}: {line}"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_and_setting_in_a_text_exists(path: Path) -> None:
    text = path.read_text()
    for line in command_lines(text):
        check_line(line)
    settings = {name.upper() for name in Settings.model_fields} | OTHER_VARIABLES
    assert set(_VARIABLE.findall(text)) <= settings


def test_the_check_finds_what_does_not_exist() -> None:
    for wrong in ("modelplane aply -f x", "modelplane apply --fil x", "modelplane rollout stop a"):
        with pytest.raises(AssertionError):
            check_line(wrong)


def test_the_pages_are_as_the_generator_writes_them() -> None:
    pages = build_pages()
    written = {
        str(path.relative_to(DOCS))
        for folder in ("commands", "resources")
        for path in (DOCS / folder).glob("*.md")
    }
    assert written == set(pages), "run: make docs"
    for path, text in pages.items():
        assert (DOCS / path).read_text() == text, f"{path} is old; run: make docs"


def test_every_command_and_kind_has_a_page() -> None:
    pages = build_pages()
    for name in KNOWN_COMMANDS:
        assert f"modelplane {name}\n" in pages[f"commands/{name.split()[0]}.md"]
    for kind in KINDS:
        assert f"# {kind}\n" in pages[f"resources/{kind.lower()}.md"]


@pytest.mark.parametrize("kind", EXAMPLES)
def test_the_example_of_a_kind_is_valid(kind: str) -> None:
    (resource,) = read_documents(EXAMPLES[kind], "example")
    assert resource.kind == kind


def test_every_declared_kind_has_an_example() -> None:
    assert set(EXAMPLES) == {name for name, kind in KINDS.items() if kind.declared}


def test_the_guides_name_every_reason_and_every_setting() -> None:
    rollouts = (DOCS / "guides" / "rollouts.md").read_text()
    assert [reason.value for reason in Reason if f"`{reason.value}`" not in rollouts] == []
    operating = (DOCS / "guides" / "operating.md").read_text()
    names = [f"MODELPLANE_{name.upper()}" for name in Settings.model_fields]
    assert [name for name in names if name not in operating] == []
