"""Whom an alert concerns: silences, and when people are told. Pure.

Called by `controllers.alert_notices`, for alerts from wherever they come. People are told when an
alert fires and when it is over, once each; of one that flaps once more, and then not until it
rests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from modelplane.decisions.silence_delivery import END_ANNOTATION
from modelplane.resources.alerting import Alert, AlertStatus, Silence, SilenceSpec, SilenceStatus
from modelplane.resources.notification import Event, EventType

KEEP_TAKEN = timedelta(days=30)
"""How long a Silence that was made in an Alertmanager is kept when it is over."""


def kept_until(silence: Silence) -> datetime | None:
    """Return when a silence is forgotten; None: somebody declared it here, and removes it."""
    is_taken = END_ANNOTATION in silence.metadata.annotations
    return silence.spec.ends_at + KEEP_TAKEN if is_taken else None


def silence_status(silence: Silence, now: datetime) -> SilenceStatus:
    """Return the status of a silence now."""
    return silence.status.with_(phase=_phase(silence.spec, now))


def next_turn_s(silence: Silence, now: datetime) -> float | None:
    """Return after how many seconds a silence begins, ends or is forgotten; None: never."""
    spec = silence.spec
    starts_at = spec.starts_at if spec.ends_at > now else None
    turns = [
        at for at in (starts_at, spec.ends_at, kept_until(silence)) if at is not None and at > now
    ]
    return (min(turns) - now).total_seconds() if turns else None


def find_silence(alert: Alert, silences: Iterable[Silence], now: datetime) -> str:
    """Return the name of the silence that holds for an alert; the one that ends last."""
    holding = [
        silence
        for silence in silences
        if _phase(silence.spec, now) == "Active"
        and all(matcher.matches(alert.spec.labels) for matcher in silence.spec.matchers)
    ]
    last = max(holding, key=lambda one: (one.spec.ends_at, one.metadata.name), default=None)
    return last.metadata.name if last is not None else ""


def decide_notice(
    alert: Alert, silences: Iterable[Silence], now: datetime
) -> tuple[AlertStatus, Sequence[Event]]:
    """Return an alert's status with what people have been told, and what they are to be told.

    Several changes may have passed since the alert was last looked at. One that fired and is over
    meanwhile is told of nevertheless, unless it was silenced.
    """
    silence = find_silence(alert, silences, now)
    status = alert.status.with_(silenced_by=silence)
    if status.phase == "Firing":
        is_told = status.notified_episode == status.episode
        is_new = not is_told or (status.flapping and status.notified == "firing")
        if silence or not is_new:
            return status, ()
        told = "flapping" if status.flapping else "firing"
        status = status.with_(notified_episode=status.episode, notified=told)
        return status, (_event(alert, "alert.firing", status.fired_at or now),)
    fired = _last_fired(status)
    begun_at, over_at = _times(status, now)
    over = _event(alert, "alert.resolved", over_at)
    if status.notified in {"firing", "flapping"}:
        told_of = max(fired, status.notified_episode)
        status = status.with_(notified_episode=told_of, notified="resolved")
        return status, () if silence else (over,)
    if fired > status.notified_episode:
        status = status.with_(notified_episode=fired, notified="resolved")
        if silence or alert.status.silenced_by:
            return status, ()
        return status, (_event(alert, "alert.firing", begun_at), over)
    return status, ()


def _last_fired(status: AlertStatus) -> int:
    """Return the number of the last episode that fired; 0: none that is known."""
    episode = status.episode
    for change in reversed(status.history):
        if change.phase == "Firing":
            return episode
        episode -= change.phase == "Pending"  # each begins with it
    return 0


def _times(status: AlertStatus, now: datetime) -> tuple[datetime, datetime]:
    """Return when the alert fired last, and when that was over."""
    over_at = now
    for change in reversed(status.history):
        if change.phase == "Firing":
            return change.at, over_at
        if change.phase == "Resolved":
            over_at = change.at
    return over_at, over_at


def _phase(spec: SilenceSpec, now: datetime) -> str:
    if spec.ends_at <= now:
        return "Expired"
    return "Pending" if spec.starts_at is not None and spec.starts_at > now else "Active"


def _event(alert: Alert, type: EventType, at: datetime) -> Event:
    spec, status = alert.spec, alert.status
    texts = [status.annotations.get("summary", ""), status.annotations.get("description", "")]
    message = " ".join(text for text in texts if text) or f"the condition of {spec.alert} holds"
    if type == "alert.resolved":
        message = status.closing or status.annotations.get("summary", "") or "it is over"
    if status.flapping:
        message = f"{message} (it comes and goes: you are told again when it rests)"
    data = {
        "alert": alert.metadata.name,
        "rule": spec.alert,
        "rules": spec.rules,
        "labels": dict(spec.labels),
        "annotations": dict(status.annotations),
        "value": status.value,
        "episode": status.episode,
        "flapping": status.flapping,
        "activeAt": status.active_at.isoformat() if status.active_at else None,
        "closing": status.closing,
        "generatorURL": status.generator_url,
        "message": message,
    }
    return Event(
        type=type,
        subject=str(alert.key),
        environment=spec.labels.get("environment") or None,
        team=spec.labels.get("team", ""),
        at=at,
        data=data,
    )
