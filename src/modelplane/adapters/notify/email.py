"""E-mail over SMTP, in plain text and in HTML, with STARTTLS unless the channel says otherwise.

The connection is made in a thread, each message on its own: notifications are few, and a server
that hangs holds up one thread until the channel's time-out.
"""

from __future__ import annotations

import asyncio
import contextlib
import smtplib
import ssl
import time
from collections.abc import Callable
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from html import escape

from modelplane.decisions.notification_text import describe_event
from modelplane.decisions.notifications import Delivery
from modelplane.ports.notifier import Message
from modelplane.resources.notification import EmailReceiver, NotificationChannel


class EmailNotifier:
    """Sends messages through SMTP servers.

    Parameters
    ----------
    secret
        Returns a secret by its name, or None.
    context
        How servers' certificates are checked; the system's authorities when left out.
    """

    def __init__(
        self, secret: Callable[[str], str | None], context: ssl.SSLContext | None = None
    ) -> None:
        self._secret = secret
        self._context = context or ssl.create_default_context()

    async def send(self, channel: NotificationChannel, message: Message) -> Delivery:
        """Send the message once, to all addresses of the channel."""
        receiver = channel.spec.email
        assert receiver is not None
        password = None
        if receiver.password is not None:
            password = self._secret(receiver.password)
            if password is None:
                return Delivery("refused", f"there is no secret {receiver.password!r}")
        try:
            mail = make_mail(receiver, message)
        except (ValueError, MessageError) as error:
            return Delivery("refused", f"an address of the channel is none: {error}")
        timeout_s = channel.spec.timeout_s
        try:
            # The thread ends by its own deadline; this one only guards against a stuck resolver.
            async with asyncio.timeout(timeout_s + 5.0):
                return await asyncio.to_thread(self._deliver, receiver, mail, password, timeout_s)
        except TimeoutError:
            return Delivery("unavailable", f"no answer within {timeout_s:g} s")

    async def close(self) -> None:
        """Nothing is kept open."""

    def _deliver(
        self, receiver: EmailReceiver, mail: EmailMessage, password: str | None, timeout_s: float
    ) -> Delivery:
        until_s = time.monotonic() + timeout_s
        try:
            with self._connect(receiver, timeout_s) as server:
                _check_time(server, until_s)
                if receiver.tls == "starttls":
                    server.starttls(context=self._context)
                _check_time(server, until_s)
                if receiver.username is not None:
                    server.login(receiver.username, password or "")
                _check_time(server, until_s)
                refused = server.send_message(mail)
        except (smtplib.SMTPException, OSError) as error:
            return judge(error, timeout_s)
        if refused:
            # Some have it: sending it again would be worse than one who lacks it.
            return Delivery("delivered", f"{len(refused)} of {len(receiver.to)} were refused")
        return Delivery("delivered")

    def _connect(self, receiver: EmailReceiver, timeout_s: float) -> smtplib.SMTP:
        if receiver.tls == "tls":
            return smtplib.SMTP_SSL(
                receiver.host, receiver.port, timeout=timeout_s, context=self._context
            )
        return smtplib.SMTP(receiver.host, receiver.port, timeout=timeout_s)


def make_mail(receiver: EmailReceiver, message: Message) -> EmailMessage:
    """Return the e-mail for `message`.

    Raises
    ------
    ValueError
        An address of `receiver` is none.
    """
    wording = describe_event(message.event)
    mail = EmailMessage()
    sender = read_address(receiver.sender)
    # Line breaks are gone from the wording; the policy refuses those that are left anywhere.
    mail["Subject"] = f"[modelplane] {wording.title}"
    mail["From"] = sender
    mail["To"] = [read_address(to) for to in receiver.to]
    mail["Date"] = format_datetime(message.event.at)
    mail["Message-ID"] = f"<{message.id}@{sender.domain or 'modelplane'}>"
    mail["Auto-Submitted"] = "auto-generated"
    lines = [wording.title, ""]
    lines += [wording.sentence, ""] if wording.sentence else []
    lines += [f"{label}: {value}" for label, value in wording.facts]
    rows = "".join(
        f"<tr><td>{escape(label)}</td><td>{escape(value)}</td></tr>"
        for label, value in wording.facts
    )
    page = f"<h2>{escape(wording.title)}</h2><p>{escape(wording.sentence)}</p>"
    page += f"<table>{rows}</table>"
    if message.link is not None:
        lines += ["", "Look at it, and approve or reject:", message.link]
        lines += ["", "The link answers for you, once. Do not pass it on."]
        link = escape(message.link, quote=True)
        page += f'<p><a href="{link}">Look at it, and approve or reject</a></p>'
        page += "<p>The link answers for you, once. Do not pass it on.</p>"
    mail.set_content("\n".join(lines) + "\n")
    mail.add_alternative(f"<!doctype html><html><body>{page}</body></html>", subtype="html")
    return mail


def read_address(text: str) -> Address:
    """Return ``Name <user@host>`` or ``user@host`` as an address.

    Raises
    ------
    ValueError
        It is neither, or has a line break in it.
    """
    if any(not character.isprintable() for character in text):
        raise ValueError(f"not an address: {text[:80]!r}")
    name, specification = parseaddr(text)
    if "@" not in specification:
        raise ValueError(f"not an address: {text[:80]!r}")
    with contextlib.suppress(ValueError, MessageError):
        return Address(display_name=name, addr_spec=specification)
    raise ValueError(f"not an address: {text[:80]!r}")


def judge(error: Exception, timeout_s: float) -> Delivery:
    """Return what a failure means; what the server said is left out, its code is not."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        codes = {code for code, _ in error.recipients.values()}
        return _judge_code(max(codes, default=500), "every address was refused")
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return Delivery("refused", f"the server refused the password ({error.smtp_code})")
    if isinstance(error, smtplib.SMTPResponseException):
        return _judge_code(error.smtp_code, f"the server answered {error.smtp_code}")
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return Delivery("refused", "the server knows no STARTTLS, or no login; see tls")
    if isinstance(error, ssl.SSLError):
        return Delivery("refused", f"no TLS with the server: {error.reason or 'not verified'}")
    if isinstance(error, TimeoutError):
        return Delivery("unavailable", f"no answer within {timeout_s:g} s")
    cause = error.strerror if isinstance(error, OSError) else None
    return Delivery("unavailable", f"no connection: {cause or type(error).__name__}")


def _judge_code(code: int, message: str) -> Delivery:
    return Delivery("refused" if code >= 500 else "unavailable", message)


def _check_time(server: smtplib.SMTP, until_s: float) -> None:
    """Give what follows only the time that is left; each step has a time-out of its own."""
    left_s = until_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    if server.sock is not None:
        server.sock.settimeout(left_s)
