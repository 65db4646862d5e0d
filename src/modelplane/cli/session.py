"""What every command shares: the options for state, address and debugging, and the connection.

`command` registers a function as a command: it adds the shared options and passes a `Session`
as the first argument. Nothing is read or connected before a command asks for it.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

import modelplane.client

if TYPE_CHECKING:
    from modelplane.client import Client

SHARED_OPTIONS: dict[str, tuple[Any, Any]] = {
    "state": (
        Annotated[
            Path | None,
            typer.Option("--state", metavar="DIR", help="State directory; default ./.modelplane."),
        ],
        None,
    ),
    "url": (
        Annotated[str | None, typer.Option("--url", metavar="URL", help="Address of the API.")],
        None,
    ),
    "debug": (
        Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")],
        False,
    ),
}


def _connect(url: str | None, state: Path | None) -> Client:
    return modelplane.client.Client(url=url, state=state)


@dataclass
class Session:
    """One run of one command.

    Attributes
    ----------
    state, url
        As given on the command line; None when not.
    connector
        Makes the client from `url` and `state`.
    now, sleep
        The clock. Tests pass a session of their own as typer's context object.
    """

    state: Path | None = None
    url: str | None = None
    connector: Callable[[str | None, Path | None], Client] = _connect
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], None] = time.sleep

    @cached_property
    def client(self) -> Client:
        """The client of the control plane, made when first asked for."""
        return self.connector(self.url, self.state)


def make_app() -> typer.Typer:
    """Return an empty typer application in our manner."""
    return typer.Typer(rich_markup_mode=None, no_args_is_help=True, pretty_exceptions_enable=False)


def command(
    app: typer.Typer, name: str, *, examples: Sequence[str]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as the command `name`.

    Parameters
    ----------
    examples
        Command lines that help and documentation show, most useful first.

    The function's first parameter is the `Session`; the others are typer parameters, given
    by keyword.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        own = list(inspect.signature(function).parameters.values())[1:]
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter("context", keyword, annotation=typer.Context),
            *(p.replace(kind=keyword, annotation=hints[p.name]) for p in own),
            *(
                inspect.Parameter(name, keyword, default=default, annotation=annotation)
                for name, (annotation, default) in SHARED_OPTIONS.items()
            ),
        ]

        @wraps(function)
        def run(
            *, context: typer.Context, state: Path | None, url: str | None, debug: bool, **rest: Any
        ) -> None:
            context.meta["modelplane.debug"] = debug or context.meta.get("modelplane.debug")
            session = replace(
                context.obj or Session(),
                state=state or context.meta.get("modelplane.state"),
                url=url or context.meta.get("modelplane.url"),
            )
            function(session, **rest)

        del run.__wrapped__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        epilog = "Examples:\n\n\b\n" + "\n".join(f"  {example}" for example in examples)
        app.command(name, epilog=epilog)(run)
        return function

    return register
