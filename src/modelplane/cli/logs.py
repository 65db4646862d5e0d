"""``logs``: what processes and model servers wrote, from files of the state directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from modelplane.cli.log_files import LogFile, LogFollower, find_logs, read_tail
from modelplane.cli.options import Plain, PlainOutput
from modelplane.cli.output import print_json, print_table, remark
from modelplane.cli.session import Session, command, make_app
from modelplane.cli.words import size
from modelplane.errors import NotFound
from modelplane.resources.fields import suggest
from modelplane.settings import load_settings

LOOK_EVERY_S = 0.3

app = make_app()


@command(
    app,
    "logs",
    examples=[
        "modelplane logs",
        "modelplane logs control-plane -n 200",
        "modelplane logs fraud -e production -f",
        "modelplane logs gateways/production",
    ],
)
def logs(
    session: Session,
    *,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="A process, gateway, replica or job; or a deployment."
        ),
    ] = None,
    environment: Annotated[
        str | None, typer.Option("--environment", "-e", metavar="ENV", help="Only there.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is written, for ever.")
    ] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", metavar="COUNT", min=0, help="From the end.")
    ] = 50,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Show the log of a process or a model server; without a name, list the logs.

    The logs are read from the state directory of this machine. A deployment's name stands for
    all its model servers.
    """
    directory = load_settings(state=session.state).paths.logs
    found = find_logs(directory, target, environment)
    if target is None:
        _list(found, output)
        return
    if not found:
        known = [log.name for log in find_logs(directory, None, None)]
        hint = suggest(target, known) if known else f"there are no logs in {directory}"
        raise NotFound(f"no log of {target!r}", hint=hint)
    several = len(found) > 1
    for log in found:
        if several:
            typer.echo(f"==> {log.name} <==")
        typer.echo(read_tail(log.path, lines), nl=False)
    if follow:
        _follow(session, found, directory)


def _list(found: Sequence[LogFile], output: Plain) -> None:
    if output is Plain.JSON:
        print_json([{"name": log.name, "path": str(log.path)} for log in found])
    elif found:
        print_table(["NAME", "SIZE"], [[log.name, size(log.path.stat().st_size)] for log in found])
    else:
        remark("no logs yet")


def _follow(session: Session, found: Sequence[LogFile], directory: Path) -> None:
    """Print what is written from now on."""
    followers = [(log, LogFollower(log.path)) for log in found]
    last = followers[-1][0] if len(followers) == 1 else None
    while directory.exists():
        for log, follower in followers:
            text = follower.read_new()
            if text and log is not last:
                last = log
                typer.echo(f"==> {log.name} <==")
            typer.echo(text, nl=False)
        session.sleep(LOOK_EVERY_S)
