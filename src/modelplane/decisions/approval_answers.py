"""Who may answer an approval, for whom, and what an answer changes. Pure.

Called by the API, for people with a token and for one-time links alike: there is one rule for
both. The policy as it was when the approval was asked for counts, not as it is now.

The rules, in this order: the approval is open; the one who answers is named by the policy, or an
approver who is named delegated it; neither of the two made the version nor asked for the
promotion; neither has had a say in it before (one person, one answer); a rejection says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from modelplane.errors import Conflict, FieldError, Forbidden, InvalidResource
from modelplane.resources.approval import (
    Approval,
    ApprovalDecision,
    ApprovalPhase,
    ApprovalPolicy,
    Approvers,
    Delegation,
)
from modelplane.resources.meta import Subject

MAX_REASON = 2000
"""Longest reason, characters."""

Verdict = Literal["approve", "reject"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody says.

    Attributes
    ----------
    subject
        Who says it, with the groups that the approver's token has now.
    decision, reason
        What and why; a rejection needs a reason.
    at
        When.
    link
        Id of the one-time link, when it came by one.
    """

    subject: Subject
    decision: Verdict
    reason: str
    at: datetime
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Representation:
    """What lets people answer for others.

    Attributes
    ----------
    delegations
        All there are; those that are over are ignored.
    approvers
        Subjects by name as they are now: a delegator without a token any more, or without the
        group, gives nobody a right.
    """

    delegations: Sequence[Delegation] = ()
    approvers: Mapping[str, Subject] = field(default_factory=dict)


def is_named(approvers: Approvers, subject: Subject) -> bool:
    """Whether `subject` is one of `approvers`, by name or by a group."""
    return subject.name in approvers.subjects or not set(approvers.groups).isdisjoint(
        subject.groups
    )


def answer_approval(approval: Approval, answer: Answer, representation: Representation) -> Approval:
    """Return `approval` with the answer: open still, approved or rejected.

    Raises
    ------
    Forbidden
        This subject may not answer this approval.
    Conflict
        It is not open any more, or the person has answered already.
    InvalidResource
        A rejection without a reason, or a reason that is too long.
    """
    spec = approval.spec
    _check_open(approval, answer.at)
    principal = _find_principal(approval, answer.subject, answer.at, representation)
    _check_not_answered(approval, answer.subject.name, principal)
    reason = answer.reason.strip()
    if answer.decision == "reject" and not reason:
        message = "say why: who made the version wants to know"
        raise InvalidResource("a rejection needs a reason", [FieldError("reason", message)])
    if len(reason) > MAX_REASON:
        message = f"at most {MAX_REASON:,} characters, these are {len(reason):,}"
        raise InvalidResource("the reason is too long", [FieldError("reason", message)])
    decision = ApprovalDecision(
        subject=answer.subject.name,
        on_behalf_of=None if principal == answer.subject.name else principal,
        decision=answer.decision,
        reason=reason,
        at=answer.at,
        link=answer.link,
    )
    decisions = (*approval.status.decisions, decision)
    agreed = [d for d in decisions if d.decision == "approve"]
    phase: ApprovalPhase = "Pending"
    message = f"{len(agreed)} of {spec.quorum} have agreed"
    if answer.decision == "reject":
        phase, message = "Rejected", f"rejected by {_say_who(decision)}: {reason}"
    elif len(agreed) >= spec.quorum:
        phase, message = "Approved", f"approved by {', '.join(map(_say_who, agreed))}"
    finished_at = None if phase == "Pending" else answer.at
    return approval.with_status(
        phase=phase, message=message, decisions=decisions, finished_at=finished_at
    )


def may_answer(
    approval: Approval, subject: Subject, representation: Representation, now: datetime
) -> bool:
    """Whether an answer of `subject` would count now."""
    try:
        answer_approval(approval, Answer(subject, "approve", "", now), representation)
    except (Forbidden, Conflict):
        return False
    return True


def expire(approval: Approval, now: datetime) -> Approval | None:
    """Return an open approval as expired when its time is over, else None."""
    if approval.status.phase != "Pending" or now < approval.spec.expires_at:
        return None
    agreed = sum(d.decision == "approve" for d in approval.status.decisions)
    message = f"nobody answered until {approval.spec.expires_at:%Y-%m-%d %H:%M}Z"
    if agreed:
        message = (
            f"{agreed} of {approval.spec.quorum} had agreed "
            f"until {approval.spec.expires_at:%Y-%m-%d %H:%M}Z"
        )
    return approval.with_status(phase="Expired", message=message, finished_at=now)


def void(approval: Approval, why: str, now: datetime) -> Approval:
    """Return an approval that no longer counts, with what was answered."""
    return approval.with_status(phase="Void", message=why, finished_at=now)


