"""Options that several commands have, each written once."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Format(StrEnum):
    """How a command prints."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


class Plain(StrEnum):
    """How a command prints that has no resources to show."""

    TEXT = "text"
    JSON = "json"


Environment = Annotated[
    str | None,
    typer.Option("--environment", "-e", metavar="ENV", help="Environment; default production."),
]
Output = Annotated[
    Format,
    typer.Option("--output", "-o", metavar="table|json|yaml|name", help="How to print."),
]
PlainOutput = Annotated[
    Plain, typer.Option("--output", "-o", metavar="text|json", help="How to print.")
]
Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why; recorded in the audit log.")
]
Files = Annotated[
    list[str],
    typer.Option(
        "--file",
        "-f",
        metavar="FILE|DIR|-",
        help="Manifest, folder of manifests, or - for standard input; may be repeated.",
    ),
]
Timeout = Annotated[
    str,
    typer.Option("--timeout", metavar="TIME", help="How long to wait at the most, such as 90s."),
]
