"""The thread that writes: takes queued changes of the index and commits them in groups.

A change is a function of an open transaction. Used by `sqlite`. Nothing waits in the queue
without bound, and each failure goes to whom it concerns.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from modelplane.adapters.predictions.opening import translated
from modelplane.errors import TransientError

MAX_GROUP = 64
_CLOSE_TIMEOUT_S = 30.0

T = TypeVar("T")
Change = Callable[[Connection], Any]
_Item = tuple[Change, "Future[Any]"]


class PredictionWriter:
    """Executes changes in the order they were given.

    Parameters
    ----------
    engine
        One whose transactions take the write lock.
    max_queued
        How many changes may wait.
    on_rollback
        Called when a transaction did not happen: what was remembered of it is wrong.
    """

    def __init__(self, engine: Engine, *, max_queued: int, on_rollback: Callable[[], None]) -> None:
        self._engine = engine
        self._queue: queue.Queue[_Item | None] = queue.Queue(max_queued)
        self._on_rollback = on_rollback
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="predictions-writer", daemon=True)

    def start(self) -> None:
        """Begin to execute."""
        self._thread.start()

    def submit(self, change: Callable[[Connection], T]) -> Future[T]:
        """Queue a change; what it returned is durable when the future has it.

        Raises
        ------
        TransientError
            When too many wait, or the writer is closed.
        """
        if self._closing:
            raise TransientError("the store of predictions is closed")
        future: Future[T] = Future()
        try:
            self._queue.put_nowait((change, future))
        except queue.Full:
            raise TransientError(
                f"the store of predictions is busy: {self._queue.maxsize} batches wait to be "
                "written"
            ) from None
        return future

    async def execute(self, change: Callable[[Connection], T]) -> T:
        """Wait for a change to be durable; raises as `submit` does, and what the change raised."""
        return await asyncio.wrap_future(self.submit(change))

    def close(self) -> None:
        """Execute what is queued and end the thread."""
        self._closing = True
        self._queue.put(None)
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        running = True
        while running:
            group, running = self._next_group()
            if group:
                self._execute(group)
        while not self._queue.empty():
            if (item := self._queue.get_nowait()) is not None:
                _settle(item[1], TransientError("the store of predictions is closed"))

    def _next_group(self) -> tuple[list[_Item], bool]:
        group: list[_Item] = []
        item = self._queue.get()
        with contextlib.suppress(queue.Empty):
            while item is not None:
                group.append(item)
                if len(group) >= MAX_GROUP:
                    return group, True
                item = self._queue.get_nowait()
        return group, item is not None

    def _execute(self, group: Sequence[_Item]) -> None:
        """Commit a group; when that fails as a whole, each change alone."""
        try:
            with translated(self._engine), self._engine.begin() as connection:
                results = [change(connection) for change, _ in group]
        except Exception as error:
            self._on_rollback()
            if len(group) > 1:
                for item in group:
                    self._execute([item])
            else:
                _settle(group[0][1], error)
            return
        for (_, future), result in zip(group, results, strict=True):
            _settle(future, result)


def _settle(future: Future[Any], result: Any) -> None:
    """Give a result or an error to who waits, who may be gone."""
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
