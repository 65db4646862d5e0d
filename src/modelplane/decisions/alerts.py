"""The life of an alert that modelplane evaluates: pending, firing, resolved. Pure.

Called by `controllers.alerts` at each evaluation of a rule. An alert is one series of a rule; its
status, which is stored, is all the memory there is, so that a control plane that restarts goes on
where it was: pending and firing since when they were. What is done about an alert, and who is
told, is decided elsewhere (`alert_notices`, playbooks).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from modelplane.resources.alerting import (
    MAX_HISTORY,
    Alert,
    AlertChange,
    AlertPhase,
    AlertRule,
    AlertStatus,
)

FLAPPING_CHANGES = 4
"""More changes than this within `FLAPPING_WINDOW` are flapping."""

FLAPPING_WINDOW = timedelta(minutes=15)
REST = timedelta(minutes=5)
"""How long a flapping alert must stay as it is until it is believed."""

KEEP_RESOLVED = timedelta(days=30)
KEEP_UNFIRED = timedelta(minutes=10)
"""How long an alert is kept that never fired."""

AWAY = timedelta(seconds=30)
"""Time without any evaluation beyond which nobody knows whether a condition held."""

MAX_RESOLVED = 10_000
"""Alerts kept that are over, of all rules together; beyond it those go that are over longest."""

_FNV_OFFSET = 14695981039346656037
_FNV_PRIME = 1099511628211
_MAX_STEM_CHARS = 80


def fingerprint(labels: Mapping[str, str]) -> str:
    """Return the fingerprint of `labels` as Prometheus and Alertmanager compute it.

    FNV-1a of 64 bits over names and values in the order of the names, each followed by the byte
    255, as 16 hexadecimal digits.

    Examples
    --------
    >>> fingerprint({})
    'cbf29ce484222325'
    """
    digest = _FNV_OFFSET
    for name in sorted(labels):
        for text in (name, labels[name]):
            for byte in (*text.encode(), 255):
                digest = ((digest ^ byte) * _FNV_PRIME) % 2**64
    return f"{digest:016x}"


def alert_name(alert: str, labels: Mapping[str, str]) -> str:
    """Return the name of the Alert resource of a rule's name and of its labels.

    Examples
    --------
    >>> alert_name("ReplicaDown", {})
    'ReplicaDown-cbf29ce484222325'
    """
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", alert)[:_MAX_STEM_CHARS].strip("-._")
    if stem != alert:  # two names that read alike here are still two
        stem = f"{stem or 'alert'}-{hashlib.sha256(alert.encode()).hexdigest()[:6]}"
    return f"{stem}-{fingerprint(labels)}"


@dataclass(frozen=True, slots=True)
class Observation:
    """What one evaluation of a rule found of one series.

    Attributes
    ----------
    at
        When the values were measured.
    value
        Of the expression; None when the condition does not hold (the series is not there).
    annotations
        Filled in; of no account when the condition does not hold.
    """

    at: datetime
    value: float | None
    annotations: Mapping[str, str]


def decide_alert(
    status: AlertStatus | None, rule: AlertRule, seen: Observation
) -> AlertStatus | None:
    """Return the status after one evaluation; None when there is and was nothing.

    As Prometheus does: ``for`` counts from the first evaluation at which the condition held, all
    of those that were made since having found it holding; evaluations that were not made are no
    gap. Then the alert fires until the condition has not held for ``keep_firing_for``. Besides:
    more than `FLAPPING_CHANGES` changes between firing and resolved in `FLAPPING_WINDOW` make it
    flapping; from then on it fires until it has not changed for `REST`.

    Parameters
    ----------
    status
        Before; None: this series was never seen.
    rule
        The alerting rule.
    seen
        What the evaluation found.
    """
    if seen.value is None:
        return None if status is None else _without_condition(status, rule, seen.at)
    if status is None or status.phase == "Resolved":
        status = _begin(status, seen.at)
    if status.missing_since is not None:
        status = _return(status, seen.at)
    since = status.active_at or seen.at
    if status.phase == "Pending" and seen.at - since >= timedelta(seconds=rule.for_s):
        status = record_change(status.with_(fired_at=seen.at), "Firing", seen.at)
        if _changes_lately(status, seen.at) > FLAPPING_CHANGES:
            status = status.with_(flapping=True)
    if status.flapping and seen.at - since >= REST and not _changed_within(status, seen.at, REST):
        status = status.with_(flapping=False)
    if status.history[-1].at == seen.at:  # a value that moves each second is no news
        status = status.with_(value=seen.value, annotations=dict(seen.annotations))
    return status


def kept_until(status: AlertStatus) -> datetime | None:
    """Return when a resolved alert is forgotten; None while it is not resolved."""
    if status.phase != "Resolved" or status.resolved_at is None:
        return None
    return status.resolved_at + (KEEP_RESOLVED if status.fired_at else KEEP_UNFIRED)


def pass_over(status: AlertStatus, last: datetime, at: datetime) -> AlertStatus:
    """Return the status at the first evaluation after the one at `last`.

    As in Prometheus the time in between does not count for ``for``: an alert has been pending for
    as long as it had been.
    """
    if status.phase != "Pending" or status.active_at is None:
        return status
    away = at - max(last, status.active_at)
    return status.with_(active_at=status.active_at + away) if away > AWAY else status


def find_forgotten(alerts: Iterable[Alert], now: datetime) -> Sequence[Alert]:
    """Return the alerts that are over and not to be kept any longer.

    A rule that writes a value into a label makes another alert at each evaluation: so there is a
    bound for their number besides that for their age.
    """
    over = [(until, alert) for alert in alerts if (until := kept_until(alert.status)) is not None]
    over.sort(key=lambda pair: pair[0])
    too_many = max(0, len(over) - MAX_RESOLVED)
    return [alert for place, (until, alert) in enumerate(over) if place < too_many or until <= now]


def record_change(
    status: AlertStatus, phase: AlertPhase, at: datetime, message: str = ""
) -> AlertStatus:
    """Return `status` in another phase, with that in its history; also of alerts from elsewhere."""
    change = AlertChange(at=at, phase=phase, message=message)
    return status.with_(phase=phase, history=(*status.history, change)[-MAX_HISTORY:])


def _begin(status: AlertStatus | None, at: datetime) -> AlertStatus:
    """Begin another episode: what was of the last one is gone, its history stays."""
    before = status or AlertStatus()
    fresh = AlertStatus(
        episode=before.episode + 1,
        active_at=at,
        notified_episode=before.notified_episode,
        notified=before.notified,
        silenced_by=before.silenced_by,
        history=before.history,
    )
    return record_change(fresh, "Pending", at)


def _return(status: AlertStatus, at: datetime) -> AlertStatus:
    """The condition holds again while the alert fired on."""
    if status.flapping:  # it has to rest anew
        return status.with_(missing_since=None, active_at=at)
    return status.with_(missing_since=None)


def _without_condition(status: AlertStatus, rule: AlertRule, at: datetime) -> AlertStatus:
    if status.phase == "Resolved":
        return status
    if status.phase == "Pending":
        return _resolve(status, at, "it did not hold long enough to fire")
    since = status.missing_since or at
    status = status.with_(missing_since=since)
    if status.flapping:
        if at - since < REST:
            return status
        return _resolve(status.with_(flapping=False), at, "it came and went, and rests now")
    if at - since < timedelta(seconds=rule.keep_firing_for_s):
        return status
    if _changes_lately(status, at) >= FLAPPING_CHANGES:  # this one would be one too many
        return status.with_(flapping=True)
    return _resolve(status, at, "")


def _resolve(status: AlertStatus, at: datetime, message: str) -> AlertStatus:
    return record_change(status.with_(resolved_at=at, missing_since=None), "Resolved", at, message)


def _changes_lately(status: AlertStatus, at: datetime) -> int:
    """Count the changes that people would be told of: to firing, and from firing to resolved."""
    before: AlertPhase | None = None
    count = 0
    for change in status.history:
        told = change.phase == "Firing" or (change.phase == "Resolved" and before == "Firing")
        count += told and at - change.at < FLAPPING_WINDOW
        before = change.phase
    return count


def _changed_within(status: AlertStatus, at: datetime, length: timedelta) -> bool:
    return bool(status.history) and at - status.history[-1].at < length


def close_for_rule(status: AlertStatus, at: datetime, why: str) -> AlertStatus:
    """Return the status of an alert that nobody evaluates any more: resolved, and why."""
    return status if status.phase == "Resolved" else _resolve(status, at, why)
