"""``drift …``: whether what versions are asked, and what they answer, is still what it was."""

from __future__ import annotations

from typing import Annotated

import typer

from modelplane.cli.drift_view import format_drift
from modelplane.cli.options import Environment, Plain, PlainOutput
from modelplane.cli.output import print_json, terminal_width
from modelplane.cli.session import Session, command, make_app
from modelplane.resources.meta import DEFAULT_ENVIRONMENT

app = make_app()
drift = make_app()
app.add_typer(drift, name="drift", help="See whether inputs and outputs are still as they were.")


@command(
    drift,
    "show",
    examples=["modelplane drift show fraud", "modelplane drift show fraud -e staging -o json"],
)
def show(
    session: Session,
    *,
    deployment: Annotated[str, typer.Argument(metavar="DEPLOYMENT", help="Its name.")],
    environment: Environment = None,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Show how far recent inputs and outputs of each version are from its reference.

    As the last look found it; the most drifted first. A feature is drifted when two windows in a
    row, which share no prediction, show it.
    """
    report = session.client.drift(deployment, environment or DEFAULT_ENVIRONMENT)
    if output is Plain.JSON:
        print_json(report.to_dict())
    else:
        typer.echo(format_drift(report, session.now(), terminal_width()))
