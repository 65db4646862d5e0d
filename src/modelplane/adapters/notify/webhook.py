"""Webhooks: CloudEvents 1.0 in structured JSON, signed as Standard Webhooks says.

https://github.com/cloudevents/spec and https://www.standardwebhooks.com. The receiver checks the
signature over id, time and body with the shared secret, and drops ids it has seen.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from datetime import datetime
from typing import Any

from pydantic_core import to_json
from standardwebhooks.webhooks import Webhook

from modelplane.adapters.notify.posting import make_client, post
from modelplane.decisions.notifications import Delivery
from modelplane.ports.clock import Clock
from modelplane.ports.notifier import Message
from modelplane.resources.notification import NotificationChannel

TYPE_PREFIX = "dev.modelplane."
_PREFIX = "whsec_"
_MIN_SECRET_BYTES = 24


class WebhookNotifier:
    """Posts events to HTTP endpoints.

    Parameters
    ----------
    secret
        Returns a secret by its name, or None.
    clock
        Whose time goes into signatures.
    """

    def __init__(self, secret: Callable[[str], str | None], clock: Clock) -> None:
        self._secret = secret
        self._clock = clock
        self._client = make_client()

    async def send(self, channel: NotificationChannel, message: Message) -> Delivery:
        """Post the event once."""
        receiver = channel.spec.webhook
        assert receiver is not None
        body = to_json(make_cloud_event(message))
        now = self._clock.now()
        headers = {
            "content-type": "application/cloudevents+json; charset=utf-8",
            "user-agent": "modelplane",
            "webhook-id": message.id,
            "webhook-timestamp": str(int(now.timestamp())),
        }
        if receiver.secret is not None:
            key = read_signing_secret(self._secret(receiver.secret))
            if key is None:
                hint = f"{_PREFIX} and at least {_MIN_SECRET_BYTES} bytes as base64"
                return Delivery("refused", f"there is no secret {receiver.secret!r} of {hint}")
            headers["webhook-signature"] = sign_message(key, message.id, now, body)
        timeout_s = channel.spec.timeout_s
        return await post(self._client, receiver.url, body, headers=headers, timeout_s=timeout_s)

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()


def make_cloud_event(message: Message) -> dict[str, Any]:
    """Return the CloudEvent that tells of `message`; the link, if any, is ``data.link``."""
    event = message.event
    data = {**event.data, "environment": event.environment, "team": event.team}
    if message.link is not None:
        data["link"] = message.link
    return {
        "specversion": "1.0",
        "id": message.id,
        "source": message.source,
        "type": TYPE_PREFIX + event.type,
        "subject": event.subject,
        "time": event.at.isoformat(),
        "datacontenttype": "application/json",
        "data": data,
    }


def read_signing_secret(text: str | None) -> bytes | None:
    """Return the key in ``whsec_BASE64`` (the prefix may be missing); None when there is none.

    The library drops characters that are not base64, and would sign with what is left over.
    """
    if text is None:
        return None
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (ValueError, binascii.Error):
        return None
    return key if len(key) >= _MIN_SECRET_BYTES else None


def sign_message(key: bytes, id: str, now: datetime, body: bytes) -> str:
    """Return the header ``webhook-signature`` over id, time and body."""
    return Webhook(key).sign(msg_id=id, timestamp=now, data=body.decode())
