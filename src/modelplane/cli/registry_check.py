"""``registry check``: whether the registry and the stored files agree, and mending it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from modelplane.cli.options import Plain, PlainOutput
from modelplane.cli.output import print_json, print_table, remark
from modelplane.cli.progress import counting, working
from modelplane.cli.session import Session, command, make_app
from modelplane.cli.words import NOTHING, size
from modelplane.client import Client
from modelplane.client.registry_check import (
    FoundFault,
    RegistryCheck,
    Repaired,
    check_artifacts,
    repair_artifacts,
    verify_artifact,
)
from modelplane.decisions.registry_check import REMOVABLE
from modelplane.errors import NotFound

FAULTS_EXIT_CODE = 8
"""The check was carried out, and something is wrong."""

commands = make_app()


@command(
    commands,
    "check",
    examples=[
        "modelplane registry check",
        "modelplane registry check --quick -o json",
        "modelplane registry check --repair --yes",
    ],
)
def check(
    session: Session,
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not read the files: alterations are not found.")
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Write lacking records, remove orphans and stray records."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
    grace: Annotated[
        str,
        typer.Option(
            "--grace", metavar="TIME", help="Files without a version are orphans when older."
        ),
    ] = "24h",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Compare the registered versions with the stored files, and read every file.

    Finds files that are missing, altered or orphaned, and the records beside the files that are
    lacking or stray. Exit code 8 when something is wrong. With -o json nothing is asked: removing
    takes --yes.
    """
    client = session.client
    with working("comparing the registry with the storage"):
        found = check_artifacts(client, grace=grace)
    faults, read_bytes = list(found.faults), 0
    if not quick:
        with counting("reading artifacts", len(found.artifacts)) as advance:
            altered, read_bytes = _read_all(client, found.artifacts, advance)
        faults += altered
    done = Repaired((), ())
    if output is Plain.TEXT and faults:
        print_table(["FAULT", "VERSION", "ARTIFACT", "SIZE", "WHAT"], [_row(f) for f in faults])
    if repair and faults:
        removes = yes or (output is Plain.TEXT and _may_remove(faults))
        keys = [fault.key for fault in faults if removes and fault.kind in REMOVABLE]
        done = repair_artifacts(client, keys, grace=grace, reason="registry check --repair")
    left = [fault for fault in faults if not _is_repaired(fault, done)]
    if output is Plain.JSON:
        print_json(_to_dict(found, faults, done, read_bytes=None if quick else read_bytes))
    else:
        _tell(found, faults, done, read="not read" if quick else f"{size(read_bytes)} read")
    if left:
        raise typer.Exit(FAULTS_EXIT_CODE)


def _read_all(
    client: Client, artifacts: Mapping[str, tuple[str, ...]], advance: Callable[[], None]
) -> tuple[list[FoundFault], int]:
    """Have every artifact read; return the altered ones and how many bytes were read."""
    faults, read_bytes = [], 0
    for digest, versions in artifacts.items():
        try:
            size_bytes, difference = verify_artifact(client, digest)
        except NotFound:
            size_bytes, difference = 0, "removed during the check; check again"
        read_bytes += size_bytes
        if difference:
            faults.append(FoundFault("altered", digest, digest, versions, difference, size_bytes))
        advance()
    return faults, read_bytes


def _may_remove(faults: Sequence[FoundFault]) -> bool:
    """Ask, when there is something to remove."""
    removable = [fault for fault in faults if fault.kind in REMOVABLE]
    total = size(sum(fault.size_bytes for fault in removable))
    question = f"remove {_count(removable)} ({total}) for good?"
    return bool(removable) and typer.confirm(question, err=True)


def _is_repaired(fault: FoundFault, done: Repaired) -> bool:
    if fault.kind in REMOVABLE:
        return fault.key in done.removed
    return fault.kind == "unrecorded" and set(fault.versions) <= set(done.recorded)


def _row(fault: FoundFault) -> list[str]:
    versions = ",".join(fault.versions) or NOTHING
    stored = size(fault.size_bytes) if fault.size_bytes else NOTHING
    digest = fault.digest.removeprefix("sha256:")[:12] or NOTHING
    return [fault.kind, versions, digest, stored, fault.message]


def _tell(found: RegistryCheck, faults: Sequence[FoundFault], done: Repaired, *, read: str) -> None:
    what = f"{found.versions:,} versions and {len(found.artifacts):,} stored artifacts ({read})"
    if faults:
        typer.echo(f"{_count(faults)} in {what}")
    else:
        typer.echo(f"all well: {what}")
    if done.recorded or done.removed:
        typer.echo(f"wrote {len(done.recorded)} records, removed {len(done.removed)} faults")
    kinds = {fault.kind for fault in faults}
    if "missing" in kinds:
        remark("missing: restore the files, or push the same bytes under the same version again")
    if "altered" in kinds:
        remark("altered: restore the files, or remove them and push the same bytes again")
    if found.unused:
        total = size(found.unused_bytes)
        remark(f"{found.unused} artifacts of deleted versions ({total}): modelplane gc")


def _count(faults: Sequence[FoundFault]) -> str:
    """Return how many faults of each kind: ``2 missing, 1 orphaned``."""
    kinds = sorted({fault.kind for fault in faults})
    return ", ".join(f"{sum(f.kind == kind for f in faults)} {kind}" for kind in kinds)


def _to_dict(
    found: RegistryCheck, faults: Sequence[FoundFault], done: Repaired, *, read_bytes: int | None
) -> dict[str, Any]:
    return {
        "versions": found.versions,
        "artifacts": len(found.artifacts),
        "readBytes": read_bytes,
        "faults": [
            {
                "kind": fault.kind,
                "digest": fault.digest,
                "versions": list(fault.versions),
                "message": fault.message,
                "sizeBytes": fault.size_bytes,
                "repaired": _is_repaired(fault, done),
            }
            for fault in faults
        ],
        "unused": {"artifacts": found.unused, "sizeBytes": found.unused_bytes},
    }
