"""Backups of a state directory, and what may be removed from one.

Called by ``backup``, ``restore`` and ``gc``. A backup is a folder: the database of one moment
with its signed head and public key, the artifacts, and the format's number. No secret is in it:
a restored state gets new tokens at its first start. Artifacts that are kept in a bucket are not
copied: the backup says where they are.
"""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from modelplane.adapters.clock import SystemClock
from modelplane.adapters.store.backup import restore_backup
from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.client.artifacts import digest_tree
from modelplane.decisions.registry_check import is_living, kept_digests, users_by_digest
from modelplane.errors import Conflict, InvalidResource, NotFound, TerminalError
from modelplane.ports.blobs import Blobs
from modelplane.resources.gate_run import StageResult
from modelplane.resources.job import Job
from modelplane.resources.model import ModelVersion
from modelplane.resources.promotion import Promotion
from modelplane.resources.replica import Replica
from modelplane.settings import STATE_FORMAT, Paths, Settings

STORE = "store"
ARTIFACTS = "artifacts"
VERSION = "version"
ARTIFACTS_URL = "artifacts-url"
_PARTIAL = ".partial-"
_NEW = ".new"


@dataclass(frozen=True, slots=True)
class Garbage:
    """Something that nothing refers to.

    Attributes
    ----------
    kind
        ``artifact``, ``cache`` or ``environment``.
    name
        Its first twelve digits.
    place
        The folder, or where it lies in a bucket.
    size_bytes
        How large.
    records
        For an artifact: unique ids of the deleted versions whose records go with it.
    """

    kind: str
    name: str
    place: str
    size_bytes: int
    records: tuple[str, ...] = ()


