"""``rollout …``: follow and steer the rollouts of a deployment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from modelplane.cli.columns import headers_of, rows_of
from modelplane.cli.following import follow_rollout, wait_for_rollout
from modelplane.cli.manifests import describe_applied
from modelplane.cli.options import (
    Environment,
    Format,
    Output,
    Plain,
    PlainOutput,
    Reason,
    Timeout,
)
from modelplane.cli.output import print_json, print_json_line, print_table, print_yaml, remark
from modelplane.cli.rollout_choice import (
    WhichRollout,
    WhichVersion,
    find_running,
    find_shown,
)
from modelplane.cli.rollout_plan import add_plan_command
from modelplane.cli.rollout_view import render_rollout
from modelplane.cli.session import Session, command, make_app
from modelplane.cli.words import describe_change
from modelplane.client import Applied
from modelplane.resources.meta import API_VERSION, DEFAULT_ENVIRONMENT
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.rollout import Rollout

app = make_app()
rollout = make_app()
app.add_typer(rollout, name="rollout", help="Follow and steer rollouts.")
add_plan_command(rollout)

Deployment = Annotated[str, typer.Argument(metavar="DEPLOYMENT", help="Name of the deployment.")]


@command(
    rollout,
    "status",
    examples=[
        "modelplane rollout status fraud",
        "modelplane rollout status fraud -e staging",
        "modelplane rollout status fraud --version 1.2.0",
    ],
)
def status(
    session: Session,
    *,
    deployment: Deployment,
    environment: Environment = None,
    rollout: WhichRollout = None,
    version: WhichVersion = None,
    output: Output = Format.TABLE,
) -> None:
    """Show the rollouts of a deployment that run, or the latest: weight, verdicts, and why."""
    place = environment or DEFAULT_ENVIRONMENT
    found = session.client.get(ModelDeployment, deployment, place)
    shown = find_shown(session, found, name=rollout, version=version)
    documents = [one.to_dict() for one in shown]
    if output is Format.JSON:
        several = {"apiVersion": API_VERSION, "kind": "RolloutList", "items": documents}
        print_json(documents[0] if len(documents) == 1 else several)
    elif output is Format.YAML:
        print_yaml(documents)
    elif output is Format.NAME:
        for one in shown:
            typer.echo(f"rollout/{one.metadata.name}")
    else:
        warm, views = found.status.warm, list[RenderableType]()
        for one in shown:
            views += [Text(), render_rollout(one, now=session.now(), warm=warm)]
        Console().print(Group(*views[1:]))


@command(
    rollout,
    "watch",
    examples=[
        "modelplane rollout watch fraud",
        "modelplane rollout watch fraud -e staging -o json",
        "modelplane rollout watch fraud --timeout 30m",
        "modelplane rollout watch fraud --version 1.2.0",
    ],
)
def watch(
    session: Session,
    *,
    deployment: Deployment,
    environment: Environment = None,
    rollout: WhichRollout = None,
    version: WhichVersion = None,
    timeout: Timeout = "24h",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Follow a rollout to its end, live: the one that runs, or the latest.

    The exit code is 0 when it was promoted, or when its A/B test passed, and 1 when not. With
    -o json each change is one line.
    """
    place = environment or DEFAULT_ENVIRONMENT
    name = find_running(session, deployment, place, name=rollout, version=version)
    name = name or wait_for_rollout(session, deployment, place, timeout=timeout)
    rollouts = follow_rollout(session, name, place, timeout=timeout)
    console = Console()
    if output is Plain.TEXT and console.is_terminal:
        last = _watch_live(session, console, rollouts)
    else:
        last = _watch_lines(rollouts, output)
    if last is None or not _went_well(last):
        raise typer.Exit(1)


def _went_well(rollout: Rollout) -> bool:
    tested = rollout.status.phase == "Concluded" and rollout.status.verdict == "pass"
    return rollout.status.phase == "Promoted" or tested


def _watch_live(session: Session, console: Console, rollouts: Iterator[Rollout]) -> Rollout | None:
    last = None
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        for last in rollouts:
            live.update(render_rollout(last, now=session.now()), refresh=True)
    return last


def _watch_lines(rollouts: Iterator[Rollout], output: Plain) -> Rollout | None:
    last, told = None, ""
    for now in rollouts:
        if output is Plain.JSON:
            if last is None or now.metadata.resource_version != last.metadata.resource_version:
                print_json_line(now.to_dict())
        elif (line := describe_change(now)) != told:
            told = line
            typer.echo(line)
        last = now
    return last


