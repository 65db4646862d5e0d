"""``training …``: see triggers and their runs, start and cancel them, read their logs."""

from __future__ import annotations

from typing import Annotated

import typer

from modelplane.cli.columns import headers_of, rows_of
from modelplane.cli.columns_training import causes_of, progress_of, state_of, took
from modelplane.cli.following import follow_training
from modelplane.cli.log_files import find_logs, read_tail
from modelplane.cli.options import Format, Output, Plain, PlainOutput, Reason, Timeout
from modelplane.cli.output import print_json, print_json_line, print_table, print_yaml, remark
from modelplane.cli.session import Session, command, make_app
from modelplane.cli.words import age
from modelplane.decisions.training import TRIGGER_LABEL
from modelplane.decisions.training_names import run_number
from modelplane.errors import NotFound
from modelplane.resources.training import TrainingRun, TrainingTrigger
from modelplane.settings import load_settings

app = make_app()
training = make_app()
app.add_typer(training, name="training", help="See, start and cancel trainings of models.")

_SHOWN_RUNS = 10

Trigger = Annotated[str, typer.Argument(metavar="TRIGGER", help="Name of the trigger.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Name of the run: TRIGGER-N.")]


@command(
    training,
    "list",
    examples=["modelplane training list", "modelplane training list fraud-retrain -o json"],
)
def list_(
    session: Session,
    *,
    trigger: Annotated[
        str | None, typer.Argument(metavar="[TRIGGER]", help="Only its runs, the newest first.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """List the triggers of training, or the runs of one of them."""
    kind: type[TrainingTrigger | TrainingRun] = TrainingTrigger
    items: list[TrainingTrigger] | list[TrainingRun]
    if trigger is None:
        items = list(session.client.list(TrainingTrigger).items)
    else:
        session.client.get(TrainingTrigger, trigger)
        kind, items = TrainingRun, _runs_of(session, trigger)
    if output is Format.JSON:
        print_json([item.to_dict() for item in items])
    elif output is Format.YAML:
        print_yaml([item.to_dict() for item in items])
    elif output is Format.NAME:
        for item in items:
            typer.echo(item.metadata.name)
    elif items:
        print_table(headers_of(kind), rows_of(items, session.now()))
    else:
        remark(f"{trigger} has had no runs" if trigger else "there are no triggers; apply one")


@command(
    training,
    "show",
    examples=["modelplane training show fraud-retrain", "modelplane training show fraud-retrain-7"],
)
def show(
    session: Session,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A run, or a trigger.")],
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Show a run: why it began, how far it is, what came of it; or a trigger with its last runs."""
    trigger = _find_trigger(session, name)
    if trigger is None:
        run = session.client.get(TrainingRun, name)
        if output is Plain.JSON:
            print_json(run.to_dict())
        else:
            _print_run(session, run)
        return
    runs = _runs_of(session, name)[:_SHOWN_RUNS]
    if output is Plain.JSON:
        print_json({"trigger": trigger.to_dict(), "runs": [run.to_dict() for run in runs]})
        return
    _print_trigger(session, trigger)
    if runs:
        typer.echo()
        print_table(headers_of(TrainingRun), rows_of(runs, session.now()))


@command(
    training,
    "start",
    examples=[
        "modelplane training start fraud-retrain --wait",
        "modelplane training start fraud-retrain --reason 'labels of May are in'",
    ],
)
def start(
    session: Session,
    *,
    trigger: Trigger,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to its end.")] = False,
    timeout: Timeout = "24h",
    reason: Reason = "",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Begin a training now, whatever its trigger waits for.

    With --wait the exit code is 0 when it registered a version and 1 when it did not.
    """
    run = session.client.start_training(trigger, reason=reason)
    if wait:
        _follow(session, run.metadata.name, timeout, output)
    elif output is Plain.JSON:
        print_json(run.to_dict())
    else:
        typer.echo(run.metadata.name)
        remark(f"see how it goes with: modelplane training show {run.metadata.name}")


@command(training, "cancel", examples=["modelplane training cancel fraud-retrain-7"])
def cancel(session: Session, *, name: Run, reason: Reason = "") -> None:
    """End a training; what it has registered stays."""
    cancelled = session.client.cancel_training(name, reason=reason)
    typer.echo(f"{cancelled.metadata.name} is being cancelled")


@command(training, "logs", examples=["modelplane training logs fraud-retrain-7"])
def logs(
    session: Session,
    *,
    name: Run,
    lines: Annotated[
        int, typer.Option("--lines", "-n", metavar="COUNT", min=0, help="From the end.")
    ] = 200,
) -> None:
    """Show what a training wrote, from the log files of this machine."""
    run = session.client.get(TrainingRun, name)
    place, _, job = run.status.job.partition("/")
    if not job:
        where = "its service keeps them" if run.spec.run.http else run.status.message
        raise NotFound(f"{name} has no log here", hint=where or "it has not begun")
    directory = load_settings(state=session.state).paths.logs
    found = [log for log in find_logs(directory, job, place) if log.name.startswith("jobs/")]
    if not found:
        hint = run.status.message or "it has not started"
        raise NotFound(f"no log of {name} in {directory}", hint=hint)
    typer.echo(read_tail(found[0].path, lines), nl=False)


def _find_trigger(session: Session, name: str) -> TrainingTrigger | None:
    try:
        return session.client.get(TrainingTrigger, name)
    except NotFound:
        return None


def _runs_of(session: Session, trigger: str) -> list[TrainingRun]:
    """Return the runs of a trigger, the newest first."""
    found = session.client.list(TrainingRun, labels={TRIGGER_LABEL: trigger}).items
    return sorted(found, key=lambda run: run_number(trigger, run.metadata.name), reverse=True)


def _print_trigger(session: Session, trigger: TrainingTrigger) -> None:
    spec, status = trigger.spec, trigger.status
    typer.echo(f"{trigger.metadata.name} trains {spec.model}, on {causes_of(trigger)}")
    message = next((c.message for c in status.conditions if c.message), "")
    typer.echo(f"{state_of(trigger)}: {message}" if message else state_of(trigger))
    for what, seen in status.seen.items():
        typer.echo(f"  seen {what}: {seen}")
    if status.pending is not None:
        typer.echo(f"pending since {age(status.pending.since, session.now())}")


def _print_run(session: Session, run: TrainingRun) -> None:
    spec, status = run.spec, run.status
    typer.echo(f"{run.metadata.name} trains {spec.model}: {describe(run)}")
    typer.echo(f"because of {spec.cause}: {spec.detail}")
    if took(run, session.now()):
        typer.echo(f"took {took(run, session.now())}")
    for version in status.versions:
        typer.echo(f"registered {version}")
    if status.log_tail:
        typer.echo(f"\nthe end of its log:\n{status.log_tail.rstrip()}")


def describe(run: TrainingRun) -> str:
    """Return in a line where a run is."""
    status = run.status
    parts = [status.phase, status.reason if status.reason != status.phase else "",
             progress_of(run) if not run.finished else "",
             status.message or (status.progress_message if not run.finished else "")]  # fmt: skip
    return "  ".join(part for part in parts if part)


def _follow(session: Session, name: str, timeout: str, output: Plain) -> None:
    """Follow a run to its end; exit with 1 when it did not register anything."""
    last: TrainingRun | None = None
    said = ""
    for now in follow_training(session, name, timeout=timeout):
        if output is Plain.JSON:
            if now != last:
                print_json_line(now.to_dict())
        elif (line := f"{name}  {describe(now)}") != said:
            typer.echo(line)
            said = line
        last = now
    if last is None or last.status.phase != "Succeeded":
        if last is not None and last.status.log_tail and output is Plain.TEXT:
            typer.echo(f"\nthe end of its log:\n{last.status.log_tail.rstrip()}")
        raise typer.Exit(1)
