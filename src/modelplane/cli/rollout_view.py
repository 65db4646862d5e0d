"""A rollout as people see it. Pure: a rollout in, something that rich prints out.

Called by ``rollout status`` and, once a second, by ``rollout watch``; tested with snapshots.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from modelplane.cli import words
from modelplane.resources.rollout import MetricReport, Rollout

_PHASE_STYLE = {
    "Promoted": "bold green",
    "RolledBack": "bold red",
    "Failed": "bold red",
    "Paused": "bold yellow",
    "Superseded": "dim",
}
_VERDICT_STYLE = {"pass": "green", "harm": "bold red", "unavailable": "yellow", "undecided": ""}
_AUTO_STEPS = (1.0, 5.0, 25.0, 50.0)
_BAR_WIDTH = 60


def render_rollout(rollout: Rollout, *, now: datetime) -> RenderableType:
    """Return the whole view of one rollout; `now` is for ages, in UTC."""
    parts: list[RenderableType] = [_head(rollout, now), *_bar(rollout)]
    if rollout.status.metrics:
        parts += [Text(), _metric_table(rollout.status.metrics)]
    parts += [Text(), Text(_sentence(rollout)), *_counts(rollout)]
    return Group(*parts)


def _head(rollout: Rollout, now: datetime) -> RenderableType:
    status = rollout.status
    end = status.finished_at or now
    title = Text.assemble(
        (rollout.spec.deployment, "bold"),
        f" in {rollout.metadata.environment}: ",
        (words.versions(rollout), "bold"),
    )
    state = Text(status.phase, style=_PHASE_STYLE.get(status.phase, "bold cyan"))
    if status.phase in words.MOVING:
        state.append(f"  {words.percent(status.weight_pct)}", style="bold")
    if status.started_at is not None:
        since = words.duration((end - status.started_at).total_seconds())
        state.append(f"  {'in' if rollout.finished else 'for'} {since}", style="dim")
    if status.phase in words.MOVING and status.steps:
        step = words.duration((end - status.steps[-1].started_at).total_seconds())
        state.append(f"  (this step {step})", style="dim")
    name = Text(f"rollout {rollout.metadata.name}", style="dim", justify="right")
    grid = Table.grid(expand=True)
    grid.add_column(ratio=1)
    grid.add_column(justify="right")
    grid.add_row(title, name)
    grid.add_row(state, "")
    return grid


def _bar(rollout: Rollout) -> Iterator[RenderableType]:
    """Yield the split as a bar, and the steps below it."""
    status = rollout.status
    if status.phase in {"Pending", "Deploying"}:
        return
    weight_pct = 100.0 if status.phase == "Promoted" else status.weight_pct
    filled = round(_BAR_WIDTH * weight_pct / 100)
    if weight_pct > 0:
        filled = max(1, filled)
    bar = Text("█" * filled, style="green" if status.phase == "Promoted" else "cyan")
    bar.append("░" * (_BAR_WIDTH - filled), style="dim")
    bar.append(f"  candidate {words.percent(weight_pct)}")
    yield Text()
    yield bar
    steps = _planned_steps(rollout)
    if steps:
        line = Text("steps")
        for step in steps:
            done = step < weight_pct
            mark = "●" if step == weight_pct else "✓" if done else "·"
            line.append(f"   {step:g} {mark}", style="dim" if done else "")
        line.append("   promoted " + ("✓" if status.phase == "Promoted" else "·"))
        yield line


def _planned_steps(rollout: Rollout) -> tuple[float, ...]:
    """Return the steps that are planned, and those that were taken besides."""
    declared = rollout.status.strategy
    if declared is None or declared.canary is None:
        return ()
    planned = _AUTO_STEPS if declared.canary.steps == "auto" else declared.canary.steps
    taken = (step.weight_pct for step in rollout.status.steps)
    return tuple(sorted({*planned, *(weight for weight in taken if 0 < weight < 100)}))


def _metric_table(metrics: tuple[MetricReport, ...]) -> RenderableType:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("metric", style="bold")
    for header in ("stable", "candidate", "difference", "interval", "margin"):
        table.add_column(header, justify="right")
    table.add_column("verdict")
    table.add_column("needs", justify="right")
    for metric in metrics:
        needed = metric.requests_needed
        table.add_row(
            metric.name,
            words.metric_value(metric, metric.stable),
            words.metric_value(metric, metric.candidate),
            words.metric_difference(metric, metric.difference),
            words.metric_interval(metric),
            words.metric_difference(metric, metric.margin).removeprefix("+"),
            Text(metric.verdict, style=_VERDICT_STYLE[metric.verdict]),
            words.NOTHING if needed is None else f"{needed:,}",
        )
    return table


def _sentence(rollout: Rollout) -> str:
    text = rollout.status.message or rollout.status.reason or "nothing decided yet"
    return text[0].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _counts(rollout: Rollout) -> Iterator[RenderableType]:
    status = rollout.status
    if status.candidate_requests:
        counts = f"{status.candidate_requests:,} requests to the candidate"
        yield Text(f"{counts}, {status.failed_requests:,} failed", style="dim")
    if status.bad_replica:
        yield Text(f"replica {status.bad_replica} fails and the others do not", style="yellow")
    for condition in status.conditions:
        if trouble := words.trouble(condition):
            yield Text(trouble, style="yellow")
