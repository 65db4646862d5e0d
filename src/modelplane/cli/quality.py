"""``quality …``: how right the versions of a deployment are, by labels that came later."""

from __future__ import annotations

from typing import Annotated

import typer

from modelplane.cli.options import Environment, Plain, PlainOutput
from modelplane.cli.output import print_json, terminal_width
from modelplane.cli.quality_view import format_quality
from modelplane.cli.session import Session, command, make_app
from modelplane.resources.meta import DEFAULT_ENVIRONMENT

app = make_app()
quality = make_app()
app.add_typer(quality, name="quality", help="See how right versions are, by labels.")


@command(
    quality,
    "show",
    examples=[
        "modelplane quality show fraud",
        "modelplane quality show fraud -e staging --slice user.region=west",
        "modelplane quality show fraud --all-slices -o json",
    ],
)
def show(
    session: Session,
    *,
    deployment: Annotated[str, typer.Argument(metavar="DEPLOYMENT", help="Its name.")],
    environment: Environment = None,
    part: Annotated[
        str | None,
        typer.Option("--slice", metavar="SLICE", help="One part, such as user.region=west."),
    ] = None,
    all_slices: Annotated[
        bool, typer.Option("--all-slices", help="All together, and each part.")
    ] = False,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Show precision, recall, … of each version with 95 % intervals, and how complete labels are.

    Of the newest predictions that have labels, as far back as `labels.horizon` says.
    """
    chosen = None if all_slices else part or ""
    report = session.client.quality(deployment, environment or DEFAULT_ENVIRONMENT, part=chosen)
    if output is Plain.JSON:
        print_json(report.to_dict())
    else:
        typer.echo(format_quality(report, session.now(), terminal_width()))
