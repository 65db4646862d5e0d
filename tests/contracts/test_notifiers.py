"""What every notifier does for the outbox: the one in memory, and real ones to real servers."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from modelplane.adapters.clock import SystemClock
from modelplane.adapters.notify.email import EmailNotifier, make_mail
from modelplane.adapters.notify.slack import SlackNotifier, make_payload
from modelplane.adapters.notify.webhook import WebhookNotifier
from modelplane.decisions.notifications import Delivery
from modelplane.ports.notifier import Message, Notifier
from modelplane.resources.meta import Metadata
from modelplane.resources.notification import (
    EmailReceiver,
    Event,
    NotificationChannel,
    NotificationChannelSpec,
)
from modelplane.testing.notifier import FakeNotifier
from tests.receivers import HttpReceiver, SmtpReceiver, http_receiver, smtp_receiver

pytestmark = pytest.mark.slow

KEY = b"0123456789abcdef0123456789abcdef"
SIGNING = f"whsec_{base64.b64encode(KEY).decode()}"
PASSWORD = "correct horse"
LINK = "http://127.0.0.1:7080/approvals/links/secret-token"
EVENT = Event(
    type="approval.requested",
    subject="Approval staging/fraud-1.risk",
    environment="staging",
    team="Команда риска",
    at=datetime(2026, 3, 1, 12, 0, tzinfo=UTC),
    data={"model": "fraud", "version": "2.0.0", "message": "accuracy is 0.95"},
)
MESSAGE = Message("id-1", EVENT, "http://127.0.0.1:7080", LINK)


def secrets(**known: str) -> Callable[[str], str | None]:
    return known.get


class Receiver(Protocol):
    """A receiver, and what its users can do with it."""

    @property
    def channel(self) -> NotificationChannel: ...
    async def go_away(self) -> None: ...
    async def come_back(self) -> None: ...
    def become(self, mood: Any) -> None: ...
    def texts(self) -> list[str]: ...


def channel_of(timeout_s: float = 5.0, **receiver: Any) -> NotificationChannel:
    spec = {"timeout_s": timeout_s, **receiver}
    return NotificationChannel(
        metadata=Metadata(name="team"), spec=NotificationChannelSpec.model_validate(spec)
    )


@dataclass
class InMemory:
    notifier: FakeNotifier

    channel = channel_of(webhook={"url": "http://nowhere.test"})

    async def go_away(self) -> None:
        self.notifier.trouble = Delivery("unavailable", "away")

    async def come_back(self) -> None:
        self.notifier.trouble = None

    def become(self, mood: Any) -> None:
        outcome: Any = "refused" if mood == "refusing" else "unavailable"
        self.notifier.trouble = Delivery(outcome, mood)

    def texts(self) -> list[str]:
        return [f"{m.event.data['model']} {m.id} {m.link}" for _, m in self.notifier.sent]


@dataclass
class OverHttp:
    server: HttpReceiver
    of_type: str

    @property
    def channel(self) -> NotificationChannel:
        return channel_of(0.5, **{self.of_type: {"url": self.server.url}})

    async def go_away(self) -> None:
        await self.server.stop()

    async def come_back(self) -> None:
        await self.server.start()

    def become(self, mood: Any) -> None:
        self.server.mood = mood

    def texts(self) -> list[str]:
        ids = [headers.get("webhook-id", "") for headers, _ in self.server.received]
        bodies = [body.decode() for _, body in self.server.received]
        return [f"{i} {body}" for i, body in zip(ids, bodies, strict=True)]


@dataclass
class OverSmtp:
    server: SmtpReceiver

    @property
    def channel(self) -> NotificationChannel:
        receiver = {"host": "127.0.0.1", "port": self.server.port, "tls": "none"}
        return channel_of(
            0.5, email={**receiver, "from": "modelplane <mp@example.org>", "to": ["a@example.org"]}
        )

    async def go_away(self) -> None:
        await self.server.stop()

    async def come_back(self) -> None:
        await self.server.start()

    def become(self, mood: Any) -> None:
        self.server.mood = mood

    def texts(self) -> list[str]:
        found = []
        for mail in self.server.received:
            body = mail.get_body(("plain",))
            assert body is not None
            found.append(f"{mail['Message-ID']} {mail['Subject']} {body.get_content()}")
        return found


@asynccontextmanager
async def open_pair(of_type: str) -> AsyncIterator[tuple[Notifier, Receiver]]:
    notifier: Notifier
    if of_type == "memory":
        fake = FakeNotifier()
        yield fake, InMemory(fake)
    elif of_type == "email":
        async with smtp_receiver() as smtp:
            notifier = EmailNotifier(secrets())
            yield notifier, OverSmtp(smtp)
    else:
        async with http_receiver() as http:
            if of_type == "webhook":
                notifier = WebhookNotifier(secrets(), SystemClock())
            else:
                notifier = SlackNotifier(secrets())
            try:
                yield notifier, OverHttp(http, of_type)
            finally:
                await notifier.close()


ALL = pytest.mark.parametrize("of_type", ["memory", "webhook", "slack", "email"])


@ALL
async def test_a_message_arrives_with_its_link(of_type: str) -> None:
    async with open_pair(of_type) as (notifier, receiver):
        assert await notifier.send(receiver.channel, MESSAGE) == Delivery("delivered")
        (text,) = receiver.texts()
        assert "fraud" in text
        assert LINK in text


@ALL
async def test_who_is_away_is_unavailable_and_gets_the_same_later(of_type: str) -> None:
    async with open_pair(of_type) as (notifier, receiver):
        await receiver.go_away()
        delivery = await notifier.send(receiver.channel, MESSAGE)
        assert delivery.outcome == "unavailable"
        assert delivery.message
        assert "127.0.0.1" not in delivery.message
        await receiver.come_back()
        assert (await notifier.send(receiver.channel, MESSAGE)).outcome == "delivered"
        assert (await notifier.send(receiver.channel, MESSAGE)).outcome == "delivered"
        first, second = receiver.texts()
        assert first == second


@ALL
@pytest.mark.parametrize(
    ("mood", "outcome"),
    [("refusing", "refused"), ("failing", "unavailable"), ("hanging", "unavailable")],
)
async def test_what_went_wrong_is_told_without_the_answer(
    of_type: str, mood: str, outcome: str
) -> None:
    async with open_pair(of_type) as (notifier, receiver):
        receiver.become(mood)
        delivery = await notifier.send(receiver.channel, MESSAGE)
        assert delivery.outcome == outcome
        assert delivery.message
        assert "private" not in delivery.message
        assert "127.0.0.1" not in delivery.message
        assert receiver.texts() == []


@pytest.mark.parametrize(
    ("notifier", "receiver"),
    [
        (
            WebhookNotifier(secrets(), SystemClock()),
            {"webhook": {"url": "http://127.0.0.1:9", "secret": "hook"}},
        ),
        (SlackNotifier(secrets()), {"slack": {"urlSecret": "hook"}}),
        (
            EmailNotifier(secrets()),
            {"email": {"host": "h", "password": "hook", "from": "a@b.c", "to": ["a@b.c"]}},
        ),
    ],
)
async def test_without_its_secret_nothing_is_sent(notifier: Notifier, receiver: Any) -> None:
    delivery = await notifier.send(channel_of(**receiver), MESSAGE)
    assert delivery.outcome == "refused"
    assert "'hook'" in delivery.message


# -- webhooks -----------------------------------------------------------------------------


async def test_a_webhook_is_a_cloud_event_whose_signature_verifies() -> None:
    async with http_receiver() as server:
        notifier = WebhookNotifier(secrets(hook=SIGNING), SystemClock())
        channel = channel_of(webhook={"url": server.url, "secret": "hook"})
        assert (await notifier.send(channel, MESSAGE)).outcome == "delivered"
        await notifier.close()
    headers, body = server.received[0]
    told = Webhook(SIGNING).verify(body, dict(headers))
    assert told["specversion"] == "1.0"
    assert told["type"] == "dev.modelplane.approval.requested"
    assert (told["id"], told["source"]) == ("id-1", "http://127.0.0.1:7080")
    assert told["subject"] == "Approval staging/fraud-1.risk"
    assert datetime.fromisoformat(told["time"]) == EVENT.at
    assert told["data"]["team"] == "Команда риска"
    lower = {name.lower(): value for name, value in headers.items()}
    assert lower["content-type"].startswith("application/cloudevents+json")
    assert lower["webhook-id"] == "id-1"
    for altered in (body.replace(b"fraud", b"other"), body + b" "):
        with pytest.raises(WebhookVerificationError):
            Webhook(SIGNING).verify(altered, dict(headers))
    other = f"whsec_{base64.b64encode(b'x' * 32).decode()}"
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(body, dict(headers))


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_c2hvcnQ=", "not base64 at all!", "ключ"])
async def test_a_weak_signing_secret_is_refused_and_not_shown(secret: str) -> None:
    async with http_receiver() as server:
        notifier = WebhookNotifier(secrets(hook=secret), SystemClock())
        channel = channel_of(webhook={"url": server.url, "secret": "hook"})
        delivery = await notifier.send(channel, MESSAGE)
        await notifier.close()
    assert delivery.outcome == "refused"
    assert not secret or secret == "whsec_" or secret not in delivery.message
    assert server.attempts == 0


async def test_redirects_are_not_followed() -> None:
    async with http_receiver() as server:
        server.mood = "redirecting"
        notifier = WebhookNotifier(secrets(), SystemClock())
        delivery = await notifier.send(channel_of(webhook={"url": server.url}), MESSAGE)
        await notifier.close()
    assert (delivery.outcome, server.attempts) == ("refused", 1)
    assert "redirect" in delivery.message


async def test_an_address_that_is_a_secret_is_not_told() -> None:
    notifier = SlackNotifier(secrets(hook="no address at all", away="http://127.0.0.1:1/T0/B0/XX"))
    for name, outcome in (("hook", "refused"), ("away", "unavailable")):
        delivery = await notifier.send(channel_of(slack={"urlSecret": name}), MESSAGE)
        assert delivery.outcome == outcome
        for word in ("address at all", "127.0.0.1", "T0"):
            assert word not in delivery.message
    await notifier.close()


# -- what is written to people ----------------------------------------------------------------

NASTY = replace(
    MESSAGE,
    event=EVENT.with_(
        subject="x\r\nBcc: everybody@example.org",
        data={
            "model": "<script>alert(1)</script>",
            "version": "<!channel>\r\nBcc: everybody@example.org",
            "message": "& <https://evil.example|ours> \x1b[31m" + "long " * 3000,
        },
    ),
)


def test_slack_shows_names_and_does_nothing_with_them() -> None:
    payload = make_payload(NASTY)
    text = json.dumps(payload, ensure_ascii=False)
    assert payload["text"]
    for mark in ("<script>", "<!channel>", "<https://evil"):
        assert mark not in text.replace(json.dumps(payload["blocks"][0]), "")
    assert f"<{LINK}|" in text
    header = payload["blocks"][0]["text"]
    assert header["type"] == "plain_text"
    assert len(header["text"]) <= 150
    for block in payload["blocks"][1:]:
        for part in [block.get("text"), *block.get("fields", [])]:
            assert part is None or len(part["text"]) <= 3000


RECEIVER = EmailReceiver.model_validate(
    {"host": "h", "from": "modelplane <mp@example.org>", "to": ["Änne <a@example.org>"]}
)


async def test_names_put_no_headers_into_mail_and_no_tags_into_its_page() -> None:
    async with smtp_receiver() as server:
        given = {"host": "127.0.0.1", "port": server.port, "tls": "none"}
        email = {**given, "from": "modelplane <mp@example.org>", "to": ["Änne <a@example.org>"]}
        delivery = await EmailNotifier(secrets()).send(channel_of(email=email), NASTY)
    assert delivery.outcome == "delivered"
    (mail,) = server.received
    assert mail["Bcc"] is None
    assert mail["To"] == "Änne <a@example.org>"
    assert "\n" not in mail["Subject"]
    html = mail.get_body(("html",))
    assert html is not None
    page = html.get_content()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert f'href="{LINK}"' in page
    assert mail["Message-ID"] == "<id-1@example.org>"


@pytest.mark.parametrize("address", ["a@b.c\r\nBcc: x@y.z", "nobody", "<>", "a@b\n.c", "@", "a@"])
def test_what_is_no_address_is_refused(address: str) -> None:
    for wrong in (RECEIVER.with_(sender=address), RECEIVER.with_(to=(address,))):
        with pytest.raises(ValueError, match="address"):
            make_mail(wrong, MESSAGE)


async def test_mail_goes_over_starttls_with_a_password() -> None:
    async with smtp_receiver(tls=True, password=PASSWORD) as server:
        given = {"host": "localhost", "port": server.port, "username": "mp", "password": "mail"}
        channel = channel_of(email={**given, "from": "mp@example.org", "to": ["a@example.org"]})
        known = EmailNotifier(secrets(mail=PASSWORD), server.context)
        assert await known.send(channel, MESSAGE) == Delivery("delivered")
        wrong = EmailNotifier(secrets(mail="wrong horse"), server.context)
        delivery = await wrong.send(channel, MESSAGE)
        assert delivery.outcome == "refused"
        assert "horse" not in delivery.message
        strangers = EmailNotifier(secrets(mail=PASSWORD))
        delivery = await strangers.send(channel, MESSAGE)
        assert delivery.outcome == "refused"
        assert "TLS" in delivery.message
    assert len(server.received) == 1


async def test_nothing_goes_unencrypted_unless_the_channel_says_so() -> None:
    async with smtp_receiver() as server:
        email = {"host": "127.0.0.1", "port": server.port, "from": "a@b.c", "to": ["a@b.c"]}
        delivery = await EmailNotifier(secrets()).send(channel_of(email=email), MESSAGE)
    assert delivery.outcome == "refused"
    assert server.received == []
