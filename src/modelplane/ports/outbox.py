"""The outbox: notifications written in the transaction of what they tell of.

Called by the API and the controllers, which both write events and do not know each other.
Sending is `controllers.notifications`.
"""

from __future__ import annotations

from modelplane.decisions.notifications import make_notification, wants
from modelplane.ports.store import Store, Transaction
from modelplane.resources.notification import Event, Notification, NotificationChannel


async def add_notifications(store: Store, transaction: Transaction, event: Event) -> None:
    """Add one notification of `event` to `transaction` for each channel that wants it.

    An event that was written before, or is in the transaction already, is not added again.

    Parameters
    ----------
    store
        Holds the channels.
    transaction
        Changes what `event` tells of; both are committed together or not at all.
    event
        What happened; the same fact must be given the same way each time.
    """
    channels, _ = await store.list(NotificationChannel)
    added = {resource.metadata.name for resource, _, _ in transaction.puts}
    for channel in channels:
        if not wants(channel, event):
            continue
        notification = make_notification(channel, event)
        name = notification.metadata.name
        if name in added or await store.find(Notification, name) is not None:
            continue
        transaction.create(notification, "notify")