@command(
    rollout,
    "list",
    examples=["modelplane rollout list fraud", "modelplane rollout list fraud -e staging -o json"],
)
def list_(
    session: Session,
    *,
    deployment: Deployment,
    environment: Environment = None,
    output: Output = Format.TABLE,
) -> None:
    """List the rollouts of a deployment, oldest first."""
    place = environment or DEFAULT_ENVIRONMENT
    items = session.client.list(Rollout, place).items
    found = sorted(
        (item for item in items if item.spec.deployment == deployment),
        key=lambda item: item.spec.ordinal,
    )
    documents = [item.to_dict() for item in found]
    if output is Format.JSON:
        print_json({"apiVersion": API_VERSION, "kind": "RolloutList", "items": documents})
    elif output is Format.YAML:
        print_yaml(documents)
    elif output is Format.NAME:
        for item in found:
            typer.echo(f"rollout/{item.metadata.name}")
    elif found:
        print_table(headers_of(Rollout), rows_of(found, session.now()))
    else:
        remark(f"{deployment} has had no rollout in {place}")


@command(
    rollout,
    "pause",
    examples=["modelplane rollout pause fraud --reason 'looking at the errors'"],
)
def pause(
    session: Session,
    *,
    deployment: Deployment,
    environment: Environment = None,
    rollout: WhichRollout = None,
    version: WhichVersion = None,
    reason: Reason = "",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Keep the running rollout's weight as it is; harm still rolls it back."""
    place = environment or DEFAULT_ENVIRONMENT
    done = session.client.pause(deployment, place, reason=reason, rollout=rollout, version=version)
    _print_steered(done, "paused", output)


@command(rollout, "resume", examples=["modelplane rollout resume fraud"])
def resume(
    session: Session,
    *,
    deployment: Deployment,
    environment: Environment = None,
    rollout: WhichRollout = None,
    version: WhichVersion = None,
    reason: Reason = "",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Let a paused rollout go on."""
    place = environment or DEFAULT_ENVIRONMENT
    done = session.client.resume(deployment, place, reason=reason, rollout=rollout, version=version)
    _print_steered(done, "resumed", output)


@command(
    rollout,
    "promote",
    examples=["modelplane rollout promote fraud --reason 'holiday traffic, checked by hand'"],
)
def promote(
    session: Session,
    *,
    deployment: Deployment,
    environment: Environment = None,
    rollout: WhichRollout = None,
    version: WhichVersion = None,
    reason: Reason = "",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Finish the running rollout now, without waiting for more evidence."""
    place = environment or DEFAULT_ENVIRONMENT
    done = session.client.promote_rollout(
        deployment, place, reason=reason, rollout=rollout, version=version
    )
    _print_steered(done, "asked to promote", output)


@command(
    rollout,
    "rollback",
    examples=["modelplane rollout rollback fraud --reason 'complaints from support'"],
)
def rollback(
    session: Session,
    *,
    deployment: Deployment,
    environment: Environment = None,
    rollout: WhichRollout = None,
    version: WhichVersion = None,
    reason: Reason = "",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Take the running rollout back: all traffic to stable. After its end, see `undo`."""
    place = environment or DEFAULT_ENVIRONMENT
    done = session.client.rollback(
        deployment, place, reason=reason, rollout=rollout, version=version
    )
    _print_steered(done, "asked to roll back", output)


@command(rollout, "undo", examples=["modelplane rollout undo fraud --reason 'wrong labels'"])
def undo(
    session: Session,
    *,
    deployment: Deployment,
    environment: Environment = None,
    reason: Reason = "",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """After a rollout has finished: go back to what was stable before it, by a new rollout."""
    done = session.client.undo(deployment, environment or DEFAULT_ENVIRONMENT, reason=reason)
    if output is Plain.JSON:
        print_json({"result": done.result, "resource": done.resource.to_dict()})
    else:
        typer.echo(describe_applied(done))


def _print_steered(done: Applied[Rollout], what: str, output: Plain) -> None:
    if output is Plain.JSON:
        print_json({"result": done.result, "resource": done.resource.to_dict()})
        return
    name = done.resource.metadata.name
    typer.echo(f"rollout/{name} " + ("unchanged" if done.result == "unchanged" else what))
