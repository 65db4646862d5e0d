"""``ca …``: the certificate authority behind mutual TLS."""

from __future__ import annotations

import typer

from modelplane.cli.moments import show_moment
from modelplane.cli.options import Plain, PlainOutput, Reason
from modelplane.cli.output import print_json, print_table, remark
from modelplane.cli.session import Session, command, make_app
from modelplane.resources.certificates import AuthoritiesStatus
from modelplane.resources.quantities import format_duration

app = make_app()
ca = make_app()
app.add_typer(ca, name="ca", help="See and renew the certificate authority behind mutual TLS.")


@command(ca, "status", examples=["modelplane ca status", "modelplane ca status -o json"])
def status(session: Session, *, output: PlainOutput = Plain.TEXT) -> None:
    """Show the authorities: which one signs, which joins, which leaves and when."""
    _tell(session.client.authorities(), output)


@command(
    ca,
    "rotate",
    examples=["modelplane ca rotate", "modelplane ca rotate --reason 'yearly renewal'"],
)
def rotate(session: Session, *, reason: Reason = "", output: PlainOutput = Plain.TEXT) -> None:
    """Hand over to a new authority, without a refused connection.

    The new one is trusted at once, signs once everybody has heard of it, and the old one leaves
    when the last certificate it signed has ended.
    """
    _tell(session.client.rotate_authority(reason=reason), output)


def _tell(standing: AuthoritiesStatus, output: Plain) -> None:
    if output is Plain.JSON:
        print_json(standing.to_dict())
        return
    if not standing.authorities:
        typer.echo("there is no authority yet: no environment uses mutual TLS (spec.mtls: STRICT)")
        return
    rows = [
        [
            str(one.number),
            one.phase,
            show_moment(one.since),
            show_moment(one.until) if one.until else "",
            one.fingerprint[:16],
        ]
        for one in standing.authorities
    ]
    print_table(["AUTHORITY", "PHASE", "SINCE", "UNTIL", "FINGERPRINT"], rows)
    remark(
        f"trust domain {standing.trust_domain}; certificates live for "
        f"{format_duration(standing.certificate_life_s)}"
    )
