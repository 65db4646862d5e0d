"""What commands print: JSON, YAML and tables on stdout, remarks on stderr.

Called by all commands; with ``-o json`` nothing but JSON reaches stdout.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import typer
from ruamel.yaml import YAML

from modelplane.cli.tables import format_table


def terminal_width() -> int | None:
    """Return the columns of the terminal; None when stdout is none, where nothing is cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_json(data: Any) -> None:
    """Print one JSON document, indented."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def print_json_line(data: Any) -> None:
    """Print one JSON document on one line, at once: for streams."""
    typer.echo(json.dumps(data, ensure_ascii=False))
    sys.stdout.flush()


def print_yaml(documents: Sequence[Any]) -> None:
    """Print YAML documents, parted by ``---``."""
    typer.echo("---\n".join(format_yaml(document) for document in documents), nl=False)


def format_yaml(data: Any) -> str:
    """Return one YAML document in block style, keys in their order."""
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 100
    stream = io.StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table that fits the terminal."""
    typer.echo(format_table(headers, rows, terminal_width()))


def remark(text: str) -> None:
    """Print a line for people on stderr."""
    typer.echo(text, err=True)


def warn(text: str) -> None:
    """Print a warning on stderr."""
    typer.echo(f"warning: {text}", err=True)
