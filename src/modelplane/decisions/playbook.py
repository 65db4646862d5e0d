"""A run of a playbook: which step is next, whether it helped, how it ends. Pure.

Called by `controllers.playbooks` each time something about a run may have changed. One decision
moves a run by one transition, and everything that the transition writes belongs into the
transaction that writes the status: so a crash before or after any commit leaves a run that goes
on where it is. What the steps do is in `playbook_steps`; whether a run begins at all in
`playbook_starts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from modelplane.decisions.playbook_outcomes import Act, AnyResource, Done, Refused, World
from modelplane.decisions.playbook_steps import abandoned, plan, progress
from modelplane.resources.alerting import Alert
from modelplane.resources.notification import Event, EventType
from modelplane.resources.playbook import (
    PlaybookRun,
    PlaybookRunStatus,
    PlaybookStep,
    StepPhase,
    StepStatus,
)
from modelplane.resources.rollout import Rollout

LOOK_AGAIN_S = 0.5
"""How soon to look again at what has begun, seconds."""

POST_AGAIN_S = 5.0
"""How soon to post again what was not taken, seconds."""

_MAX_MESSAGE = 2000


class RunReason(StrEnum):
    """Why a run is as it is; part of the API."""

    STEP = "Step"
    VERIFYING = "Verifying"
    RECOVERED = "Recovered"
    UNNEEDED = "Unneeded"
    DRY_RUN = "DryRun"
    STEP_FAILED = "StepFailed"
    TIMED_OUT = "TimedOut"
    SAID_NO = "SaidNo"
    NOT_RECOVERED = "NotRecovered"
    VERIFICATION_REFUSED = "VerificationRefused"
    CANCELLED = "Cancelled"


@dataclass(frozen=True, slots=True)
class Observed:
    """What a run's next transition depends on.

    Attributes
    ----------
    worlds
        What the steps are about, by the step's name: the present step's; all in a dry run.
    alert
        As it is now; None when it is gone.
    verified
        Whether the verification's expression holds; text: why it can never be answered; None:
        nobody answers now, or there is none.
    failed_before
        Finished runs of the same playbook about the same alert that failed.
    limited
        Rollouts whose weight the run limits.
    first
        The run that one which has not begun waits for.
    team
        Whose the model is.
    """

    worlds: Mapping[str, World] = field(default_factory=dict)
    alert: Alert | None = None
    verified: bool | str | None = None
    failed_before: Sequence[PlaybookRun] = ()
    limited: Sequence[Rollout] = ()
    first: PlaybookRun | None = None
    team: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """One transition of a run.

    Attributes
    ----------
    status
        The run's new status; the present one when nothing changes.
    action
        What it is called in the audit log.
    writes
        Resources to create or update with it.
    events
        What people are told.
    requeue_after_s
        When to look again, whatever happens.
    """

    status: PlaybookRunStatus
    action: str = ""
    writes: tuple[AnyResource, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after_s: float | None = None


def decide(run: PlaybookRun, observed: Observed, now: datetime) -> Decision:
    """Return the next transition of a run.

    The order is fixed: finished → cancelled → not needed any more → dry run → the present step →
    verification.

    Parameters
    ----------
    run
        As stored.
    observed
        The world around it, read just before.
    now
        The time, UTC.
    """
    if run.finished:
        return Decision(run.status)
    if run.spec.cancelled:
        return _end(
            run, observed, now, "Cancelled", reason=RunReason.CANCELLED, message="cancelled by hand"
        )
    events: tuple[Event, ...] = ()
    if run.status.phase == "Pending":
        if _is_unneeded(run, observed):
            message = "the alert ended before the first step"
            return _end(
                _begun(run), observed, now, "Succeeded", reason=RunReason.UNNEEDED, message=message
            )
        if observed.first is not None:
            message = f"waiting for {observed.first.metadata.name}: one at a time"
            status = run.status.with_(message=message)
            return Decision(status, "playbook.wait", requeue_after_s=LOOK_AGAIN_S)
        run = _begun(run)
        events = (_event(run, "playbook.started", observed, now, f"{len(run.spec.steps)} steps"),)
    if run.spec.dry_run:
        return _rehearse(run, observed, now)
    step = present_step(run)
    if step is None:
        return _verify(run, observed, now)
    if _state(run, step).phase == "Waiting":
        decided = _begin_step(run, step, observed, now)
    else:
        decided = _continue_step(run, step, observed, now)
    return Decision(
        decided.status,
        decided.action,
        decided.writes,
        (*events, *decided.events),
        decided.requeue_after_s,
    )


def present_step(run: PlaybookRun) -> PlaybookStep | None:
    """Return the step that runs or is next; None when all are over."""
    phases = {state.name: state.phase for state in run.status.steps}
    for step in run.spec.steps:
        if phases.get(step.name, "Waiting") in {"Waiting", "Running"}:
            return step
    return None


def failed_step(run: PlaybookRun) -> str:
    """Return the step that ended a run; empty when none did."""
    stopping = {step.name for step in run.spec.steps if step.on_failure == "stop"}
    failed = [s.name for s in run.status.steps if s.phase == "Failed" and s.name in stopping]
    return failed[0] if failed else ""


def _begun(run: PlaybookRun) -> PlaybookRun:
    steps = tuple(StepStatus(name=step.name) for step in run.spec.steps)
    return run.with_status(phase="Running", steps=steps)


def _is_unneeded(run: PlaybookRun, observed: Observed) -> bool:
    """Whether an alert that began a run by itself is over."""
    by_itself = not run.spec.subject and bool(run.spec.alert)
    return by_itself and _is_over(run, observed.alert)


def _is_over(run: PlaybookRun, alert: Alert | None) -> bool:
    """Whether the alert's own condition is gone, or holds anew since."""
    if alert is None or alert.status.episode != run.spec.episode:
        return True
    return alert.status.phase == "Resolved" or alert.status.missing_since is not None


