"""Prediction threads with a bounded queue before them.

Used by ``app``. A plain thread pool would do the same at twice the cost per request, would not
bound its queue, and would hold up the end of the process for a model that hangs.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class QueueFullError(Exception):
    """As many requests wait as may."""


class PredictionWorkers(Generic[T]):
    """Runs calls in threads, first come first served.

    Everything but the threads' own loop runs on the event loop's thread.

    Parameters
    ----------
    threads
        How many calls run at once, at least 1.
    queue_limit
        How many more may wait.
    """

    def __init__(self, threads: int, queue_limit: int) -> None:
        self._threads = threads
        self._capacity = threads + queue_limit
        self._queue: SimpleQueue[tuple[Callable[[], T], asyncio.Future[T]]] = SimpleQueue()
        self._accepted = 0
        self._loop = asyncio.get_running_loop()
        for number in range(threads):
            threading.Thread(target=self._work, name=f"predict-{number}", daemon=True).start()

    @property
    def waiting(self) -> int:
        """Calls that were accepted and have not started."""
        return max(0, self._accepted - self._threads)

    @property
    def is_full(self) -> bool:
        """Whether `run` would refuse."""
        return self._accepted >= self._capacity

    async def run(self, call: Callable[[], T]) -> T:
        """Run a call in a thread and wait for its result.

        Raises
        ------
        QueueFullError
            `queue_limit` calls wait already.
        """
        if self.is_full:
            raise QueueFullError
        self._accepted += 1
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put((call, future))
        return await future

    def _work(self) -> None:
        while True:
            call, future = self._queue.get()
            try:
                result = call()
            except BaseException as error:
                self._loop.call_soon_threadsafe(self._finish, future, None, error)
            else:
                self._loop.call_soon_threadsafe(self._finish, future, result, None)

    def _finish(
        self, future: asyncio.Future[T], result: T | None, error: BaseException | None
    ) -> None:
        self._accepted -= 1
        if future.done():  # its client went away
            return
        if error is not None:
            future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))
        else:
            future.set_result(result)  # type: ignore[arg-type]
