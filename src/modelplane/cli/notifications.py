"""``notification …``: what was sent, what could not be, and whether a channel works."""

from __future__ import annotations

from typing import Annotated

import typer

from modelplane.cli.columns import headers_of, rows_of
from modelplane.cli.options import Plain, PlainOutput
from modelplane.cli.output import print_json, print_table, remark
from modelplane.cli.session import Session, command, make_app
from modelplane.errors import InvalidResource
from modelplane.resources.notification import Notification

app = make_app()
notification = make_app()
app.add_typer(notification, name="notification", help="See what was sent, send dead letters again.")
_POLL_S = 0.5
_WAIT_S = 30.0


@command(
    notification,
    "list",
    examples=["modelplane notification list", "modelplane notification list --dead"],
)
def list_(
    session: Session,
    *,
    dead: Annotated[
        bool, typer.Option("--dead", help="Only those that were given up: the dead letters.")
    ] = False,
    channel: Annotated[
        str | None, typer.Option("--channel", metavar="NAME", help="Only those to it.")
    ] = None,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """List what was sent in the last days, and what waits to be."""
    labels = {"channel": channel} if channel else None
    listed = session.client.list(Notification, labels=labels).items
    found = [n for n in listed if not dead or n.status.phase == "Dead"]
    found.sort(key=lambda n: n.spec.event.at)
    if output is Plain.JSON:
        print_json({"items": [item.to_dict() for item in found]})
    elif found:
        print_table(headers_of(Notification), rows_of(found, session.now()))
    else:
        remark("no dead letters" if dead else "nothing was sent")


@command(
    notification,
    "replay",
    examples=["modelplane notification replay n-3f2a…", "modelplane notification replay --all"],
)
def replay(
    session: Session,
    *,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The dead letter to send again.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Send dead letters again, from the start; receivers know them by their ids."""
    client = session.client
    if (name is None) != everything:
        raise InvalidResource("name one notification, or give --all")
    names = [name] if name is not None else []
    if everything:
        listed = client.list(Notification).items
        names = [n.metadata.name for n in listed if n.status.phase == "Dead"]
    sent = [client.replay_notification(each) for each in names]
    if output is Plain.JSON:
        print_json({"items": [item.to_dict() for item in sent]})
        return
    for item in sent:
        typer.echo(f"notification/{item.metadata.name} goes to {item.spec.channel} again")
    if not sent:
        remark("no dead letters")


@command(notification, "test", examples=["modelplane notification test risk-team"])
def try_out(
    session: Session,
    *,
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="Name of the channel.")],
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Send a test to a channel and say whether it arrived; exit code 1 when it did not."""
    sent = session.client.test_channel(channel)
    until = session.now().timestamp() + _WAIT_S
    while sent.status.attempts == 0 and session.now().timestamp() < until:
        session.sleep(_POLL_S)
        sent = session.client.get(Notification, sent.metadata.name)
    status = sent.status
    if output is Plain.JSON:
        print_json(sent.to_dict())
    elif status.phase == "Delivered":
        typer.echo(f"{channel}: delivered")
    elif status.attempts == 0:
        remark(f"{channel}: not tried within {_WAIT_S:g} s; is the control plane running?")
    else:
        remark(f"{channel}: not delivered: {status.message}")
    if status.phase != "Delivered":
        raise typer.Exit(1)
