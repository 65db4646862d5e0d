"""``traffic …``: who gets which version, by which policy, and how each version does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from modelplane.cli import traffic_explain
from modelplane.cli.columns import headers_of, rows_of
from modelplane.cli.options import Environment, Format, Output, Plain, PlainOutput, Reason
from modelplane.cli.output import (
    print_json,
    print_json_line,
    print_table,
    print_yaml,
    remark,
    terminal_width,
)
from modelplane.cli.session import Session, command, make_app
from modelplane.cli.traffic_view import format_report
from modelplane.decisions.traffic_report import TrafficReport
from modelplane.errors import InvalidResource
from modelplane.resources.meta import API_VERSION, DEFAULT_ENVIRONMENT
from modelplane.resources.quantities import parse_duration
from modelplane.resources.traffic_policy import TrafficPolicy

app = make_app()
traffic = make_app()
app.add_typer(traffic, name="traffic", help="See and explain who gets which version.")

_EVERY_S = 2.0


@command(
    traffic,
    "show",
    examples=[
        "modelplane traffic show fraud",
        "modelplane traffic show fraud -e staging --since 30m -o json",
        "modelplane traffic show fraud --watch",
    ],
)
def show(
    session: Session,
    *,
    deployment: Annotated[str, typer.Argument(metavar="DEPLOYMENT", help="Its name.")],
    environment: Environment = None,
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="How far back, 30m at the most.")
    ] = "5m",
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it again every two seconds.")
    ] = False,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Show who gets which version of a deployment, and how each version does.

    Failures that clients saw, and those that they did not, since stable answered instead: the
    shield saved them.
    """
    place, seconds = environment or DEFAULT_ENVIRONMENT, _seconds(since)
    reports = _reports(session, deployment, place, seconds, again=watch)
    if output is Plain.JSON:
        for report in reports:
            (print_json_line if watch else print_json)(report.to_dict())
        return
    console = Console()
    if not (watch and console.is_terminal):
        for report in reports:
            typer.echo(format_report(report, session.now(), terminal_width()))
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        for report in reports:
            text = format_report(report, session.now(), terminal_width())
            live.update(Text(text), refresh=True)


def _seconds(text: str) -> int:
    try:
        return max(1, round(parse_duration(text)))
    except ValueError as error:
        raise InvalidResource(f"--since: {error}") from None


def _reports(
    session: Session, deployment: str, place: str, seconds: int, *, again: bool
) -> Iterator[TrafficReport]:
    yield session.client.traffic_report(deployment, place, seconds=seconds)
    while again:
        session.sleep(_EVERY_S)
        yield session.client.traffic_report(deployment, place, seconds=seconds)


@command(
    traffic,
    "list",
    examples=["modelplane traffic list", "modelplane traffic list -e staging -o json"],
)
def list_(
    session: Session, *, environment: Environment = None, output: Output = Format.TABLE
) -> None:
    """List the traffic policies: whose traffic, which versions, how far, what watches them."""
    items = session.client.list(TrafficPolicy, environment).items
    documents = [item.to_dict() for item in items]
    if output is Format.JSON:
        print_json({"apiVersion": API_VERSION, "kind": "TrafficPolicyList", "items": documents})
    elif output is Format.YAML:
        print_yaml(documents)
    elif output is Format.NAME:
        for item in items:
            typer.echo(f"trafficpolicy/{item.metadata.name}")
    elif items:
        print_table(headers_of(TrafficPolicy), rows_of(items, session.now()))
    else:
        remark("there are no traffic policies")


@command(
    traffic,
    "delete",
    examples=["modelplane traffic delete fraud-2.0.0 --reason 'no gain'"],
)
def delete(
    session: Session,
    *,
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="Name of the traffic policy.")],
    environment: Environment = None,
    reason: Reason = "",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Take a traffic policy away: its versions give their users back to stable."""
    place = environment or DEFAULT_ENVIRONMENT
    deleted = session.client.delete(TrafficPolicy, policy, place, reason=reason)
    if output is Plain.JSON:
        print_json(deleted.to_dict())
    else:
        typer.echo(f"trafficpolicy/{policy} deleted")


traffic.registered_commands += traffic_explain.commands.registered_commands
