"""A sign of life during long work: on stderr, and only on a terminal.

Called by ``push``, ``up --detach``, ``backup``, ``restore``, ``registry check``,
``feedback import``, ``predictions export``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console


@contextlib.contextmanager
def working(text: str) -> Iterator[None]:
    """Show that something goes on while the block runs."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(text):
        yield


@contextlib.contextmanager
def counting(text: str, total: int) -> Iterator[Callable[[], None]]:
    """Show how much of `total` is done; give what is called after each."""
    console, done = Console(stderr=True), 0
    if not console.is_terminal:
        yield lambda: None
        return
    with console.status(f"{text}: 0 of {total:,}") as status:

        def advance() -> None:
            nonlocal done
            done += 1
            status.update(f"{text}: {done:,} of {total:,}")

        yield advance


@contextlib.contextmanager
def tallying(text: str) -> Iterator[Callable[[int], None]]:
    """Show how much is done, where nobody knows how much there is; call it with what was added."""
    console, done = Console(stderr=True), 0
    if not console.is_terminal:
        yield lambda count: None
        return
    with console.status(f"{text}: 0") as status:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            status.update(f"{text}: {done:,}")

        yield advance
