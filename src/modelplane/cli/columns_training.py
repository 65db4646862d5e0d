"""What `get` shows of training: triggers and runs. Pure."""

from __future__ import annotations

from datetime import datetime

from modelplane.cli import words
from modelplane.cli.fillers import Row, columns
from modelplane.decisions.training import READY
from modelplane.resources.training import TrainingRun, TrainingTrigger


@columns(TrainingTrigger, "MODEL", "ON", "RUNS", "LAST RUN", "STATE")
def _trigger(resource: TrainingTrigger, _: datetime) -> Row:
    return [
        resource.spec.model,
        causes_of(resource),
        str(resource.status.runs),
        resource.status.last_run,
        state_of(resource),
    ]


@columns(TrainingRun, "MODEL", "CAUSE", "PHASE", "PROGRESS", "VERSIONS", "TOOK", "MESSAGE")
def _run(resource: TrainingRun, now: datetime) -> Row:
    spec, status = resource.spec, resource.status
    return [
        spec.model,
        spec.cause,
        status.phase,
        progress_of(resource),
        ",".join(status.versions),
        took(resource, now),
        status.message or status.progress_message or spec.detail,
    ]


def causes_of(trigger: TrainingTrigger) -> str:
    """Return in words on what a trigger begins runs; ``hand`` when only people start it."""
    causes = trigger.spec.on
    known = {
        "dataset": causes.dataset,
        "data": causes.data,
        "alerts": causes.alerts,
        "schedule": causes.schedule,
    }
    return ",".join(name for name, given in known.items() if given) or "hand"


def state_of(trigger: TrainingTrigger) -> str:
    """Return why a trigger begins no run now: ``Idle`` when nothing calls for one."""
    ready = next((c for c in trigger.status.conditions if c.type == READY), None)
    return ready.reason if ready is not None else ""


def progress_of(run: TrainingRun) -> str:
    """Return how far a run is, in percent; empty when it does not say."""
    share = run.status.progress
    return "" if share is None else f"{100 * share:.0f} %"


def took(run: TrainingRun, now: datetime) -> str:
    """Return how long a run takes or took; empty before it began."""
    status = run.status
    if status.started_at is None:
        return ""
    return words.duration(((status.finished_at or now) - status.started_at).total_seconds())