# -- steps ----------------------------------------------------------------------------------


def _begin_step(
    run: PlaybookRun, step: PlaybookStep, observed: Observed, now: datetime
) -> Decision:
    planned = plan(step, run, observed.worlds.get(step.name, World()), now)
    run = run.with_status(first_step_at=run.status.first_step_at or now)
    if isinstance(planned, Refused):
        return _fail_step(
            run, step, observed, now, message=planned.message, reason=RunReason(planned.reason)
        )
    if isinstance(planned, Done):
        return _finish_step(run, step, planned.message, now)
    state = _state(run, step).with_(
        phase="Running", message=planned.message, effect=planned.effect, started_at=now
    )
    events: tuple[Event, ...] = ()
    if step.kind == "askPerson":
        question = planned.message.removeprefix("ask: ")
        events = (_event(run, "playbook.question", observed, now, question, step=step.name),)
    return Decision(
        _with_state(run, state, planned.message),
        f"playbook.{step.kind}",
        planned.writes,
        events,
        LOOK_AGAIN_S,
    )


def _continue_step(
    run: PlaybookRun, step: PlaybookStep, observed: Observed, now: datetime
) -> Decision:
    state, world = _state(run, step), observed.worlds.get(step.name, World())
    reached = progress(step, run, world)
    if isinstance(reached, Done):
        return _finish_step(run, step, reached.message, now)
    if isinstance(reached, Refused):
        return _fail_step(
            run, step, observed, now, message=reached.message, reason=RunReason(reached.reason)
        )
    late_at = (state.started_at or now) + timedelta(seconds=step.timeout_s)
    if now >= late_at:
        message = f"not done within {step.timeout_s:g} s: {reached.message}"
        return _fail_step(run, step, observed, now, message=message, reason=RunReason.TIMED_OUT)
    status = _with_state(run, state.with_(message=reached.message), run.status.message)
    # To look at a webhook is to post again.
    after_s = POST_AGAIN_S if step.kind == "callWebhook" else LOOK_AGAIN_S
    return Decision(status, "playbook.wait", requeue_after_s=after_s)


def _finish_step(run: PlaybookRun, step: PlaybookStep, message: str, now: datetime) -> Decision:
    before = _state(run, step)
    state = before.with_(
        phase="Succeeded",
        message=message[:_MAX_MESSAGE],
        started_at=before.started_at or now,
        finished_at=now,
    )
    return Decision(_with_state(run, state, message), "playbook.step-done", requeue_after_s=0.0)


def _fail_step(
    run: PlaybookRun,
    step: PlaybookStep,
    observed: Observed,
    now: datetime,
    *,
    message: str,
    reason: RunReason,
) -> Decision:
    before = _state(run, step)
    state = before.with_(
        phase="Failed",
        message=message[:_MAX_MESSAGE],
        started_at=before.started_at or now,
        finished_at=now,
    )
    failed = run.with_(status=_with_state(run, state, message))
    if step.on_failure == "continue":
        writes = abandoned(observed.worlds.get(step.name, World()))
        return Decision(failed.status, "playbook.step-failed", writes, requeue_after_s=0.0)
    return _end(
        failed, observed, now, "Failed", reason=reason, message=f"step {step.name}: {message}"
    )


