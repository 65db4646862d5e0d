"""The store of predictions: `ports.predictions.Predictions` over SQLite and Parquet.

Made by wiring; `run` moves rows into files for ever. What `add` and `label` have returned is on
the disk: rows lie in the index until the file that holds them is whole. A file is planned (its
rows marked) before it is written, so that a crash in between writes the same file again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection, delete, func, select, update

from modelplane.adapters.predictions import expiry, parquet, queries
from modelplane.adapters.predictions import tables as t
from modelplane.adapters.predictions.files import ParquetFiles, format_path
from modelplane.adapters.predictions.opening import make_engine, prepare_index, translated
from modelplane.adapters.predictions.statements import IndexWrites
from modelplane.adapters.predictions.tables import to_us
from modelplane.adapters.predictions.writer import PredictionWriter
from modelplane.decisions.feedback import Said
from modelplane.decisions.predictions import (
    Label,
    LabelFate,
    Outcome,
    Place,
    Prediction,
    StoredSketch,
    Tally,
)
from modelplane.errors import ModelplaneError
from modelplane.ports.clock import Clock
from modelplane.ports.predictions import MAX_WAITING

MAX_PENDING_ROWS = 1_000_000
"""Rows that may wait for their file; more are refused until the storage answers."""

MAX_QUEUED = 64
FILE_ROWS = 50_000
FILE_AGE_S = 300.0
_LOOK_S = 5.0
_READERS = 4

_log = structlog.get_logger(__name__)

T = TypeVar("T")
_Planned = list[tuple[int, str, list[Prediction]]]
"""Files that are to be written: id, path, rows."""


class SqlitePredictions:
    """See `ports.predictions.Predictions`.

    Parameters
    ----------
    path
        The file of the index.
    url
        Where the Parquet files go: a folder, or ``s3://BUCKET/PREFIX`` and the like.
    clock
        Tells when labels came and what is due.
    max_waiting
        Labels of a deployment that may wait for their predictions.
    max_queued
        Batches that may wait to be written.
    max_pending_rows
        Rows that may wait for their file.
    """

    def __init__(
        self,
        path: Path,
        url: str,
        clock: Clock,
        *,
        max_waiting: int = MAX_WAITING,
        max_queued: int = MAX_QUEUED,
        max_pending_rows: int = MAX_PENDING_ROWS,
    ) -> None:
        self._path = path
        self._clock = clock
        self._files = ParquetFiles(url)
        self._write_engine = make_engine(path, writes=True, connections=1)
        self._read_engine = make_engine(path, writes=False, connections=_READERS)
        # Without Parquet rows stay for as long as the index keeps them: they wait for nothing.
        bound = max_pending_rows if parquet.is_available() else None
        self._writes = IndexWrites(max_waiting=max_waiting, max_pending_rows=bound)
        self._writer = PredictionWriter(
            self._write_engine, max_queued=max_queued, on_rollback=self._writes.forget
        )
        self.listeners: list[Callable[[Sequence[Prediction]], None]] = []
        """Called with each batch's new predictions, once they are kept; they return at once."""
        self._readers = asyncio.Semaphore(_READERS)
        self._filing = asyncio.Lock()

    async def open(self) -> None:
        """Open the index, or make it.

        Raises
        ------
        TerminalError
            It cannot be used.
        """
        await asyncio.to_thread(prepare_index, self._write_engine, self._path)
        self._writer.start()

    async def close(self) -> None:
        """Write what is queued and close the index."""
        await asyncio.to_thread(self._writer.close)
        self._write_engine.dispose()
        self._read_engine.dispose()

    async def run(self) -> None:
        """Move rows into files, for ever: when there are many, or the oldest wait for long."""
        if not parquet.is_available():
            _log.warning(
                "predictions_without_parquet",
                hint="rows stay in the index; pip install 'modelplane[predictions]'",
            )
            return
        filed_at = self._clock.monotonic_s()
        while True:
            await self._clock.sleep(_LOOK_S)
            try:
                pending = await self._writer.execute(self._writes.pending_rows)
                age_s = self._clock.monotonic_s() - filed_at
                if pending >= FILE_ROWS or age_s >= FILE_AGE_S:
                    await self.flush()
                    filed_at = self._clock.monotonic_s()
            except ModelplaneError as error:
                _log.warning("predictions_not_filed", error=error.message)
            except Exception:
                # Whatever a file of rows is not made of must not end the control plane.
                _log.exception("predictions_not_filed")

    async def flush(self) -> None:
        """Move all rows into files now. Raises `TransientError`: what is not moved stays."""
        async with self._filing:
            await self._write_files(await self._read(_find_planned))
            while planned := await self._plan():
                await self._write_files(planned)

    async def add(self, predictions: Sequence[Prediction]) -> int:
        """Keep them durably; return how many were new."""
        new = await self._writer.execute(lambda c: self._writes.add(c, predictions))
        for listener in self.listeners if new else ():
            listener(new)
        return len(new)

    async def add_dropped(self, place: Place, count: int) -> None:
        """Note predictions that were lost before they came here."""
        now = to_us(self._clock.now())
        await self._writer.execute(lambda c: self._writes.add_dropped(c, place, count, now))

    async def label(
        self, environment: str, deployment: str, labels: Sequence[Label]
    ) -> Sequence[LabelFate]:
        """Join labels with predictions; one fate each."""
        name, now = (environment, deployment), to_us(self._clock.now())
        return await self._writer.execute(lambda c: self._writes.label(c, name, labels, now))

    async def outcomes(
        self,
        environment: str,
        deployment: str,
        *,
        after: int = 0,
        limit: int = 10_000,
        since: datetime | None = None,
    ) -> Sequence[Outcome]:
        """Return outcomes above a sequence, oldest first; only of what was predicted `since`."""
        name, start = (environment, deployment), None if since is None else to_us(since)
        return await self._read(lambda c: queries.load_outcomes(c, name, after, limit, start))

    async def tallies(
        self, environment: str, deployment: str, *, since: datetime, horizon_s: float
    ) -> Sequence[Tally]:
        """Count what was predicted since then, by place."""
        name = (environment, deployment)
        due = to_us(self._clock.now() - timedelta(seconds=horizon_s))
        return await self._read(lambda c: queries.load_tallies(c, name, to_us(since), due))

    async def totals(self, environment: str, deployment: str) -> Sequence[Tally]:
        """Count everything there ever was, by place."""
        return await self._read(lambda c: queries.load_totals(c, (environment, deployment)))

    async def rows(
        self, environment: str, deployment: str, *, since: datetime, until: datetime, limit: int
    ) -> Sequence[Prediction]:
        """Return stored predictions with inputs and outputs, oldest first."""
        name, first, end = (environment, deployment), to_us(since), to_us(until)

        def find(connection: Connection) -> tuple[list[tuple[str, int]], list[Prediction]]:
            deployment_id = queries.find_deployment(connection, name)
            if deployment_id is None:
                return [], []
            c = t.payloads.c
            statement = select(t.deployments.c.expired_before)
            expired = connection.execute(
                statement.where(t.deployments.c.id == deployment_id)
            ).scalar_one()
            start = max(first, expired or 0)
            places = queries.load_places(connection, name, deployment_id)
            conditions = (c.deployment_id == deployment_id, c.at >= start, c.at < end)
            pending = queries.load_pending(connection, places, *conditions, limit=limit)
            files = queries.find_files(connection, deployment_id, start, end)
            return [(path, max(at, start)) for path, at in files], [row for _, row in pending]

        files, found = await self._read(find)
        return await asyncio.to_thread(self._read_files, files, found, (first, end), limit)

    def _read_files(
        self,
        files: Sequence[tuple[str, int]],
        found: list[Prediction],
        window: tuple[int, int],
        limit: int,
    ) -> list[Prediction]:
        """Add the rows of files, the oldest first, until no further one can hold any of them."""
        for path, first_at in files:
            if len(found) >= limit and to_us(found[limit - 1].at) < first_at:
                break
            rows = self._files.read(path)
            start = max(window[0], first_at)
            found += [row for row in rows if start <= to_us(row.at) < window[1]]
            found.sort(key=lambda row: (row.at, row.request_id, row.row))
            del found[limit:]
        return found

    async def said(
        self, environment: str, deployment: str, predictions: Sequence[Prediction]
    ) -> Sequence[Said]:
        """Return the label and the reward of each prediction, None where there is none."""
        name = (environment, deployment)
        return await self._read(lambda c: queries.load_said(c, name, predictions))

    async def put_sketches(self, sketches: Sequence[StoredSketch]) -> None:
        """Keep sketches; one of the same place, minute and column takes the place of the old."""
        await self._writer.execute(lambda c: self._writes.put_sketches(c, sketches))

    async def sketches(
        self, environment: str, deployment: str, *, since: datetime, until: datetime
    ) -> Sequence[StoredSketch]:
        """Return the sketches of these minutes, oldest first."""
        name, window = (environment, deployment), (to_us(since), to_us(until))
        return await self._read(lambda c: queries.load_sketches(c, name, *window))

    async def expire(self, environment: str, deployment: str, before: datetime) -> int:
        """Delete what was predicted before, with its labels; return how many predictions."""
        name, limit = (environment, deployment), to_us(before)
        async with self._filing:
            own = await self._read(lambda c: queries.find_deployment(c, name))
            if own is None:
                return 0
            await self._writer.execute(lambda c: self._writes.begin_expiry(c, own, limit))
            deleted = 0
            while True:
                count = await self._writer.execute(lambda c: self._expire_piece(c, own, limit))
                deleted += count
                if count < expiry.PIECE:
                    break
            await self._writer.execute(lambda c: expiry.delete_rest(c, own, limit))
            await self._delete_files(own, limit)
        return deleted

    def _expire_piece(self, connection: Connection, deployment_id: int, before: int) -> int:
        count, pending = expiry.delete_predictions(connection, deployment_id, before)
        self._writes.note_filed(pending)
        return count

    async def forget_waiting(self, environment: str, deployment: str, before: datetime) -> int:
        """Delete labels that came before and have found no prediction; return how many."""
        own = await self._read(lambda c: queries.find_deployment(c, (environment, deployment)))
        if own is None:
            return 0
        limit = to_us(before)
        return await self._writer.execute(lambda c: expiry.forget_waiting(c, own, limit))

    async def deployments(self) -> Sequence[tuple[str, str]]:
        """Return (environment, deployment) of all that have predictions, labels or sketches."""
        return await self._read(queries.list_deployments)

    async def _read(self, query: Callable[[Connection], T]) -> T:
        def run() -> T:
            with translated(self._read_engine), self._read_engine.begin() as connection:
                return query(connection)

        async with self._readers:
            return await asyncio.to_thread(run)

    async def _plan(self) -> _Planned:
        """Mark rows for files that are about to be written."""
        groups = await self._read(_find_unfiled)
        if not groups:
            return []
        return await self._writer.execute(lambda c: _plan_files(c, groups))

    async def _write_files(self, planned: _Planned) -> None:
        for file_id, path, rows in planned:
            if rows:
                await asyncio.to_thread(self._files.write, path, rows)
            await self._writer.execute(
                lambda c, id_=file_id, full=bool(rows): self._finish_file(c, id_, is_written=full)  # type: ignore[misc]
            )

    def _finish_file(self, connection: Connection, file_id: int, *, is_written: bool) -> None:
        # In the writer's thread, as everything that counts what waits.
        self._writes.note_filed(_finish_file(connection, file_id, is_written=is_written))

    async def _delete_files(self, deployment_id: int, before: int) -> None:
        c = t.files.c
        old = select(c.id, c.path).where(c.deployment_id == deployment_id, c.last_at < before)
        for file_id, path in await self._read(lambda r: r.execute(old).all()):
            await asyncio.to_thread(self._files.delete, path)
            gone = delete(t.files).where(c.id == file_id)
            await self._writer.execute(lambda w, gone=gone: w.execute(gone) and None)  # type: ignore[misc]


