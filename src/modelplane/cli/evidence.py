"""``evidence …``: export a promotion's signed bundle, and check one without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from modelplane.cli.options import Environment, Plain, PlainOutput
from modelplane.cli.output import print_json, print_table, remark
from modelplane.cli.session import Session, command, make_app
from modelplane.client.evidence import EvidenceReport, fingerprint, verify_evidence
from modelplane.decisions.evidence_story import tell_story
from modelplane.errors import AuditChainBroken, InvalidResource
from modelplane.resources.meta import DEFAULT_ENVIRONMENT

app = make_app()
evidence = make_app()
app.add_typer(evidence, name="evidence", help="Export and check the evidence of promotions.")

File = Annotated[Path, typer.Argument(metavar="FILE", help="A bundle that `export` wrote.")]


@command(
    evidence,
    "export",
    examples=[
        "modelplane evidence export fraud-3 -e production --to fraud-3.json",
        "modelplane evidence export fraud-3 | gzip > fraud-3.json.gz",
    ],
)
def export(
    session: Session,
    *,
    promotion: Annotated[str, typer.Argument(metavar="PROMOTION", help="Name of the promotion.")],
    environment: Environment = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="File to write; else stdout.")
    ] = None,
) -> None:
    """Write the signed evidence of a promotion that is over.

    It holds the promotion, the version, what its gates found, who approved it, the policies that
    allowed it, and the audit records of all that, linked up to a signed head.
    """
    if to is not None and to.exists():
        raise InvalidResource(f"{to} exists already", hint="choose another file")
    bundle = session.client.evidence(promotion, environment or DEFAULT_ENVIRONMENT)
    text = json.dumps(bundle, indent=1, ensure_ascii=False) + "\n"
    if to is None:
        typer.echo(text, nl=False)
        return
    partial = to.with_name(f"{to.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.rename(to)
    finally:
        partial.unlink(missing_ok=True)
    remark(f"wrote {to}; check it with: modelplane evidence verify {to}")


@command(
    evidence,
    "verify",
    examples=[
        "modelplane evidence verify fraud-3.json",
        "modelplane evidence verify fraud-3.json --key modelplane.pub -o json",
    ],
)
def verify(
    session: Session,
    *,
    file: File,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key", metavar="PEM", help="Public key that must have signed it; else the bundle's."
        ),
    ] = None,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Check a bundle: needs the file alone, no server.

    Signatures, hashes and links of the audit records, that every document is the one they tell
    of, and that gates, approvals and policies really add up to the outcome. Without --key the
    bundle's own key is taken: then compare its fingerprint with `modelplane evidence key`. The
    exit code is 7 when something does not hold.
    """
    report = verify_evidence(_read(file), public_key=_read_text(key) if key else None)
    if output is Plain.JSON:
        print_json(_to_dict(report))
    else:
        rows = [["yes" if c.passed else "NO", c.name, c.message] for c in report.checks]
        print_table(["HOLDS", "CHECK", "FOUND"], rows)
    failed = [check for check in report.checks if not check.passed]
    if failed:
        if output is Plain.JSON:
            raise typer.Exit(AuditChainBroken.exit_code)
        raise AuditChainBroken(
            f"{file} does not hold: {failed[0].message}", sequence=report.bundle.head.sequence
        )
    if output is Plain.TEXT:
        remark(f"{file} holds; signed with key {report.key}")


@command(evidence, "show", examples=["modelplane evidence show fraud-3.json"])
def show(session: Session, *, file: File) -> None:
    """Tell what a bundle says, for people: what happened, in order. Checks nothing."""
    bundle = verify_evidence(_read(file)).bundle
    for line in tell_story(bundle):
        typer.echo(line)


@command(
    evidence,
    "key",
    examples=["modelplane evidence key > modelplane.pub", "modelplane evidence key -o json"],
)
def key_(session: Session, *, output: PlainOutput = Plain.TEXT) -> None:
    """Print the public key that a running modelplane signs its evidence and audit log with."""
    public_key = session.client.evidence_key()
    if output is Plain.JSON:
        print_json({"publicKey": public_key, "fingerprint": fingerprint(public_key)})
        return
    typer.echo(public_key, nl=False)
    remark(f"fingerprint {fingerprint(public_key)}")


def _to_dict(report: EvidenceReport) -> dict[str, Any]:
    return {
        "verified": report.verified,
        "promotion": report.bundle.promotion,
        "key": report.key,
        "checks": [check.to_dict() for check in report.checks],
    }


def _read(file: Path) -> Any:
    try:
        return json.loads(_read_text(file))
    except ValueError as error:
        raise InvalidResource(f"{file} is not JSON: {error}") from None


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidResource(f"{file} cannot be read: {error}") from None
