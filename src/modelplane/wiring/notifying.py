"""Where channels meet their senders, and requests for approval their links.

Called by `wiring.control_plane`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from modelplane.adapters.notify.email import EmailNotifier
from modelplane.adapters.notify.slack import SlackNotifier
from modelplane.adapters.notify.webhook import WebhookNotifier
from modelplane.controllers.approvals import ApprovalController
from modelplane.controllers.loop import Fence
from modelplane.controllers.notifications import LinkMaker, NotificationController
from modelplane.ports.clock import Clock
from modelplane.ports.store import Store
from modelplane.settings import Settings
from modelplane.wiring.network import on_loopback


@dataclass(frozen=True, slots=True)
class ApprovalControllers:
    """What ends approvals and sends notifications; `link_key` seals the links in them."""

    approvals: ApprovalController
    notifications: NotificationController
    link_key: bytes


def make_approval_controllers(
    settings: Settings,
    store: Store,
    fence: Fence,
    clock: Clock,
    *,
    secret: Callable[[str], str | None],
) -> ApprovalControllers:
    """Return the controllers of approvals and notifications for a prepared state directory."""
    link_key = settings.paths.link_key.read_text().strip().encode()
    notifications = NotificationController(
        store,
        fence,
        clock,
        notifiers={
            "webhook": WebhookNotifier(secret, clock),
            "slack": SlackNotifier(secret),
            "email": EmailNotifier(secret),
        },
        links=LinkMaker(settings.public_url or settings.api_url, link_key),
    )
    return ApprovalControllers(ApprovalController(store, fence, clock), notifications, link_key)


def allowed_hosts(settings: Settings) -> tuple[str, ...]:
    """Return further host names that requests may carry: the public address is one of them.

    Where every name is answered for, there is nothing to add.
    """
    host = urlsplit(settings.public_url).hostname
    is_limited = on_loopback(settings.api_host) or bool(settings.allowed_hosts)
    return (*settings.allowed_hosts, host) if host and is_limited else settings.allowed_hosts
