"""Alerts that others evaluate, as the same resources as our own. Pure.

A Prometheus is asked for them each second (`controllers.rule_server`), an Alertmanager posts them
(`api.alertmanager`). What they tell goes through the same state machine as an evaluation here, so
that episodes, history and flapping mean one thing wherever an alert comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from modelplane.decisions.alerts import Observation, alert_name, decide_alert, fingerprint
from modelplane.resources.alerting import (
    Alert,
    AlertPhase,
    AlertRule,
    AlertSource,
    AlertSpec,
    AlertStatus,
)
from modelplane.resources.meta import Metadata

MAX_CHARS = 16_000
"""Of all labels of an alert together."""

MAX_TEXT_CHARS = 4_000
"""Of one annotation; the rest is cut."""

UNNAMED = "unnamed"
"""What an alert without the label ``alertname`` is called."""

_FIRES_AT_ONCE = AlertRule(alert=UNNAMED, expr="told")
_FIRES_WHEN_TOLD = AlertRule(alert=UNNAMED, expr="told", for_s=10.0 * 365 * 86_400)


@dataclass(frozen=True, slots=True)
class ToldAlert:
    """What somebody says of one alert.

    Attributes
    ----------
    source
        Who says so.
    rules
        The AlertRules it comes from, when it is one of ours.
    phase
        What it is now.
    since
        Since when its condition holds.
    value
        Of the expression, where that is known.
    """

    source: AlertSource
    labels: Mapping[str, str]
    phase: AlertPhase
    since: datetime
    rules: str = ""
    value: float | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    generator_url: str = ""

    @property
    def name(self) -> str:
        """The name of its resource."""
        return alert_name(self.labels.get("alertname") or UNNAMED, self.labels)


def take_alert(current: Alert | None, told: ToldAlert, now: datetime) -> Alert | None:
    """Return the alert as it is after it was told of; None when that changes nothing.

    Parameters
    ----------
    current
        The resource of that name, if there is one. While it goes on, an Alertmanager says nothing
        about alerts of our rules, nor those about an Alertmanager's.
    told
        What is said of it.
    now
        The time here.

    Raises
    ------
    ValueError
        A label or annotation has a name that Prometheus would not take, or there is too much.
    """
    if sum(len(name) + len(text) for name, text in told.labels.items()) > MAX_CHARS:
        raise ValueError(f"its labels have more than {MAX_CHARS:,} characters")
    if current is not None and current.status.phase != "Resolved":
        if (current.spec.source == "alertmanager") != (told.source == "alertmanager"):
            return None
    elif told.phase == "Resolved":
        return None  # it was over before it was known here, or is over already
    before = current.status if current is not None else None
    after = _decide(before, told, now)
    if after is None:
        return None
    if before is None or after.episode != before.episode:
        after = after.with_(active_at=min(told.since, now), generator_url=told.generator_url)
    if told.value is None:
        after = after.with_(value=None)
    if after == before:
        return None
    if current is not None and current.spec.source == told.source:
        return current.with_(status=after)
    spec = AlertSpec(
        alert=told.labels.get("alertname") or UNNAMED,
        source=told.source,
        rules=told.rules,
        labels=dict(told.labels),
        fingerprint=fingerprint(told.labels),
    )
    # Checked again as a whole: what was told is not ours.
    checked = AlertStatus.model_validate(after.model_dump())
    if current is not None:
        return current.with_(spec=spec, status=checked)
    return Alert(metadata=Metadata(name=told.name), spec=spec, status=checked)


def settle_alert(alert: Alert, now: datetime) -> AlertStatus:
    """Return the status of an alert from an Alertmanager as time alone makes it.

    An Alertmanager says once that an alert is over. One that flaps must then rest for a while
    before that is believed, and nobody else would look at it again.
    """
    status = alert.status
    if alert.spec.source != "alertmanager" or not status.flapping:
        return status
    value = None if status.missing_since is not None else status.value or 0.0
    return decide_alert(status, _FIRES_AT_ONCE, Observation(now, value, {})) or status


def _decide(before: AlertStatus | None, told: ToldAlert, now: datetime) -> AlertStatus | None:
    gone = Observation(now, None, {})
    if told.phase == "Resolved":
        return decide_alert(before, _FIRES_AT_ONCE, gone)
    # A value that is not known must not look like a condition that does not hold.
    texts = {name: text[:MAX_TEXT_CHARS] for name, text in told.annotations.items()}
    seen = Observation(now, told.value if told.value is not None else 0.0, texts)
    if told.phase == "Firing":
        return decide_alert(before, _FIRES_AT_ONCE, seen)
    if before is not None and before.phase == "Firing":  # it went, and came back, unseen
        before = decide_alert(before, _FIRES_AT_ONCE, gone)
        if before is None or before.phase == "Firing":
            return before
    return decide_alert(before, _FIRES_WHEN_TOLD, seen)
