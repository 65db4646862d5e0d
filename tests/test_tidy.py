"""The code stays readable: sizes, docstrings, names, and nothing that must not be committed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = sorted(
    path for folder in ("src", "tests", "bench", "tools") for path in (ROOT / folder).rglob("*.py")
)
MAX_LINES = 500
MAX_FUNCTION_LINES = 60
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "manager", "base", "common", "misc"}
_ADDRESS = re.compile(r"https?://[^ \"']*(/simple/|\.whl|\.tgz|\.tar\.gz|\.deb)")


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring, decorators and signature."""
    body = function.body
    if ast.get_docstring(function) is not None:
        body = body[1:]
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def faults_of(path: Path) -> Iterator[str]:
    """Say what is untidy about one file."""
    text = path.read_text()
    tree = ast.parse(text)
    if text.count("\n") > MAX_LINES:
        yield f"more than {MAX_LINES} lines: what is the second thing that it does?"
    if path.stem in VAGUE_NAMES:
        yield "a name that says nothing"
    if _ADDRESS.search(text):
        yield "an address of a package registry"
    if text.strip() and path.is_relative_to(ROOT / "src") and not ast.get_docstring(tree):
        yield "no docstring: a module says its job, its callers, what it must not do"
    for function in functions(tree):
        if body_lines(function) > MAX_FUNCTION_LINES:
            yield f"{function.name} has {body_lines(function)} lines"


FOLDERS = sorted({path.parent.relative_to(ROOT) for path in CODE})


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_every_file_is_tidy(folder: Path) -> None:
    files = [path for path in CODE if path.parent == ROOT / folder]
    assert [f"{path.name}: {fault}" for path in files for fault in faults_of(path)] == []


def test_requirements_carry_hashes_and_no_addresses() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        text = (ROOT / name).read_text()
        assert "http" not in re.sub(r"^(aio)?http[a-z]*==|^types-.*", "", text, flags=re.M)
        pinned = re.findall(r"^[A-Za-z0-9_.-]+==", text, flags=re.M)
        assert len(pinned) > 20
        assert text.count("--hash=sha256:") >= len(pinned)
