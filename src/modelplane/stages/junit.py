"""Reads JUnit reports, which any program may have written: bounded, and without document types.

Called by the command check. Document types are refused, since entities can make a small file
large, or name files that are not the report's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.parsers import expat

from modelplane.resources.gate_run import TestCase
from modelplane.stages.failures import CheckImpossible

MAX_BYTES = 32 * 2**20
MAX_CASES = 100_000
_MAX_DEPTH = 100
_MAX_MESSAGE_CHARS = 1000
_BAD = frozenset({"failure", "error"})


def read_junit(path: Path, declared: Sequence[str] = ()) -> list[TestCase]:
    """Return the cases of one report.

    A case is named ``CLASSNAME.NAME``, or as `declared` names it: ``tests/test_a.py::test_x`` is
    the case ``test_x`` of the class ``tests.test_a``.

    Raises
    ------
    CheckImpossible
        The file is not there, no JUnit report, or too large.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CheckImpossible(f"the report {path.name} cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise CheckImpossible(f"the report {path.name} has more than {MAX_BYTES // 2**20} MiB")
    reader = _Reader({_dotted(name): name for name in declared})
    try:
        reader.read(content)
    except (expat.ExpatError, _NotJUnit) as error:
        raise CheckImpossible(f"the report {path.name} is no JUnit report: {error}") from error
    return reader.cases


class _NotJUnit(Exception):
    pass


class _Reader:
    """Takes what the parser sees."""

    def __init__(self, declared: dict[str, str]) -> None:
        self.cases: list[TestCase] = []
        self._declared = declared
        self._depth = 0
        self._case: dict[str, Any] | None = None
        self._inside: str | None = None

    def read(self, content: bytes) -> None:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._take
        parser.Parse(content, True)

    @staticmethod
    def _refuse(*_: object) -> None:
        raise _NotJUnit("it has a document type")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        tag = tag.rpartition("}")[2].lower()
        if self._depth == 1 and tag not in {"testsuites", "testsuite"}:
            raise _NotJUnit(f"it begins with <{tag[:40]}>")
        if self._depth > _MAX_DEPTH:
            raise _NotJUnit("it is nested too deep")
        if tag == "testcase":
            self._case = {
                "name": self._name(attributes),
                "passed": True,
                "skipped": False,
                "message": "",
                "duration_s": _seconds(attributes.get("time", "")),
            }
        elif self._case is not None and tag in _BAD:
            self._case["passed"] = False
            self._case["message"] = self._case["message"] or attributes.get("message", "")
            self._inside = tag
        elif self._case is not None and tag == "skipped":
            self._case["skipped"] = True
            self._case["message"] = self._case["message"] or attributes.get("message", "")

    def _end(self, tag: str) -> None:
        self._depth -= 1
        tag = tag.rpartition("}")[2].lower()
        if tag == self._inside:
            self._inside = None
        if tag == "testcase" and self._case is not None:
            if len(self.cases) >= MAX_CASES:
                raise _NotJUnit(f"it has more than {MAX_CASES:,} cases")
            self._case["message"] = self._case["message"].strip()[:_MAX_MESSAGE_CHARS]
            self.cases.append(TestCase(**self._case))
            self._case = None

    def _take(self, text: str) -> None:
        if self._inside and self._case is not None:
            left = _MAX_MESSAGE_CHARS - len(self._case["message"])
            if left > 0:
                self._case["message"] += ("\n" + text if self._case["message"] else text)[:left]

    def _name(self, attributes: dict[str, str]) -> str:
        parts = (attributes.get("classname", ""), attributes.get("name", ""))
        name = ".".join(part for part in parts if part)[:500] or "unnamed"
        return self._declared.get(name) or self._declared.get(parts[1]) or name


def _dotted(name: str) -> str:
    """Return the name of a case as JUnit has it, from a path with ``::`` and the case."""
    path, colons, case = name.partition("::")
    if not colons:
        return name
    return ".".join([path.removesuffix(".py").replace("/", "."), case.replace("::", ".")])


def _seconds(text: str) -> float:
    try:
        seconds = float(text.replace(",", "")) if text else 0.0
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) and seconds >= 0 else 0.0
