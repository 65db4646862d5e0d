"""One-time links: a request for approval that can be answered without a token. Pure.

Made when a notification is sent (`controllers.notifications`), read by `api.approval_links`. A
link is a sealed statement (HMAC-SHA256, RFC 2104) of which question it answers, for which
revision, as whom and until when: whoever holds it may answer as that subject, once. It holds no
state: that it was used stands in the approval's answers, under the link's id.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from datetime import UTC, datetime

from pydantic import Field, ValidationError

from modelplane.errors import Conflict, Forbidden, ModelplaneError
from modelplane.resources.approval import Approval
from modelplane.resources.meta import Part

PATH = "/approvals/links"
"""Where links lead, below the public address."""

MAX_TOKEN = 4096
_PURPOSE = b"modelplane approval link 1\n"


class LinkForged(Forbidden):
    """The link is none that this control plane made, or was altered."""

    code = "link-forged"


class LinkExpired(ModelplaneError):
    """The time to answer is over."""

    code = "link-expired"
    status = 410


class LinkUsed(Conflict):
    """The link was used, or what it asks is no longer open."""

    code = "link-used"


class Link(Part):
    """What a link says."""

    id: str = Field(description="Recorded with the answer; the same for the same notification.")
    environment: str
    name: str
    uid: str = Field(description="Of the approval: one of its name made later is another one.")
    revision: str = Field(description="Digest of the revision that is asked about.")
    evidence: str = Field(description="Digest of the evidence that it rests on.")
    subject: str = Field(description="Who answers.")
    expires: int = Field(description="Seconds since 1970.")


def make_link(approval: Approval, subject: str, notification_id: str) -> Link:
    """Return the link that lets `subject` answer `approval`.

    It follows from the notification that carries it, so that one that is sent twice carries the
    same link and not two of them.
    """
    spec, metadata = approval.spec, approval.metadata
    assert metadata.environment is not None
    made_of = f"{notification_id}\n{metadata.uid}\n{subject}"
    return Link(
        id=hashlib.sha256(made_of.encode()).hexdigest()[:24],
        environment=metadata.environment,
        name=metadata.name,
        uid=metadata.uid,
        revision=spec.revision_digest,
        evidence=spec.evidence_digest,
        subject=subject,
        expires=int(spec.expires_at.timestamp()),
    )


def seal_link(link: Link, key: bytes) -> str:
    """Return the token that stands for `link`: URL-safe, sealed with `key`."""
    text = json.dumps(link.to_dict(), sort_keys=True, separators=(",", ":")).encode()
    return f"{_encode(text)}.{_encode(_seal(text, key))}"


def open_link(token: str, key: bytes, now: datetime) -> Link:
    """Return what a token says.

    Raises
    ------
    LinkForged
        It was not sealed with `key`; of what it says nothing is looked at before.
    LinkExpired
        Its time is over.
    """
    forged = LinkForged("this link is not one of ours, or was altered")
    text, _, seal = token.partition(".")
    if not key or len(token) > MAX_TOKEN:
        raise forged
    try:
        said, given = _decode(text), _decode(seal)
        if not hmac.compare_digest(_seal(said, key), given):
            raise forged
        link = Link.model_validate_json(said)
    except (ValueError, binascii.Error, ValidationError):
        raise forged from None
    if now.timestamp() >= link.expires:
        until = datetime.fromtimestamp(link.expires, UTC)
        raise LinkExpired(f"this link was good until {until:%Y-%m-%d %H:%M}Z")
    return link


def check_link(link: Link, approval: Approval | None) -> Approval:
    """Return the approval that a link still answers.

    Raises
    ------
    LinkUsed
        The link was used, or the approval is gone, closed, or about something else now.
    """
    if approval is None or approval.metadata.uid != link.uid:
        raise LinkUsed("what this link asks does not exist any more")
    spec, status = approval.spec, approval.status
    if any(decision.link == link.id for decision in status.decisions):
        raise LinkUsed("this link has been used: it answers once")
    if (spec.revision_digest, spec.evidence_digest) != (link.revision, link.evidence):
        raise LinkUsed("what this link asks about has changed; a new request will come")
    if status.phase != "Pending":
        raise LinkUsed(f"this request is {status.phase} already", hint=status.message)
    return approval


def _seal(text: bytes, key: bytes) -> bytes:
    return hmac.new(key, _PURPOSE + text, hashlib.sha256).digest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    """Undo `_encode`; only its own form is accepted, so that a token has one spelling."""
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _encode(data) != text:
        raise ValueError("not canonical")
    return data
