"""``lineage``: what something came from, and what depends on it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Annotated

import typer

from modelplane.cli.output import print_json, print_json_line, terminal_width
from modelplane.cli.session import Session, command, make_app
from modelplane.client.lineage import lineage_call
from modelplane.decisions.lineage import (
    MAX_DEPTH,
    Direction,
    Lineage,
    LineageEdge,
    LineageNode,
)
from modelplane.errors import InvalidResource

app = make_app()

_KINDS = {
    "DatasetVersion": "dataset",
    "Run": "run",
    "ModelVersion": "version",
    "ModelDeployment": "deployment",
}
_DIGITS = 12
_HASH_LENGTH = 32


class GraphFormat(StrEnum):
    """How a lineage is printed."""

    TEXT = "text"
    JSON = "json"
    OPENLINEAGE = "openlineage"


@command(
    app,
    "lineage",
    examples=[
        "modelplane lineage fraud@1.2.0",
        "modelplane lineage dataset/transactions@3 --down",
        "modelplane lineage production/fraud --up",
        "modelplane lineage fraud@1.2.0 -o openlineage",
    ],
)
def lineage(
    session: Session,
    *,
    of: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="MODEL[@VERSION], dataset/NAME[@VERSION], ENVIRONMENT/DEPLOYMENT or run/ID.",
        ),
    ],
    up: Annotated[bool, typer.Option("--up", help="Only what it came from.")] = False,
    down: Annotated[bool, typer.Option("--down", help="Only what depends on it.")] = False,
    depth: Annotated[
        int, typer.Option("--depth", metavar="STEPS", help="How far; from data to deployments: 2.")
    ] = MAX_DEPTH,
    output: Annotated[
        GraphFormat,
        typer.Option("--output", "-o", metavar="text|json|openlineage", help="How to print."),
    ] = GraphFormat.TEXT,
) -> None:
    """Show what something came from and what depends on it.

    Data goes into a run, a run makes a model version, a deployment serves it. `-o openlineage`
    prints a run event a line: one for each model version, one each time it went live.
    """
    if up and down:
        raise InvalidResource("--up and --down together: leave both out to see both")
    direction: Direction = "up" if up else "down" if down else "both"
    if output is GraphFormat.OPENLINEAGE:
        answer = session.client.send(lineage_call(of, direction, depth, "/events"))
        for event in answer["items"]:
            print_json_line(event)
        return
    graph = session.client.lineage(of, direction=direction, depth=depth)
    if output is GraphFormat.JSON:
        print_json(graph.to_dict())
        return
    width = terminal_width()
    for line in format_lineage(graph, direction):
        typer.echo(line if width is None or len(line) <= width else line[: width - 1] + "…")


def format_lineage(graph: Lineage, direction: Direction) -> Iterator[str]:
    """Yield the lines of a graph as trees, one tree each way for each of its roots."""
    tree = _Tree(graph)
    for root in graph.roots:
        yield tree.describe(root)
        if direction != "down":
            yield from tree.branches(root, "came from", tree.sources)
        if direction != "up":
            yield from tree.branches(root, "used by", tree.targets)
    if graph.truncated:
        yield "… and more than can be shown; ask for a part of it"


class _Tree:
    """The graph as it is walked for people: from a root one way, all the way."""

    def __init__(self, graph: Lineage) -> None:
        self._nodes = {node.id: node for node in graph.nodes}
        self.sources: dict[str, list[tuple[str, LineageEdge]]] = defaultdict(list)
        self.targets: dict[str, list[tuple[str, LineageEdge]]] = defaultdict(list)
        for edge in graph.edges:
            self.sources[edge.target].append((edge.source, edge))
            self.targets[edge.source].append((edge.target, edge))

    def describe(self, node_id: str, roles: Sequence[str] = ()) -> str:
        """Return one line about a node."""
        node = self._nodes[node_id]
        facts = ", ".join((*roles, *_facts(node)))
        return f"{_KINDS[node.kind]} {_name(node)}" + (f" ({facts})" if facts else "")

    def branches(
        self, root: str, title: str, ways: Mapping[str, Sequence[tuple[str, LineageEdge]]]
    ) -> Iterator[str]:
        """Yield what hangs on a root in one direction."""
        if not ways.get(root):
            yield f"  {title}: nothing known"
            return
        yield f"  {title}"
        yield from self._below(root, "  ", ways)

    def _below(
        self, node_id: str, indent: str, ways: Mapping[str, Sequence[tuple[str, LineageEdge]]]
    ) -> Iterator[str]:
        others = ways.get(node_id, ())
        for number, (other, edge) in enumerate(others, 1):
            is_last = number == len(others)
            roles = [role for role in edge.roles if role != "training"]
            yield f"{indent}{'└─' if is_last else '├─'} {self.describe(other, roles)}"
            yield from self._below(other, indent + ("   " if is_last else "│  "), ways)


def _name(node: LineageNode) -> str:
    if node.environment:
        return f"{node.environment}/{node.name}"
    owner, at, label = node.name.rpartition("@")
    kind, colon, value = label.partition(":")
    if at and colon and len(value) > _DIGITS:  # data that is known by its digest alone
        return f"{owner}@{kind}:{value[:_DIGITS]}"
    if node.kind == "Run" and not at and len(node.name) >= _HASH_LENGTH:
        return node.name[:_DIGITS]
    return node.name


def _facts(node: LineageNode) -> Iterator[str]:
    """Yield what is worth saying about a node on its line."""
    facts = node.facts
    if node.deleted:
        yield "deleted"
    if not node.registered:
        yield "not registered"
    if "rows" in facts:
        yield f"{facts['rows']:,} rows"
    if "format" in facts:
        yield str(facts["format"])
    if "number" in facts:
        yield f"number {facts['number']}"
    if "flavour" in facts:
        yield str(facts["flavour"])
    yield from facts.get("aliases", ())
    if "gitCommit" in facts:
        yield f"commit {facts['gitCommit'][:_DIGITS]}" + (
            " with changes" if facts.get("gitDirty") else ""
        )
    if "command" in facts:
        yield str(facts["command"])
