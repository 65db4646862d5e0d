"""Notifications: where people are told of what happens, and what waits to be sent. Pure data.

A `Notification` is written in the same transaction as what it tells of (an outbox), and sent
afterwards, again and again until it arrives or is given up.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from modelplane.resources.addresses import Url
from modelplane.resources.meta import Name, NoStatus, Part, Resource
from modelplane.resources.quantities import Duration

EventType = Literal[
    "approval.requested", "approval.approved", "approval.rejected", "approval.expired",
    "approval.void", "promotion.requested", "promotion.refused", "promotion.done",
    "promotion.rolled_back", "promotion.failed", "gate.passed", "gate.failed", "alias.put_back",
    "alert.firing", "alert.resolved", "playbook.started", "playbook.done", "playbook.escalated",
    "playbook.question", "training.started", "training.done", "training.failed",
    "channel.test",
]  # fmt: skip


ReceiverType = Literal["webhook", "slack", "email"]


class Event(Part):
    """Something that happened, as a CloudEvent's payload and routing facts."""

    type: EventType
    subject: str = Field(description="What it is about: `Promotion production/fraud-3`.")
    environment: str | None = None
    team: str = ""
    at: datetime
    data: dict[str, Any] = Field(default_factory=dict)


class WebhookReceiver(Part):
    """An HTTP endpoint that takes CloudEvents, signed as Standard Webhooks says."""

    url: Url = Field(description="Where events are posted to.")
    secret: Name | None = Field(default=None, description="Name of the signing secret.")


class SlackReceiver(Part):
    """An incoming webhook of Slack, or of what is compatible with it."""

    url: Url | None = Field(default=None, description="Its address, where that is no secret.")
    url_secret: Name | None = Field(
        default=None, description="Name of the secret that holds the address."
    )

    @model_validator(mode="after")
    def _one_address(self) -> SlackReceiver:
        if (self.url is None) == (self.url_secret is None):
            raise ValueError("give either url or urlSecret")
        return self


class EmailReceiver(Part):
    """An SMTP server and the people to write to."""

    host: str = Field(min_length=1, description="Name or address of the SMTP server.")
    port: int = Field(default=587, ge=1, le=65535, description="TCP port.")
    tls: Literal["starttls", "tls", "none"] = Field(
        default="starttls", description="`tls`: from the first byte on, mostly on port 465."
    )
    username: str | None = Field(default=None, description="Whom to sign in as; absent: nobody.")
    password: Name | None = Field(default=None, description="Name of the secret.")
    sender: str = Field(alias="from", min_length=3, description="Address it comes from.")
    to: tuple[str, ...] = Field(min_length=1, description="Addresses it goes to.")


class NotificationChannelSpec(Part):
    """Where to, and what."""

    webhook: WebhookReceiver | None = Field(default=None, description="Signed CloudEvents.")
    slack: SlackReceiver | None = Field(default=None, description="An incoming webhook.")
    email: EmailReceiver | None = Field(default=None, description="Mail by SMTP.")
    events: tuple[EventType, ...] = Field(default=(), description="Absent: all.")
    teams: tuple[str, ...] = Field(default=(), description="Absent: all.")
    environments: tuple[Name, ...] = Field(default=(), description="Absent: all.")
    approver: str | None = Field(
        default=None,
        description="The subject who reads here. Requests for approval then carry links that "
        "answer for this subject, once.",
    )
    timeout_s: Duration = Field(
        default=10.0, gt=0, alias="timeout", description="Of one attempt; then it is tried again."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> NotificationChannelSpec:
        given = [r for r in (self.webhook, self.slack, self.email) if r is not None]
        if len(given) != 1:
            raise ValueError("a channel is exactly one of: webhook, slack, email")
        if self.approver and self.email is not None and len(self.email.to) > 1:
            raise ValueError("a channel of an approver writes to one address: links are personal")
        return self

    @property
    def receiver_type(self) -> ReceiverType:
        """Which of the receivers it has."""
        return "webhook" if self.webhook else "slack" if self.slack else "email"


class NotificationChannel(Resource[NotificationChannelSpec, NoStatus]):
    """Where people are told of what happens."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "notification-channels"
    declared: ClassVar[bool] = True
    short_names: ClassVar[tuple[str, ...]] = ("channel", "channels")

    kind: Literal["NotificationChannel"] = "NotificationChannel"
    spec: NotificationChannelSpec
    status: NoStatus = Field(default_factory=NoStatus)


class NotificationSpec(Part):
    """What is sent where."""

    channel: Name
    event: Event
    id: str = Field(
        description="Id of the CloudEvent; the same each time it is sent, so that receivers can "
        "tell repetitions."
    )


class NotificationStatus(Part):
    """Whether it arrived."""

    phase: Literal["Pending", "Delivered", "Dead"] = "Pending"
    attempts: int = 0
    since: datetime | None = Field(
        default=None, description="When the first attempt was made; a replay begins anew."
    )
    next_at: datetime | None = None
    delivered_at: datetime | None = None
    message: str = ""


class Notification(Resource[NotificationSpec, NotificationStatus]):
    """One message to one channel, kept until it arrives or is given up."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "notifications"

    kind: Literal["Notification"] = "Notification"
    spec: NotificationSpec
    status: NotificationStatus = Field(default_factory=NotificationStatus)
