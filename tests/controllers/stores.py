"""The real store on a file, with a manual clock and uids that count up."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.testing.clock import ManualClock


@asynccontextmanager
async def open_store(directory: Path) -> AsyncIterator[tuple[SqliteStore, ManualClock]]:
    """Give an open store in `directory` and the clock that it goes by."""
    clock, uids = ManualClock(), itertools.count(1)
    store = SqliteStore(
        directory / "store.db",
        clock=clock,
        new_uid=lambda: f"uid-{next(uids)}",
        audit_dir=directory / "audit",
    )
    await store.open()
    try:
        yield store, clock
    finally:
        await store.close()
