"""Notifications: dead letters sent again, channels tried out.

``POST /notifications/{name}:replay`` and ``POST /notification-channels/{name}:test``. Both only
write to the outbox; sending is `controllers.notifications`.
"""

from __future__ import annotations

from fastapi import Request
from starlette.responses import Response

from modelplane.api.access import context_of
from modelplane.api.answers import part_response
from modelplane.api.bodies import take_fields
from modelplane.api.committing import commit
from modelplane.api.routes import Routes
from modelplane.decisions.notifications import make_notification, replay, trial_event
from modelplane.errors import NotFound
from modelplane.ports.store import Transaction
from modelplane.resources.notification import Notification, NotificationChannel


def add_notification_routes(routes: Routes) -> None:
    """Add the actions on notifications and channels."""

    async def act(request: Request, name: str, verb: str) -> Response:
        """Send a dead letter again, from the start."""
        context = context_of(request)
        subject = await context.admit(request, "act", "Notification", name=name)
        if verb != "replay":
            raise NotFound(f"a notification has no action {verb[:80]!r}", hint="it has: replay")
        take_fields(await context.read_object(request))

        async def prepare() -> tuple[Transaction, Notification]:
            notification = replay(await context.store.get(Notification, name))
            transaction = Transaction(subject)
            transaction.update(notification, "replay")
            return transaction, notification

        notification, written = await commit(context.store, prepare)
        return part_response(written[0] if written else notification)

    async def act_on_channel(request: Request, name: str, verb: str) -> Response:
        """Send a test to a channel; the answer is the notification, which tells how it went."""
        context = context_of(request)
        subject = await context.admit(request, "act", "NotificationChannel", name=name)
        if verb != "test":
            raise NotFound(f"a channel has no action {verb[:80]!r}", hint="it has: test")
        take_fields(await context.read_object(request))
        channel = await context.store.get(NotificationChannel, name)
        now = context.dependencies.clock.now()
        notification = make_notification(channel, trial_event(channel, subject.name, now))
        transaction = Transaction(subject)
        transaction.create(notification, "test")
        (written,) = await context.store.commit(transaction)
        return part_response(written, 201)

    routes.add(
        "POST",
        "/notifications/{name}:{verb}",
        act,
        responses={200: {"model": Notification}},
        tag="Notification",
        operation_id="actOnNotification",
        summary="replay",
    )
    routes.add(
        "POST",
        "/notification-channels/{name}:{verb}",
        act_on_channel,
        responses={201: {"model": Notification}},
        tag="NotificationChannel",
        operation_id="actOnNotificationChannel",
        summary="test",
    )
