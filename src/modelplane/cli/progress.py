"""A sign of life during long work: on stderr, and only on a terminal.

Called by ``push``, ``up --detach``, ``backup``, ``restore``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

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
