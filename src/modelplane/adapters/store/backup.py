"""Backups: a copy of the database of one moment, with what its audit log is verified by.

`copy_database` is called by `sqlite.SqliteStore.backup`; `restore_backup` by the CLI, while no
process has the store open. The private signing key stays where it is.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, NullPool, create_engine

from modelplane.adapters.store.connections import translated
from modelplane.adapters.store.queries import read_signed_head
from modelplane.adapters.store.signing import write_durably
from modelplane.errors import Conflict, NotFound

DATABASE = "store.db"
HEAD = "head.json"
PUBLIC_KEY = "key.pub"


def copy_database(connection: Connection, to: Path, public_key: bytes) -> None:
    """Write a backup into the new folder `to`; see `sqlite.SqliteStore.backup`."""
    if to.exists():
        raise Conflict(f"{to} exists already; a backup never replaces anything")
    partial = to.with_name(f".{to.name}.partial")
    with translated(to):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, mode=0o700)
        try:
            source = connection.connection.driver_connection
            assert isinstance(source, sqlite3.Connection)
            with closing(sqlite3.connect(partial / DATABASE)) as target:
                source.backup(target)
            _write_head(partial)
            write_durably(partial / PUBLIC_KEY, public_key, mode=0o644)
            partial.replace(to)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def _write_head(backup: Path) -> None:
    """Write the head that the copy itself holds: the database may have gone on meanwhile."""
    engine = create_engine(f"sqlite:///{backup / DATABASE}", poolclass=NullPool)
    with engine.connect() as copy:
        head = read_signed_head(copy)
    if head is not None:
        write_durably(backup / HEAD, json.dumps(head.to_dict()).encode())


def restore_backup(backup: Path, database: Path, audit_dir: Path) -> None:
    """Put a backup in the place of the present database, which moves aside.

    The old files stay beside the new ones with the ending ``.before-restore``, replacing those of
    a restore before.

    Parameters
    ----------
    backup
        A folder that `copy_database` made.
    database
        The database file; no process may have it open.
    audit_dir
        The folder of the signing key and the signed head.

    Raises
    ------
    NotFound
        When `backup` is no backup; nothing was changed.
    NoSpace
        When it does not fit; nothing was changed.
    """
    if not (backup / DATABASE).is_file():
        raise NotFound(f"{backup} is no backup: it holds no {DATABASE}")
    with translated(database):
        database.parent.mkdir(parents=True, exist_ok=True)
        audit_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        incoming = database.with_name(f".{database.name}.restoring")
        try:
            shutil.copyfile(backup / DATABASE, incoming)
            incoming.chmod(0o600)
        except BaseException:
            incoming.unlink(missing_ok=True)
            raise
        for file in (*database.parent.glob(f"{database.name}-*"), database):
            if file.exists() and not file.name.endswith(".before-restore"):
                file.replace(file.with_name(f"{file.name}.before-restore"))
        incoming.replace(database)
        _restore_heads(backup, audit_dir)


def _restore_heads(backup: Path, audit_dir: Path) -> None:
    """Make the backup's head the present one; later heads no longer count."""
    for file in (*audit_dir.glob("head-*.json"), audit_dir / HEAD):
        if file.exists():
            file.replace(file.with_name(f"{file.name}.before-restore"))
    if (backup / HEAD).is_file():
        write_durably(audit_dir / HEAD, (backup / HEAD).read_bytes())
    key = backup / PUBLIC_KEY
    if key.is_file():
        content = key.read_bytes()
        own = audit_dir / PUBLIC_KEY
        if not own.exists() or own.read_bytes() != content:
            write_durably(audit_dir / f"key-{int(key.stat().st_mtime)}.pub", content, mode=0o644)
