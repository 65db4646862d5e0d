"""``explain``: what a kind or a field means; needs no server."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Annotated

import typer

from modelplane.cli.options import Plain, PlainOutput
from modelplane.cli.output import print_json, print_table, terminal_width
from modelplane.cli.session import Session, command, make_app
from modelplane.resources.explain import ExplainedField, explain, explain_kind
from modelplane.resources.kinds import KINDS

app = make_app()


@command(
    app,
    "explain",
    examples=[
        "modelplane explain",
        "modelplane explain deployment",
        "modelplane explain deployment.spec.strategy.canary",
        "modelplane explain deployment.spec --recursive",
    ],
)
def show(
    session: Session,
    *,
    path: Annotated[
        str | None, typer.Argument(metavar="[KIND[.FIELD]...]", help="What to explain.")
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="All fields below it too.")
    ] = False,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Say what a kind or a field means, offline; without a name, list the kinds."""
    if path is None:
        _print_kinds(output)
        return
    found = explain(path)
    if output is Plain.JSON:
        print_json(found.to_dict())
    else:
        width = min(terminal_width() or 80, 100)
        typer.echo("\n".join(format_field(found, width=width, recursive=recursive)))


def _print_kinds(output: Plain) -> None:
    kinds = [explain_kind(kind) for kind in KINDS.values()]
    if output is Plain.JSON:
        print_json([{"kind": k.name, "description": k.description} for k in kinds])
        return
    rows = []
    for kind in KINDS.values():
        explained = explain_kind(kind)
        also = ", ".join([kind.plural, *kind.short_names])
        declared = "you" if kind.declared else "the system"
        rows.append([explained.name, declared, also, explained.description])
    print_table(["KIND", "WRITTEN BY", "ALSO", "DESCRIPTION"], rows)


def format_field(field: ExplainedField, *, width: int, recursive: bool) -> Iterator[str]:
    """Yield the lines that explain a field, and below it its fields in short or in full."""
    yield f"{field.path}  <{field.type}>" if field.type != "kind" else f"kind {field.name}"
    yield from textwrap.wrap(
        field.description, width - 2, initial_indent="  ", subsequent_indent="  "
    )
    for name, value in _facts(field):
        yield f"  {name}: {value}"
    if not field.fields:
        return
    yield ""
    yield "FIELDS"
    yield from _format_below(field, width, recursive, indent="  ")


def _format_below(field: ExplainedField, width: int, recursive: bool, indent: str) -> Iterator[str]:
    for below in field.fields:
        facts = [
            name if name == "required" else f"{name}: {value}" for name, value in _facts(below)
        ]
        tail = f"  ({'; '.join(facts)})" if facts else ""
        yield f"{indent}{below.name} <{below.type}>{tail}"
        inner = indent + "    "
        yield from textwrap.wrap(
            below.description, max(30, width), initial_indent=inner, subsequent_indent=inner
        )
        if recursive:
            yield from _format_below(below, width, recursive, indent + "  ")


def _facts(field: ExplainedField) -> list[tuple[str, str]]:
    facts = [
        ("required", "yes" if field.required and field.type != "kind" else ""),
        ("default", field.default),
        ("limits", field.limits),
        ("also written", field.also_written),
    ]
    return [(name, value) for name, value in facts if value]
