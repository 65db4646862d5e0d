"""The one thread that writes: takes queued operations and commits them in groups.

A group is one transaction at full durability, so that the cost of reaching the disk is shared.
Used by `sqlite.SqliteStore`. The thread outlives every error; each error goes to the callers of
the operations it concerns.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Engine

from modelplane.adapters.store.auditing import note_unsigned
from modelplane.adapters.store.connections import translated
from modelplane.adapters.store.operations import Operation, plan_all
from modelplane.adapters.store.queries import load_staging
from modelplane.adapters.store.signing import HeadKeeper
from modelplane.adapters.store.staging import Staging
from modelplane.adapters.store.statements import write_staging
from modelplane.decisions.audit_chain import SignedHead
from modelplane.errors import ModelplaneError, TransientError
from modelplane.ports.clock import Clock

MAX_GROUP = 256
HEAD_INTERVAL_S = 0.25
_PRUNE_SLACK = 1_000
_CLOSE_TIMEOUT_S = 30.0

_log = structlog.get_logger(__name__)

Result = tuple[asyncio.Future[Any], Any | Exception]
"""Who waits, and the result or error that is to be given to it in its event loop."""

_Item = tuple[Operation, asyncio.Future[Any]]


class Writer:
    """Executes operations in the order they were given.

    Parameters
    ----------
    engine
        One whose transactions take the write lock.
    path
        The database file, for messages.
    heads
        Signs each group's newest audit record.
    clock
        Tells the time that records and leases carry.
    max_queued
        How many operations may wait.
    keep_changes
        How many entries the change log keeps at the least.
    on_done
        Called in the writer's thread once per group, with what became of its operations and,
        when it was committed, its staging.
    """

    def __init__(
        self,
        engine: Engine,
        path: Path,
        *,
        heads: HeadKeeper,
        clock: Clock,
        max_queued: int,
        keep_changes: int,
        on_done: Callable[[Sequence[Result], Staging | None], None],
    ) -> None:
        self._engine = engine
        self._path = path
        self._heads = heads
        self._clock = clock
        self._keep_changes = keep_changes
        self._on_done = on_done
        self._queue: queue.Queue[_Item | None] = queue.Queue(max_queued)
        self._closing = False
        self._pending_head: SignedHead | None = None
        self._head_written_at = 0.0
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)

    def start(self) -> None:
        """Begin to execute."""
        self._thread.start()

    def submit(self, operation: Operation, future: asyncio.Future[Any]) -> None:
        """Queue an operation; its result is durable when `future` has it.

        Raises
        ------
        TransientError
            When too many wait, or the writer is closed.
        """
        if self._closing:
            raise TransientError("the store is closed")
        try:
            self._queue.put_nowait((operation, future))
        except queue.Full:
            raise TransientError(
                f"the store is busy: {self._queue.maxsize} changes wait to be written"
            ) from None

    def close(self) -> None:
        """Execute what is queued, write the signed head, and end the thread."""
        self._closing = True
        self._queue.put(None)
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        running = True
        while running:
            group, running = self._next_group()
            if group:
                self._execute(group)
            self._write_head(now=not group or not running)
        self._refuse_rest()

    def _refuse_rest(self) -> None:
        while not self._queue.empty():
            if (item := self._queue.get_nowait()) is not None:
                self._on_done([(item[1], TransientError("the store is closed"))], None)

    def _next_group(self) -> tuple[list[_Item], bool]:
        """Return what waits (empty when the head should be written first) and whether to go on."""
        timeout_s = HEAD_INTERVAL_S if self._pending_head else None
        group: list[_Item] = []
        try:
            item = self._queue.get(timeout=timeout_s)
            while item is not None:
                group.append(item)
                if len(group) >= MAX_GROUP:
                    return group, True
                item = self._queue.get_nowait()
        except queue.Empty:
            return group, True
        return group, False

    def _execute(self, group: Sequence[_Item]) -> None:
        """Commit a group; when that fails as a whole, each operation alone."""
        staging: Staging | None = None
        try:
            outcomes, staging = self._commit([operation for operation, _ in group])
        except Exception as error:
            if len(group) > 1 and isinstance(error, ModelplaneError):
                for item in group:
                    self._execute([item])
                return
            outcomes = [error] * len(group)
        results = [(item[1], outcome) for item, outcome in zip(group, outcomes, strict=True)]
        self._on_done(results, staging)

    def _commit(self, operations: Sequence[Operation]) -> tuple[list[Any | Exception], Staging]:
        keys = [key for operation in operations for key in operation.keys]
        names = [name for operation in operations for name in operation.lease_names]
        now = self._clock.now()
        head = None
        with translated(self._path), self._engine.begin() as connection:
            staging = load_staging(connection, keys, names)
            sequence = staging.sequence
            note_unsigned(staging, now)
            outcomes = plan_all(operations, staging, now)
            if staging.sequence > sequence:
                head = self._heads.sign(staging.sequence, staging.hash, now)
            self._prune(staging)
            write_staging(connection, staging, head)
        self._pending_head = head or self._pending_head
        return outcomes, staging

    def _prune(self, staging: Staging) -> None:
        oldest = staging.version - self._keep_changes
        if oldest >= staging.pruned_through + _PRUNE_SLACK:
            staging.pruned_through = oldest
            staging.prunes = True

    def _write_head(self, *, now: bool) -> None:
        """Write the newest head when it is due; the database, which it follows, is ahead."""
        if self._pending_head is None:
            return
        if not now and time.monotonic() - self._head_written_at < HEAD_INTERVAL_S:
            return
        self._head_written_at = time.monotonic()
        try:
            self._heads.write(self._pending_head)
            self._pending_head = None
        except OSError as error:
            _log.warning("audit.head-not-written", error=str(error))
