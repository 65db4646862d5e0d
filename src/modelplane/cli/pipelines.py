"""``pipeline …``: run validation pipelines, follow their runs, read what they found."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from modelplane.cli.columns import headers_of, rows_of
from modelplane.cli.following import follow_run
from modelplane.cli.log_files import find_logs, read_tail
from modelplane.cli.options import Format, Output, Plain, PlainOutput, Reason, Timeout
from modelplane.cli.output import print_json, print_json_line, print_table, print_yaml, remark
from modelplane.cli.run_view import describe_stages, render_run, stages_of
from modelplane.cli.session import Session, command, make_app
from modelplane.cli.words import age
from modelplane.errors import InvalidResource, NotFound
from modelplane.resources.fields import suggest
from modelplane.resources.gate_run import GateRun
from modelplane.resources.validation_pipeline import ValidationPipeline
from modelplane.settings import load_settings

app = make_app()
pipeline = make_app()
app.add_typer(pipeline, name="pipeline", help="Run validation pipelines, and see what they found.")


class ReportKind(StrEnum):
    """How a report is written."""

    JSON = "json"
    JUNIT = "junit"
    HTML = "html"


Pipeline = Annotated[str, typer.Argument(metavar="PIPELINE", help="Name of the pipeline.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Name of the run: PIPELINE-N.")]
Version = Annotated[str, typer.Argument(metavar="MODEL@VERSION", help="The version to check.")]
Wait = Annotated[bool, typer.Option("--wait", help="Follow it to its end.")]


@command(
    pipeline,
    "run",
    examples=[
        "modelplane pipeline run quality fraud@1.2.0 --wait",
        "modelplane pipeline run quality fraud@latest --no-cache",
    ],
)
def run(
    session: Session,
    *,
    name: Pipeline,
    version: Version,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Run every stage, whatever is known already.")
    ] = False,
    wait: Wait = False,
    timeout: Timeout = "24h",
    reason: Reason = "",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Take a version through the stages of a pipeline.

    With --wait the exit code is 0 when it passed and 1 when it did not.
    """
    started = session.client.run_pipeline(name, version, no_cache=no_cache, reason=reason)
    if not wait:
        if output is Plain.JSON:
            print_json(started.to_dict())
        else:
            typer.echo(started.metadata.name)
            remark(f"follow it with: modelplane pipeline show {started.metadata.name} --watch")
        return
    _follow(session, started.metadata.name, timeout, output)


@command(
    pipeline,
    "list",
    examples=["modelplane pipeline list", "modelplane pipeline list -o json"],
)
def list_(session: Session, *, output: Output = Format.TABLE) -> None:
    """List the pipelines; `modelplane get runs` lists their runs."""
    found = session.client.list(ValidationPipeline).items
    if output is Format.JSON:
        print_json([item.to_dict() for item in found])
    elif output is Format.YAML:
        print_yaml([item.to_dict() for item in found])
    elif output is Format.NAME:
        for item in found:
            typer.echo(item.metadata.name)
    elif found:
        print_table(headers_of(ValidationPipeline), rows_of(found, session.now()))
    else:
        remark("there are no pipelines; apply one")


