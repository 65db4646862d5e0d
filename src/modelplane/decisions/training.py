"""When a model is trained anew: what a trigger saw, what that causes, when it may begin. Pure.

Called by `controllers.training_triggers`, and for runs that are started by hand or by a playbook by
`api.training` and `decisions.playbook_steps`. A cause begins one run. What comes close together is
one cause, and a cause waits until a run may begin: the one before is over, has cooled down, and
the day has room.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from modelplane.decisions.training_causes import Happened, Seen, next_at, observe
from modelplane.decisions.training_names import run_number
from modelplane.errors import Conflict
from modelplane.resources.meta import Condition, Metadata, Subject, set_condition
from modelplane.resources.training import (
    Cause,
    PendingCause,
    TrainingRun,
    TrainingRunSpec,
    TrainingTrigger,
)

READY = "Ready"
"""Condition of a trigger: whether it would begin a run now, and if not why."""

TRIGGER_LABEL = "modelplane.dev/training-trigger"
"""Label of a run: its trigger."""

KEPT_RUNS = 100
"""Runs of one trigger that registered nothing and are kept."""

LONGEST_DEBOUNCE = 5
"""Causes that never stop coming are one after so many times the debounce."""

_DAY = timedelta(days=1)
_MAX_DETAIL = 500
_MAX_ALSO = 20

WaitReason = Literal[
    "Idle", "Debouncing", "CoolingDown", "Busy", "BudgetSpent", "Suspended", "DataUnreadable"
]


class Decision(NamedTuple):
    """What a trigger does now.

    Attributes
    ----------
    trigger
        As it should be stored.
    run
        The run that begins, to be created in the transaction that stores the trigger.
    look_at
        When to decide again, whatever happens.
    """

    trigger: TrainingTrigger
    run: TrainingRun | None
    look_at: datetime | None


class _Wait(NamedTuple):
    """Why no run begins, and until when if that is known."""

    reason: WaitReason
    message: str
    until: datetime | None = None


def decide(
    trigger: TrainingTrigger, seen: Seen, runs: Sequence[TrainingRun], now: datetime
) -> Decision:
    """Take note of what was seen, and begin a run when there is a cause and it may.

    Parameters
    ----------
    trigger
        As it is stored.
    seen
        What there is now.
    runs
        Those of the trigger and of its model, finished or not.
    now
        The time, UTC.
    """
    status, happened = observe(trigger, seen, now)
    status = status.with_(pending=_merge(status.pending, happened, now))
    trigger = trigger.with_(status=status)
    wait = _wait(trigger, runs, now) if status.pending is not None else None
    run: TrainingRun | None = None
    if status.pending is not None and wait is None:
        pending = status.pending
        trigger, run = make_run(
            trigger, runs, pending.type, detail=pending.detail, data=pending.data
        )
    told = wait or _tell_idle(trigger, seen)
    condition = Condition(
        type=READY,
        status="True" if told.reason == "Idle" else "False",
        reason=told.reason,
        message=told.message,
        observed_generation=trigger.metadata.generation,
    )
    trigger = trigger.with_status(
        conditions=set_condition(trigger.status.conditions, condition, now)
    )
    moments = [m for m in (wait.until if wait else None, next_at(trigger, now)) if m is not None]
    return Decision(trigger, run, min(moments, default=None))


def _merge(
    pending: PendingCause | None, happened: Sequence[Happened], now: datetime
) -> PendingCause | None:
    """Return one cause for all: it is what came last, and holds the others in words."""
    for one in happened:
        also = list(pending.data.get("also", ())) if pending else []
        if pending is not None and pending.detail != one.detail:
            also.append(pending.detail)
        data = {**one.data, "also": also[-_MAX_ALSO:]} if also else one.data
        pending = PendingCause(
            type=one.type,
            detail=one.detail[:_MAX_DETAIL],
            since=pending.since if pending is not None else now,
            latest=now,
            data=data,
        )
    return pending


# -- whether it may begin -------------------------------------------------------------------


def _wait(trigger: TrainingTrigger, runs: Sequence[TrainingRun], now: datetime) -> _Wait | None:
    """Return why the pending cause has to wait, or None; the order is what people ask first."""
    spec, pending = trigger.spec, trigger.status.pending
    assert pending is not None
    if spec.suspended:
        return _Wait("Suspended", f"it is suspended; {pending.detail} begins a run once it is not")
    debounce = timedelta(seconds=spec.debounce_s)
    rests_at = min(pending.latest + debounce, pending.since + LONGEST_DEBOUNCE * debounce)
    if now < rests_at:
        return _Wait("Debouncing", f"{pending.detail}; waiting whether more comes", rests_at)
    busy = find_busy(trigger, runs)
    if busy is not None:
        return _Wait("Busy", f"{pending.detail}; {busy.metadata.name} is under way")
    ended = [r.status.finished_at for r in own_runs(trigger, runs) if r.status.finished_at]
    cool_at = max(ended) + timedelta(seconds=spec.cooldown_s) if ended else now
    if now < cool_at:
        return _Wait("CoolingDown", f"{pending.detail}; the last run ended just before", cool_at)
    room_at = budget_at(trigger, runs, now)
    if room_at is not None:
        message = f"{pending.detail}; {spec.per_day} runs began within a day, the most there may be"
        return _Wait("BudgetSpent", message, room_at)
    return None


def _tell_idle(trigger: TrainingTrigger, seen: Seen) -> _Wait:
    faults = [
        f"{watched.uri}: {sighted.fault}"
        for watched in trigger.spec.on.data
        if (sighted := seen.data.get(watched.uri)) is not None and sighted.fault
    ]
    if faults:
        return _Wait("DataUnreadable", "; ".join(faults)[:2000])
    if trigger.spec.suspended:
        return _Wait("Suspended", "it begins no runs by itself")
    return _Wait("Idle", "")


def own_runs(trigger: TrainingTrigger, runs: Iterable[TrainingRun]) -> list[TrainingRun]:
    """Return the runs of a trigger."""
    return [run for run in runs if run.spec.trigger == trigger.metadata.name]


def find_busy(trigger: TrainingTrigger, runs: Iterable[TrainingRun]) -> TrainingRun | None:
    """Return an unfinished run of the trigger or of its model: there is one at a time."""
    name, model = trigger.metadata.name, trigger.spec.model
    for run in runs:
        if not run.finished and (run.spec.trigger == name or run.spec.model == model):
            return run
    return None


def budget_at(
    trigger: TrainingTrigger, runs: Iterable[TrainingRun], now: datetime
) -> datetime | None:
    """Return when a run fits the budget of a day again; None when it does now.

    All runs of the trigger that began within the last 24 hours count, whoever began them.
    """
    began = sorted(
        run.metadata.created_at
        for run in own_runs(trigger, runs)
        if run.metadata.created_at is not None and run.metadata.created_at > now - _DAY
    )
    too_many = len(began) - trigger.spec.per_day
    return began[too_many] + _DAY if too_many >= 0 else None


# -- runs -----------------------------------------------------------------------------------


def make_run(
    trigger: TrainingTrigger,
    runs: Iterable[TrainingRun],
    cause: Cause,
    *,
    detail: str = "",
    data: Mapping[str, Any] | None = None,
    subject: str = "",
) -> tuple[TrainingTrigger, TrainingRun]:
    """Return a trigger's next run, and the trigger that has counted it.

    Both belong in one transaction: two who begin a run at once cannot both succeed.
    """
    name, spec = trigger.metadata.name, trigger.spec
    # One that was deleted and declared anew goes on counting, for its runs are still there.
    taken = (run_number(name, run.metadata.name) for run in runs)
    number = max([trigger.status.runs, *taken]) + 1
    run = TrainingRun(
        metadata=Metadata(
            name=f"{name}-{number}", labels={TRIGGER_LABEL: name, "model": spec.model}
        ),
        spec=TrainingRunSpec(
            trigger=name,
            model=spec.model,
            run=spec.run,
            timeout_s=spec.timeout_s,
            cause=cause,
            detail=detail[:_MAX_DETAIL],
            data=dict(data or {}),
            subject=subject,
        ),
    )
    # Whatever is pending is taken care of: the run trains on all there is.
    counted = trigger.with_status(runs=number, last_run=run.metadata.name, pending=None)
    return counted, run


def surplus(
    trigger: TrainingTrigger, runs: Iterable[TrainingRun], now: datetime
) -> tuple[TrainingRun, ...]:
    """Return the runs of a trigger that are not kept: old ones that registered nothing.

    The lineage of versions leads to the others; the budget counts those of the last day.
    """
    name = trigger.metadata.name
    vain = [run for run in own_runs(trigger, runs) if run.finished and not run.status.versions]
    vain.sort(key=lambda run: run_number(name, run.metadata.name))
    return tuple(
        run
        for run in vain[:-KEPT_RUNS]
        if run.metadata.created_at is None or now - run.metadata.created_at > _DAY
    )


def start_run(
    trigger: TrainingTrigger,
    runs: Sequence[TrainingRun],
    cause: Literal["hand", "playbook"],
    *,
    subject: Subject,
    detail: str = "",
    data: Mapping[str, Any] | None = None,
    now: datetime,
) -> tuple[TrainingTrigger, TrainingRun]:
    """Return the run that somebody asks for, and the trigger that has counted it.

    A person is heard even while the trigger is suspended, cools down or has spent its budget; a
    playbook is bound by the budget.

    Raises
    ------
    Conflict
        A run of the trigger or of its model is under way, or the budget is spent.
    """
    name = trigger.metadata.name
    busy = find_busy(trigger, runs)
    if busy is not None:
        raise Conflict(
            f"{name} does not begin a run: {busy.metadata.name} is under way for model "
            f"{busy.spec.model}, and there is one at a time",
            hint=f"wait for it, or: modelplane training cancel {busy.metadata.name}",
        )
    room_at = budget_at(trigger, runs, now) if cause == "playbook" else None
    if room_at is not None:
        raise Conflict(
            f"{name} does not begin a run: {trigger.spec.per_day} began within a day, the most "
            "there may be",
            hint=f"there is room from {room_at:%Y-%m-%d %H:%M} UTC on, or raise perDay",
        )
    return make_run(trigger, runs, cause, detail=detail, data=data, subject=subject.name)
