"""Requests about approvals, delegations and notifications, as values.

Used by the client; sends nothing itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from modelplane.client import calls
from modelplane.client.answers import read_object
from modelplane.client.calls import PREFIX, Call
from modelplane.errors import TerminalError
from modelplane.resources.approval import Approval, Delegation
from modelplane.resources.notification import Notification, NotificationChannel


def answer_call(
    name: str, environment: str, decision: Literal["approve", "reject"], reason: str
) -> Call:
    """Return the call that answers an approval."""
    return calls.act(Approval, name, decision, environment, {"reason": reason})


def mine_call() -> Call:
    """Return the call that lists what one may answer."""
    return Call("GET", f"{PREFIX}/approvals:mine")


def delegate_call(to: str, until: str, policies: Sequence[str], reason: str) -> Call:
    """Return the call that lets `to` answer for oneself; the same again changes nothing more."""
    body = {"to": to, "until": until, "policies": list(policies), "reason": reason}
    return Call("POST", f"{PREFIX}/{Delegation.plural}", body=body)


def revoke_call(name: str) -> Call:
    """Return the call that ends a delegation."""
    return calls.act(Delegation, name, "revoke", None, {})


def replay_call(name: str) -> Call:
    """Return the call that sends a dead letter again."""
    return calls.act(Notification, name, "replay", None, {})


def channel_test_call(name: str) -> Call:
    """Return the call that tries out a channel."""
    return calls.act(NotificationChannel, name, "test", None, {})


def read_approvals(body: bytes) -> tuple[Approval, ...]:
    """Return the approvals in an answer."""
    data = read_object(body)
    try:
        return tuple(Approval.model_validate(item) for item in data["items"])
    except (ValueError, KeyError, TypeError) as error:
        raise TerminalError(
            "the answer is no list of approvals that this version of modelplane knows: "
            + str(error).partition("\n")[0],
            hint="use the same version on both sides",
        ) from None
