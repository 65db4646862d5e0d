"""Failures in words: ``error: …`` and ``hint: …`` on stderr, and the exit code.

Called once, around every command. A traceback is shown only with ``--debug``.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator

import typer

from modelplane.errors import InvalidResource, ModelplaneError

INTERRUPTED = 130
_FULL_DISK = 28


@contextlib.contextmanager
def tell_failures(context: typer.Context) -> Iterator[None]:
    """Turn what a command raises into words and an exit code."""
    try:
        yield
    except ModelplaneError as error:
        _show_traceback(context)
        typer.echo(describe_error(error), err=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        raise  # the reader of our output has gone: typer ends quietly
    except OSError as error:
        _show_traceback(context)
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        typer.echo(f"error: {what}", err=True)
        if error.errno == _FULL_DISK:
            typer.echo("hint: free some space and try again", err=True)
        raise typer.Exit(1) from None


def describe_error(error: ModelplaneError) -> str:
    """Return an error as the lines that people read."""
    lines = [f"error: {error.message}"]
    if isinstance(error, InvalidResource):
        lines += [f"  {field}" for field in error.fields]
    if error.hint:
        lines.append(f"hint: {error.hint}")
    return "\n".join(lines)


def _show_traceback(context: typer.Context) -> None:
    if context.meta.get("modelplane.debug"):
        typer.echo(traceback.format_exc(), err=True)
