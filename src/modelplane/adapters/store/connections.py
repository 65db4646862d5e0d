"""SQLite itself: opening the file, pragmas, and what its errors mean.

Used by the modules of this package. Nothing particular to SQLite stands anywhere else.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from modelplane.adapters.store import tables
from modelplane.errors import ModelplaneError, NoSpace, TerminalError, TransientError

_WAL_LIMIT_BYTES = 64 * 2**20
_FULL = {sqlite3.SQLITE_FULL}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_DENIED = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
_LITTLE_SPACE_BYTES = 2**20


def make_engine(path: Path, *, writes: bool, connections: int, busy_timeout_s: float) -> Engine:
    """Return an engine whose transactions see one snapshot; a writing one locks at its start.

    Parameters
    ----------
    path
        The database file.
    writes
        Take the write lock when a transaction begins, so that it cannot fail half-way for
        another writer; else every connection refuses to write.
    connections
        How many are kept open at the most.
    busy_timeout_s
        How long to wait for another process's lock, seconds.
    """
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=busy_timeout_s,
        connect_args={
            "timeout": busy_timeout_s,
            "check_same_thread": False,
            "isolation_level": None,  # transactions begin when we say so, below
        },
    )

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: Any) -> None:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
        connection.execute(f"PRAGMA query_only = {'OFF' if writes else 'ON'}")

    begin_statement = "BEGIN IMMEDIATE" if writes else "BEGIN"

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin_statement)

    return engine


def prepare_database(engine: Engine, path: Path) -> None:
    """Create the tables in a new file, or check that the file is one this release can use.

    Raises
    ------
    TerminalError
        When a newer release wrote it or it is something else; the file stays untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))  # it holds digests of tokens
    with translated(path):
        with engine.connect() as connection:
            found = set(inspect(connection).get_table_names())
            if found:
                _check_format(connection, found, path)
        with engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            driver.rollback()
            driver.execute("PRAGMA journal_mode = WAL")
        if not found:
            with engine.begin() as connection:
                tables.TABLES.create_all(connection)
                version = {"name": "format_version", "value": str(tables.FORMAT_VERSION)}
                connection.execute(tables.meta.insert(), version)


def _check_format(connection: Connection, found: set[str], path: Path) -> None:
    if tables.meta.name not in found:
        raise TerminalError(
            f"{path} is a database, but not one of modelplane",
            hint="name another state directory, or move the file away",
        )
    statement = select(tables.meta.c.value).where(tables.meta.c.name == "format_version")
    version = int(connection.execute(statement).scalar_one())
    if version > tables.FORMAT_VERSION:
        raise TerminalError(
            f"{path} has format {version}, written by a newer release; this release reads format "
            f"{tables.FORMAT_VERSION}. Nothing was changed",
            hint="install the newer release, or restore a backup made by this one",
        )


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn errors of the database at `path` into modelplane's."""
    try:
        yield
    except DBAPIError as error:
        raise _explain(error.orig, path) from error
    except sqlite3.Error as error:
        raise _explain(error, path) from error
    except OSError as error:
        raise explain_os_error(error, path) from error


def _explain(error: BaseException | None, path: Path) -> ModelplaneError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _FULL or (code == sqlite3.SQLITE_IOERR and _is_nearly_full(path)):
        return NoSpace(f"the disk that holds {path} is full; nothing was written")
    if code in _BUSY:
        return TransientError(
            f"{path} is locked by another process", hint="try again when it has finished"
        )
    if code in _BROKEN:
        return TerminalError(
            f"{path} is damaged or no database: {error}", hint="restore it from a backup"
        )
    if code in _DENIED:
        return TerminalError(
            f"{path} cannot be opened for writing: {error}",
            hint="check that the file and its folder belong to this user",
        )
    return TransientError(f"the database {path} failed: {error}")


def explain_os_error(error: OSError, path: Path) -> ModelplaneError:
    """Return the error of modelplane that says what went wrong with the file at `path`."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return NoSpace(f"the disk that holds {path} is full; nothing was written")
    return TerminalError(f"{path} cannot be used: {error.strerror or error}")


def _is_nearly_full(path: Path) -> bool:
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < _LITTLE_SPACE_BYTES