def check_delegation(
    delegation: Delegation, delegator: Subject, policies: Sequence[ApprovalPolicy]
) -> None:
    """Refuse a delegation that could not mean anything.

    Parameters
    ----------
    delegation
        As it would be written.
    delegator
        Who makes it.
    policies
        All approval policies.

    Raises
    ------
    Forbidden
        No policy names the delegator: what one was delegated oneself cannot be passed on.
    InvalidResource
        To oneself, over at once, or for policies that are unknown or allow no delegation.
    """
    spec = delegation.spec
    faults = []
    if spec.delegate == spec.delegator:
        faults.append(FieldError("to", "one does not delegate to oneself"))
    if spec.ends_at <= spec.starts_at:
        faults.append(FieldError("until", "must be in the future"))
    by_name = {policy.metadata.name: policy for policy in policies}
    for index, name in enumerate(spec.policies):
        policy = by_name.get(name)
        if policy is None:
            known = ", ".join(sorted(by_name)) or "none"
            message = f"there is no approval policy {name!r}; there are: {known}"
            faults.append(FieldError(f"policies[{index}]", message))
        elif not policy.spec.delegation:
            faults.append(FieldError(f"policies[{index}]", f"{name} allows no delegation"))
    if faults:
        raise InvalidResource("the delegation is not valid", faults)
    meant = [by_name[name] for name in spec.policies] if spec.policies else policies
    if not any(is_named(policy.spec.approvers, delegator) for policy in meant):
        raise Forbidden(
            f"{delegator.name!r} is named by no approval policy that this is about",
            hint="only approvers delegate, and only their own right",
        )


def _check_open(approval: Approval, now: datetime) -> None:
    status, name = approval.status, approval.metadata.name
    if status.phase != "Pending":
        said = f": {status.message}" if status.message else ""
        raise Conflict(f"{name} is {status.phase} already{said}")
    if now >= approval.spec.expires_at:
        raise Conflict(f"{name} has expired", hint="ask for the promotion again")


def _find_principal(
    approval: Approval, subject: Subject, now: datetime, representation: Representation
) -> str:
    """Return whose answer it is: the subject's own, or of who delegated it."""
    spec, name = approval.spec, approval.metadata.name
    interest = _find_interest(approval, subject.name)
    if interest:
        raise Forbidden(f"{subject.name!r} {interest}, and may not answer {name}")
    if is_named(spec.approvers, subject):
        return subject.name
    delegators = [
        representation.approvers[delegation.spec.delegator]
        for delegation in representation.delegations
        if delegation.spec.delegator in representation.approvers
        and _is_in_force(delegation, approval, subject, now)
    ]
    named = [delegator for delegator in delegators if is_named(spec.approvers, delegator)]
    free = [delegator.name for delegator in named if not _find_interest(approval, delegator.name)]
    heard = _heard(approval)
    if free:
        return next((principal for principal in free if principal not in heard), free[0])
    if named:
        interest = _find_interest(approval, named[0].name)
        raise Forbidden(
            f"{named[0].name!r}, for whom {subject.name!r} would answer {name}, {interest}"
        )
    groups = (f"group {group}" for group in spec.approvers.groups)
    who = ", ".join([*groups, *spec.approvers.subjects])
    raise Forbidden(f"{subject.name!r} may not answer {name}: policy {spec.policy} names {who}")


def _find_interest(approval: Approval, name: str) -> str:
    """Return why somebody has an interest in the outcome; empty when not."""
    spec = approval.spec
    # Authors may come from other systems, where case is written differently.
    if spec.author and name.casefold() == spec.author.strip().casefold():
        return f"made {spec.model} {spec.version}"
    if spec.requester and name == spec.requester:
        return f"asked for promotion {spec.promotion}"
    return ""


def _is_in_force(
    delegation: Delegation, approval: Approval, subject: Subject, now: datetime
) -> bool:
    spec = delegation.spec
    return (
        approval.spec.delegation
        and spec.delegate == subject.name
        and spec.starts_at <= now < spec.ends_at
        and (not spec.policies or approval.spec.policy in spec.policies)
    )


def _heard(approval: Approval) -> frozenset[str | None]:
    """Return everybody who has had a say: who answered, and for whom."""
    said = approval.status.decisions
    return frozenset({d.subject for d in said} | {d.on_behalf_of for d in said if d.on_behalf_of})


def _check_not_answered(approval: Approval, name: str, principal: str) -> None:
    heard = _heard(approval)
    for person in (name, principal):
        if person in heard:
            raise Conflict(
                f"{approval.metadata.name} has an answer by or for {person!r} already",
                hint="each person answers once, for themselves or for somebody else",
            )


def _say_who(decision: ApprovalDecision) -> str:
    if decision.on_behalf_of:
        return f"{decision.subject} for {decision.on_behalf_of}"
    return decision.subject
