"""Backups of a state directory, and what may be removed from one.

Called by ``backup``, ``restore`` and ``gc``. A backup is a folder: the database of one moment
with its signed head and public key, the artifacts, and the format's number. No secret is in it:
a restored state gets new tokens at its first start.
"""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

import psutil

from modelplane.adapters.clock import SystemClock
from modelplane.adapters.store.backup import restore_backup
from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.client.artifacts import digest_tree
from modelplane.errors import Conflict, InvalidResource, NotFound, TerminalError
from modelplane.resources.model import ModelVersion
from modelplane.resources.replica import Replica
from modelplane.settings import STATE_FORMAT, Paths

STORE = "store"
ARTIFACTS = "artifacts"
VERSION = "version"
_PARTIAL = ".partial-*"


@dataclass(frozen=True, slots=True)
class Garbage:
    """Something that nothing refers to: what it is, where, and how large in bytes."""

    kind: str
    name: str
    path: Path
    size_bytes: int


async def write_backup(paths: Paths, to: Path) -> int:
    """Copy the state into the new folder `to` while it is in use; return how many bytes.

    Raises
    ------
    NotFound
        There is no state.
    Conflict
        `to` exists.
    TerminalError
        An artifact was altered: the copy would not be worth keeping.
    """
    if to.exists():
        raise Conflict(f"{to} exists already", hint="a backup never replaces anything")
    partial = to.with_name(f".{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(mode=0o700, parents=True)
        # The database first: artifacts are there before the versions that name them.
        async with _opened_store(paths) as store:
            await store.backup(partial / STORE)
        ignored = shutil.ignore_patterns(_PARTIAL)
        shutil.copytree(paths.artifacts, partial / ARTIFACTS, ignore=ignored)
        for tree in _artifacts_of(partial):
            if not _is_whole(tree):
                raise TerminalError(
                    f"the artifact {paths.artifacts / tree.name} was altered",
                    hint="remove it and push the same bytes again; then make the backup",
                )
        shutil.copyfile(paths.version, partial / VERSION)
        partial.rename(to)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return _size_of(to)


@contextlib.asynccontextmanager
async def _opened_store(paths: Paths) -> AsyncIterator[SqliteStore]:
    """Open the database beside the control plane, which may be running."""
    if not paths.database.is_file():
        raise NotFound(f"no state in {paths.state_dir}", hint="name the directory with --state")
    store = SqliteStore(
        paths.database,
        clock=SystemClock(),
        new_uid=lambda: uuid.uuid4().hex,
        audit_dir=paths.audit,
    )
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def restore(backup: Path, paths: Paths) -> int:
    """Put a backup into a state directory that nothing uses; return how many artifacts it has.

    What was there moves aside with the ending ``.before-restore``; artifacts are added to those
    that are there.

    Raises
    ------
    NotFound
        `backup` is none.
    TerminalError
        It is damaged, or of a newer format; nothing was changed.
    """
    check_backup(backup)
    artifacts = _artifacts_of(backup)
    for tree in artifacts:
        if not _is_whole(tree):
            raise TerminalError(f"{tree} was altered", hint="use another backup")
    for directory in (paths.state_dir, paths.artifacts, paths.audit):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for tree in artifacts:
        target = paths.artifacts / tree.name
        if not target.exists():
            partial = paths.artifacts / f".partial-{tree.name}"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(tree, partial)
            partial.rename(target)
    restore_backup(backup / STORE, paths.database, paths.audit)
    paths.version.write_text(f"{STATE_FORMAT}\n")
    return len(artifacts)


def _artifacts_of(backup: Path) -> list[Path]:
    return sorted(path for path in (backup / ARTIFACTS).iterdir() if path.is_dir())


def _is_whole(tree: Path) -> bool:
    """Whether an artifact has the digest that names it."""
    try:
        return digest_tree(tree).digest == f"sha256:{tree.name}"
    except InvalidResource:
        return False


def check_backup(backup: Path) -> None:
    """Check that a folder is a backup that this release reads.

    Raises
    ------
    NotFound
        It is none.
    TerminalError
        Its format is newer.
    """
    if not (backup / STORE).is_dir() or not (backup / ARTIFACTS).is_dir():
        raise NotFound(f"{backup} is no backup", hint="name a folder that `backup` wrote")
    found = (backup / VERSION).read_text().strip() if (backup / VERSION).is_file() else ""
    if not found.isdigit() or int(found) > STATE_FORMAT:
        raise TerminalError(
            f"{backup} has state format {found[:20] or 'unknown'}, this modelplane reads "
            f"{STATE_FORMAT}",
            hint="use the newer modelplane that wrote it",
        )


@dataclass(frozen=True, slots=True)
class UsedDigests:
    """Digests of artifacts: of registered versions, and of the model servers that there are."""

    registered: Set[str]
    running: Set[str]


async def read_used_digests(paths: Paths) -> UsedDigests:
    """Return what the database refers to; raises `NotFound` when there is none."""
    async with _opened_store(paths) as store:
        versions, _ = await store.list(ModelVersion)
        replicas, _ = await store.list(Replica)
    running = {replica.spec.revision.artifact.digest for replica in replicas}
    living = {
        v.spec.artifact.digest
        for v in versions
        if v.spec.artifact is not None and v.status.deleted_at is None
    }
    return UsedDigests(living | running, running)


def find_garbage(paths: Paths, used: UsedDigests, *, older_than_s: float) -> Iterator[Garbage]:
    """Yield what nothing refers to and nobody touched for a while.

    Parameters
    ----------
    older_than_s
        Younger things are kept: a push stores the bytes before it registers the version.
    """
    before = time.time() - older_than_s
    places = (
        ("artifact", paths.artifacts, used.registered),
        ("cache", paths.agent / ARTIFACTS, used.running),
    )
    for kind, place, kept in places:
        for tree in _old_folders(place, before):
            if f"sha256:{tree.name}" not in kept:
                yield Garbage(kind, tree.name[:12], tree, _size_of(tree))
    commands = _running_commands()
    for folder in _old_folders(paths.agent / "environments", before):
        if not any(str(folder) in command for command in commands):
            yield Garbage("environment", folder.name[:12], folder, _size_of(folder))


def remove(garbage: Garbage) -> None:
    """Remove it: first out of its place in one step, then for good."""
    aside = garbage.path.with_name(f".partial-{garbage.path.name}")
    garbage.path.rename(aside)
    shutil.rmtree(aside)


def _old_folders(place: Path, before: float) -> Iterator[Path]:
    if not place.is_dir():
        return
    for folder in sorted(place.iterdir()):
        hidden = folder.name.startswith(".")
        if folder.is_dir() and not hidden and folder.stat().st_mtime < before:
            yield folder


def _running_commands() -> list[str]:
    """Return the command lines of all processes that may be looked at."""
    found = (process.info["cmdline"] for process in psutil.process_iter(["cmdline"]))
    return [" ".join(command) for command in found if command]


def _size_of(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
