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


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_is_tidy(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MAX_LINES, "what is the second thing that this file does?"
    assert path.stem not in VAGUE_NAMES
    assert not _ADDRESS.search(text), "no address of a package registry"
    tree = ast.parse(text)
    if text.strip() and path.is_relative_to(ROOT / "src"):
        assert ast.get_docstring(tree), "a module says its job, its callers, what it must not do"
    too_long = {f.name: body_lines(f) for f in functions(tree)}
    assert {n: c for n, c in too_long.items() if c > MAX_FUNCTION_LINES} == {}


def test_requirements_carry_hashes_and_no_addresses() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        text = (ROOT / name).read_text()
        assert "http" not in re.sub(r"^(aio)?http[a-z]*==|^types-.*", "", text, flags=re.M)
        pinned = re.findall(r"^[A-Za-z0-9_.-]+==", text, flags=re.M)
        assert len(pinned) > 20
        assert text.count("--hash=sha256:") >= len(pinned)
