"""Whose approval a promotion needs, whom to ask, and whether they agreed. Pure.

Called by `controllers.promotion` after gates and promotion policies have passed, each time it
looks, until the answer is final; what answers change is in `approval_answers`.

An approval is about one revision under one policy, resting on certain results of gates. It
counts where all of that still holds: for the promotion that asked for it only with exactly the
evidence it was asked with; for later promotions of the same revision, in whatever environment, as
long as every result it rests on is among theirs: one approval goes the whole way. When the
revision, the evidence or the policy has changed since, it is void, and people are asked anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from modelplane.decisions.approval_answers import void
from modelplane.decisions.facts import FactNames, Facts
from modelplane.decisions.gate_runs import digest_json
from modelplane.errors import FieldError, InvalidResource
from modelplane.expressions.cel import (
    Condition,
    compile_condition,
    describe_values,
    evaluate,
    identifier,
)
from modelplane.resources.approval import (
    Approval,
    ApprovalPolicy,
    ApprovalPolicySpec,
    ApprovalSpec,
)
from modelplane.resources.fields import suggest
from modelplane.resources.meta import Metadata
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.promotion import PolicyOutcome, Promotion

Phase = Literal["none", "refused", "waiting", "approved", "rejected", "expired"]
_WORST_FIRST: tuple[Phase, ...] = ("rejected", "refused", "expired", "waiting", "approved")
REVISION_LABEL = "revision"
"""Label of every approval: the short digest of its revision, to find what can be carried."""


@dataclass(frozen=True, slots=True)
class Petition:
    """What is to be approved.

    Attributes
    ----------
    promotion
        Asks that its revision run in its environment.
    version, model
        The records of what it is about.
    facts
        What its gates found.
    evidence_digest
        SHA-256 over the results of its gates.
    results
        The names of these results.
    """

    promotion: Promotion
    version: ModelVersion
    model: Model
    facts: Facts
    evidence_digest: str = ""
    results: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ApprovalState:
    """Where the approvals of a promotion stand, and what is to be written.

    Attributes
    ----------
    phase
        ``none`` when no policy asks for an approval; ``refused`` when a threshold or a condition
        is not met, so that nobody is asked; ``rejected`` by a person.
    create, void
        New questions; and ones that no longer count, as they are to be written.
    names
        The approvals it rests on or waits for, ``ENVIRONMENT/NAME``.
    outcomes
        What each policy said, in the order of their names.
    message
        The state in one sentence.
    """

    phase: Phase
    create: tuple[Approval, ...] = ()
    void: tuple[Approval, ...] = ()
    names: tuple[str, ...] = ()
    outcomes: tuple[PolicyOutcome, ...] = ()
    message: str = ""


@dataclass(frozen=True, slots=True)
class _Judged:
    """What one policy says: with the approval that it goes by, made now if `is_new`."""

    policy: ApprovalPolicy
    phase: Phase
    message: str
    approval: Approval | None = None
    is_new: bool = False


def ask_approvals(
    petition: Petition,
    policies: Iterable[ApprovalPolicy],
    approvals: Sequence[Approval],
    *,
    now: datetime,
) -> ApprovalState:
    """Return where the approvals of a promotion stand.

    Parameters
    ----------
    petition
        What is to be approved.
    policies
        All approval policies; those that do not match are left out here.
    approvals
        All approvals of the promotion's revision in all environments (label `REVISION_LABEL`);
        others are ignored.
    now
        When the questions are asked.
    """
    matching = sorted(
        (policy for policy in policies if matches(policy, petition)),
        key=lambda policy: policy.metadata.name,
    )
    judged = [_judge(petition, policy, approvals, now) for policy in matching]
    phase: Phase = next((p for p in _WORST_FIRST if any(j.phase == p for j in judged)), "none")
    is_over = phase in {"rejected", "refused", "expired"}
    if is_over:  # nobody is asked about what will not happen
        judged = [replace(j, approval=None) if j.is_new else j for j in judged]
    kept = {
        j.approval.metadata.name for j in judged if j.approval and _is_own(j.approval, petition)
    }
    voided = []
    for approval in approvals:
        if not _is_own(approval, petition) or approval.status.phase not in {"Pending", "Approved"}:
            continue
        reason = _find_change(approval, petition, matching)
        if approval.metadata.name in kept and is_over and approval.status.phase == "Pending":
            reason = f"the promotion is {phase}"
        elif approval.metadata.name in kept:
            continue
        voided.append(void(approval, reason or "the promotion needs it no more", now))
    return ApprovalState(
        phase=phase,
        create=tuple(j.approval for j in judged if j.is_new and j.approval),
        void=tuple(voided),
        names=tuple(
            f"{j.approval.metadata.environment}/{j.approval.metadata.name}"
            for j in judged
            if j.approval is not None
        ),
        outcomes=tuple(_outcome(j) for j in judged),
        message="; ".join(j.message for j in judged if j.phase == phase),
    )


def matches(policy: ApprovalPolicy, petition: Petition) -> bool:
    """Whether `policy` has a say in a promotion: by environment and model."""
    spec, environment = policy.spec, petition.promotion.metadata.environment
    name, labels = petition.version.spec.model, petition.model.metadata.labels
    return (not spec.environments or environment in spec.environments) and spec.models.matches(
        name, labels
    )


def digest_policy(spec: ApprovalPolicySpec) -> str:
    """Return the digest that tells whether a policy is still what it was."""
    return digest_json(spec.to_dict())


def check_approval_policy(policy: ApprovalPolicy, names: FactNames) -> None:
    """Raise `InvalidResource` when `policy` refers to what no stage produces, or is no condition.

    Parameters
    ----------
    policy
        As it was declared.
    names
        What there is to refer to, of all pipelines.
    """
    faults = []
    known = sorted(names.measured)
    for metric in policy.spec.threshold:
        if f"metrics.{identifier(metric)}" not in names.types:
            message = f"no stage of a pipeline measures {metric!r}; {suggest(metric, known)}"
            faults.append(FieldError(f"spec.threshold.{metric}", message))
    for index, condition in enumerate(policy.spec.conditions):
        compiled = compile_condition(condition.expression, names.types)
        if not isinstance(compiled, Condition):
            path = f"spec.conditions[{index}].expression"
            faults += [FieldError(path, str(fault)) for fault in compiled]
    if faults:
        raise InvalidResource(f"ApprovalPolicy {policy.metadata.name} is not valid", faults)


def find_refusal(spec: ApprovalPolicySpec, facts: Facts) -> str:
    """Return which threshold or condition is not met; empty when all are.

    What was not measured does not reach a threshold.
    """
    for metric, least in spec.threshold.items():
        value = facts.metric(metric)
        if value is None:
            return f"{metric} was not measured by exactly one stage; it must reach {least:g}"
        if value < least:
            return f"{metric} is {value:.6g}, below {least:g}"
    for condition in spec.conditions:
        compiled = compile_condition(condition.expression, facts.names.types)
        if not isinstance(compiled, Condition):
            return f"{condition.expression}: {compiled[0]}"
        verdict = evaluate(compiled, facts.values)
        if not verdict.holds:
            why = verdict.reason or describe_values(compiled, facts.values)
            return condition.message or f"{condition.expression} is not true: {why}"
    return ""


def _judge(
    petition: Petition, policy: ApprovalPolicy, approvals: Sequence[Approval], now: datetime
) -> _Judged:
    name = policy.metadata.name
    refusal = find_refusal(policy.spec, petition.facts)
    if refusal:
        return _Judged(policy, "refused", f"{name}: {refusal}")
    carried = [a for a in approvals if _holds(a, petition, policy)]
    if carried:
        # Its own before one from elsewhere; among those the one that was given last.
        best = max(carried, key=lambda a: (_is_own(a, petition), a.status.finished_at or now))
        return _Judged(policy, "approved", f"{name}: {best.status.message}", best)
    own = [a for a in approvals if _is_own(a, petition) and a.spec.policy == name]
    current = [a for a in own if not _find_change(a, petition, [policy])]
    newest = max(current, key=lambda a: (a.spec.requested_at, a.metadata.name), default=None)
    if newest is not None and newest.status.phase == "Rejected":
        return _Judged(policy, "rejected", f"{name}: {newest.status.message}", newest)
    if newest is not None and newest.status.phase == "Expired":
        return _Judged(policy, "expired", f"{name}: {newest.status.message}", newest)
    if newest is not None and newest.status.phase == "Pending":
        return _Judged(policy, "waiting", _say_waiting(newest), newest)
    made = _make_approval(petition, policy, len(own), now)
    return _Judged(policy, "waiting", _say_waiting(made), made, is_new=True)


def _is_own(approval: Approval, petition: Petition) -> bool:
    """Whether an approval was asked for by this very promotion."""
    promotion = petition.promotion
    return (
        approval.metadata.environment == promotion.metadata.environment
        and approval.spec.promotion == promotion.metadata.name
    )


def _holds(approval: Approval, petition: Petition, policy: ApprovalPolicy) -> bool:
    """Whether an approval was given, and counts for this promotion."""
    if approval.status.phase != "Approved":
        return False
    if _is_own(approval, petition):
        return not _find_change(approval, petition, [policy])
    spec = approval.spec
    return (
        spec.policy == policy.metadata.name
        and spec.policy_digest == digest_policy(policy.spec)
        and spec.revision_digest == petition.promotion.spec.revision.digest
        and set(spec.results) <= set(petition.results)
    )


def _find_change(approval: Approval, petition: Petition, policies: Sequence[ApprovalPolicy]) -> str:
    """Return what has changed since an approval was asked for by this promotion; else empty."""
    spec, promotion = approval.spec, petition.promotion
    policy = next((p for p in policies if p.metadata.name == spec.policy), None)
    if policy is None:
        return f"policy {spec.policy} asks for it no more"
    if spec.promotion_uid != promotion.metadata.uid:
        return "it was about an earlier promotion of that name"
    if spec.revision_digest != promotion.spec.revision.digest:
        return "the revision has changed"
    if spec.evidence_digest != petition.evidence_digest:
        return "the evidence has changed"
    if spec.policy_digest != digest_policy(policy.spec):
        return f"policy {spec.policy} has changed"
    return ""


def _make_approval(
    petition: Petition, policy: ApprovalPolicy, earlier: int, now: datetime
) -> Approval:
    promotion, spec = petition.promotion, policy.spec
    name = f"{promotion.metadata.name}.{policy.metadata.name}"
    model = petition.version.spec.model
    return Approval(
        metadata=Metadata(
            name=f"{name}.{earlier + 1}" if earlier else name,
            environment=promotion.metadata.environment,
            labels={"model": model, REVISION_LABEL: promotion.spec.revision.short},
        ),
        spec=ApprovalSpec(
            promotion=promotion.metadata.name,
            promotion_uid=promotion.metadata.uid,
            policy=policy.metadata.name,
            policy_digest=digest_policy(spec),
            team=spec.team or petition.model.metadata.labels.get("team", ""),
            model=model,
            version=petition.version.spec.version,
            revision_digest=promotion.spec.revision.digest,
            evidence_digest=petition.evidence_digest,
            results=petition.results,
            author=petition.version.spec.author,
            requester=promotion.spec.subject.name,
            approvers=spec.approvers,
            quorum=spec.quorum,
            delegation=spec.delegation,
            requested_at=now,
            expires_at=now + timedelta(seconds=spec.expires_after_s),
        ),
    )


def _say_waiting(approval: Approval) -> str:
    spec, status = approval.spec, approval.status
    groups = (f"group {group}" for group in spec.approvers.groups)
    agreed = sum(decision.decision == "approve" for decision in status.decisions)
    so_far = f" ({agreed} of {spec.quorum})" if spec.quorum > 1 else ""
    who = ", ".join([*groups, *spec.approvers.subjects])
    return f"{spec.policy}: waits for {who}{so_far}"


def _outcome(judged: _Judged) -> PolicyOutcome:
    outcome: Literal["allowed", "pending", "refused"] = "refused"
    if judged.phase in {"approved", "waiting"}:
        outcome = "allowed" if judged.phase == "approved" else "pending"
    return PolicyOutcome(
        kind="ApprovalPolicy",
        name=judged.policy.metadata.name,
        digest=digest_policy(judged.policy.spec),
        outcome=outcome,
        message=judged.message,
    )
