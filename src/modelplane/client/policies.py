"""Policies tried on one version and replayed over the past, as calls. Sends nothing itself.

Used by `gates.GateClient`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from modelplane.client.calls import PREFIX, Call
from modelplane.decisions.policy_replay import PolicyReplay
from modelplane.errors import TerminalError
from modelplane.resources.approval import ApprovalPolicy
from modelplane.resources.manifest import canonical
from modelplane.resources.meta import Part
from modelplane.resources.promotion import GateOutcome, PolicyOutcome
from modelplane.resources.promotion_policy import PromotionPolicy
from modelplane.resources.strategy import Analysis

P = TypeVar("P", bound=Part)
AnyPolicy = PromotionPolicy | ApprovalPolicy


class PolicyTrial(Part):
    """What would be decided of a version now."""

    model: str
    version: str
    environment: str
    phase: str = Field(description="Of the promotion; `Frozen` while a freeze holds it.")
    reason: str
    message: str
    policies: tuple[PolicyOutcome, ...] = ()
    gates: tuple[GateOutcome, ...] = ()
    approvals: tuple[str, ...] = Field(default=(), description="Asked for, or carried along.")

    @property
    def allowed(self) -> bool:
        """Whether it could go there at once."""
        return self.phase == "Approved"


def replay_call(policies: Sequence[AnyPolicy], since: datetime | None) -> Call:
    """Return the call that replays proposed policies; it changes nothing."""
    body: dict[str, Any] = {"documents": [canonical(policy) for policy in policies]}
    if since is not None:
        body["since"] = (since if since.tzinfo else since.astimezone()).isoformat()
    return Call("POST", f"{PREFIX}/policies:replay", body=body)


def analysis_replay_call(
    analysis: Analysis, environment: str, deployment: str | None, since: datetime | None
) -> Call:
    """Return the call that tries analysis settings on recorded rollouts; it changes nothing."""
    body: dict[str, Any] = {"analysis": analysis.to_dict(), "environment": environment}
    if deployment is not None:
        body["deployment"] = deployment
    if since is not None:
        body["since"] = (since if since.tzinfo else since.astimezone()).isoformat()
    return Call("POST", f"{PREFIX}/analysis:replay", body=body)


def trial_call(
    version: str, environment: str, policies: Sequence[AnyPolicy], deployment: str | None
) -> Call:
    """Return the call that tries policies on ``MODEL@VERSION``; it changes nothing."""
    body: dict[str, Any] = {
        "version": version,
        "environment": environment,
        "documents": [canonical(policy) for policy in policies],
    }
    if deployment is not None:
        body["deployment"] = deployment
    return Call("POST", f"{PREFIX}/policies:test", body=body)


def read_replay(body: bytes) -> PolicyReplay:
    """Return what a replay found."""
    return _read(PolicyReplay, body)


def read_trial(body: bytes) -> PolicyTrial:
    """Return what would be decided."""
    return _read(PolicyTrial, body)


def _read(part: type[P], body: bytes) -> P:
    try:
        return part.model_validate_json(body)
    except ValidationError as error:
        detail = str(error).partition("\n")[0]
        raise TerminalError(
            f"the answer is none that this version of modelplane knows: {detail}",
            hint="use the same version on both sides",
        ) from None
