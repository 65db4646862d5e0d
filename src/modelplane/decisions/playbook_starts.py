"""Which alerts begin runs of which playbooks, and why others do not. Pure.

Called by `controllers.playbook_starts` when an alert, a playbook or a run has changed. A run and
what counts it are written in one transaction, one at a time, so that no limit is passed by two
who look at once. What runs do is decided by `playbook`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from modelplane.decisions.alert_notices import find_silence
from modelplane.decisions.playbook import RunReason
from modelplane.decisions.playbook_runs import find_busy, number_of
from modelplane.errors import Conflict, FieldError, InvalidResource, NotFound
from modelplane.resources.alerting import Alert, Matcher, Silence
from modelplane.resources.meta import Metadata
from modelplane.resources.notification import Event
from modelplane.resources.playbook import (
    HeldAlert,
    HeldReason,
    Playbook,
    PlaybookRun,
    PlaybookRunSpec,
    PlaybookRunStatus,
)

PLAYBOOK_LABEL = "playbook"
"""Label of a run: its playbook."""

_HOUR = timedelta(hours=1)
_TOLD: frozenset[HeldReason] = frozenset({"TooOften", "BudgetSpent"})
"""Reasons for which people are asked; of the others they know, or time alone is missing."""


class Begin(NamedTuple):
    """A run that begins: to be created while playbook and alert are updated."""

    playbook: Playbook
    run: PlaybookRun
    alert: Alert


@dataclass(frozen=True, slots=True)
class Starts:
    """What to do about the alerts that fire.

    Attributes
    ----------
    begin
        The run that begins now; the others are decided about after it.
    playbooks
        Playbooks whose status says something new.
    events
        What people are told, once for each alert and reason.
    look_at
        When to decide again, whatever happens.
    """

    begin: Begin | None = None
    playbooks: tuple[Playbook, ...] = ()
    events: tuple[Event, ...] = ()
    look_at: datetime | None = None


class _Hold(NamedTuple):
    reason: HeldReason
    message: str
    until: datetime | None = None


@dataclass(slots=True)
class _Held:
    """What is held, by playbook, and until when."""

    alerts: dict[str, list[HeldAlert]] = field(default_factory=dict)
    until: list[datetime] = field(default_factory=list)


def decide_starts(
    alerts: Sequence[Alert],
    playbooks: Sequence[Playbook],
    runs: Sequence[PlaybookRun],
    *,
    silences: Sequence[Silence] = (),
    budget_per_hour: int,
    now: datetime,
) -> Starts:
    """Return the next run that begins, and what is held.

    Parameters
    ----------
    alerts
        All.
    playbooks, runs
        All.
    silences
        All: an alert may fire before its status says that it is silenced.
    budget_per_hour
        How many runs may begin in an hour, those of all playbooks together.
    now
        The time, UTC.
    """
    held = _Held()
    begin: Begin | None = None
    waiting = [
        alert for alert in alerts if needs_repair(alert) and not find_silence(alert, silences, now)
    ]
    for alert in sorted(waiting, key=lambda a: (a.status.fired_at or now, a.metadata.name)):
        playbook = choose_playbook(alert, playbooks)
        if playbook is None or _is_dealt_with(alert, playbook, runs):
            continue
        hold = _find_hold(alert, playbook, runs, budget_per_hour, now)
        if hold is None:
            begin = begin or _begin(alert, playbook, runs)
            continue
        if hold.until is not None:
            held.until.append(hold.until)
        of_playbook = held.alerts.setdefault(playbook.metadata.name, [])
        of_playbook.append(_note(alert, playbook, hold, now))
    changed, events = _report(playbooks, held.alerts, {a.metadata.name: a for a in waiting})
    if begin is not None:
        name = begin.playbook.metadata.name
        # The playbook is written once: with its run, and with what it says of others.
        own = next((p for p in changed if p.metadata.name == name), begin.playbook)
        counted = own.with_status(
            runs=begin.playbook.status.runs, last_run=begin.playbook.status.last_run
        )
        begin = begin._replace(playbook=counted)
        changed = tuple(p for p in changed if p.metadata.name != name)
    return Starts(begin, changed, events, min(held.until, default=None))


def needs_repair(alert: Alert) -> bool:
    """Whether an alert may begin a run: it fires, its condition holds, and it does not flap."""
    status = alert.status
    return status.phase == "Firing" and status.missing_since is None and not status.flapping


def choose_playbook(alert: Alert, playbooks: Sequence[Playbook]) -> Playbook | None:
    """Return the playbook that deals with an alert: of those that match the most exact one.

    That is the one with the most matchers, and of several the first by name: an alert is never
    dealt with by two.
    """
    labels = dict(alert.spec.labels)
    matching = [
        playbook
        for playbook in playbooks
        if not playbook.spec.suspended
        and all(matcher.matches(labels) for matcher in playbook.spec.matchers)
    ]
    return min(matching, key=lambda p: (-len(p.spec.matchers), p.metadata.name), default=None)


def _of_episode(alert: Alert, playbook: Playbook, runs: Sequence[PlaybookRun]) -> list[PlaybookRun]:
    """Return the runs about this episode of an alert; dry ones only where the playbook is dry."""
    return sorted(
        (
            run
            for run in runs
            if run.spec.alert == alert.metadata.name
            and run.spec.episode == alert.status.episode
            and run.spec.dry_run == playbook.spec.dry_run
        ),
        key=number_of,
    )


def _is_dealt_with(alert: Alert, playbook: Playbook, runs: Sequence[PlaybookRun]) -> bool:
    """Whether a run is under way, or one has ended otherwise than by failing.

    The condition of an alert that fires on for a while may have come back since it was found gone:
    that is to be dealt with anew.
    """
    of_episode = _of_episode(alert, playbook, runs)
    if any(not run.finished for run in of_episode):
        return True
    own = [run for run in of_episode if run.spec.playbook == playbook.metadata.name]
    if not own or own[-1].status.phase == "Failed":
        return False
    found_gone = {RunReason.UNNEEDED.value}
    if own[-1].spec.verify.expr is None:
        found_gone.add(RunReason.RECOVERED.value)
    return own[-1].status.reason not in found_gone


def _find_hold(
    alert: Alert,
    playbook: Playbook,
    runs: Sequence[PlaybookRun],
    budget_per_hour: int,
    now: datetime,
) -> _Hold | None:
    """Return why no run begins; None when one may."""
    name, limits = playbook.metadata.name, playbook.spec.limits
    own = [run for run in runs if run.spec.playbook == name]
    last = [r for r in _of_episode(alert, playbook, runs) if r.spec.playbook == name][-1:]
    if last and last[0].status.repeats:
        message = f"{last[0].metadata.name} failed as {last[0].status.repeats} did before it"
        return _Hold("FailedTwice", message)
    busy = find_busy(name, dict(alert.spec.labels), runs)
    if busy is not None:
        return _Hold("Busy", f"{busy.metadata.name} is under way")
    ended = [
        run.status.finished_at
        for run in own
        if run.status.finished_at is not None and not run.spec.dry_run
    ]
    cool_at = max(ended) + timedelta(seconds=limits.cooldown_s) if ended else now
    if now < cool_at:
        return _Hold("CoolingDown", f"until {cool_at:%Y-%m-%d %H:%M:%S} UTC", cool_at)
    room_at = _room_at(own, limits.per_hour, now)
    if room_at is not None:
        return _Hold("TooOften", f"{limits.per_hour} runs of {name} began in an hour", room_at)
    room_at = _room_at(runs, budget_per_hour, now)
    if room_at is not None:
        message = f"{budget_per_hour} runs of all playbooks began in an hour"
        return _Hold("BudgetSpent", message, room_at)
    return None


def _room_at(runs: Sequence[PlaybookRun], most: int, now: datetime) -> datetime | None:
    """Return when one more run fits into an hour again; None when it does now."""
    began = sorted(
        run.metadata.created_at
        for run in runs
        if run.metadata.created_at is not None
        and run.metadata.created_at > now - _HOUR
        and not run.spec.dry_run
    )
    too_many = len(began) - most
    return began[too_many] + _HOUR if too_many >= 0 else None


# -- runs -----------------------------------------------------------------------------------


def _begin(alert: Alert, playbook: Playbook, runs: Sequence[PlaybookRun]) -> Begin:
    playbook, run = make_run(playbook, runs, alert)
    return Begin(playbook, run, alert.with_status(run=run.metadata.name))


def make_run(
    playbook: Playbook,
    runs: Sequence[PlaybookRun],
    alert: Alert | None,
    *,
    labels: Mapping[str, str] | None = None,
    dry_run: bool = False,
    subject: str = "",
) -> tuple[Playbook, PlaybookRun]:
    """Return a playbook's next run, and the playbook that has counted it.

    Both belong into one transaction: two who begin a run at once cannot both succeed.

    Parameters
    ----------
    playbook
        As stored.
    runs
        All, or those of the playbook.
    alert
        What it is about; None: about `labels`.
    labels
        In place of an alert's.
    dry_run
        Whether it only says what it would do.
    subject
        Who asks; empty: the alert.
    """
    name, spec = playbook.metadata.name, playbook.spec
    # One that was deleted and declared anew goes on counting, for its runs are still there.
    taken = [number_of(run) for run in runs if run.spec.playbook == name]
    number = max([playbook.status.runs, *taken]) + 1
    found = dict(alert.spec.labels if alert is not None else labels or {})
    run = PlaybookRun(
        metadata=Metadata(name=f"{name}-{number}", labels={PLAYBOOK_LABEL: name}),
        spec=PlaybookRunSpec(
            playbook=name,
            steps=spec.steps,
            verify=spec.verify,
            alert=alert.metadata.name if alert is not None else "",
            episode=alert.status.episode if alert is not None else 0,
            labels=found,
            value=alert.status.value if alert is not None else None,
            loop_window_s=spec.limits.loop_window_s,
            dry_run=dry_run or spec.dry_run,
            subject=subject,
        ),
        status=PlaybookRunStatus(
            breach_at=alert.status.active_at if alert is not None else None,
            fired_at=alert.status.fired_at if alert is not None else None,
        ),
    )
    return playbook.with_status(runs=number, last_run=run.metadata.name), run


def start_by_hand(
    playbook: Playbook,
    runs: Sequence[PlaybookRun],
    alert: Alert | None,
    *,
    labels: Mapping[str, str] | None = None,
    dry_run: bool = False,
    subject: str,
) -> tuple[Playbook, PlaybookRun]:
    """Return the run that a person asks for; the parameters are those of `make_run`.

    A person is heard whatever the limits are, but for one: two runs never deal with one thing.

    Raises
    ------
    Conflict
        A run of the playbook, or about the same deployment, is under way.
    """
    about = dict(alert.spec.labels if alert is not None else labels or {})
    busy = find_busy(playbook.metadata.name, about, runs)
    if busy is not None and not dry_run and not playbook.spec.dry_run:
        name = busy.metadata.name
        raise Conflict(
            f"{playbook.metadata.name} does not begin: {name} is under way",
            hint=f"wait for it, or: modelplane playbook cancel {name}",
        )
    return make_run(playbook, runs, alert, labels=labels, dry_run=dry_run, subject=subject)


def choose_subject(
    playbook: Playbook,
    alerts: Sequence[Alert],
    name: str | None,
    labels: Mapping[str, str],
) -> tuple[Alert | None, dict[str, str]]:
    """Return what a run by hand is about: an alert, or labels in place of one.

    Parameters
    ----------
    playbook
        What is run.
    alerts
        All.
    name
        The alert that is meant; None: the one that fires and matches, when there is one.
    labels
        Given in place of an alert, besides those that the matchers fix.

    Whoever applied the playbook was asked for the rights to do what it does where its matchers
    hold, so that nobody runs it about anything else.

    Raises
    ------
    NotFound
        There is no such alert.
    InvalidResource
        Both are given, several alerts fire that match, or the matchers do not hold.
    """
    fixed = {m.name: m.value for m in playbook.spec.matchers if m.operator == "=" and m.value}
    if name is not None:
        if labels:
            raise InvalidResource("give an alert or labels, not both")
        found = next((alert for alert in alerts if alert.metadata.name == name), None)
        if found is None:
            hint = "see: modelplane alert list"
            raise NotFound(f"there is no alert {name[:80]!r}", hint=hint)
        about = dict(found.spec.labels)
        _check_matchers(playbook, about, playbook.spec.matchers)
        return found, about
    if labels:
        about = {**fixed, **labels}
        _check_matchers(playbook, about, [m for m in playbook.spec.matchers if m.name in about])
        return None, about
    matching = [
        alert
        for alert in alerts
        if alert.status.phase == "Firing"
        and all(m.matches(dict(alert.spec.labels)) for m in playbook.spec.matchers)
    ]
    if len(matching) > 1:
        names = ", ".join(alert.metadata.name for alert in matching[:10])
        raise InvalidResource(
            f"{len(matching)} alerts fire that {playbook.metadata.name} deals with; say which",
            [FieldError("alert", f"name one of: {names}")],
        )
    return (matching[0], dict(matching[0].spec.labels)) if matching else (None, fixed)


def _check_matchers(
    playbook: Playbook, labels: Mapping[str, str], matchers: Sequence[Matcher]
) -> None:
    failing = [m for m in matchers if not m.matches(dict(labels))]
    if failing:
        faults = [
            FieldError("labels", f'{m.name}{m.operator}"{m.value}" does not hold') for m in failing
        ]
        name = playbook.metadata.name
        raise InvalidResource(f"{name} is not for that: its matchers do not hold", faults)


# -- what is held ---------------------------------------------------------------------------


def _note(alert: Alert, playbook: Playbook, hold: _Hold, now: datetime) -> HeldAlert:
    """Return what is said of an alert: the same as before while nothing changes."""
    before = next(
        (
            held
            for held in playbook.status.held
            if (held.alert, held.episode, held.reason)
            == (alert.metadata.name, alert.status.episode, hold.reason)
        ),
        None,
    )
    if before is not None and before.message == hold.message:
        return before
    return HeldAlert(
        alert=alert.metadata.name,
        episode=alert.status.episode,
        reason=hold.reason,
        message=hold.message,
        since=before.since if before is not None else now,
    )


def _report(
    playbooks: Sequence[Playbook],
    held: Mapping[str, Sequence[HeldAlert]],
    alerts: Mapping[str, Alert],
) -> tuple[tuple[Playbook, ...], tuple[Event, ...]]:
    """Return the playbooks whose status changes, and what people are told of that."""
    changed: list[Playbook] = []
    events: list[Event] = []
    for playbook in playbooks:
        now_held = tuple(held.get(playbook.metadata.name, ()))
        before = playbook.status.held
        if now_held != before:
            changed.append(playbook.with_status(held=now_held))
        known = {(one.alert, one.episode, one.reason) for one in before}
        events += [
            _held_event(playbook, one, alerts[one.alert])
            for one in now_held
            if one.reason in _TOLD and (one.alert, one.episode, one.reason) not in known
        ]
    return tuple(changed), tuple(events)


def _held_event(playbook: Playbook, held: HeldAlert, alert: Alert) -> Event:
    labels = dict(alert.spec.labels)
    message = f"no run begins about {held.alert}: {held.message}; it is for a person now"
    return Event(
        type="playbook.escalated",
        subject=str(playbook.key),
        environment=labels.get("environment"),
        at=held.since,
        data={
            "playbook": playbook.metadata.name,
            "alert": held.alert,
            "labels": labels,
            "reason": held.reason,
            "message": message,
        },
    )
