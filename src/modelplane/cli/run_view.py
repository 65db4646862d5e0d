"""A run of a pipeline as people see it. Pure: a run in, text or something that rich prints out.

Called by ``pipeline show`` and ``pipeline run``.
"""

from __future__ import annotations

from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from modelplane.cli import words
from modelplane.resources.gate_run import GateRun, StageStatus

_STYLES = {
    "Passed": "green", "Failed": "bold red", "Errored": "bold red", "Running": "bold cyan",
    "Skipped": "yellow", "Cancelled": "yellow", "Waiting": "dim", "Pending": "dim",
}  # fmt: skip


def render_run(run: GateRun, *, now: datetime) -> RenderableType:
    """Return the whole view of one run; `now` is for times, in UTC."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for head in ("STAGE", "CHECK", "PHASE", "TIME", "MESSAGE"):
        table.add_column(head, overflow="fold", no_wrap=head != "MESSAGE")
    checks = {stage.name: stage.check for stage in run.spec.stages}
    for stage in stages_of(run):
        phase = Text(stage.phase, style=_STYLES.get(stage.phase, ""))
        table.add_row(stage.name, checks[stage.name], phase, took(stage, now), told(stage))
    parts: list[RenderableType] = [_head(run, now), Text(), table]
    for stage in run.status.stages:
        if stage.log_tail:
            parts += [Text(), Text(f"the end of the log of {stage.name}:", style="dim")]
            parts.append(Text(stage.log_tail.rstrip()))
    return Group(*parts)


def _head(run: GateRun, now: datetime) -> Text:
    spec, status = run.spec, run.status
    revision = spec.candidate.revision
    head = Text.assemble((f"{revision.model}@{revision.version}", "bold"), " in ")
    head.append(f"{run.metadata.name}: ")
    head.append(status.phase, style=_STYLES.get(status.phase, ""))
    if status.started_at is not None:
        seconds = ((status.finished_at or now) - status.started_at).total_seconds()
        head.append(f"  {words.duration(seconds)}", style="dim")
    if spec.champion is not None:
        head.append(f"\ncompared with {spec.champion.revision.version}", style="dim")
    head.append(f"\n{spec.trigger}, {spec.subject.name}", style="dim")
    if spec.reason:
        head.append(f": {spec.reason}", style="dim")
    if status.message:
        head.append(f"\n{status.message}")
    return head


def stages_of(run: GateRun) -> tuple[StageStatus, ...]:
    """Return where each stage is, also before the run has begun."""
    if run.status.stages:
        return run.status.stages
    return tuple(StageStatus(name=stage.name) for stage in run.spec.stages)


def took(stage: StageStatus, now: datetime) -> str:
    """Return how long a stage has taken so far, or that it was reused."""
    if stage.cached:
        return "reused"
    if stage.started_at is None:
        return words.NOTHING
    return words.duration(((stage.finished_at or now) - stage.started_at).total_seconds())


def told(stage: StageStatus) -> str:
    """Return what a stage has to say, with its shards and attempts where there are several."""
    parts = [stage.message]
    if stage.phase == "Running" and len(stage.jobs) > 1:
        parts.append(f"{len(stage.jobs)} shards")
    if stage.phase == "Running" and stage.attempt > 1:
        parts.append(f"attempt {stage.attempt}")
    return "; ".join(part for part in parts if part)


def describe_stages(run: GateRun) -> dict[str, str]:
    """Return one line for each stage: what to say when it changes."""
    lines = {}
    for stage in stages_of(run):
        reused = " (reused)" if stage.cached else ""
        message = told(stage).partition("\n")[0]
        lines[stage.name] = f"{stage.name}  {stage.phase}{reused}  {message}".rstrip()
    return lines