def _state(run: PlaybookRun, step: PlaybookStep) -> StepStatus:
    found = (state for state in run.status.steps if state.name == step.name)
    return next(found, StepStatus(name=step.name))


def _with_state(run: PlaybookRun, state: StepStatus, message: str) -> PlaybookRunStatus:
    steps = tuple(state if before.name == state.name else before for before in run.status.steps)
    message = message[:_MAX_MESSAGE]
    return run.status.with_(steps=steps, reason=RunReason.STEP.value, message=message)


def _rehearse(run: PlaybookRun, observed: Observed, now: datetime) -> Decision:
    """End a dry run: each step says what it would do."""
    states = []
    for step in run.spec.steps:
        planned = plan(step, run, observed.worlds.get(step.name, World()), now)
        words = {Act: "would ", Done: "nothing to do: ", Refused: "would fail: "}[type(planned)]
        phase: StepPhase = "Failed" if isinstance(planned, Refused) else "Skipped"
        message = (words + planned.message)[:_MAX_MESSAGE]
        states.append(StepStatus(name=step.name, phase=phase, message=message))
    run = run.with_status(steps=tuple(states))
    message = "a dry run: nothing was done"
    return _end(run, observed, now, "Succeeded", reason=RunReason.DRY_RUN, message=message)


# -- verification and end -------------------------------------------------------------------


def _verify(run: PlaybookRun, observed: Observed, now: datetime) -> Decision:
    verify, status = run.spec.verify, run.status
    since = status.verifying_at or now
    status = status.with_(phase="Verifying", verifying_at=since, reason=RunReason.VERIFYING.value)
    if isinstance(observed.verified, str):
        run = run.with_(status=status)
        reason = RunReason.VERIFICATION_REFUSED
        return _end(run, observed, now, "Failed", reason=reason, message=observed.verified)
    if verify.expr is not None:
        holds, wanted = observed.verified is True, verify.expr
    else:
        holds = not run.spec.alert or _is_over(run, observed.alert)
        wanted = "the alert's condition to be gone"
    if holds:
        held_since = status.held_since or now
        status = status.with_(held_since=held_since, message=f"{wanted}: holds")
        left_s = verify.for_s - (now - held_since).total_seconds()
        if left_s <= 0:
            run = run.with_(status=status.with_(recovered_at=held_since))
            return _end(
                run,
                observed,
                now,
                "Succeeded",
                reason=RunReason.RECOVERED,
                message="recovery verified",
            )
        return Decision(status, "playbook.verify", requeue_after_s=min(left_s, LOOK_AGAIN_S))
    status = status.with_(held_since=None, message=f"waiting for {wanted}"[:_MAX_MESSAGE])
    if now - since >= timedelta(seconds=verify.timeout_s):
        message = f"not recovered within {verify.timeout_s:g} s: {wanted}"
        run = run.with_(status=status)
        return _end(run, observed, now, "Failed", reason=RunReason.NOT_RECOVERED, message=message)
    return Decision(status, "playbook.verify", requeue_after_s=LOOK_AGAIN_S)


def _end(
    run: PlaybookRun,
    observed: Observed,
    now: datetime,
    phase: Literal["Succeeded", "Failed", "Cancelled"],
    *,
    reason: RunReason,
    message: str,
) -> Decision:
    """End a run: nothing that it made goes on, its limits are gone, and somebody knows."""
    present = present_step(run)
    name = failed_step(run) or (present.name if present is not None else "")
    world = observed.worlds.get(name, World())
    steps = tuple(_stopped(state, now, message) for state in run.status.steps)
    status = run.status.with_(
        phase=phase,
        reason=reason.value,
        message=message[:_MAX_MESSAGE],
        steps=steps,
        finished_at=now,
        escalated=phase == "Failed",
    )
    ended = run.with_(status=status)
    if phase == "Failed":
        ended = ended.with_status(repeats=_find_same(ended, observed.failed_before, now))
    # What was limited because of the alert goes on when it is over; else a person decides.
    released = tuple(
        rollout.with_spec(limit=None, paused=rollout.spec.paused or phase != "Succeeded")
        for rollout in observed.limited
    )
    closed = _close_alert(ended, observed.alert) if phase == "Succeeded" else ()
    unfinished = abandoned(world) if phase != "Succeeded" else ()
    return Decision(
        ended.status,
        f"playbook.{phase.lower()}",
        (*unfinished, *released, *closed),
        _tell_end(ended, observed, now),
    )


