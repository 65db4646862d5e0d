"""An Alertmanager that is told of alerts and of silences, over its API v2.

Implements `ports.alerting.AlertReceiver`.

https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog

from modelplane.adapters.alerting.http import AlertingHttp, Answer, read_time
from modelplane.errors import TerminalError, TransientError
from modelplane.ports.alerting import PostedAlert, ServedSilence
from modelplane.resources.alerting import Matcher

_log = structlog.get_logger(__name__)

_AT_ONCE = 500
"""Alerts in one request."""


class Alertmanager:
    """One Alertmanager.

    Parameters
    ----------
    http
        How it is reached.
    """

    def __init__(self, http: AlertingHttp) -> None:
        self._http = http

    async def post(self, alerts: Sequence[PostedAlert]) -> None:
        """Tell it; see the port."""
        for first in range(0, len(alerts), _AT_ONCE):
            body = [_alert(alert) for alert in alerts[first : first + _AT_ONCE]]
            answer = await self._http.ask("POST", "/api/v2/alerts", body=body)
            if not answer.is_success:
                raise self._unexpected(answer)

    async def silence(
        self,
        matchers: Sequence[Matcher],
        *,
        starts_at: datetime,
        ends_at: datetime,
        created_by: str,
        comment: str,
        id: str = "",
    ) -> str:
        """Make a silence, or change one; see the port."""
        body: dict[str, Any] = {
            "matchers": [_matcher(matcher) for matcher in matchers],
            "startsAt": _time(starts_at),
            "endsAt": _time(ends_at),
            "createdBy": created_by,
            "comment": comment,
        }
        if id:
            body["id"] = id
        answer = await self._http.ask("POST", "/api/v2/silences", body=body)
        if answer.status == 404 and id:  # it is over there and forgotten
            del body["id"]
            answer = await self._http.ask("POST", "/api/v2/silences", body=body)
        if answer.status in {400, 422}:
            raise TerminalError(f"{self._http.name} refuses the silence: {answer.words}")
        made = answer.data.get("silenceID") if isinstance(answer.data, dict) else None
        if not answer.is_success or not isinstance(made, str):
            raise self._unexpected(answer)
        return made

    async def silences(self) -> Sequence[ServedSilence]:
        """Return those that hold or will; what cannot be read as one is left out and logged."""
        answer = await self._http.ask("GET", "/api/v2/silences")
        if not answer.is_success or not isinstance(answer.data, list):
            raise self._unexpected(answer)
        found = []
        for silence in answer.data:
            try:
                if silence["status"]["state"] != "expired":
                    found.append(_served_silence(silence))
            except (TypeError, KeyError, ValueError) as error:
                _log.warning("alertmanager.silence_unreadable", kind=type(error).__name__)
        return found

    async def expire_silence(self, id: str) -> None:
        """End a silence; one that is over already, or not there, is no error."""
        if any(silence.id == id for silence in await self.silences()):
            answer = await self._http.ask("DELETE", f"/api/v2/silence/{id}")
            if not answer.is_success and answer.status != 404:
                raise self._unexpected(answer)

    async def close(self) -> None:
        """Close connections."""
        await self._http.close()

    def _unexpected(self, answer: Answer) -> TransientError:
        message = f"{self._http.name} answered {answer.status} {answer.words}"
        return TransientError(message.rstrip(), hint="is it the address of an Alertmanager?")


def _alert(alert: PostedAlert) -> Mapping[str, Any]:
    body: dict[str, Any] = {
        "labels": dict(alert.labels),
        "annotations": dict(alert.annotations),
        "startsAt": _time(alert.starts_at),
    }
    if alert.ends_at is not None:
        body["endsAt"] = _time(alert.ends_at)
    if alert.generator_url:
        body["generatorURL"] = alert.generator_url
    return body


def _matcher(matcher: Matcher) -> Mapping[str, Any]:
    return {
        "name": matcher.name,
        "value": matcher.value,
        "isRegex": "~" in matcher.operator,
        "isEqual": not matcher.operator.startswith("!"),
    }


def _served_silence(silence: Mapping[str, Any]) -> ServedSilence:
    return ServedSilence(
        id=silence["id"],
        matchers=tuple(_read_matcher(matcher) for matcher in silence["matchers"]),
        starts_at=read_time(silence["startsAt"]),
        ends_at=read_time(silence["endsAt"]),
        created_by=str(silence.get("createdBy", "")),
        comment=str(silence.get("comment", "")),
    )


def _read_matcher(matcher: Mapping[str, Any]) -> Matcher:
    operator = "=" if matcher.get("isEqual", True) else "!"
    if matcher["isRegex"]:
        operator += "~"
    elif operator == "!":
        operator = "!="
    return Matcher.model_validate(
        {"name": matcher["name"], "operator": operator, "value": matcher["value"]}
    )


def _time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
