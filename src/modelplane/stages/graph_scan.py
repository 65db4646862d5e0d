"""What an ONNX file refers to outside itself: data files and operators of others.

Called by `artifact_scan`. Reads the file's protobuf by hand, so that nothing need be installed
and nothing is loaded: only the fields that name such things are followed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

_MAX_DEPTH = 64
_STANDARD = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training"})

# Field numbers of onnx.proto3, by message: where other messages, and names, stand.
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 9: "opset", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_DOMAIN = {"opset": 1, "node": 7}


class GraphUnreadable(Exception):
    """The file is no ONNX graph; says why."""


@dataclass(slots=True)
class Graph:
    """What was found.

    Attributes
    ----------
    domains
        Of operators that are not ONNX's own.
    data_files
        Names of files that hold its numbers.
    nodes
        How many operators it has.
    """

    domains: set[str] = field(default_factory=set)
    data_files: set[str] = field(default_factory=set)
    nodes: int = 0
    graphs: int = 0


def read_graph(content: bytes) -> Graph:
    """Read an ONNX file.

    Raises
    ------
    GraphUnreadable
        It is damaged, or holds no graph.
    """
    found = Graph()
    _walk(memoryview(content), "model", found, 0)
    if not found.graphs:
        raise GraphUnreadable("it holds no graph")
    return found


def escapes(name: str) -> bool:
    """Whether the name of a data file leads out of the model's folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or (len(name) > 1 and name[1] == ":")


def _walk(content: memoryview, kind: str, found: Graph, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise GraphUnreadable("its parts are nested too deeply")
    found.nodes += kind == "node"
    found.graphs += kind == "graph"
    key = value = ""
    for number, part in _fields(content):
        if part is None:
            continue
        if number == _DOMAIN.get(kind):
            domain = _text(part)
            if domain not in _STANDARD:
                found.domains.add(domain)
        elif kind == "entry" and number in {1, 2}:
            key, value = (_text(part), value) if number == 1 else (key, _text(part))
        elif number in _INSIDE.get(kind, {}):
            _walk(part, _INSIDE[kind][number], found, depth + 1)
    if kind == "entry" and key == "location":
        found.data_files.add(value)


def _text(part: memoryview) -> str:
    return bytes(part[:1000]).decode(errors="replace")


def _fields(content: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Yield the fields of a message: number, and the bytes of those that have a length."""
    place = 0
    while place < len(content):
        tag, place = _number(content, place)
        wire = tag & 7
        if wire == 0:
            _, place = _number(content, place)
            yield tag >> 3, None
            continue
        if wire == 2:
            size, place = _number(content, place)
        elif wire in {1, 5}:
            size = 8 if wire == 1 else 4
        else:
            raise GraphUnreadable("it is no protobuf")
        if place + size > len(content):
            raise GraphUnreadable("it is cut off")
        yield tag >> 3, content[place : place + size] if wire == 2 else None
        place += size


def _number(content: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(content) or shift > 63:
            raise GraphUnreadable("it is cut off")
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
