"""What `get` shows of alerts: rules, alerts, silences. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from modelplane.cli import words
from modelplane.cli.fillers import Row, columns
from modelplane.resources.alerting import Alert, AlertRules, Matcher, Silence


@columns(AlertRules, "GROUPS", "RULES", "EVALUATED", "MESSAGE")
def _rules(resource: AlertRules, _: datetime) -> Row:
    groups = resource.spec.groups
    condition = next((c for c in resource.status.conditions if c.type == "Evaluated"), None)
    return [
        str(len(groups)),
        str(sum(len(group.rules) for group in groups)),
        condition.status if condition else "",
        condition.message if condition and condition.status != "True" else "",
    ]


@columns(Alert, "PHASE", "SINCE", "SILENCED", "SUMMARY")
def _alert(resource: Alert, now: datetime) -> Row:
    status = resource.status
    return [
        phase_of(resource),
        words.age(since_of(resource), now),
        status.silenced_by,
        summary_of(resource),
    ]


@columns(Silence, "PHASE", "ENDS", "MATCHERS", "BY", "COMMENT")
def _silence(resource: Silence, _: datetime) -> Row:
    spec = resource.spec
    return [
        resource.status.phase,
        moment(spec.ends_at),
        ",".join(format_matcher(matcher) for matcher in spec.matchers),
        spec.created_by,
        spec.comment,
    ]


def moment(at: datetime) -> str:
    """Return a moment, past or to come, to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def phase_of(alert: Alert) -> str:
    """Return an alert's phase, and whether it flaps."""
    return f"{alert.status.phase} (flaps)" if alert.status.flapping else alert.status.phase


def since_of(alert: Alert) -> datetime | None:
    """Return since when an alert is in its phase."""
    status = alert.status
    since = {"Pending": status.active_at, "Firing": status.fired_at, "Resolved": status.resolved_at}
    return since[status.phase]


def summary_of(alert: Alert) -> str:
    """Return an alert in one line: what was done, its summary, or its labels."""
    status = alert.status
    labels = {name: text for name, text in alert.spec.labels.items() if name != "alertname"}
    return status.closing or status.annotations.get("summary", "") or words.labels(labels)


def format_matcher(matcher: Matcher) -> str:
    """Return a matcher as people write it."""
    text = matcher.value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{matcher.name}{matcher.operator}"{text}"'
