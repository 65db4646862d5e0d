"""``playbook …``: what is done about alerts, what was done, and what it asks of people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import typer

from modelplane.cli import words
from modelplane.cli.columns import headers_of, rows_of
from modelplane.cli.columns_playbooks import state_of, write_matcher
from modelplane.cli.options import Plain, PlainOutput, Reason
from modelplane.cli.output import print_json, print_table, remark
from modelplane.cli.session import Session, command, make_app
from modelplane.decisions.playbook import legs_of
from modelplane.decisions.playbook_starts import PLAYBOOK_LABEL
from modelplane.errors import InvalidResource
from modelplane.resources.playbook import Playbook, PlaybookRun, StepStatus

app = make_app()
playbook = make_app()
app.add_typer(playbook, name="playbook", help="See, run and answer what is done about alerts.")

PlaybookName = Annotated[str, typer.Argument(metavar="PLAYBOOK", help="Name of the playbook.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Name of the run.")]
_LEGS = ("alert", "begin", "repair", "recovery", "total")
_STEP_HEADERS = ("STEP", "PHASE", "TOOK", "WHAT", "MESSAGE")


@command(
    playbook, "list", examples=["modelplane playbook list", "modelplane playbook list -o json"]
)
def list_(session: Session, *, output: PlainOutput = Plain.TEXT) -> None:
    """List the playbooks: which alerts, which steps, and whether they begin runs."""
    items = session.client.list(Playbook).items
    if output is Plain.JSON:
        print_json({"items": [item.to_dict() for item in items]})
    elif items:
        print_table(headers_of(Playbook), rows_of(items, session.now()))
    else:
        remark("there are no playbooks")


@command(playbook, "show", examples=["modelplane playbook show restart-replica"])
def show(session: Session, *, name: PlaybookName, output: PlainOutput = Plain.TEXT) -> None:
    """Show what a playbook does, what holds it back, and its last runs."""
    found = session.client.get(Playbook, name)
    if output is Plain.JSON:
        print_json(found.to_dict())
        return
    spec, limits, verify = found.spec, found.spec.limits, found.spec.verify
    typer.echo(f"{name}: {state_of(found)}")
    typer.echo(f"  alerts    {', '.join(write_matcher(m) for m in spec.matchers)}")
    for step in spec.steps:
        after = "" if step.on_failure == "stop" else ", goes on when it fails"
        within = words.duration(step.timeout_s)
        typer.echo(f"  step      {step.name}: {step.kind} within {within}{after}")
    wanted = verify.expr or "the alert's condition is gone"
    typer.echo(f"  verified  {wanted}, within {words.duration(verify.timeout_s)}")
    cooldown = words.duration(limits.cooldown_s)
    typer.echo(f"  limits    {limits.per_hour} an hour, {cooldown} apart")
    for one in found.status.held:
        typer.echo(f"  held      {one.alert}: {one.reason}: {one.message}")
    runs = _runs(session, name)[-5:]
    if runs:
        typer.echo("")
        print_table(headers_of(PlaybookRun), rows_of(runs, session.now()))


@command(
    playbook,
    "run",
    examples=[
        "modelplane playbook run restart-replica --dry-run",
        "modelplane playbook run restart-replica --alert ReplicaDown-6f0d2c11aa --wait",
        "modelplane playbook run restart-replica --label environment=staging "
        "--label deployment=fraud",
    ],
)
def run(
    session: Session,
    *,
    name: PlaybookName,
    alert: Annotated[
        str | None,
        typer.Option(
            "--alert", metavar="NAME", help="About this alert; default the one it is for."
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="NAME=VALUE", help="In place of an alert's labels."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what each step would do.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to its end.")] = False,
    reason: Reason = "",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Run a playbook now, whatever its limits are; exit code 1 when it was followed and failed."""
    begun = session.client.run_playbook(
        name, alert=alert, labels=_read_labels(label or ()), dry_run=dry_run, reason=reason
    )
    if wait or dry_run:
        begun = session.client.wait_for_playbook(begun.metadata.name)
    _tell(begun, session.now(), output)
    if begun.status.phase in {"Failed", "Cancelled"}:
        raise typer.Exit(1)


def _read_labels(given: Sequence[str]) -> dict[str, str]:
    labels = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise InvalidResource(f"--label: not NAME=VALUE: {text[:80]!r}")
        labels[name] = value
    return labels