def _stopped(state: StepStatus, now: datetime, message: str) -> StepStatus:
    if state.phase == "Running":
        return state.with_(phase="Failed", message=message[:_MAX_MESSAGE], finished_at=now)
    return state.with_(phase="Skipped") if state.phase == "Waiting" else state


def _find_same(run: PlaybookRun, before: Sequence[PlaybookRun], now: datetime) -> str:
    """Return the newest run that failed like this one, within the window; empty without one."""
    window = timedelta(seconds=run.spec.loop_window_s)
    way = run.spec.alert, failed_step(run), run.status.reason
    same = [
        other
        for other in before
        if other.metadata.name != run.metadata.name
        and other.status.finished_at is not None
        and now - other.status.finished_at <= window
        and (other.spec.alert, failed_step(other), other.status.reason) == way
    ]
    newest = max(same, key=lambda other: other.status.finished_at or now, default=None)
    return newest.metadata.name if newest is not None else ""


def _close_alert(run: PlaybookRun, alert: Alert | None) -> tuple[Alert, ...]:
    """Return the alert that says what was done about it; nothing where that is another episode."""
    is_same = alert is not None and alert.status.episode == run.spec.episode
    if alert is None or not is_same or run.spec.dry_run:
        return ()
    return (alert.with_status(closing=describe_deeds(run)),)


def describe_deeds(run: PlaybookRun) -> str:
    """Return what a run did, in words.

    Of steps that were skipped nothing is said.
    """
    done = [f"{s.name}: {s.message}" for s in run.status.steps if s.phase == "Succeeded"]
    failed = [f"{s.name} failed: {s.message}" for s in run.status.steps if s.phase == "Failed"]
    deeds = "; ".join([*done, *failed]) or "no step was needed"
    return f"playbook run {run.metadata.name}: {deeds}; {run.status.message}"[:_MAX_MESSAGE]


# -- telling --------------------------------------------------------------------------------


def _tell_end(run: PlaybookRun, observed: Observed, now: datetime) -> tuple[Event, ...]:
    status = run.status
    if status.phase == "Cancelled":
        return ()
    if status.phase == "Succeeded":
        words = describe_deeds(run) if not run.spec.dry_run else status.message
        return (_event(run, "playbook.done", observed, now, words),)
    message = f"{status.message}; it is for a person now"
    if status.repeats:
        message = (
            f"{status.message}, as in {status.repeats} before: no other run begins until the "
            "alert has ended or somebody runs the playbook"
        )
    return (_event(run, "playbook.escalated", observed, now, message),)


def _event(
    run: PlaybookRun,
    type: EventType,
    observed: Observed,
    now: datetime,
    message: str,
    *,
    step: str = "",
) -> Event:
    facts: dict[str, Any] = {
        "playbook": run.spec.playbook,
        "run": run.metadata.name,
        "step": step,
        "alert": run.spec.alert,
        "labels": dict(run.spec.labels),
        "value": run.spec.value,
        "dryRun": run.spec.dry_run or None,
        "message": message[:_MAX_MESSAGE],
    }
    return Event(
        type=type,
        subject=str(run.key),
        environment=run.spec.labels.get("environment"),
        team=observed.team,
        at=now,
        data={name: value for name, value in facts.items() if value not in (None, "")},
    )


def legs_of(status: PlaybookRunStatus) -> dict[str, float | None]:
    """Return how long each leg of the way took, seconds; None for those not gone.

    ``alert``: from the breach until the alert fired; ``begin``: from then until the first step;
    ``repair``: until the last step was done; ``recovery``: until the condition was gone;
    ``total``: from the breach until then.
    """
    return {
        "alert": _between(status.breach_at, status.fired_at),
        "begin": _between(status.fired_at, status.first_step_at),
        "repair": _between(status.first_step_at, status.verifying_at),
        "recovery": _between(status.verifying_at, status.recovered_at),
        "total": _between(status.breach_at, status.recovered_at),
    }


def _between(begin: datetime | None, end: datetime | None) -> float | None:
    if begin is None or end is None:
        return None
    return max(0.0, (end - begin).total_seconds())
