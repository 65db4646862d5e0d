"""``predictions …``: how many were kept and lost, and all of them in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from modelplane.cli.moments import parse_moment
from modelplane.cli.options import Environment, Plain, PlainOutput
from modelplane.cli.output import print_json, print_table, remark
from modelplane.cli.progress import tallying
from modelplane.cli.session import Session, command, make_app
from modelplane.client.prediction_files import check_target, write_predictions
from modelplane.errors import InvalidResource
from modelplane.resources.meta import DEFAULT_ENVIRONMENT
from modelplane.resources.quantities import parse_duration

app = make_app()
predictions = make_app()
app.add_typer(predictions, name="predictions", help="See and export what models predicted.")

_HEADERS = ("VERSION", "REVISION", "RULE", "KEPT", "LOST", "LABELLED", "REWARDED", "OF THOSE DUE")


@command(
    predictions,
    "show",
    examples=[
        "modelplane predictions show fraud",
        "modelplane predictions show fraud --since 7d -e staging -o json",
    ],
)
def show(
    session: Session,
    *,
    deployment: Annotated[str, typer.Argument(metavar="DEPLOYMENT", help="Its name.")],
    environment: Environment = None,
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="How far back, such as 6h.")
    ] = "1d",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Show how many predictions were kept and lost, and how complete their labels are.

    Due are those older than the deployment's label horizon.
    """
    try:
        seconds = max(1, round(parse_duration(since)))
    except ValueError as error:
        raise InvalidResource(f"--since: {error}") from None
    place = environment or DEFAULT_ENVIRONMENT
    found = session.client.count_predictions(deployment, place, seconds=seconds)
    if output is Plain.JSON:
        print_json(found)
        return
    if found["places"]:
        print_table(_HEADERS, [_line(tally) for tally in found["places"]])
    else:
        remark(f"no predictions of {deployment} in {place} in the last {since}")
    if not found["isLogged"]:
        remark(f"{deployment} keeps none: see spec.predictions of the deployment")


def _line(tally: Mapping[str, Any]) -> list[str]:
    due = tally["due"]
    complete = f"{tally['dueLabelled'] / due:.1%} of {due:,}" if due else "-"
    mirrored = " (shadow)" if tally["mirrored"] else ""
    counts = [f"{tally[name]:,}" for name in ("predictions", "dropped", "labelled", "rewarded")]
    rule = tally["rule"] or "default"
    return [f"{tally['version']}{mirrored}", tally["revision"] or "-", rule, *counts, complete]


@command(
    predictions,
    "export",
    examples=[
        "modelplane predictions export fraud recent.parquet --since '2d ago'",
        "modelplane predictions export fraud october.csv --since 2026-10-01 --until 2026-11-01",
    ],
)
def export(
    session: Session,
    *,
    deployment: Annotated[str, typer.Argument(metavar="DEPLOYMENT", help="Its name.")],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where to: ends in .parquet or .csv.")
    ],
    environment: Environment = None,
    since: Annotated[
        str, typer.Option("--since", metavar="MOMENT", help="From when on.")
    ] = "1d ago",
    until: Annotated[str, typer.Option("--until", metavar="MOMENT", help="Until when.")] = "now",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Write predictions with inputs, outputs, labels and rewards into one file.

    Inputs become columns `input.NAME`, outputs `output.NAME`.
    """
    check_target(file, force=force)
    now = session.now()
    place = environment or DEFAULT_ENVIRONMENT
    rows = session.client.predictions(
        deployment, place, since=parse_moment(since, now), until=parse_moment(until, now)
    )
    with tallying("predictions read") as advance:
        count = write_predictions(file, rows, advance)
    if output is Plain.JSON:
        print_json({"file": str(file), "predictions": count})
    else:
        typer.echo(f"{count:,} predictions of {deployment} in {file}")
