"""The steps that change what serves: restart, scale, roll back, shift traffic. Pure.

Called by `playbook_steps`, which says what `plan_` and `progress_` mean.
"""

from __future__ import annotations

from datetime import datetime

from modelplane.decisions.admission import Asked
from modelplane.decisions.playbook_outcomes import (
    Act,
    Done,
    Refused,
    Waiting,
    World,
    effect_name,
    read,
    subject_of,
    target_of,
)
from modelplane.decisions.playbook_text import fill
from modelplane.decisions.promotion_sources import admit_undo
from modelplane.decisions.rollout_requests import describe_rollout, request_of_rollout
from modelplane.errors import ModelplaneError
from modelplane.resources.playbook import (
    PlaybookRun,
    PlaybookStep,
    RestartReplicaStep,
    RollBackStep,
    ScaleStep,
    ShiftTrafficStep,
)
from modelplane.resources.promotion import FINISHED_PROMOTION, Promotion
from modelplane.resources.rollout import Rollout, WeightLimit


def plan_restart(
    step: PlaybookStep, run: PlaybookRun, world: World, now: datetime
) -> Act | Done | Refused:
    """Plan to restart replicas that are named, or those that are not ready."""
    configuration = read(step, RestartReplicaStep)
    place, name = target_of(configuration, run)
    there = [replica for replica in world.replicas if not replica.spec.stopped]
    labelled = run.spec.labels.get("replica")
    if configuration.replica is not None:
        wanted: str | None = fill(configuration.replica, run.spec.labels, run.spec.value)
    else:
        wanted = labelled
    if world.deployment is None:
        return Refused(f"there is no deployment {name} in {place}")
    if wanted is not None:
        chosen = [replica for replica in there if replica.metadata.name == wanted]
        if not chosen and wanted == labelled:
            return Done(f"{wanted} is gone: another one took its place")
        if not chosen:
            return Refused(f"{name} has no replica {wanted} in {place}")
    else:
        chosen = [replica for replica in there if replica.status.phase != "Ready"]
        if not chosen:
            return Done(f"all replicas of {name} in {place} are ready")
    names = ", ".join(replica.metadata.name for replica in chosen)
    nonce = _nonce(step, run)
    return Act(
        tuple(replica.with_spec(restart=nonce) for replica in chosen),
        f"Replica {place}/{names}",
        f"restart {names} in {place}",
    )


def _nonce(step: PlaybookStep, run: PlaybookRun) -> str:
    return effect_name(run.metadata.name, step.name)


def progress_restart(
    step: PlaybookStep, run: PlaybookRun, world: World
) -> Waiting | Done | Refused:
    """Say how far that is."""
    nonce = _nonce(step, run)
    restarting = [r for r in world.replicas if r.spec.restart == nonce and not r.spec.stopped]
    for replica in restarting:
        name, status = replica.metadata.name, replica.status
        if status.restarted != nonce:
            return Waiting(f"{name} is not restarted yet")
        if status.phase == "Failed":
            return Refused(f"{name} was restarted and failed: {status.reason}: {status.message}")
        if status.phase != "Ready":
            return Waiting(f"{name} was restarted and is not ready yet")
    if not restarting:
        return Done("what was restarted is gone: others took its place")
    return Done(f"restarted {', '.join(replica.metadata.name for replica in restarting)}")


def plan_scale(
    step: PlaybookStep, run: PlaybookRun, world: World, now: datetime
) -> Act | Done | Refused:
    """Plan to change the number of replicas within the bounds."""
    configuration = read(step, ScaleStep)
    place, name = target_of(configuration, run)
    if world.deployment is None:
        return Refused(f"there is no deployment {name} in {place}")
    before = world.deployment.spec.replicas
    # A bound stops a step; it never turns one around.
    if configuration.by > 0:
        after = max(before, min(before + configuration.by, configuration.maximum))
    else:
        after = min(before, max(before + configuration.by, configuration.minimum))
    if after == before:
        return Done(f"{name} in {place} has {before} replicas, as many as the step allows")
    return Act(
        (world.deployment.with_spec(replicas=after),),
        f"ModelDeployment {place}/{name}",
        f"change the replicas of {name} in {place} from {before} to {after}",
    )


def progress_scale(step: PlaybookStep, run: PlaybookRun, world: World) -> Waiting | Done | Refused:
    """Say how far that is."""
    if world.deployment is None:
        return Refused("its deployment is gone")
    wanted, ready = world.deployment.spec.replicas, world.deployment.status.ready_replicas
    if ready != wanted:
        return Waiting(f"{ready} of {wanted} replicas ready")
    return Done(f"{wanted} replicas ready")


