"""A rollout as people see it. Pure: a rollout in, something that rich prints out.

Called by ``rollout status`` and, once a second, by ``rollout watch``; tested with snapshots. What
belongs to one strategy alone is in `rollout_details`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from modelplane.cli import words
from modelplane.cli.rollout_details import describe_details, describe_strategy, describe_warm
from modelplane.decisions.rollout import ramp_steps
from modelplane.resources.model_deployment import WarmRevision
from modelplane.resources.rollout import MetricReport, Rollout, SliceReport

_PHASE_STYLE = {
    "Promoted": "bold green",
    "Concluded": "bold green",
    "RolledBack": "bold red",
    "Failed": "bold red",
    "Paused": "bold yellow",
    "Superseded": "dim",
}
_VERDICT_STYLE = {"pass": "green", "harm": "bold red", "unavailable": "yellow", "undecided": ""}
_BAR_WIDTH = 60


def render_rollout(
    rollout: Rollout, *, now: datetime, warm: WarmRevision | None = None
) -> RenderableType:
    """Return the whole view of one rollout.

    Parameters
    ----------
    rollout
        With what is known of it now.
    now
        For ages, in UTC.
    warm
        What the deployment keeps running after the switch that the rollout was.
    """
    parts: list[RenderableType] = [_head(rollout, now)]
    if strategy := describe_strategy(rollout):
        parts.append(Text(strategy, style="dim"))
    parts += _bar(rollout)
    if rollout.status.metrics:
        parts += [Text(), _metric_table(rollout.status.metrics)]
    if rollout.status.slices:
        parts += [Text(), _slice_table(rollout.status.slices)]
    parts += [Text(), Text(_sentence(rollout)), *_counts(rollout)]
    parts += [Text(line, style="dim") for line in describe_details(rollout, now)]
    if line := describe_warm(rollout, warm, now):
        parts.append(Text(line))
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
        state.append(f"  {words.share(status)}", style="bold")
    if status.verdict:
        state.append(f"  {status.verdict}", style=_VERDICT_STYLE[status.verdict])
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
    shown_pct = status.mirror_pct or weight_pct
    filled = round(_BAR_WIDTH * shown_pct / 100)
    if shown_pct > 0:
        filled = max(1, filled)
    bar = Text("█" * filled, style="green" if status.phase == "Promoted" else "cyan")
    bar.append("░" * (_BAR_WIDTH - filled), style="dim")
    label = "copied" if status.mirror_pct else "candidate"
    bar.append(f"  {label} {words.percent(shown_pct)}")
    yield Text()
    yield bar
    steps = _planned_steps(rollout)
    if steps:
        line = Text("steps")
        for step in steps:
            done = step < weight_pct
            mark = "●" if step == weight_pct else "✓" if done else "·"
            line.append(f"   {step:.3g} {mark}", style="dim" if done else "")
        line.append("   promoted " + ("✓" if status.phase == "Promoted" else "·"))
        yield line


def _planned_steps(rollout: Rollout) -> tuple[float, ...]:
    """Return the steps that are planned, and those that were taken besides."""
    declared = rollout.status.strategy
    if declared is None or (declared.canary is None and declared.rolling is None):
        return ()
    planned = ramp_steps(declared.canary) if declared.canary is not None else ()
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


def _slice_table(slices: tuple[SliceReport, ...]) -> RenderableType:
    """Return the errors of each part of the users; harm to one rolls back for all."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("slice", style="bold")
    for header in ("stable", "candidate", "requests"):
        table.add_column(header, justify="right")
    table.add_column("verdict")
    for part in slices:
        verdict = "harm" if part.harm else "undecided"
        table.add_row(
            part.name,
            _rate(part.stable),
            _rate(part.candidate),
            f"{part.requests:,}",
            Text("harm" if part.harm else "no harm", style=_VERDICT_STYLE[verdict]),
        )
    return table


def _rate(value: float | None) -> str:
    return words.NOTHING if value is None else f"{value * 100:.3g} %"


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
