"""Slack, and what takes Slack's incoming webhooks (Mattermost, Rocket.Chat, Discord's /slack).

Everything from elsewhere is escaped as Slack's mrkdwn wants it (``& < >``), so that no name can
mention everybody or hide an address behind words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic_core import to_json

from modelplane.adapters.notify.posting import make_client, post
from modelplane.decisions.notification_text import Wording, describe_event
from modelplane.decisions.notifications import Delivery
from modelplane.ports.notifier import Message
from modelplane.resources.notification import NotificationChannel

_MAX_HEADER = 150
_MAX_FIELDS = 10


class SlackNotifier:
    """Posts messages to incoming webhooks.

    Parameters
    ----------
    secret
        Returns a secret by its name, or None: the address of a hook is one.
    """

    def __init__(self, secret: Callable[[str], str | None]) -> None:
        self._secret = secret
        self._client = make_client()

    async def send(self, channel: NotificationChannel, message: Message) -> Delivery:
        """Post the message once."""
        receiver = channel.spec.slack
        assert receiver is not None
        url = receiver.url
        if receiver.url_secret is not None:
            url = self._secret(receiver.url_secret)
        if url is None:
            return Delivery("refused", f"there is no secret {receiver.url_secret!r}")
        headers = {"content-type": "application/json", "user-agent": "modelplane"}
        body = to_json(make_payload(message))
        return await post(
            self._client, url, body, headers=headers, timeout_s=channel.spec.timeout_s
        )

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()


def make_payload(message: Message) -> dict[str, Any]:
    """Return the body: ``text`` for notifications and old clients, ``blocks`` for the rest."""
    wording = describe_event(message.event)
    title = wording.title
    if len(title) > _MAX_HEADER:
        title = title[: _MAX_HEADER - 1] + "…"
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": title, "emoji": False}}
    ]
    if wording.sentence:
        blocks.append({"type": "section", "text": _markdown(escape(wording.sentence))})
    blocks.append({"type": "section", "fields": _fields(wording)})
    if message.link is not None:
        answer = f"<{message.link}|Look at it, and approve or reject>"
        blocks.append({"type": "section", "text": _markdown(answer)})
    return {"text": escape(wording.title), "blocks": blocks}


def escape(text: str) -> str:
    """Return `text` so that Slack shows it and does nothing else with it.

    Examples
    --------
    >>> escape("<!channel> & <https://evil.example|ours>")
    '&lt;!channel&gt; &amp; &lt;https://evil.example|ours&gt;'
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _fields(wording: Wording) -> list[dict[str, str]]:
    facts = wording.facts[:_MAX_FIELDS]
    return [_markdown(f"*{escape(label)}*\n{escape(value)}") for label, value in facts]


def _markdown(text: str) -> dict[str, str]:
    return {"type": "mrkdwn", "text": text}
