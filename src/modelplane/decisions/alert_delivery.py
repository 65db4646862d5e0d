"""When an Alertmanager is told of an alert, and of what. Pure.

Called by `controllers.alert_delivery`. While an alert fires it is posted again and again, each
time with an end a little ahead: should modelplane never come back, Alertmanager ends it by itself.
When it is over its end is posted, until that has arrived.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from modelplane.resources.alerting import Alert

SOURCE_LABEL = "modelplane_source"
"""Marks alerts of our rules in a Prometheus and in an Alertmanager; its value is the name of the
AlertRules. An Alertmanager that posts one back tells nothing new."""

REPEAT = timedelta(minutes=1)
"""How often an alert that fires is posted."""

OUTLIVES = timedelta(minutes=4)
"""How long an Alertmanager believes the last post."""

CLOSING_ANNOTATION = "modelplane_closing"
"""What was done about the alert, in words."""


@dataclass(frozen=True, slots=True)
class PostedAlert:
    """An alert to tell an Alertmanager of. With ``ends_at`` in the past it is over."""

    labels: Mapping[str, str]
    starts_at: datetime
    ends_at: datetime | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    generator_url: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """What this process last told of an alert, and when."""

    phase: str
    closing: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Post:
    """One alert to post.

    Attributes
    ----------
    alert
        The resource.
    posted
        What is told.
    is_news
        Whether that it was told is to be stored: at its beginning and at its end.
    """

    alert: Alert
    posted: PostedAlert
    is_news: bool


def decide_post(alert: Alert, told: Told | None, now: datetime, *, url: str) -> Post | None:
    """Return what an Alertmanager is to be told of an alert now; None when nothing is due.

    Alerts that came from an Alertmanager, and those that only are pending, are not told of.

    Parameters
    ----------
    alert
        As it is.
    told
        What this process told last; None after a restart.
    now
        The time.
    url
        Of the API as people reach it.
    """
    status = alert.status
    if alert.spec.source == "alertmanager":
        return None
    if status.fired_at is None:
        if told is None or told.phase != "Firing":
            return None
        # It was over, and holds again, before its end could be told.
        return Post(alert, _posted(alert, now, url), is_news=False)
    is_news = status.posted != status.phase
    if status.phase == "Resolved":
        # What was done about it may be known only after it was over.
        is_told_more = told is not None and told.closing != status.closing
        if not (is_news or is_told_more):
            return None
        return Post(alert, _posted(alert, min(status.resolved_at or now, now), url), is_news)
    is_due = told is None or now - told.at >= REPEAT
    if not (is_news or is_due):
        return None
    return Post(alert, _posted(alert, now + OUTLIVES, url), is_news)


def next_due(told: Told, now: datetime) -> float | None:
    """Return in how many seconds an alert that was told of is due again; None: when it changes."""
    if told.phase != "Firing":
        return None
    return max(0.0, (told.at + REPEAT - now).total_seconds())


def posted_labels(alert: Alert) -> Mapping[str, str]:
    """Return the labels that an Alertmanager knows the alert by.

    The same that a Prometheus gives to alerts of our rules: when it posts them too, the two are one
    alert there.
    """
    return {**alert.spec.labels, "alertname": alert.spec.alert, SOURCE_LABEL: alert.spec.rules}


def _posted(alert: Alert, ends_at: datetime, url: str) -> PostedAlert:
    status = alert.status
    annotations = dict(status.annotations)
    if status.closing:
        annotations[CLOSING_ANNOTATION] = status.closing
    link = f"{url}/api/v1/alerts/{alert.metadata.name}"
    return PostedAlert(
        labels=posted_labels(alert),
        starts_at=min(status.fired_at or ends_at, ends_at),
        ends_at=ends_at,
        annotations=annotations,
        generator_url=status.generator_url or link,
    )
