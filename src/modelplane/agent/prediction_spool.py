"""Batches of predictions on disk, until the control plane has taken them.

One file for each batch, used by `predictions.PredictionCollector` in threads. Bounded: the oldest
batches go, and the rows in them are counted. Survives the agent; a batch that was torn by a crash
of the machine is skipped.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import structlog

log = structlog.get_logger(__name__)

MAX_SPOOL_BYTES = 64 * 2**20

_SUFFIX = ".batch"


class Origin(NamedTuple):
    """Whose predictions a batch holds: those of one replica."""

    environment: str
    deployment: str
    version: str
    revision: str
    replica: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Predictions of one replica.

    Attributes
    ----------
    origin
        Whose they are.
    rows
        How many rows were predicted.
    body
        The events, ``application/cloudevents-batch+json``.
    is_loss
        Whether it only tells that the rows were lost.
    """

    origin: Origin
    rows: int
    body: bytes
    is_loss: bool = False


@dataclass(frozen=True, slots=True)
class _Head:
    origin: Origin
    rows: int
    is_loss: bool


class Spool:
    """A queue of batches in a folder.

    Parameters
    ----------
    folder
        Made when the first batch comes; what lies there from before is taken up.
    max_bytes
        Of all files together.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_SPOOL_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._sizes: dict[str, int] = {}
        self._lost: Counter[Origin] = Counter()
        self._reading: str | None = None
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            self._sizes[path.name] = path.stat().st_size
        self._bytes = sum(self._sizes.values())
        self._last = int(next(reversed(self._sizes), "0").removesuffix(_SUFFIX))

    def __len__(self) -> int:
        """Return how many batches wait."""
        return len(self._sizes)

    def put(self, batch: Batch) -> None:
        """Add a batch, and let the oldest go where there are too many bytes.

        Raises
        ------
        OSError
            It could not be written; nothing is left of it.
        """
        head = json.dumps(asdict(_Head(batch.origin, batch.rows, batch.is_loss))).encode()
        content = head + b"\n" + batch.body
        with self._lock:
            self._last += 1
            name = f"{self._last:016d}{_SUFFIX}"
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            scratch = self._folder / f"{name}.new"
            try:
                descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                scratch.rename(self._folder / name)
            except OSError:
                scratch.unlink(missing_ok=True)
                raise
            self._sizes[name] = len(content)
            self._bytes += len(content)
            while self._bytes > self._max_bytes and (oldest := self._oldest_at_rest(name)):
                self._lose(oldest)

    def oldest(self) -> tuple[str, Batch] | None:
        """Return the oldest batch and its name, which `remove` takes; None when there is none."""
        with self._lock:
            while self._sizes:
                name = next(iter(self._sizes))
                batch = self._read(name)
                if batch is not None:
                    self._reading = name
                    return name, batch
                self._forget(name)
            return None

    def remove(self, name: str) -> None:
        """Take that a batch has arrived, or is wanted by nobody."""
        with self._lock:
            self._reading = None
            self._forget(name)

    def add_lost(self, origin: Origin, rows: int) -> None:
        """Count rows that were lost before they came here."""
        with self._lock:
            self._lost[origin] += rows

    def take_lost(self) -> dict[Origin, int]:
        """Return how many rows were lost since this was last called, of those who lost any."""
        with self._lock:
            lost = {origin: rows for origin, rows in self._lost.items() if rows}
            self._lost.clear()
            return lost

    def _oldest_at_rest(self, newest: str) -> str | None:
        # What is being sent has probably arrived; what has just come is wanted most.
        names = (name for name in self._sizes if name not in (self._reading, newest))
        return next(names, None)

    def _lose(self, name: str) -> None:
        batch = self._read(name)
        if batch is not None:
            self._lost[batch.origin] += batch.rows
        self._forget(name)

    def _forget(self, name: str) -> None:
        if name in self._sizes:
            self._bytes -= self._sizes.pop(name)
            (self._folder / name).unlink(missing_ok=True)

    def _read(self, name: str) -> Batch | None:
        try:
            head, _, body = (self._folder / name).read_bytes().partition(b"\n")
            document = json.loads(head)
            is_loss = bool(document.get("is_loss", False))
            return Batch(Origin(*document["origin"]), int(document["rows"]), body, is_loss)
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("predictions_unreadable", batch=name, error=type(error).__name__)
            return None
