"""Stores for tests, in a short folder of their own."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from modelplane.adapters.store.sqlite import SqliteStore, StoreOptions
from modelplane.ports.clock import Clock
from modelplane.ports.store import Transaction
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.model import Model, ModelSpec
from modelplane.testing.clock import ManualClock

ADA = Subject(name="ada", groups=("admin",))


@asynccontextmanager
async def open_store(
    folder: Path, *, clock: Clock | None = None, **options: Any
) -> AsyncIterator[SqliteStore]:
    """Open the store in `folder`, and close it."""
    count = itertools.count(1)
    store = SqliteStore(
        folder / "store.db",
        clock=clock or ManualClock(),
        new_uid=lambda: f"uid-{next(count)}",
        audit_dir=folder / "audit",
        options=StoreOptions(**{"poll_interval_s": 0.05, **options}),
    )
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def model(name: str, description: str = "", **labels: str) -> Model:
    return Model(
        metadata=Metadata(name=name, labels=labels), spec=ModelSpec(description=description)
    )


def transaction(reason: str = "") -> Transaction:
    return Transaction(ADA, reason=reason)


def creation(*models: Model) -> Transaction:
    """A transaction that creates `models`."""
    made = transaction()
    for one in models:
        made.create(one)
    return made
