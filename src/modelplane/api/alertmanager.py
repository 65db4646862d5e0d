"""Takes what an Alertmanager posts to its webhook receivers: its alerts become ours.

``POST /api/v1/alertmanager`` takes version 4 of the webhook, with a bearer token that may
``report`` on ``Alert``. Fields that are absent or unknown are no matter; what is not such a
message is refused with 400, which Alertmanager does not send again. A group that is repeated
changes nothing; alerts that modelplane posted there itself are left out.

https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
"""

from __future__ import annotations

import structlog
from fastapi import Request
from starlette.responses import Response

from modelplane.api.access import Context, context_of
from modelplane.api.answers import json_response
from modelplane.api.bodies import parse_object, read_body
from modelplane.api.routes import Routes
from modelplane.decisions.alert_webhook import NotAlertmanager, WebhookGroup, read_group
from modelplane.decisions.told_alerts import ToldAlert, take_alert
from modelplane.errors import Conflict, FieldError, InvalidResource
from modelplane.ports.store import Transaction
from modelplane.resources.alerting import Alert
from modelplane.resources.meta import Subject

MAX_BODY_BYTES = 8 * 2**20
MAX_GOING_ON = 10_000
"""Alerts from Alertmanagers that are not over; more are refused, for nobody here ends them."""

_TRIES = 5
_log = structlog.get_logger(__name__)


class NoWebhook(InvalidResource):
    """The body is no message of an Alertmanager."""

    code = "not-alertmanager"
    status = 400


def add_alertmanager_routes(routes: Routes) -> None:
    """Add the route that Alertmanager's webhooks are sent to."""

    async def receive(request: Request) -> Response:
        """Take a group of alerts from an Alertmanager (webhook version 4)."""
        context = context_of(request)
        subject = await context.admit(request, "report", "Alert")
        limits = context.dependencies.limits
        body = await read_body(request, MAX_BODY_BYTES, limits.idle_timeout_s)
        group = _read(body, context)
        changed, refused = 0, list[str]()
        going_on = await _going_on(context)
        for told in group.alerts:
            try:
                if told.phase == "Resolved":
                    going_on.discard(told.name)
                elif told.name not in going_on and len(going_on) >= MAX_GOING_ON:
                    raise ValueError(f"{MAX_GOING_ON:,} alerts of Alertmanagers go on already")
                else:
                    going_on.add(told.name)
                changed += await _take(context, told, subject)
            except ValueError as error:
                refused.append(f"{told.labels.get('alertname', '')}: {str(error)[:200]}")
        if group.truncated or refused:
            _log.warning("alertmanager.incomplete", truncated=group.truncated, refused=len(refused))
        answer = {
            "received": len(group.alerts) + group.own,
            "changed": changed,
            "own": group.own,
            "truncated": group.truncated,
            "refused": refused[:100],
        }
        return json_response(answer)

    routes.add(
        "POST",
        "/alertmanager",
        receive,
        tag="Alert",
        operation_id="receiveAlertmanagerWebhook",
    )


def _read(body: bytes, context: Context) -> WebhookGroup:
    try:
        return read_group(parse_object(body), context.dependencies.clock.now())
    except InvalidResource as error:
        raise NoWebhook(error.message) from None
    except NotAlertmanager as error:
        raise NoWebhook(
            "the body is no message of an Alertmanager's webhook",
            [FieldError(error.path, error.message)],
            hint="send version 4 of the webhook: webhook_configs with this address",
        ) from None


async def _going_on(context: Context) -> set[str]:
    """Return the names of the alerts from Alertmanagers that are not over."""
    alerts, _ = await context.store.list(Alert)
    return {
        alert.metadata.name
        for alert in alerts
        if alert.spec.source == "alertmanager" and alert.status.phase != "Resolved"
    }


async def _take(context: Context, told: ToldAlert, subject: Subject) -> bool:
    """Store what an alert became; return whether that changed anything."""
    for last in (False,) * (_TRIES - 1) + (True,):
        current = await context.store.find(Alert, told.name)
        after = take_alert(current, told, context.dependencies.clock.now())
        if after is None:
            return False
        transaction = Transaction(subject, "an Alertmanager says so")
        transaction.put(after, f"alert.{after.status.phase.lower()}")
        try:
            await context.store.commit(transaction)
        except Conflict:  # something else changed it: decide anew
            if last:
                raise
            continue
        return True
    return False
