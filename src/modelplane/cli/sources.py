"""``registry sync``: look at a watched registry now instead of at its next poll."""

from __future__ import annotations

from typing import Annotated

import typer

from modelplane.cli.options import Plain, PlainOutput
from modelplane.cli.output import print_json
from modelplane.cli.session import Session, command, make_app
from modelplane.resources.model_source import ModelSource

commands = make_app()


@command(commands, "sync", examples=["modelplane registry sync mlflow"])
def sync(
    session: Session,
    *,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Name of the ModelSource, such as mlflow.")
    ],
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Look at a watched registry now.

    It is asked at its poll interval anyway; `modelplane get model-sources` tells how it goes.
    """
    answer = session.client.act(ModelSource, source, "sync")
    if output is Plain.JSON:
        print_json(answer)
        return
    typer.echo(f"{source} is being looked at")
