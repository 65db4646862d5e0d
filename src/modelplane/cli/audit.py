"""``audit …``: who did what, when and why, and whether the record was altered."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from modelplane.cli.kinds import parse_kind, parse_target
from modelplane.cli.options import Plain, PlainOutput
from modelplane.cli.output import print_json, print_table, remark
from modelplane.cli.session import Session, command, make_app
from modelplane.errors import AuditChainBroken, InvalidResource
from modelplane.ports.store import AuditRecord

app = make_app()
audit = make_app()
app.add_typer(audit, name="audit", help="Read, verify and export the audit log.")


@command(
    audit,
    "list",
    examples=[
        "modelplane audit list",
        "modelplane audit list deployment/fraud -e production",
        "modelplane audit list --after 1200 --limit 500 -o json",
    ],
)
def list_(
    session: Session,
    *,
    target: Annotated[
        str | None, typer.Argument(metavar="[KIND[/NAME]]", help="Only what was done to these.")
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option("--environment", "-e", metavar="ENV", help="Only in this environment."),
    ] = None,
    after: Annotated[
        int | None,
        typer.Option(
            "--after", metavar="SEQUENCE", min=0, help="The first later records; else the newest."
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="COUNT", min=1, help="How many at the most.")
    ] = 100,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """List audit records in order: who did what to what, and why.

    The newest are shown, or with --after those that come next.
    """
    kind, name = _parse_filter(target)
    page = {"last": limit} if after is None else {"after": after, "limit": limit}
    records = session.client.audit(**page, kind=kind, name=name, environment=environment)
    if output is Plain.JSON:
        print_json({"items": [record.to_dict() for record in records]})
        return
    headers = ["SEQUENCE", "AT", "SUBJECT", "ACTION", "WHAT", "REASON"]
    print_table(headers, [_row(record) for record in records])
    if len(records) == limit and after is None:
        remark("these are the newest; --after 0 begins with the oldest")
    elif len(records) == limit:
        remark(f"there may be more: --after {records[-1].sequence}")


def _parse_filter(target: str | None) -> tuple[str | None, str | None]:
    if target is None:
        return None, None
    if "/" not in target:
        return parse_kind(target).__name__, None
    kind, names = parse_target([target])
    return kind.__name__, names[0]


def _row(record: AuditRecord) -> list[str]:
    place = f"{record.environment}/" if record.environment else ""
    what = f"{record.kind} {place}{record.name}".strip()
    at = f"{record.at:%Y-%m-%d %H:%M:%S}"
    return [str(record.sequence), at, record.subject, record.action, what, record.reason]


@command(audit, "verify", examples=["modelplane audit verify", "modelplane audit verify -o json"])
def verify(session: Session, *, output: PlainOutput = Plain.TEXT) -> None:
    """Check the whole chain against its signed head.

    An altered, removed, added or reordered record, or a truncated log, is named; the exit code
    is then 7.
    """
    report = session.client.verify_audit()
    faults: list[dict[str, Any]] = report.get("faults", [])
    if output is Plain.JSON:
        print_json(report)
        if not report["verified"]:
            raise typer.Exit(AuditChainBroken.exit_code)
        return
    if report["verified"]:
        typer.echo(f"verified: {report['records']:,} records, unbroken up to the signed head")
        return
    for fault in faults:
        remark(f"  record {fault.get('sequence')}: {fault.get('message')}")
    first = int(faults[0].get("sequence") or 0) if faults else 0
    raise AuditChainBroken(f"the audit log was altered: {len(faults)} faults", sequence=first)


@command(
    audit,
    "export",
    examples=["modelplane audit export > audit.jsonl", "modelplane audit export --to audit.jsonl"],
)
def export(
    session: Session,
    *,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="File to write; else stdout.")
    ] = None,
) -> None:
    """Write every record as a JSON line, and the signed head as the last line."""
    pieces = session.client.export_audit()
    if to is None:
        _write(pieces, sys.stdout.buffer)
        return
    if to.exists():
        raise InvalidResource(f"{to} exists already", hint="choose another file")
    partial = to.with_name(f"{to.name}.partial")
    try:
        with partial.open("wb") as file:
            _write(pieces, file)
        partial.rename(to)
    finally:
        partial.unlink(missing_ok=True)
    remark(f"wrote {to}")


def _write(pieces: Iterable[bytes], stream: Any) -> None:
    for piece in pieces:
        stream.write(piece)
    stream.flush()