@command(
    playbook,
    "history",
    examples=["modelplane playbook history", "modelplane playbook history restart-replica"],
)
def history(
    session: Session,
    *,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[PLAYBOOK|RUN]", help="Of one playbook; or one run with its steps."
        ),
    ] = None,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """List what was done, and how long each leg took: from the breach to the recovery."""
    if name is not None:
        one = next((r for r in _runs(session, None) if r.metadata.name == name), None)
        if one is not None:
            _tell(one, session.now(), output)
            return
    runs = _runs(session, name)
    if output is Plain.JSON:
        items = [{**run.to_dict(), "legs": _legs(run)} for run in runs]
        print_json({"items": items})
    elif runs:
        headers = ["RUN", "ALERT", "PHASE", "REASON", *(leg.upper() for leg in _LEGS), "AGE"]
        print_table(headers, [_history_row(run, session.now()) for run in runs])
    else:
        remark("no playbook was run")


@command(
    playbook,
    "answer",
    examples=[
        "modelplane playbook answer restart-replica-3 ask --yes",
        "modelplane playbook answer restart-replica-3 ask --no --reason 'it is being repaired'",
    ],
)
def answer(
    session: Session,
    *,
    run: RunName,
    step: Annotated[str, typer.Argument(metavar="STEP", help="The step that asks.")],
    yes: Annotated[bool, typer.Option("--yes", help="Agree.")] = False,
    no: Annotated[bool, typer.Option("--no", help="Refuse, which needs a reason.")] = False,
    reason: Reason = "",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Answer a step that asks a person."""
    if yes == no:
        raise InvalidResource("say --yes or --no")
    answered = session.client.answer_playbook(run, step, agrees=yes, reason=reason)
    if output is Plain.JSON:
        print_json(answered.to_dict())
    else:
        typer.echo(f"playbookrun/{run}: {step}: {'yes' if yes else 'no'}")


@command(playbook, "cancel", examples=["modelplane playbook cancel restart-replica-3"])
def cancel(
    session: Session, *, run: RunName, reason: Reason = "", output: PlainOutput = Plain.TEXT
) -> None:
    """End a run, and what its present step made with it."""
    cancelled = session.client.cancel_playbook(run, reason=reason)
    if output is Plain.JSON:
        print_json(cancelled.to_dict())
    else:
        typer.echo(f"playbookrun/{run} is asked to end")


def _runs(session: Session, playbook: str | None) -> list[PlaybookRun]:
    labels = {PLAYBOOK_LABEL: playbook} if playbook is not None else None
    found = session.client.list(PlaybookRun, labels=labels).items
    return sorted(found, key=lambda run: (run.metadata.created_at is None, _created(run)))


def _created(run: PlaybookRun) -> float:
    at = run.metadata.created_at
    return at.timestamp() if at is not None else 0.0


def _tell(run: PlaybookRun, now: datetime, output: Plain) -> None:
    if output is Plain.JSON:
        print_json({**run.to_dict(), "legs": _legs(run)})
        return
    status = run.status
    message = f": {status.message}" if status.message else ""
    typer.echo(f"{run.metadata.name}: {status.phase}{message}")
    if status.steps:
        print_table(_STEP_HEADERS, [_step_row(step, now) for step in status.steps])
    legs = [f"{name} {_seconds(took)}" for name, took in _legs(run).items() if took is not None]
    if legs:
        typer.echo(f"legs: {', '.join(legs)}")


def _step_row(step: StepStatus, now: datetime) -> list[str]:
    took = ""
    if step.started_at is not None:
        took = _seconds(((step.finished_at or now) - step.started_at).total_seconds())
    return [step.name, step.phase, took, step.effect or words.NOTHING, step.message]


def _history_row(run: PlaybookRun, now: datetime) -> list[str]:
    legs = _legs(run)
    times = [_seconds(legs[name]) for name in _LEGS]
    about = run.spec.alert or words.labels(run.spec.labels)
    age = words.age(run.metadata.created_at, now)
    return [run.metadata.name, about, run.status.phase, run.status.reason, *times, age]


def _legs(run: PlaybookRun) -> dict[str, float | None]:
    return legs_of(run.status)


def _seconds(took: float | None) -> str:
    return words.NOTHING if took is None else f"{took:.1f}s"