_Groups = list[list[tuple[int, Prediction]]]


def _find_unfiled(connection: Connection) -> _Groups:
    """Return some of the rows in no file, in groups that are to share one."""
    places = _all_places(connection)
    free = t.payloads.c.file_id.is_(None)
    found = queries.load_pending(connection, places, free, limit=FILE_ROWS)
    groups: dict[Any, list[tuple[int, Prediction]]] = defaultdict(list)
    for own_id, row in found:
        place = row.place
        where = (place.environment, place.deployment, place.version, row.at.date())
        groups[where, tuple(row.inputs), tuple(row.outputs)].append((own_id, row))
    return list(groups.values())


def _find_planned(connection: Connection) -> _Planned:
    """Return the files that a crash kept from being written, or from being noted as written."""
    c = t.files.c
    statement = select(c.id, c.path).where(c.is_written.is_(False))
    planned = connection.execute(statement).all()
    places = _all_places(connection) if planned else {}
    loaded = []
    for file_id, path in planned:
        own = t.payloads.c.file_id == file_id
        rows = queries.load_pending(connection, places, own, limit=FILE_ROWS)
        loaded.append((file_id, path, [row for _, row in rows]))
    return loaded


def _all_places(connection: Connection) -> dict[int, Place]:
    d = t.deployments.c
    found: dict[int, Place] = {}
    for own_id, *name in connection.execute(select(d.id, d.environment, d.deployment)):
        found |= queries.load_places(connection, (name[0], name[1]), own_id)
    return found