@command(
    pipeline,
    "show",
    examples=[
        "modelplane pipeline show quality-7",
        "modelplane pipeline show quality-7 --watch",
    ],
)
def show(
    session: Session,
    *,
    name: Run,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it, live.")] = False,
    timeout: Timeout = "24h",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Show a run: its stages, what they found, and what is still to come.

    With --watch the exit code is 0 when it passed and 1 when it did not.
    """
    if watch:
        _follow(session, name, timeout, output)
        return
    found = session.client.get(GateRun, name)
    if output is Plain.JSON:
        print_json(found.to_dict())
    else:
        Console().print(render_run(found, now=session.now()))


@command(pipeline, "cancel", examples=["modelplane pipeline cancel quality-7"])
def cancel(session: Session, *, name: Run, reason: Reason = "") -> None:
    """End what a run has running, and start nothing more of it."""
    cancelled = session.client.cancel_run(name, reason=reason)
    typer.echo(f"{cancelled.metadata.name} is being cancelled")


@command(
    pipeline,
    "logs",
    examples=["modelplane pipeline logs quality-7 accuracy"],
)
def logs(
    session: Session,
    *,
    name: Run,
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="Name of the stage.")],
    lines: Annotated[
        int, typer.Option("--lines", "-n", metavar="COUNT", min=0, help="From the end, of each.")
    ] = 200,
) -> None:
    """Show what the jobs of a stage wrote, from the log files of this machine.

    The logs of a result that was reused are those of the run that made it.
    """
    found = session.client.get(GateRun, name)
    status = next((s for s in stages_of(found) if s.name == stage), None)
    if status is None:
        known = [s.name for s in found.spec.stages]
        raise NotFound(f"{name} has no stage {stage!r}", hint=suggest(stage, known))
    if status.cached:
        raise NotFound(
            f"{stage} did not run in {name}: its result was reused",
            hint=f"modelplane pipeline report {name} names the run that made it",
        )
    directory = load_settings(state=session.state).paths.logs
    started = [job for job in status.jobs if job]
    files = [log for job in started for log in find_logs(directory, job, found.status.environment)]
    if not files:
        hint = status.message or "it has not started"
        raise NotFound(f"no log of {stage} in {directory}", hint=hint)
    for log in files:
        if len(files) > 1:
            typer.echo(f"==> {log.name} <==")
        typer.echo(read_tail(log.path, lines), nl=False)


@command(
    pipeline,
    "explain-cache",
    examples=["modelplane pipeline explain-cache quality fraud@1.2.0"],
)
def explain_cache(
    session: Session, *, name: Pipeline, version: Version, output: PlainOutput = Plain.TEXT
) -> None:
    """Say which stages would be reused for a version, and why the others would run."""
    stages = session.client.explain_cache(name, version)
    if output is Plain.JSON:
        print_json(
            [
                {
                    "stage": s.stage, "check": s.check, "hit": s.hit, "reason": s.reason,
                    "run": s.run, "madeAt": s.made_at.isoformat() if s.made_at else None,
                    "passed": s.passed, "changed": list(s.changed), "inputs": s.inputs,
                }
                for s in stages
            ]
        )  # fmt: skip
        return
    now = session.now()
    rows = [
        [
            stage.stage,
            stage.check,
            "reused" if stage.hit else "runs",
            age(stage.made_at, now) if stage.made_at else "",
            stage.reason,
        ]
        for stage in stages
    ]
    print_table(["STAGE", "CHECK", "CACHE", "AGE", "WHY"], rows)


@command(
    pipeline,
    "report",
    examples=[
        "modelplane pipeline report quality-7 --format html -f quality-7.html",
        "modelplane pipeline report quality-7 --format junit -f junit.xml",
        "modelplane pipeline report quality-7",
    ],
)
def report(
    session: Session,
    *,
    name: Run,
    format: Annotated[
        ReportKind, typer.Option("--format", metavar="json|junit|html", help="How to write it.")
    ] = ReportKind.JSON,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Where to; else stdout.")
    ] = None,
) -> None:
    """Write everything that a run found, as JSON, JUnit XML or one HTML page."""
    text = session.client.gate_report(name, format.value)
    if file is None:
        typer.echo(text)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidResource(f"{file} cannot be written: {error.strerror}") from None
    remark(f"wrote {file}")


def _follow(session: Session, name: str, timeout: str, output: Plain) -> None:
    """Follow a run to its end; exit with 1 when it did not pass."""
    runs = follow_run(session, name, timeout=timeout)
    console = Console()
    if output is Plain.TEXT and console.is_terminal:
        last = _follow_live(session, console, runs)
    else:
        last = _follow_lines(runs, output)
    if last is None or last.status.phase != "Passed":
        raise typer.Exit(1)


def _follow_live(session: Session, console: Console, runs: Iterator[GateRun]) -> GateRun | None:
    last = None
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        for last in runs:
            live.update(render_run(last, now=session.now()), refresh=True)
    return last


def _follow_lines(runs: Iterator[GateRun], output: Plain) -> GateRun | None:
    """Print what changes: a line for each stage, or with JSON the whole run."""
    last: GateRun | None = None
    said: dict[str, str] = {}
    for now in runs:
        if output is Plain.JSON:
            if last is None or now != last:
                print_json_line(now.to_dict())
        else:
            lines = describe_stages(now)
            for stage, line in lines.items():
                if said.get(stage) != line:
                    typer.echo(line)
            said = lines
        last = now
    if last is not None and output is Plain.TEXT:
        typer.echo(f"{last.metadata.name}  {last.status.phase}  {last.status.message}")
    return last
