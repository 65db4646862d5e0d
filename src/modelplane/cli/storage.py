"""``backup``, ``restore`` and ``gc``: the state directory of this machine."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from modelplane.cli.archive import Garbage, find_garbage, remove, write_backup
from modelplane.cli.archive import restore as restore_state
from modelplane.cli.options import Plain, PlainOutput
from modelplane.cli.output import print_json, print_table
from modelplane.cli.session import Session, command, make_app
from modelplane.cli.words import size
from modelplane.errors import Conflict, InvalidResource
from modelplane.resources.model import ModelVersion
from modelplane.resources.quantities import parse_duration
from modelplane.resources.replica import Replica
from modelplane.settings import Paths, load_settings

app = make_app()


@command(
    app,
    "backup",
    examples=["modelplane backup ../modelplane-2025-01-31", "modelplane backup /mnt/copy -o json"],
)
def backup(
    session: Session,
    *,
    to: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to make; must not exist.")],
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Copy the state into a new folder, while everything runs on.

    It holds the database with the audit log and its signed head, and the artifacts; no secrets.
    """
    paths = load_settings(state=session.state).paths
    size_bytes = asyncio.run(write_backup(paths, to.absolute()))
    if output is Plain.JSON:
        print_json({"path": str(to), "sizeBytes": size_bytes})
    else:
        typer.echo(f"wrote {to} ({size(size_bytes)})")


@command(
    app,
    "restore",
    examples=["modelplane restore ../modelplane-2025-01-31 --state ./restored"],
)
def restore(
    session: Session,
    *,
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `backup` wrote.")],
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Put a backup in the place of a state directory that nothing uses.

    The backup's artifacts are checked first. The database that was there moves aside with the
    ending .before-restore.
    """
    paths = load_settings(state=session.state).paths
    _check_stopped(paths)
    count = restore_state(source.absolute(), paths)
    if output is Plain.JSON:
        print_json({"state": str(paths.state_dir), "artifacts": count})
    else:
        typer.echo(f"restored {source} with {count} artifacts into {paths.state_dir}")
        typer.echo("start it with: modelplane up")


def _check_stopped(paths: Paths) -> None:
    """Check that no modelplane runs on this state.

    Raises
    ------
    Conflict
        One does.
    """
    try:
        descriptor = os.open(paths.lock, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Conflict(
            f"modelplane runs on {paths.state_dir}", hint="stop it first: modelplane down"
        ) from None
    finally:
        os.close(descriptor)


@command(app, "gc", examples=["modelplane gc --dry-run", "modelplane gc --older-than 7d -o json"])
def gc(
    session: Session,
    *,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="TIME", help="Keep what is younger.")
    ] = "24h",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed; remove nothing.")
    ] = False,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Remove what nothing refers to any more, from the state directory of this machine.

    Artifacts of no registered version, copies of artifacts and Python environments that no model
    server uses. The control plane must run, since it knows what is registered.
    """
    try:
        older_than_s = parse_duration(older_than)
    except ValueError as error:
        raise InvalidResource(f"--older-than: {error}") from None
    paths = load_settings(state=session.state).paths
    versions = session.client.list(ModelVersion).items
    replicas = session.client.list(Replica).items
    found = list(
        find_garbage(
            paths,
            registered={v.spec.artifact.digest for v in versions if v.status.deleted_at is None},
            running={r.spec.revision.artifact.digest for r in replicas},
            older_than_s=older_than_s,
        )
    )
    if not dry_run:
        for garbage in found:
            remove(garbage)
    _print(found, output, dry_run=dry_run)


def _print(found: Sequence[Garbage], output: Plain, *, dry_run: bool) -> None:
    if output is Plain.JSON:
        print_json([_to_dict(garbage) for garbage in found])
        return
    if found:
        print_table(["KIND", "NAME", "SIZE"], [[g.kind, g.name, size(g.size_bytes)] for g in found])
    total = size(sum(garbage.size_bytes for garbage in found))
    verb = "would remove" if dry_run else "removed"
    typer.echo(f"{verb} {len(found)} things, {total}")


def _to_dict(garbage: Garbage) -> dict[str, Any]:
    return {
        "kind": garbage.kind,
        "name": garbage.name,
        "path": str(garbage.path),
        "sizeBytes": garbage.size_bytes,
    }