# -- what serves ----------------------------------------------------------------------------


def plan_roll_back(
    step: PlaybookStep, run: PlaybookRun, world: World, now: datetime
) -> Act | Done | Refused:
    """Plan to take back what the alert is about."""
    place, name = target_of(read(step, RollBackStep), run)
    deployment, version = world.deployment, run.spec.labels.get("version")
    if deployment is None:
        return Refused(f"there is no deployment {name} in {place}")
    running = [rollout for rollout in world.rollouts if not rollout.finished]
    about = [r for r in running if version and r.spec.candidate.version == version]
    stable = deployment.status.stable
    if not about and version and (stable is None or stable.version != version):
        return Done(f"{version} serves nobody in {place} any more")
    if not about and not version:
        own = [r for r in running if r.metadata.name == deployment.status.rollout]
        about = own if len(running) > 1 else running
        if running and not about:
            names = ", ".join(describe_rollout(rollout) for rollout in running)
            return Refused(f"several rollouts of {name} run in {place}: {names}")
    asked = Asked(subject_of(run), now, f"playbook run {run.metadata.name}")
    try:
        if about:
            rollout = about[0]
            changed = request_of_rollout(rollout, "rollback", asked.subject, asked.reason, now)
            return Act(
                (changed,), str(rollout.key), f"roll back {describe_rollout(rollout)} in {place}"
            )
        admission = admit_undo(deployment, world.rollouts, world.active, asked)
    except ModelplaneError as error:
        return Refused(error.message)
    if admission.promotion is None:
        return Done(f"what served before is on its way back in {place}")
    back = admission.promotion.spec.revision.version
    served = stable.version if stable is not None else ""
    return Act(
        (admission.deployment, admission.promotion),
        str(admission.promotion.key),
        f"take {served} of {name} in {place} back to {back}",
    )


def progress_roll_back(
    step: PlaybookStep, run: PlaybookRun, world: World
) -> Waiting | Done | Refused:
    """Say how far that is."""
    made = world.made
    if isinstance(made, Rollout):
        if not made.finished:
            return Waiting(f"{made.metadata.name} is being rolled back")
        if made.status.phase == "Promoted":
            return Refused(f"{made.metadata.name} was promoted meanwhile")
        return Done(f"{describe_rollout(made)} was rolled back")
    if isinstance(made, Promotion):
        version, phase = made.spec.revision.version, made.status.phase
        if phase == "Done":
            return Done(f"{version} serves again")
        if phase in FINISHED_PROMOTION:
            return Refused(f"going back to {version} ended: {phase}: {made.status.message}")
        return Waiting(f"{version} is on its way back")
    return Refused("what the step began is gone")


def plan_shift(
    step: PlaybookStep, run: PlaybookRun, world: World, now: datetime
) -> Act | Done | Refused:
    """Plan to limit the weight of a candidate."""
    configuration = read(step, ShiftTrafficStep)
    place, name = target_of(configuration, run)
    version = fill(configuration.version, run.spec.labels, run.spec.value)
    if world.deployment is None:
        return Refused(f"there is no deployment {name} in {place}")
    running = [rollout for rollout in world.rollouts if not rollout.finished]
    about = next((r for r in running if r.spec.candidate.version == version), None)
    stable = world.deployment.status.stable
    if about is None:
        if stable is not None and stable.version == version:
            return Refused(
                f"{version} is what {name} serves in {place}; there is no other to shift to: "
                "use rollBack"
            )
        return Done(f"{version} serves nobody in {place}")
    limit = about.spec.limit
    if limit is not None and limit.run != run.metadata.name:
        return Refused(f"run {limit.run} limits {describe_rollout(about)} already")
    wanted = WeightLimit(weight_pct=configuration.weight, run=run.metadata.name)
    return Act(
        (about.with_spec(limit=wanted),),
        str(about.key),
        f"give {version} of {name} in {place} {configuration.weight:g} % at the most",
    )


def progress_shift(step: PlaybookStep, run: PlaybookRun, world: World) -> Waiting | Done | Refused:
    """Say how far that is."""
    made = world.made
    if not isinstance(made, Rollout):
        return Refused("its rollout is gone")
    if made.finished:
        return Done(f"{describe_rollout(made)} is over: {made.status.phase}")
    status, weight = made.status, read(step, ShiftTrafficStep).weight
    if status.weight_pct > weight or (status.steps and status.steps[-1].applied_at is None):
        return Waiting(f"{describe_rollout(made)} has {status.weight_pct:g} %")
    return Done(f"{describe_rollout(made)} has {status.weight_pct:g} %")
