"""One supervisor per state directory: a lock that the kernel drops when its holder dies.

Used by `supervisor` and `stopping`. The file says who holds it; only a held lock makes that true.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from modelplane.errors import Conflict


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock; raises `Conflict` with the holder's pid when it is taken."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                f"modelplane runs already on {path.parent} (pid {_read_pid(path) or 'unknown'})",
                hint="`modelplane down` stops it; --state names another directory",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def find_holder(path: Path) -> int | None:
    """Return the pid that holds the lock, or None when nobody does."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_pid(path)
    finally:
        os.close(descriptor)
    return None


def _read_pid(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
