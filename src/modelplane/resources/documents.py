"""Text to plain data: YAML 1.2 or JSON, with the line that each value stands on.

Called by `manifest`. Knows nothing of kinds or fields. It refuses what is too large, too deep,
written twice or not plain data, and constructs no objects; it must not read files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node

from modelplane.errors import FieldError, InvalidResource

MAX_BYTES = 2**20
MAX_DEPTH = 50
MAX_VALUES = 50_000

Location = tuple[str | int, ...]
"""Where a value is: keys and list positions from the top of its document."""

_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"
_PLAIN_TAGS = {"str", "int", "float", "bool", "null"}
_TEXT_TAGS = {"timestamp", "value"}
_TAG_PREFIX = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Document:
    """One document: its data and, where known, the line (from 1) of each value."""

    data: Any
    lines: Mapping[Location, int] = field(default_factory=dict)


def parse_documents(text: str, source: str) -> list[Document]:
    """Return the documents of `text`, which is YAML (several are parted by ``---``) or JSON.

    Parameters
    ----------
    text
        At most 1 MiB.
    source
        Where it comes from, for messages: a file name or ``-``.

    Raises
    ------
    InvalidResource
        Malformed (with line and column), too large, nested too deep, a key written twice, or
        not plain data.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise InvalidResource(f"{source}: larger than 1 MiB", hint="split it into several files")
    text = text.removeprefix("\ufeff")
    try:
        if text.lstrip()[:1] in {"{", "["}:
            document = _parse_json(text, source)
            if document is not None:
                return [document]
        return list(_parse_yaml(text, source))
    except RecursionError:
        raise InvalidResource(f"{source}: {_TOO_DEEP}") from None


def check_plain(data: object) -> None:
    """Check that `data` is what JSON can say, within the limits.

    Raises
    ------
    InvalidResource
        When it is not: other types, keys that are no text, numbers out of range, text that
        is not Unicode, or too deep.
    """
    waiting: list[tuple[object, Location]] = [(data, ())]
    seen = 0
    while waiting:
        value, location = waiting.pop()
        seen += 1
        fault = _TOO_DEEP if len(location) > MAX_DEPTH else _find_fault(value)
        if seen > MAX_VALUES:
            fault = f"more than {MAX_VALUES:,} values"
        if fault:
            raise InvalidResource(
                "not a manifest", [FieldError(format_location(location[:MAX_DEPTH]), fault)]
            )
        if isinstance(value, Mapping):
            waiting.extend((item, (*location, key)) for key, item in value.items())
        elif isinstance(value, list):
            waiting.extend((item, (*location, index)) for index, item in enumerate(value))


def _find_fault(value: object) -> str:
    if isinstance(value, Mapping):
        strange = next((key for key in value if not isinstance(key, str)), None)
        if strange is not None:
            return f"the key {str(strange)[:40]!r} must be text; put it in quotes"
        return next(filter(None, map(_find_fault, value)), "")
    if isinstance(value, str):
        bad = any("\ud800" <= character <= "\udfff" for character in value)
        return "holds half of a surrogate pair, which is no character" if bad else ""
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, int):
        return "" if abs(value) < 2**63 else "a whole number beyond 64 bits"
    if isinstance(value, float):
        return "" if abs(value) <= 1.8e308 else "not a finite number"
    return "" if isinstance(value, list) else f"not plain data: {type(value).__name__}"


def format_location(location: Location) -> str:
    """Print a location as a path.

    Examples
    --------
    >>> format_location(("spec", "steps", 2))
    'spec.steps[2]'
    """
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _refuse_json_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidResource(f"the key {twice[:80]!r} is written twice in one map")
    return mapping


def _parse_json(text: str, source: str) -> Document | None:
    """Return the document; None when it is not JSON, for flow-style YAML begins alike."""
    try:
        return Document(json.loads(text, object_pairs_hook=_refuse_json_twice))
    except InvalidResource as error:
        raise InvalidResource(f"{source}: {error.message}") from None
    except json.JSONDecodeError as error:
        if not source.endswith(".json"):
            return None
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidResource(f"{source}: not JSON: {where}: {error.msg}") from None
    except ValueError:
        raise InvalidResource(f"{source}: a number has too many digits") from None


def _parse_yaml(text: str, source: str) -> Iterator[Document]:
    yaml = YAML(typ="safe", pure=True)
    try:
        for node in yaml.compose_all(text):
            reader = _NodeReader(yaml, source)
            yield Document(reader.read(node, ()), reader.lines)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = " ".join(str(part) for part in (error.context, error.problem) if part)
        raise InvalidResource(
            f"{source}: not YAML: {where}{problem}",
            hint="look at the indentation and the quotes there",
        ) from None
    except (YAMLError, ValueError, LookupError) as error:
        # Besides its own errors, the parser lets some malformed text through to plain ones.
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidResource(f"{source}: not YAML: {problem}") from None


class _NodeReader:
    """Turns composed YAML nodes into plain data, noting lines and counting values."""

    def __init__(self, yaml: YAML, source: str) -> None:
        self._yaml = yaml
        self._source = source
        self._values = 0
        self.lines: dict[Location, int] = {}

    def read(self, node: Node, location: Location) -> Any:
        self._values += 1
        if self._values > MAX_VALUES:
            # Aliases can make a small file stand for an enormous one.
            raise self._fault(node, location, f"more than {MAX_VALUES:,} values")
        if len(location) > MAX_DEPTH:
            raise self._fault(node, location[:MAX_DEPTH], _TOO_DEEP)
        self.lines[location] = node.start_mark.line + 1
        tag = str(node.tag).removeprefix(_TAG_PREFIX)
        if tag == "map" and isinstance(node, MappingNode):
            return self._read_map(node, location)
        if tag == "seq" and isinstance(node.value, list):
            return [self.read(item, (*location, i)) for i, item in enumerate(node.value)]
        if tag in _TEXT_TAGS:
            return node.value
        if tag in _PLAIN_TAGS and isinstance(node.value, str):
            return self._yaml.constructor.construct_object(node, deep=True)
        raise self._fault(node, location, f"a tag that manifests do not use: {node.tag}")

    def _read_map(self, node: MappingNode, location: Location) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            tag = str(key_node.tag).removeprefix(_TAG_PREFIX)
            if tag not in {"str", *_TEXT_TAGS} or not isinstance(key, str):
                raise self._fault(key_node, location, "a key must be text; put it in quotes")
            if key in mapping:
                raise self._fault(
                    key_node, (*location, key), "written twice in one map; remove one of them"
                )
            mapping[key] = self.read(value_node, (*location, key))
            self.lines[(*location, key)] = key_node.start_mark.line + 1
        return mapping

    def _fault(self, node: Node, location: Location, message: str) -> InvalidResource:
        mark = node.start_mark
        return InvalidResource(
            f"{self._source}: line {mark.line + 1}, column {mark.column + 1}: not a manifest",
            [FieldError(format_location(location), message)],
        )