def _plan_files(connection: Connection, groups: _Groups) -> _Planned:
    next_id = int(connection.execute(select(func.max(t.files.c.id))).scalar() or 0) + 1
    planned = []
    for file_id, group in enumerate(groups, next_id):
        rows = [row for _, row in group]
        path = format_path(rows[0], file_id)
        ids = [own_id for own_id, _ in group]
        own = t.payloads.c.prediction_id
        deployment_id = connection.execute(
            select(t.payloads.c.deployment_id).where(own == ids[0])
        ).scalar_one()
        connection.execute(
            t.files.insert(),
            {
                "id": file_id,
                "deployment_id": deployment_id,
                "path": path,
                "rows": len(rows),
                "first_at": to_us(rows[0].at),
                "last_at": to_us(rows[-1].at),
                "is_written": False,
            },
        )
        for start in range(0, len(ids), 500):
            chunk = ids[start : start + 500]
            connection.execute(update(t.payloads).where(own.in_(chunk)).values(file_id=file_id))
        planned.append((file_id, path, rows))
    return planned


def _finish_file(connection: Connection, file_id: int, *, is_written: bool) -> int:
    """Note a file as written, or forget one that has no rows left; return how many it took."""
    own = t.files.c.id == file_id
    if is_written:
        connection.execute(update(t.files).where(own).values(is_written=True))
    else:
        connection.execute(delete(t.files).where(own))
    result = connection.execute(delete(t.payloads).where(t.payloads.c.file_id == file_id))
    return int(result.rowcount)
