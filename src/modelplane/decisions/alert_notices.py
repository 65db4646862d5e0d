"""Whom an alert concerns: silences, and when people are told. Pure.

Called by `controllers.alert_notices`, for alerts from wherever they come. People are told when an
alert fires and when it is over, once each; of one that flaps once more, and then not until it
rests.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from modelplane.resources.alerting import Alert, AlertStatus, Silence, SilenceSpec, SilenceStatus
from modelplane.resources.notification import Event, EventType


def silence_status(silence: Silence, now: datetime) -> SilenceStatus:
    """Return the status of a silence now."""
    return silence.status.with_(phase=_phase(silence.spec, now))


def next_turn_s(spec: SilenceSpec, now: datetime) -> float | None:
    """Return after how many seconds a silence begins or ends; None when it is over."""
    turns = [at for at in (spec.starts_at, spec.ends_at) if at is not None and at > now]
    if not turns or spec.ends_at <= now:
        return None
    return (min(turns) - now).total_seconds()


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
) -> tuple[AlertStatus, Event | None]:
    """Return an alert's status with what people have been told, and what they are to be told."""
    silence = find_silence(alert, silences, now)
    status = alert.status.with_(silenced_by=silence)
    is_told = status.notified_episode == status.episode
    if status.phase == "Firing" and not silence:
        is_new = not is_told or (status.flapping and status.notified == "firing")
        if is_new:
            told = "flapping" if status.flapping else "firing"
            status = status.with_(notified_episode=status.episode, notified=told)
            return status, _event(alert, "alert.firing", status.fired_at or now)
    if status.phase == "Resolved" and is_told and status.notified != "resolved":
        status = status.with_(notified="resolved")
        if not silence:
            return status, _event(alert, "alert.resolved", status.resolved_at or now)
    return status, None


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
