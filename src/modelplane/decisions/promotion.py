"""How far a promotion has come, and whether its rollout may begin.

Called by `controllers.promotion`. Pure. This is the one road to an environment: no rollout
exists without an approved promotion.

The order of the checks is total: finished → deployment deleted → own rollout → superseded by a
newer promotion → nothing new (an undo, or what serves already) → freezes, gates, conditions,
approvals (`promotion_guards`) → a running rollout has to end → the rollout begins. All of it is
judged anew each time until the rollout begins, so that a policy changed meanwhile counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from modelplane.decisions.promotion_guards import Guards, Passage, judge_passage
from modelplane.resources.approval import Approval
from modelplane.resources.model_deployment import Lane, ModelDeployment
from modelplane.resources.promotion import (
    FINISHED_PROMOTION,
    Promotion,
    PromotionPhase,
    PromotionStatus,
)
from modelplane.resources.rollout import Rollout

_ENDS: dict[str, PromotionPhase] = {
    "Promoted": "Done",
    "RolledBack": "RolledBack",
    "Failed": "Failed",
    "Superseded": "Superseded",
    "Concluded": "Done",
}


@dataclass(frozen=True, slots=True)
class PromotionDecision:
    """The outcome: everything in it is written in one transaction.

    Attributes
    ----------
    status
        The promotion's new status.
    start_rollout
        Create the rollout now.
    supersede
        A running rollout of an older promotion that has to end first.
    start_runs
        Pipelines of which a run has to be started.
    create_approvals, void_approvals
        Approvals to be written.
    requeue_after_s
        When to look again even if nothing changes.
    """

    status: PromotionStatus
    start_rollout: bool = False
    supersede: tuple[Rollout, ...] = ()
    start_runs: tuple[str, ...] = ()
    create_approvals: tuple[Approval, ...] = ()
    void_approvals: tuple[Approval, ...] = ()
    requeue_after_s: float | None = None


def needs_guards(
    promotion: Promotion, deployment: ModelDeployment | None, own: Rollout | None
) -> bool:
    """Whether the decision depends on what guards the environment, which then is to be read."""
    return (
        promotion.status.phase not in FINISHED_PROMOTION
        and own is None
        and deployment is not None
        and is_latest(promotion, deployment)
        and not _is_nothing_new(promotion, deployment)
    )


def decide_promotion(
    promotion: Promotion,
    deployment: ModelDeployment | None,
    own: Rollout | None,
    running: Sequence[Rollout],
    *,
    guards: Guards | None = None,
    now: datetime,
) -> PromotionDecision:
    """Decide what a promotion does next.

    Parameters
    ----------
    promotion
        The promotion as stored.
    deployment
        Its deployment; None when that was deleted.
    own
        The rollout that this promotion started, if any.
    running
        The deployment's unfinished rollouts.
    guards
        What guards the environment; may be left out when `needs_guards` says so.
    now
        The time, UTC.
    """
    status = promotion.status
    if status.phase in FINISHED_PROMOTION:
        return PromotionDecision(status)
    if deployment is None:
        return PromotionDecision(_end(status, "Failed", "Deleted", "deployment deleted", now))
    if own is not None:
        return PromotionDecision(_follow(status, own, now))
    if not is_latest(promotion, deployment):
        latest = latest_promotion(deployment, promotion.spec.lane)
        message = f"promotion {latest} came after it" if latest else "its traffic policy is gone"
        return PromotionDecision(_end(status, "Superseded", "Superseded", message, now))
    if _is_nothing_new(promotion, deployment):
        passage = _pass_freely(promotion)
    elif guards is None:
        raise ValueError("a promotion that is not approved cannot be decided without its guards")
    else:
        passage = judge_passage(promotion, guards, now)
    if passage.phase != "Approved":
        return _hold(status, passage, now)
    approved = _approve(status, passage, now)
    if status.phase not in {"Approved", "RollingOut"}:
        return PromotionDecision(approved, void_approvals=passage.void)
    lane = promotion.spec.lane
    older = tuple(rollout for rollout in running if not lane or rollout.spec.lane == lane)
    if older:
        return PromotionDecision(approved, supersede=older, void_approvals=passage.void)
    stable = deployment.status.stable
    if stable is not None and stable.digest == promotion.spec.revision.digest:
        message = "this revision already serves"
        return PromotionDecision(_end(approved, "Done", "AlreadyServing", message, now))
    digest = promotion.spec.revision.digest
    twin = next((r for r in running if r.spec.candidate.digest == digest), None)
    if twin is not None:  # the counts of two could not be told apart
        message = f"rollout {twin.metadata.name} has the same revision under way; it goes first"
        waiting = approved.with_(reason="AlreadyRollingOut", message=message)
        return PromotionDecision(waiting, void_approvals=passage.void)
    return PromotionDecision(
        approved.with_(phase="RollingOut", reason="Started", message=""),
        start_rollout=True,
        void_approvals=passage.void,
    )


def latest_promotion(deployment: ModelDeployment, lane: str) -> str | None:
    """Return the name of the latest promotion of a lane; an empty lane is the deployment's own."""
    if not lane:
        return deployment.status.promotion
    found = deployment.status.lanes.get(lane)
    return found.promotion if found is not None else None


