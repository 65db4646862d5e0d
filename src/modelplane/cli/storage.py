"""``backup``, ``restore`` and ``gc``: the state directory of this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from modelplane.cli.archive import (
    Garbage,
    check_backup,
    find_garbage,
    local_artifacts,
    no_state,
    remove,
    write_backup,
)
from modelplane.cli.archive import restore as restore_state
from modelplane.cli.members import keep_leftovers, keep_members
from modelplane.cli.options import Plain, PlainOutput
from modelplane.cli.output import print_json, print_table, remark
from modelplane.cli.progress import working
from modelplane.cli.session import Session, command, make_app
from modelplane.cli.words import size
from modelplane.errors import Conflict, InvalidResource
from modelplane.resources.quantities import parse_duration
from modelplane.settings import Paths, Settings, load_settings
from modelplane.supervisor.lock import hold_lock
from modelplane.wiring.artifacts import open_artifacts

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
    Artifacts in a bucket are not copied.
    """
    settings = load_settings(state=session.state)
    with working("copying the state"):
        size_bytes = asyncio.run(write_backup(settings, to.absolute()))
    if output is Plain.JSON:
        print_json({"path": str(to), "sizeBytes": size_bytes})
    else:
        typer.echo(f"wrote {to} ({size(size_bytes)})")
        if local_artifacts(settings) is None:
            remark(f"the artifacts stay in {settings.artifacts_url}; they are not copied")


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
    settings = load_settings(state=session.state)
    paths = settings.paths
    check_backup(source)
    paths.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with hold_lock(paths.lock):
        asyncio.run(_check_stopped(paths))
        with working("checking and copying"):
            count = restore_state(source.absolute(), settings)
    if output is Plain.JSON:
        print_json({"state": str(paths.state_dir), "artifacts": count})
    else:
        typer.echo(f"restored {source} with {count} artifacts into {paths.state_dir}")
        typer.echo("start it with: modelplane up")


async def _check_stopped(paths: Paths) -> None:
    """Check that nothing of a modelplane runs on this state, without `up` either.

    Raises
    ------
    Conflict
        Something does.
    """
    for keeper in (keep_members(paths), keep_leftovers(paths)):
        try:
            running = [process.name for process in await keeper.adopt() if process.exit is None]
        finally:
            keeper.close()
        if running:
            raise Conflict(
                f"{running[0]} runs on {paths.state_dir}", hint="stop it first: modelplane down"
            )


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
    server uses. Works while modelplane runs, and when it does not.
    """
    try:
        older_than_s = parse_duration(older_than)
    except ValueError as error:
        raise InvalidResource(f"--older-than: {error}") from None
    settings = load_settings(state=session.state)
    found = asyncio.run(_collect(settings, older_than_s, dry_run=dry_run))
    _print(found, output, dry_run=dry_run)


async def _collect(settings: Settings, older_than_s: float, *, dry_run: bool) -> Sequence[Garbage]:
    if not settings.paths.database.is_file():  # before anything is made in its place
        raise no_state(settings.paths)
    blobs = open_artifacts(settings)
    found = await find_garbage(settings, blobs, older_than_s=older_than_s)
    if dry_run:
        return found
    return [one for one in found if await remove(one, blobs, older_than_s=older_than_s)]


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
        "path": garbage.place,
        "sizeBytes": garbage.size_bytes,
    }
