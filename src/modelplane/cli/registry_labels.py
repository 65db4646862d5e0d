"""``registry alias`` and ``registry tag``: what may change about a version."""

from __future__ import annotations

from typing import Annotated

import typer

from modelplane.cli.options import Plain, PlainOutput
from modelplane.cli.output import print_json
from modelplane.cli.session import Session, command, make_app
from modelplane.resources.model import ModelVersion

commands = make_app()

Version = Annotated[
    str, typer.Argument(metavar="MODEL@VERSION", help="The version, such as fraud@1.2.0.")
]
Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why; goes into the history.")
]


@command(
    commands,
    "alias",
    examples=[
        "modelplane registry alias fraud@1.2.0 champion --reason 'better recall'",
        "modelplane registry alias fraud@1.2.0 champion --remove",
    ],
)
def alias(
    session: Session,
    *,
    version: Version,
    name: Annotated[str, typer.Argument(metavar="ALIAS", help="Such as champion.")],
    remove: Annotated[bool, typer.Option("--remove", help="Take it away.")] = False,
    reason: Reason = "",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Let an alias name a version, or take it away.

    An alias names one version of a model at a time; every move is kept.
    """
    answer = session.client.act(
        ModelVersion, version, "alias", alias=name, remove=remove, reason=reason
    )
    if output is Plain.JSON:
        print_json(answer)
        return
    done = "removed from" if remove else "names"
    typer.echo(f"{name} {done} {version} ({answer['result']})")