def with_rollout(deployment: ModelDeployment, rollout: Rollout) -> ModelDeployment:
    """Return `deployment` with `rollout` as the latest of its lane."""
    ordinal, name, lane = rollout.spec.ordinal, rollout.metadata.name, rollout.spec.lane
    if not lane:
        return deployment.with_status(rollout=name, rollouts=ordinal)
    lanes = {**deployment.status.lanes, lane: Lane(promotion=rollout.spec.promotion, rollout=name)}
    return deployment.with_status(lanes=lanes, rollouts=ordinal)


def is_latest(promotion: Promotion, deployment: ModelDeployment) -> bool:
    """Whether no promotion came after this one in its lane."""
    return latest_promotion(deployment, promotion.spec.lane) == promotion.metadata.name


def _is_nothing_new(promotion: Promotion, deployment: ModelDeployment) -> bool:
    """Whether it goes back to what was approved and served here, or changes nothing at all."""
    stable = deployment.status.stable
    serves = stable is not None and stable.digest == promotion.spec.revision.digest
    return serves or promotion.spec.restores is not None


def _pass_freely(promotion: Promotion) -> Passage:
    if promotion.spec.restores is None:
        return Passage("Approved", "AlreadyServing", "this revision already serves")
    message = f"goes back to what promotion {promotion.spec.restores} brought here"
    return Passage("Approved", "Restores", message)


def _hold(status: PromotionStatus, passage: Passage, now: datetime) -> PromotionDecision:
    """Return the decision of a promotion that may not go on, for now or for good."""
    phase = passage.phase or status.phase
    judged = _judged(status, passage).with_(phase=phase, approved_at=None)
    if passage.phase is None:
        judged = judged.with_(approved_at=status.approved_at)
    if phase in FINISHED_PROMOTION:
        judged = judged.with_(finished_at=now)
    return PromotionDecision(
        judged,
        start_runs=passage.start,
        create_approvals=passage.create,
        void_approvals=passage.void,
        requeue_after_s=passage.requeue_after_s,
    )


def _approve(status: PromotionStatus, passage: Passage, now: datetime) -> PromotionStatus:
    at = status.approved_at if status.phase in {"Approved", "RollingOut"} else now
    return _judged(status, passage).with_(phase="Approved", approved_at=at or now)


def _judged(status: PromotionStatus, passage: Passage) -> PromotionStatus:
    return status.with_(
        reason=passage.reason,
        message=passage.message,
        policies=passage.policies,
        gates=passage.gates,
        approvals=passage.approvals,
        evidence_digest=passage.evidence_digest,
    )


def _follow(status: PromotionStatus, own: Rollout, now: datetime) -> PromotionStatus:
    """Return the status of a promotion whose rollout has begun: it ends as that does."""
    if own.finished:
        phase = _ENDS[own.status.phase]
        return _end(status, phase, own.status.reason, own.status.message, now)
    if status.phase == "RollingOut":
        return status
    return status.with_(phase="RollingOut", reason=own.status.reason, rollout=own.metadata.name)


def _end(
    status: PromotionStatus, phase: PromotionPhase, reason: str, message: str, now: datetime
) -> PromotionStatus:
    return status.with_(phase=phase, reason=reason, message=message, finished_at=now)
