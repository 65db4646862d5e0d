"""``token …``: who may ask."""

from __future__ import annotations

from typing import Annotated

import typer

from modelplane.cli.columns import headers_of, rows_of
from modelplane.cli.options import Plain, PlainOutput
from modelplane.cli.output import print_json, print_table, remark, warn
from modelplane.cli.session import Session, command, make_app
from modelplane.resources.token import Token

app = make_app()
token = make_app()
app.add_typer(token, name="token", help="Create, list and revoke tokens.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the token: its subject.")]


@command(
    token,
    "create",
    examples=[
        "modelplane token create anna --group developer --group approver",
        "modelplane token create dashboards --group auditor --expires-in 90d",
    ],
)
def create(
    session: Session,
    *,
    name: Name,
    group: Annotated[
        list[str] | None,
        typer.Option(
            "--group", "-g", metavar="GROUP", help="Its roles are bound to it; may be repeated."
        ),
    ] = None,
    expires_in: Annotated[
        str | None,
        typer.Option("--expires-in", metavar="TIME", help="Such as 90d; for ever when left out."),
    ] = None,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Create a token; its secret is shown this once and stored nowhere.

    What it may do are the roles that are bound to its groups: from the start the groups developer,
    approver, operator, auditor and admin have the role of their name. A token in no bound group
    may do nothing.
    """
    made, secret, warnings = session.client.create_token(
        name, tuple(group or ()), expires_in=expires_in
    )
    if output is Plain.JSON:
        print_json({"resource": made.to_dict(), "secret": secret, "warnings": warnings})
        return
    typer.echo(secret)
    for warning in warnings:
        warn(warning)
    remark("keep it: it is not shown again. Use it as MODELPLANE_TOKEN, or as a bearer token.")


@command(token, "list", examples=["modelplane token list", "modelplane token list -o json"])
def list_(session: Session, *, output: PlainOutput = Plain.TEXT) -> None:
    """List the tokens, without their secrets."""
    tokens = session.client.list(Token).items
    if output is Plain.JSON:
        print_json({"items": [item.to_dict() for item in tokens]})
    else:
        print_table(headers_of(Token), rows_of(tokens, session.now()))


@command(token, "revoke", examples=["modelplane token revoke anna"])
def revoke(session: Session, *, name: Name, output: PlainOutput = Plain.TEXT) -> None:
    """Make a token worthless, at once; the last one of role admin stays."""
    session.client.revoke_token(name)
    if output is Plain.JSON:
        print_json({"name": name, "result": "revoked"})
    else:
        typer.echo(f"token/{name} revoked")
