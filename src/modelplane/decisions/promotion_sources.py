"""Where a promotion starts from, and what taking the last one back means.

Called by the API beside `admission`. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from modelplane.decisions.admission import Admission, Asked, make_promotion, with_promotion
from modelplane.errors import Conflict, NotFound
from modelplane.resources.environment import Environment
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import WAITING_PROMOTION, Promotion
from modelplane.resources.rollout import Rollout


def admit_undo(
    deployment: ModelDeployment,
    rollouts: Sequence[Rollout],
    active: Promotion | None,
    asked: Asked,
) -> Admission:
    """Decide how to go back to the revision that was stable before the last rollout.

    The declared spec stays as it is, so that applying the same manifest again does not bring
    the revision back that was just undone. A promotion that only waits (for gates, approval, the
    end of a freeze) is superseded: going back always may.

    Raises
    ------
    Conflict
        Something is still rolling out, or there is nothing to go back to.
    """
    name = deployment.metadata.name
    stable = deployment.status.stable
    ordered = sorted(rollouts, key=lambda rollout: rollout.spec.ordinal)
    promoted = [r for r in ordered if r.status.phase == "Promoted"]
    last = promoted[-1] if promoted else None
    before = last.spec.stable if last else None
    if active is not None:
        if before is not None and active.spec.revision.digest == before.digest:
            return Admission("unchanged", deployment, None, ("that is already on its way",))
        if active.status.phase not in WAITING_PROMOTION:
            raise Conflict(
                f"{name} is being changed by promotion {active.metadata.name}",
                hint=f"take the running rollout back instead: modelplane rollout rollback {name}",
            )
    if last is None or before is None or stable is None:
        raise Conflict(f"{name} has had no other version in {deployment.metadata.environment}")
    if last.spec.candidate.digest != stable.digest:
        raise Conflict(f"{name} no longer serves what rollout {last.metadata.name} brought")
    because = replace(asked, reason=asked.reason or f"undo of rollout {last.metadata.name}")
    # What was stable came by a rollout; of one that is not on record any more the next one tells.
    brought = [r for r in promoted if r.spec.candidate.digest == before.digest]
    restores = (brought[-1] if brought else last).spec.promotion
    promotion = make_promotion(
        deployment, before, because, requested_version=before.version, restores=restores
    )
    return Admission("changed", with_promotion(deployment, promotion), promotion)


def choose_source(
    name: str,
    target: Environment,
    environments: Sequence[Environment],
    deployments: Sequence[ModelDeployment],
    *,
    origin: str | None = None,
) -> ModelDeployment:
    """Return the deployment that a promotion into `target` starts from.

    That is the one in `target` itself or, when there is none, the one in the environment
    nearest before it on the way to production; `origin` names another environment to copy from.

    Raises
    ------
    NotFound
        No environment before `target` has it; says where it is.
    """
    own = {d.metadata.environment: d for d in deployments if d.metadata.name == name}
    if origin is not None and origin != target.metadata.name:
        if origin in own:
            return own[origin]
    elif target.metadata.name in own:
        return own[target.metadata.name]
    else:
        earlier = [e for e in environments if e.spec.order < target.spec.order]
        earlier.sort(key=lambda e: (-e.spec.order, e.metadata.name))
        for environment in earlier:
            if environment.metadata.name in own:
                return own[environment.metadata.name]
    where = ", ".join(sorted(str(environment) for environment in own))
    place = f"in {origin}" if origin else f"in {target.metadata.name} or an environment before it"
    raise NotFound(
        f"no deployment {name!r} {place}" + (f"; it is in: {where}" if where else ""),
        hint=f"apply a manifest: modelplane apply -f FILE, with environment {target.metadata.name}",
    )
