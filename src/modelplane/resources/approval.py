"""Approvals: who has to agree before a revision goes its way, and what they said. Pure data.

An `ApprovalPolicy` says who; an `Approval` is the question put to them for one revision with its
evidence, and their answers; a `Delegation` lets somebody answer for somebody else.
"""

from __future__ import annotations

import math
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from modelplane.resources.meta import ModelName, Name, NoStatus, Part, Resource
from modelplane.resources.promotion_policy import PolicyCondition
from modelplane.resources.quantities import Duration
from modelplane.resources.selector import ModelSelector

ApprovalPhase = Literal["Pending", "Approved", "Rejected", "Expired", "Void"]
FINISHED_APPROVAL: frozenset[str] = frozenset({"Approved", "Rejected", "Expired", "Void"})


def parse_threshold(value: Any) -> float:
    """Read a number, or a percentage as its fraction.

    Raises
    ------
    ValueError
        It is neither.

    Examples
    --------
    >>> parse_threshold("92%"), parse_threshold(0.92), parse_threshold("0.92")
    (0.92, 0.92, 0.92)
    """
    try:
        if isinstance(value, bool):
            raise ValueError
        text = str(value).strip()
        is_percentage = text.endswith("%")
        # Decimals, since 92 / 100 in binary is not what 0.92 is for every number.
        number = float(Decimal(text.removesuffix("%").strip()) / (100 if is_percentage else 1))
    except (ValueError, ArithmeticError):
        raise ValueError(f"not a threshold: {str(value)[:40]!r}; write 92% or 0.92") from None
    if not math.isfinite(number):
        raise ValueError("a threshold is a finite number")
    return number


Threshold = Annotated[
    float,
    BeforeValidator(parse_threshold),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}], "examples": ["92%"]}),
]
"""A number inside; ``92%`` or ``0.92`` outside."""


class Approvers(Part):
    """Who may answer."""

    groups: tuple[str, ...] = Field(default=(), description="Members of any of these groups.")
    subjects: tuple[str, ...] = Field(default=(), description="These, by the names of tokens.")

    @model_validator(mode="after")
    def _somebody(self) -> Approvers:
        if not (self.groups or self.subjects):
            raise ValueError("name groups or subjects who may approve")
        return self


class ApprovalPolicySpec(Part):
    """Who must agree, to what, and from which threshold on they are asked."""

    team: str = Field(default="", max_length=100, description="Whose policy it is, in any script.")
    models: ModelSelector = Field(
        default_factory=ModelSelector, description="Whose versions; absent: those of all models."
    )
    environments: tuple[Name, ...] = Field(
        default=(), description="Where promotions need this approval; absent: everywhere."
    )
    threshold: dict[str, Threshold] = Field(
        default_factory=dict,
        max_length=50,
        description="Metrics, as gates measured them, that must reach at least this before "
        "anybody is asked: `{accuracy: 92%}`. For what must be small, write a condition.",
    )
    conditions: tuple[PolicyCondition, ...] = Field(
        default=(), max_length=50, description="Further conditions in CEL."
    )
    approvers: Approvers = Field(description="Who is asked.")
    quorum: int = Field(default=1, ge=1, le=20, description="How many have to agree.")
    expires_after_s: Duration = Field(
        default=7 * 86400.0, gt=0, alias="expiresAfter", description="Unanswered so long: expired."
    )
    delegation: bool = Field(default=True, description="Whether approvers may delegate.")

    @model_validator(mode="after")
    def _can_be_met(self) -> ApprovalPolicySpec:
        named = len(set(self.approvers.subjects))
        if not self.approvers.groups and named < self.quorum:
            raise ValueError(f"quorum is {self.quorum}, and only {named} may approve")
        return self


class ApprovalPolicy(Resource[ApprovalPolicySpec, NoStatus]):
    """Who must agree before revisions of some models go to environments."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "approval-policies"
    declared: ClassVar[bool] = True
    short_names: ClassVar[tuple[str, ...]] = ("ap",)

    kind: Literal["ApprovalPolicy"] = "ApprovalPolicy"
    spec: ApprovalPolicySpec
    status: NoStatus = Field(default_factory=NoStatus)


class ApprovalDecision(Part):
    """One answer."""

    subject: str = Field(description="Who answered.")
    on_behalf_of: str | None = Field(default=None, description="Who delegated it.")
    decision: Literal["approve", "reject"]
    reason: str = ""
    at: datetime
    link: str | None = Field(default=None, description="Id of the one-time link, if by one.")


class ApprovalSpec(Part):
    """What is asked of whom; bound to the exact revision and its evidence."""

    promotion: str
    promotion_uid: str
    policy: Name
    policy_digest: str = Field(description="SHA-256 of the policy's spec.")
    team: str = ""
    model: ModelName
    version: str
    revision_digest: str
    evidence_digest: str = Field(description="SHA-256 over the gate results it rests on.")
    results: tuple[str, ...] = Field(default=(), description="The StageResults it rests on.")
    author: str = Field(default="", description="Who made the version; may not answer.")
    requester: str = Field(default="", description="Who asked for the promotion.")
    approvers: Approvers
    quorum: int = 1
    delegation: bool = True
    requested_at: datetime
    expires_at: datetime


class ApprovalStatus(Part):
    """What was answered."""

    phase: ApprovalPhase = "Pending"
    message: str = ""
    decisions: tuple[ApprovalDecision, ...] = ()
    finished_at: datetime | None = None


class Approval(Resource[ApprovalSpec, ApprovalStatus]):
    """A question to approvers about one revision. Named ``PROMOTION.POLICY``."""

    scoped: ClassVar[bool] = True
    plural: ClassVar[str] = "approvals"
    short_names: ClassVar[tuple[str, ...]] = ("approval",)

    kind: Literal["Approval"] = "Approval"
    spec: ApprovalSpec
    status: ApprovalStatus = Field(default_factory=ApprovalStatus)


class DelegationSpec(Part):
    """Who answers for whom, until when."""

    delegator: str
    delegate: str
    policies: tuple[Name, ...] = Field(default=(), description="Only these; absent: all.")
    starts_at: datetime
    ends_at: datetime
    reason: str = ""


class Delegation(Resource[DelegationSpec, NoStatus]):
    """Lets somebody answer for an approver; made by the approver."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "delegations"

    kind: Literal["Delegation"] = "Delegation"
    spec: DelegationSpec
    status: NoStatus = Field(default_factory=NoStatus)
