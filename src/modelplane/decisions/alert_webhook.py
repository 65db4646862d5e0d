"""Reads what an Alertmanager posts to its webhook receivers, version 4. Pure.

Called by `api.alertmanager`. Only what is used is looked at: Alertmanagers before and after the
present one leave fields out and add some.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from modelplane.decisions.alert_delivery import SOURCE_LABEL
from modelplane.decisions.told_alerts import ToldAlert

MAX_ALERTS = 10_000
_MAX_SHOWN = 80


class NotAlertmanager(Exception):
    """The body is no such message; `path` and `message` say what is wrong."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message


@dataclass(frozen=True, slots=True)
class WebhookGroup:
    """One message.

    Attributes
    ----------
    alerts
        Those to be taken.
    own
        How many were left out because modelplane itself had posted them.
    truncated
        How many Alertmanager left out.
    """

    alerts: tuple[ToldAlert, ...]
    own: int = 0
    truncated: int = 0


def read_group(body: Mapping[str, Any], now: datetime) -> WebhookGroup:
    """Return the alerts in a message.

    Parameters
    ----------
    body
        The JSON object.
    now
        For alerts that do not say since when they are.

    Raises
    ------
    NotAlertmanager
        It is none of version 4; nothing of it is to be taken.
    """
    version = body.get("version")
    if version != "4":
        found = f"got {version!r}"[:_MAX_SHOWN] if "version" in body else "it is missing"
        raise NotAlertmanager("version", f'must be "4", {found}')
    alerts = body.get("alerts")
    if not isinstance(alerts, list):
        raise NotAlertmanager("alerts", "must be a list")
    if len(alerts) > MAX_ALERTS:
        raise NotAlertmanager("alerts", f"at most {MAX_ALERTS:,} at a time")
    truncated = body.get("truncatedAlerts", 0)
    if not isinstance(truncated, int) or isinstance(truncated, bool) or truncated < 0:
        raise NotAlertmanager("truncatedAlerts", "must be a number, 0 or more")
    read = [_read_alert(alert, f"alerts[{place}]", now) for place, alert in enumerate(alerts)]
    taken = [told for told in read if SOURCE_LABEL not in told.labels]
    return WebhookGroup(tuple(taken), own=len(read) - len(taken), truncated=truncated)


def _read_alert(alert: Any, path: str, now: datetime) -> ToldAlert:
    if not isinstance(alert, dict):
        raise NotAlertmanager(path, "must be a map")
    status = alert.get("status")
    if status not in ("firing", "resolved"):  # it may be anything, a list too
        raise NotAlertmanager(f"{path}.status", 'must be "firing" or "resolved"')
    generator_url = alert.get("generatorURL") or ""
    return ToldAlert(
        source="alertmanager",
        labels=_read_texts(alert.get("labels"), f"{path}.labels"),
        phase="Firing" if status == "firing" else "Resolved",
        since=_read_time(alert.get("startsAt"), f"{path}.startsAt", now),
        annotations=_read_texts(alert.get("annotations") or {}, f"{path}.annotations"),
        generator_url=generator_url if isinstance(generator_url, str) else "",
    )


def _read_texts(given: Any, path: str) -> Mapping[str, str]:
    if not isinstance(given, dict) or not all(isinstance(text, str) for text in given.values()):
        raise NotAlertmanager(path, "must be a map of texts")
    return given


def _read_time(given: Any, path: str, now: datetime) -> datetime:
    if given is None:
        return now
    try:
        at = datetime.fromisoformat(given)
        return at.astimezone(UTC) if at.tzinfo is not None else at.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError):
        raise NotAlertmanager(path, "must be a time (RFC 3339)") from None