async def write_backup(settings: Settings, to: Path) -> int:
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
    paths, artifacts = settings.paths, local_artifacts(settings)
    partial = to.with_name(f".{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(mode=0o700, parents=True)
        # The database first: artifacts are there before the versions that name them.
        async with _opened_store(paths) as store:
            await store.backup(partial / STORE)
        if artifacts is None:
            (partial / ARTIFACTS).mkdir()
            (partial / ARTIFACTS_URL).write_text(f"{settings.artifacts_url}\n")
        else:
            _copy_artifacts(artifacts, partial / ARTIFACTS)
            for tree in _artifacts_of(partial):
                if not _is_whole(tree):
                    raise TerminalError(
                        f"the artifact {artifacts / tree.name} was altered",
                        hint="remove it and push the same bytes again; then make the backup",
                    )
        shutil.copyfile(paths.version, partial / VERSION)
        partial.rename(to)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return _size_of(to)


def _copy_artifacts(source: Path, to: Path) -> None:
    """Copy the trees and what lies beside them, but nothing that is only being written."""

    def unfinished(folder: str, names: Sequence[str]) -> list[str]:
        place = Path(folder)
        if place == source:
            return [name for name in names if name.startswith(_PARTIAL)]
        if place.parent == source and place.name.startswith("."):
            return [name for name in names if name.endswith(_NEW)]
        return []  # inside a tree every name is the model's own

    shutil.copytree(source, to, ignore=unfinished)


def no_state(paths: Paths) -> NotFound:
    """Return the error for a directory without a state."""
    return NotFound(f"no state in {paths.state_dir}", hint="name the directory with --state")


def local_artifacts(settings: Settings) -> Path | None:
    """Return the folder of the artifacts on this machine; None when they are in a bucket."""
    location = settings.artifacts_location
    return None if "://" in location else Path(location)


@contextlib.asynccontextmanager
async def _opened_store(paths: Paths) -> AsyncIterator[SqliteStore]:
    """Open the database beside the control plane, which may be running."""
    if not paths.database.is_file():
        raise no_state(paths)
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


def restore(backup: Path, settings: Settings) -> int:
    """Put a backup into a state directory that nothing uses; return how many artifacts it has.

    What was there moves aside with the ending ``.before-restore``; artifacts are added to those
    that are there.

    Parameters
    ----------
    backup
        What `write_backup` wrote.
    settings
        Of the state to restore; when it keeps artifacts in a bucket, it is the backup's.

    Raises
    ------
    NotFound
        `backup` is none.
    TerminalError
        It is damaged, or of a newer format; nothing was changed.
    Conflict
        Its artifacts are kept elsewhere than the settings say; nothing was changed.
    """
    check_backup(backup)
    paths, place = settings.paths, local_artifacts(settings)
    _check_place(backup, settings.artifacts_url if place is None else "")
    artifacts = _artifacts_of(backup)
    for tree in artifacts:
        if not _is_whole(tree):
            raise TerminalError(f"{tree} was altered", hint="use another backup")
    for directory in (paths.state_dir, paths.artifacts, paths.audit):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if place is not None:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        _restore_artifacts(backup / ARTIFACTS, artifacts, place)
    restore_backup(backup / STORE, paths.database, paths.audit)
    paths.version.write_text(f"{STATE_FORMAT}\n")
    return len(artifacts)


def _check_place(backup: Path, url: str) -> None:
    """Raise `Conflict` unless the artifacts of a backup are where the settings look for them."""
    file = backup / ARTIFACTS_URL
    kept = file.read_text().strip() if file.is_file() else ""
    if kept != url:
        where = f"are kept in {kept}" if kept else "are in the backup"
        raise Conflict(
            f"the artifacts of {backup} {where}, and artifacts_url is {url or 'a folder'}",
            hint=f"set artifacts_url to {kept}" if kept else "leave artifacts_url out to restore",
        )


def _restore_artifacts(source: Path, trees: Sequence[Path], place: Path) -> None:
    """Add trees, and the files beside them that describe them, to those in `place`."""
    for tree in trees:
        target = place / tree.name
        if not target.exists():
            partial = place / f".partial-{tree.name}"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(tree, partial)
            partial.rename(target)
    for file in source.glob(".*/*.json"):
        (place / file.parent.name).mkdir(exist_ok=True)
        shutil.copyfile(file, place / file.parent.name / file.name)
    for file in source.glob(".*.json"):
        shutil.copyfile(file, place / file.name)


def _artifacts_of(backup: Path) -> list[Path]:
    folders = (path for path in (backup / ARTIFACTS).iterdir() if path.is_dir())
    return sorted(folder for folder in folders if not folder.name.startswith("."))


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
        jobs, _ = await store.list(Job)
        results, _ = await store.list(StageResult)
        promotions, _ = await store.list(Promotion)
    running = {replica.spec.revision.artifact.digest for replica in replicas}
    running |= {d for job in jobs for d in job.spec.artifacts.values()}
    living = users_by_digest(filter(is_living, versions)).keys()
    kept = kept_digests(results, jobs, promotions)
    return UsedDigests(living | running | kept, running)


async def find_garbage(
    settings: Settings, blobs: Blobs, *, older_than_s: float
) -> Sequence[Garbage]:
    """Return what nothing refers to and nobody touched for a while.

    Parameters
    ----------
    settings
        Whose state.
    blobs
        The storage of its artifacts.
    older_than_s
        Younger things are kept: a push stores the bytes before it registers the version.
    """
    used = await read_used_digests(settings.paths)
    before = time.time() - older_than_s
    moment, location = datetime.fromtimestamp(before, UTC), settings.artifacts_location
    found = [*await _find_artifacts(blobs, location, used.registered, moment)]
    agent = settings.paths.agent
    for tree in _old_folders(agent / ARTIFACTS, before):
        if f"sha256:{tree.name}" not in used.running:
            found.append(Garbage("cache", tree.name[:12], str(tree), _size_of(tree)))
    commands = _running_commands()
    for folder in _old_folders(agent / "environments", before):
        if not any(str(folder) in command for command in commands):
            found.append(Garbage("environment", folder.name[:12], str(folder), _size_of(folder)))
    return found


async def _find_artifacts(
    blobs: Blobs, location: str, used: Set[str], before: datetime
) -> Sequence[Garbage]:
    """Return stored artifacts that no version has, deleted ones aside, with their records."""
    unused = [
        tree
        for tree in await blobs.list()
        if tree.digest not in used and tree.stored_at is not None and tree.stored_at < before
    ]
    records: dict[str, list[str]] = {}
    for label in await blobs.labels() if unused else ():
        records.setdefault(label.digest, []).append(label.id)
    return [
        Garbage(
            "artifact",
            tree.digest.removeprefix("sha256:")[:12],
            f"{location}/{tree.digest.removeprefix('sha256:')}",
            tree.size_bytes,
            tuple(records.get(tree.digest, ())),
        )
        for tree in unused
    ]


async def remove(garbage: Garbage, blobs: Blobs, *, older_than_s: float) -> bool:
    """Remove it for good; return False when it was put to use meanwhile."""
    if garbage.kind == "artifact":
        digest = f"sha256:{garbage.place.rpartition('/')[2]}"
        before = datetime.fromtimestamp(time.time() - older_than_s, UTC)
        if not await blobs.delete(digest, unless_since=before):
            return False
        for record in garbage.records:
            await blobs.unlabel(record)
        return True
    place = Path(garbage.place)  # out of its place in one step first
    aside = place.with_name(f".partial-{place.name}")
    place.rename(aside)
    shutil.rmtree(aside)
    return True


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
