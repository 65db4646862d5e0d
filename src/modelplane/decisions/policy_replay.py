"""What other policies would have decided of the promotions there have been.

Called by the API. Pure; nothing that happened is changed. The facts are those of then, as far as
they are kept: results of gates, approvals that were given, the time of the request. Records of
models and versions are taken as they are now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import Field

from modelplane.decisions.approval_answers import is_named
from modelplane.decisions.approvals import ApprovalState, Petition, find_refusal, matches
from modelplane.decisions.promotion_guards import Guards, Passage, judge_passage
from modelplane.resources.approval import Approval, ApprovalPolicy
from modelplane.resources.gate_run import GateRun
from modelplane.resources.meta import Metadata, Part, Subject
from modelplane.resources.promotion import Promotion
from modelplane.resources.validation_pipeline import ValidationPipeline, ValidationPipelineSpec

Was = Literal["allowed", "refused"]
Would = Literal["allowed", "refused", "held"]
"""``held``: frozen at the time, or a gate or an approval is asked for that there was not."""

_REFUSED = frozenset({"Refused", "Rejected", "Expired"})


class Replayed(Part):
    """One promotion: what was decided, what would be, and why."""

    environment: str
    promotion: str
    model: str
    version: str
    requested_at: datetime | None = None
    was: Was
    was_because: str = ""
    would: Would
    would_because: str = ""
    flips: bool = Field(description="Allowed would be refused or held, or refused allowed.")


class PolicyReplay(Part):
    """What a proposal would change."""

    items: tuple[Replayed, ...] = ()
    promotions: int = Field(default=0, description="How many were looked at.")
    undecided: int = Field(default=0, description="Of these ended, or wait, without a decision.")
    exempt: int = Field(default=0, description="Of these went back to what served before.")
    flips: int = 0
    counts: dict[str, int] = Field(
        default_factory=dict, description="How many by `WAS-WOULD`, such as `allowed-held`."
    )


@dataclass(frozen=True, slots=True)
class Past:
    """A promotion with what there is of it, the proposed policies among its guards."""

    promotion: Promotion
    guards: Guards


def was_decided(promotion: Promotion) -> Was | None:
    """Return what was decided of a promotion; None when nothing was."""
    status = promotion.status
    if status.phase in _REFUSED:
        return "refused"
    begun = status.approved_at is not None or status.rollout is not None
    return "allowed" if begun or status.phase == "Done" else None


def replay_policies(past: Iterable[Past], groups: Mapping[str, Sequence[str]] = {}) -> PolicyReplay:
    """Return what the policies among the guards of `past` would have decided.

    Parameters
    ----------
    past
        In the order of the answer.
    groups
        Groups of those who answered approvals, as they are now.
    """
    items = []
    undecided = exempt = total = 0
    for each in past:
        total += 1
        was = was_decided(each.promotion)
        if each.promotion.spec.restores is not None:
            exempt += 1
        elif was is None:
            undecided += 1
        else:
            items.append(_replay(each, was, groups))
    counts = Counter(f"{item.was}-{item.would}" for item in items)
    return PolicyReplay(
        items=tuple(items),
        promotions=total,
        undecided=undecided,
        exempt=exempt,
        flips=sum(item.flips for item in items),
        counts=dict(sorted(counts.items())),
    )


def pipeline_of(run: GateRun) -> ValidationPipeline:
    """Return a pipeline as it was when `run` began."""
    spec = ValidationPipelineSpec(stages=run.spec.stages, max_parallel=run.spec.max_parallel)
    return ValidationPipeline(metadata=Metadata(name=run.spec.pipeline), spec=spec)


def _replay(past: Past, was: Was, groups: Mapping[str, Sequence[str]]) -> Replayed:
    promotion, status = past.promotion, past.promotion.status

    def recount(
        petition: Petition,
        policies: Sequence[ApprovalPolicy],
        approvals: Sequence[Approval],
        *,
        now: datetime,
    ) -> ApprovalState:
        return _recount(petition, policies, approvals, groups)

    requested_at = promotion.metadata.created_at
    assert requested_at is not None, "a stored promotion knows when it was made"
    passage = judge_passage(promotion, past.guards, requested_at, recount)
    would = _would(passage)
    return Replayed(
        environment=promotion.metadata.environment or "",
        promotion=promotion.metadata.name,
        model=promotion.spec.revision.model,
        version=promotion.spec.revision.version,
        requested_at=requested_at,
        was=was,
        was_because=status.message if was == "refused" else "",
        would=would,
        would_because=passage.message,
        flips=(was == "allowed") != (would == "allowed"),
    )


def _would(passage: Passage) -> Would:
    if passage.phase == "Approved":
        return "allowed"
    return "refused" if passage.phase in _REFUSED else "held"


def _recount(
    petition: Petition,
    policies: Sequence[ApprovalPolicy],
    approvals: Sequence[Approval],
    groups: Mapping[str, Sequence[str]],
) -> ApprovalState:
    """Return where approvals would stand if those that were given count as far as they may."""
    states: list[tuple[str, str]] = []
    for policy in sorted(policies, key=lambda policy: policy.metadata.name):
        if matches(policy, petition):
            states.append(_count(petition, policy, approvals, groups))
    for phase in ("rejected", "refused", "waiting", "approved"):
        told = [message for state, message in states if state == phase]
        if told:
            return ApprovalState(phase=phase, message="; ".join(told))
    return ApprovalState(phase="none")


def _count(
    petition: Petition,
    policy: ApprovalPolicy,
    approvals: Sequence[Approval],
    groups: Mapping[str, Sequence[str]],
) -> tuple[str, str]:
    name, spec, promotion = policy.metadata.name, policy.spec, petition.promotion
    refusal = find_refusal(spec, petition.facts)
    if refusal:
        return "refused", f"{name}: {refusal}"
    own = set(promotion.status.approvals)
    excluded = {petition.version.spec.author, promotion.spec.subject.name}
    given = [
        decision
        for approval in approvals
        if f"{approval.metadata.environment}/{approval.metadata.name}" in own
        and approval.spec.revision_digest == promotion.spec.revision.digest
        for decision in approval.status.decisions
    ]
    votes: dict[str, str] = {}
    for decision in given:
        person = decision.on_behalf_of or decision.subject
        voter = Subject(name=person, groups=tuple(groups.get(person, ())))
        if is_named(spec.approvers, voter) and not {person, decision.subject} & excluded:
            votes[person] = decision.decision
    rejected = sorted(person for person, vote in votes.items() if vote == "reject")
    if rejected:
        return "rejected", f"{name}: rejected by {', '.join(rejected)}"
    agreed = sorted(votes)
    if len(agreed) >= spec.quorum:
        return "approved", f"{name}: approved by {', '.join(agreed)}"
    return "waiting", f"{name}: asks for {spec.quorum} to agree; {len(agreed)} had"
