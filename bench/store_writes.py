"""How many audited writes a second the store commits durably, alone and under load.

Run by ``python -m bench`` and alone. Each write creates or changes a resource and adds a linked
audit record in one transaction with ``synchronous=FULL``. What a bare one-row transaction costs
on the same disk stands beside it, for scale.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import tempfile
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

from modelplane.adapters.clock import SystemClock
from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.ports.store import Transaction
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.model import Model, ModelSpec

SUBJECT = Subject(name="bench")
CALLERS = (1, 64)
SECONDS = 4.0
WARM_UP_S = 0.5
LISTED = 10_000


def run() -> dict[str, Any]:
    """Return writes per second by number of callers, and what reading back costs."""
    with tempfile.TemporaryDirectory(prefix="modelplane-bench-") as folder:
        return asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> dict[str, Any]:
    bare = await asyncio.to_thread(_bare_commits_per_s, folder / "bare.db")
    store = SqliteStore(
        folder / "store.db",
        clock=SystemClock(),
        new_uid=lambda: uuid.uuid4().hex,
        audit_dir=folder / "audit",
    )
    await store.open()
    try:
        figures: dict[str, Any] = {}
        for callers in CALLERS:
            await _write(store, callers, WARM_UP_S)
            figures[f"{callers} concurrent"] = await _write(store, callers, SECONDS)
        return {
            "bare_commits_per_s": bare,
            "writes": figures,
            "reads": {f"{LISTED:,} models": await _read_back(store)},
        }
    finally:
        await store.close()


async def _write(store: SqliteStore, callers: int, seconds: float) -> dict[str, float]:
    """Let each caller create a model and change it until the time is over."""
    until = time.perf_counter() + seconds

    async def work() -> int:
        name = f"model-{uuid.uuid4().hex}"
        model = Model(metadata=Metadata(name=name), spec=ModelSpec())
        writes = 0
        while time.perf_counter() < until:
            transaction = Transaction(SUBJECT)
            if writes:
                transaction.update(model.with_spec(description=str(writes)))
            else:
                transaction.create(model)
            (written,) = await store.commit(transaction)
            assert isinstance(written, Model)
            model, writes = written, writes + 1
        return writes

    started, cpu_started = time.perf_counter(), time.process_time()
    writes = sum(await asyncio.gather(*(work() for _ in range(callers))))
    elapsed_s = time.perf_counter() - started
    return {
        "audited_writes_per_s": round(writes / elapsed_s, 1),
        "cpu_us_per_write": round((time.process_time() - cpu_started) / writes * 1e6, 1),
    }


async def _read_back(store: SqliteStore) -> dict[str, Any]:
    """Return the cost of a list of `LISTED`, of one read, and of verifying the audit log."""
    present = len((await store.list(Model))[0])
    missing = LISTED - present
    for start in range(0, missing, 500):
        transaction = Transaction(SUBJECT)
        for number in range(start, min(start + 500, missing)):
            transaction.create(Model(metadata=Metadata(name=f"listed-{number}")))
        await store.commit(transaction)
    started = time.perf_counter()
    listed = len((await store.list(Model))[0])
    list_s = time.perf_counter() - started
    started = time.perf_counter()
    for number in range(200):
        await store.find(Model, f"listed-{number}")
    find_s = (time.perf_counter() - started) / 200
    started = time.perf_counter()
    report = await store.verify_audit()
    verify_s = time.perf_counter() - started
    assert report.ok
    return {
        "listed": listed,
        "list_ms": round(list_s * 1e3, 1),
        "find_us": round(find_s * 1e6, 1),
        "verified_records_per_s": round(report.records / verify_s),
    }


def _bare_commits_per_s(path: Path) -> float:
    """Return how many one-row transactions a second the disk takes."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE rows (body TEXT)")
        commits, started = 0, time.perf_counter()
        while (elapsed_s := time.perf_counter() - started) < 1.5:
            connection.execute("INSERT INTO rows VALUES ('x')")
            commits += 1
    return round(commits / elapsed_s, 1)


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
