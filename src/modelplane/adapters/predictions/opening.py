"""The file of the index: opening it, and what its errors mean.

Used by the modules of this package. Nothing particular to SQLite stands anywhere else, except the
two forms of upsert.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from modelplane.adapters.predictions import tables
from modelplane.errors import ModelplaneError, NoSpace, TerminalError, TransientError

_BUSY_S = 10.0
_CACHE_KIB = 64 * 1024
_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_DENIED = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}


def make_engine(path: Path, *, writes: bool, connections: int) -> Engine:
    """Return an engine for the file; a writing transaction locks it at its start."""
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=_BUSY_S,
        connect_args={
            "timeout": _BUSY_S,
            "check_same_thread": False,
            "isolation_level": None,  # transactions begin when we say so, below
        },
    )

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: Any) -> None:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB if writes else 8 * 1024}")
        connection.execute(f"PRAGMA query_only = {'OFF' if writes else 'ON'}")

    begin_statement = "BEGIN IMMEDIATE" if writes else "BEGIN"

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin_statement)

    return engine


def prepare_index(engine: Engine, path: Path) -> None:
    """Create the tables in a new file, or check that this release can use the one there is.

    Raises
    ------
    TerminalError
        A newer release wrote it, or it is something else; it stays untouched.
    """
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))  # it holds what people sent
    with translated(engine):
        with engine.connect() as connection:
            found = set(inspect(connection).get_table_names())
            _check_format(connection, found, path)
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
    if not found:
        return
    if not {"meta", "predictions"} <= found:
        raise TerminalError(
            f"{path} is a database, but no store of predictions", hint="move the file away"
        )
    statement = select(tables.meta.c.value).where(tables.meta.c.name == "format_version")
    version = int(connection.execute(statement).scalar_one())
    if version > tables.FORMAT_VERSION:
        raise TerminalError(
            f"{path} has format {version}, written by a newer release; this release reads format "
            f"{tables.FORMAT_VERSION}. Nothing was changed",
            hint="install the newer release, or move the file away",
        )


@contextmanager
def translated(engine: Engine) -> Iterator[None]:
    """Turn errors of the database into modelplane's."""
    try:
        yield
    except DBAPIError as error:
        raise _explain(error.orig, engine.url.database or "") from error
    except sqlite3.Error as error:
        raise _explain(error, engine.url.database or "") from error


def _explain(error: BaseException | None, path: str) -> ModelplaneError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return NoSpace(f"the disk that holds {path} is full; nothing was written")
    if code in _BROKEN:
        return TerminalError(
            f"{path} is damaged or no database: {error}",
            hint="move it away: predictions are then kept anew",
        )
    if code in _DENIED:
        return TerminalError(f"{path} cannot be opened for writing: {error}")
    return TransientError(f"the store of predictions {path} failed: {error}")
