"""How far a promotion has come, and whether its rollout may begin.

Called by `controllers.promotion`. Pure. This is the one road to an environment: no rollout
exists without an approved promotion.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import FINISHED_PROMOTION, Promotion, PromotionStatus
from modelplane.resources.rollout import Rollout

_ENDS = {
    "Promoted": "Done",
    "RolledBack": "RolledBack",
    "Failed": "Failed",
    "Superseded": "Superseded",
}


@dataclass(frozen=True, slots=True)
class PromotionDecision:
    """The outcome.

    Attributes
    ----------
    status
        The promotion's new status.
    start_rollout
        Create the rollout now, in the same transaction as the status.
    supersede
        A running rollout of an older promotion that has to end first.
    """

    status: PromotionStatus
    start_rollout: bool = False
    supersede: Rollout | None = None


def decide_promotion(
    promotion: Promotion,
    deployment: ModelDeployment | None,
    own: Rollout | None,
    running: Rollout | None,
    *,
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
        The deployment's unfinished rollout, if any.
    now
        The time, UTC.
    """
    status = promotion.status
    if status.phase in FINISHED_PROMOTION:
        return PromotionDecision(status)
    if deployment is None:
        return PromotionDecision(_end(status, "Failed", "Deleted", "deployment deleted", now))
    if own is not None:
        if own.finished:
            phase = _ENDS[own.status.phase]
            return PromotionDecision(
                _end(status, phase, own.status.reason, own.status.message, now)
            )
        return PromotionDecision(
            status.with_(phase="RollingOut", reason=own.status.reason, rollout=own.metadata.name)
            if status.phase != "RollingOut"
            else status
        )
    if promotion.spec.ordinal < deployment.status.promotions:
        message = f"promotion {deployment.status.promotion} came after it"
        return PromotionDecision(_end(status, "Superseded", "Superseded", message, now))
    if status.phase == "Requested":
        message = "no policy guards this environment"
        return PromotionDecision(status.with_(phase="Approved", reason="NoPolicy", message=message))
    if running is not None:
        return PromotionDecision(status, supersede=running)
    stable = deployment.status.stable
    if stable is not None and stable.digest == promotion.spec.revision.digest:
        message = "this revision already serves"
        return PromotionDecision(_end(status, "Done", "AlreadyServing", message, now))
    return PromotionDecision(
        status.with_(phase="RollingOut", reason="Started", message=""), start_rollout=True
    )


def _end(
    status: PromotionStatus, phase: str, reason: str, message: str, now: datetime
) -> PromotionStatus:
    return PromotionStatus.model_validate(
        status.with_(reason=reason, message=message, finished_at=now).to_dict() | {"phase": phase}
    )
