"""How a traffic policy fares, from the promotions and rollouts of its versions.

Called by `controllers.traffic_policies`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from modelplane.decisions.hooks import hook_statuses
from modelplane.decisions.traffic_policies import lane_of, versions_of
from modelplane.resources.meta import Condition, set_condition
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import WAITING_PROMOTION, Promotion
from modelplane.resources.rollout import FINISHED_ROLLOUT, Rollout
from modelplane.resources.traffic_policy import (
    PolicyArm,
    TrafficPolicy,
    TrafficPolicyPhase,
    TrafficPolicyStatus,
)
from modelplane.resources.traffic_split import TrafficSplit

GATEWAY_REFUSED = "GatewayRefused"
_REFUSED = frozenset({"Refused", "Rejected", "Expired"})
_SERVES = "Serving"
_REPLACED = "Superseded"


def decide_status(
    policy: TrafficPolicy,
    deployment: ModelDeployment | None,
    promotions: Mapping[str, Promotion],
    rollouts: Mapping[str, Rollout],
    split: TrafficSplit | None,
    *,
    now: datetime,
) -> TrafficPolicyStatus:
    """Return a policy's status.

    Parameters
    ----------
    policy
        As stored.
    deployment
        Its deployment; None when that is gone.
    promotions, rollouts
        Those of the deployment's lanes and of the policy's arms, by name.
    split
        The deployment's, which the gateway acknowledges or refuses.
    now
        The time, UTC.
    """
    arms = tuple(
        _arm(policy, version, deployment, promotions, rollouts) for version in versions_of(policy)
    )
    phase, message = _phase(arms, deployment)
    gateway = ""
    if split is not None and phase == "Active":
        refused = split.status.refused_generation == split.metadata.generation
        gateway = split.status.message if refused else ""
    status = policy.status.with_(
        phase=phase,
        message=message,
        arms=arms,
        hooks=hook_statuses(
            policy.spec.monitoring_hooks,
            policy.spec.traffic_rule,
            keeps_predictions=deployment is not None and deployment.spec.predictions is not None,
        ),
        gateway=gateway,
    )
    return _with_condition(status, policy.metadata.generation, now)


def _arm(
    policy: TrafficPolicy,
    version: str,
    deployment: ModelDeployment | None,
    promotions: Mapping[str, Promotion],
    rollouts: Mapping[str, Rollout],
) -> PolicyArm:
    known = next((arm for arm in policy.status.arms if arm.version == version), None)
    arm = PolicyArm(version=version, promotion=known.promotion if known else "")
    if deployment is not None:
        lane = deployment.status.lanes.get(lane_of(policy.metadata.name, version))
        arm = arm.with_(promotion=lane.promotion if lane is not None else arm.promotion)
    promotion = promotions.get(arm.promotion)
    name = promotion.status.rollout if promotion is not None else None
    rollout = rollouts.get(name) if name is not None else None
    stable = deployment.status.stable if deployment is not None else None
    if stable is not None and stable.version == version and not _is_under_way(promotion, rollout):
        message = f"{version} serves everybody"
        return arm.with_(rollout=name or "", phase=_SERVES, message=message)
    if promotion is None:
        if known is None or known.phase not in {_SERVES, _REPLACED}:
            return arm
        # It served when the policy was applied, so nothing was promoted, and nothing follows.
        message = f"{version} serves no more; apply the policy again to bring it back"
        return arm.with_(phase=_REPLACED, message=message)
    if rollout is None:
        status = promotion.status
        return arm.with_(phase=status.phase, message=status.message)
    status_ = rollout.status
    message = status_.message if rollout.finished else f"at {status_.weight_pct:g} %"
    if not rollout.finished and status_.mirror_pct:
        message = f"{status_.mirror_pct:g} % mirrored"
    return arm.with_(rollout=rollout.metadata.name, phase=status_.phase, message=message)


def _is_under_way(promotion: Promotion | None, rollout: Rollout | None) -> bool:
    if rollout is not None:
        return not rollout.finished
    return promotion is not None and promotion.status.phase in WAITING_PROMOTION


def _phase(
    arms: Sequence[PolicyArm], deployment: ModelDeployment | None
) -> tuple[TrafficPolicyPhase, str]:
    """Return the phase of the policy whose arms are such, and why."""
    if deployment is None:
        return "Ended", "its deployment is gone"
    waiting = [arm for arm in arms if arm.phase in WAITING_PROMOTION]
    running = [
        arm
        for arm in arms
        if arm.phase == "RollingOut" or (arm.rollout and arm.phase not in FINISHED_ROLLOUT)
    ]
    running = [arm for arm in running if arm.phase != _SERVES]
    if running:
        return "Active", _say(running)
    if waiting:
        return "Waiting", _say(waiting)
    if any(not arm.phase for arm in arms):
        return "Pending", ""
    if all(arm.phase in _REFUSED for arm in arms):
        return "Refused", _say(arms)
    return "Ended", _say(arms)


def _say(arms: Sequence[PolicyArm]) -> str:
    if len(arms) == 1:
        return arms[0].message or arms[0].phase
    return "; ".join(f"{arm.version}: {arm.message or arm.phase}" for arm in arms)


def _with_condition(
    status: TrafficPolicyStatus, generation: int, now: datetime
) -> TrafficPolicyStatus:
    """Record a refusal of the gateway, and that it is over; what never was is not told."""
    before = next((c for c in status.conditions if c.type == GATEWAY_REFUSED), None)
    if not status.gateway and (before is None or before.status == "False"):
        return status
    condition = Condition(
        type=GATEWAY_REFUSED,
        status="True" if status.gateway else "False",
        reason="Refused" if status.gateway else "Accepted",
        message=status.gateway or "the gateway has accepted the routes",
        observed_generation=generation,
    )
    if before is not None and (before.status, before.message) == (
        condition.status,
        condition.message,
    ):
        return status
    return status.with_(conditions=set_condition(status.conditions, condition, now))
