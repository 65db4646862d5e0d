"""Which replicas should run, and which of them take traffic.

Called by `controllers.placement` (create, stop, delete) and `controllers.traffic` (endpoints);
both use `choose`, so that what stops is never what serves. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from modelplane.decisions.comparison import keeps_answers
from modelplane.resources.meta import Condition
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.replica import Replica
from modelplane.resources.revision import Revision
from modelplane.resources.rollout import Rollout
from modelplane.resources.traffic_split import TrafficSplit

RETRY_FAILED_AFTER_S = 30.0
"""A replica of stable that could not start is replaced after this many seconds."""

LOG_CONDITION = "PredictionsLogged"
"""Type of a deployment's condition; there only while its spec has `predictions`."""

_READINESS = {"Ready": 0, "NotReady": 1, "Starting": 2, "Preparing": 3, "Pending": 4, "Failed": 5}


@dataclass(frozen=True, slots=True)
class PlacementDecision:
    """What to change.

    Attributes
    ----------
    create
        (revision, index) of replicas to make.
    change
        Running replicas whose spec changes in place, as it should be.
    stop
        Running replicas to ask to drain and stop.
    delete
        Replicas that have stopped, to forget.
    requeue_after_s
        When to look again, or None.
    """

    create: tuple[tuple[Revision, int], ...] = ()
    stop: tuple[Replica, ...] = ()
    delete: tuple[Replica, ...] = ()
    requeue_after_s: float | None = None
    change: tuple[Replica, ...] = ()


def stable_count(deployment: ModelDeployment, running: Sequence[Rollout]) -> int:
    """Return how many replicas stable should have; fewer only while a rollout rolls."""
    counts = [r.status.stable_replicas for r in running if r.status.stable_replicas is not None]
    return min((deployment.spec.replicas, *counts))


def candidate_count(deployment: ModelDeployment, rollout: Rollout) -> int:
    """Return how many replicas a rollout's candidate should have.

    None before the first decision, since a strategy may want them one by one.
    """
    if rollout.status.phase == "Pending":
        return 0
    wanted = rollout.status.candidate_replicas
    return deployment.spec.replicas if wanted is None else min(wanted, deployment.spec.replicas)


def live_revisions(
    deployment: ModelDeployment, rollouts: Sequence[Rollout], *, now: datetime
) -> dict[str, tuple[Revision, int]]:
    """Return the revisions that should have replicas, by digest, and how many each.

    Stable, the candidates of running rollouts, and what is kept warm after a switch.
    """
    running = [rollout for rollout in rollouts if not rollout.finished]
    status = deployment.status
    wanted: dict[str, tuple[Revision, int]] = {}
    if status.stable is not None:
        wanted[status.stable.digest] = (status.stable, stable_count(deployment, running))
    if status.warm is not None and status.warm.until > now:
        wanted.setdefault(
            status.warm.revision.digest, (status.warm.revision, deployment.spec.replicas)
        )
    for rollout in running:
        candidate = rollout.spec.candidate
        count = candidate_count(deployment, rollout)
        before = wanted.get(candidate.digest)
        wanted[candidate.digest] = (candidate, max(count, before[1] if before else 0))
    return wanted


def choose(
    revision: Revision, count: int, replicas: Sequence[Replica], *, avoid: str | None = None
) -> tuple[Replica, ...]:
    """Return the replicas of `revision` to keep, at most `count`, the readiest first.

    Replicas asked to stop, and the one named by `avoid`, are never chosen.
    """
    own = [
        replica
        for replica in replicas
        if replica.spec.revision.digest == revision.digest
        and not replica.spec.stopped
        and replica.metadata.name != avoid
    ]
    own.sort(key=lambda r: (_READINESS.get(r.status.phase, 9), r.spec.index))
    return tuple(own[:count])


def decide_placement(
    deployment: ModelDeployment,
    rollouts: Sequence[Rollout],
    replicas: Sequence[Replica],
    split: TrafficSplit | None,
    *,
    now: datetime,
) -> PlacementDecision:
    """Decide which replicas to create, stop and delete.

    A replica that serves is asked to stop only after the gateway has acknowledged a split
    without it; until then both old and new run.

    Parameters
    ----------
    deployment, rollouts
        The deployment and its running rollouts.
    replicas
        All replicas of the deployment.
    split
        The deployment's traffic split, if any.
    now
        The time, UTC.
    """
    wanted: set[str] = set()
    create: list[tuple[Revision, int]] = []
    requeue_after_s: float | None = None
    if deployment.status.warm is not None and deployment.status.warm.until > now:
        requeue_after_s = (deployment.status.warm.until - now).total_seconds()
    bad = {r.spec.candidate.digest: r.status.bad_replica for r in rollouts if not r.finished}
    for revision, count in live_revisions(deployment, rollouts, now=now).values():
        chosen = choose(revision, count, replicas, avoid=bad.get(revision.digest))
        keep = tuple(r for r in chosen if not _overdue(r, deployment, now))
        if any(r.status.phase == "Failed" for r in keep):
            requeue_after_s = min(requeue_after_s or RETRY_FAILED_AFTER_S, RETRY_FAILED_AFTER_S)
        wanted |= {replica.metadata.name for replica in keep}
        free = _free_indexes(revision, count, replicas)
        create += [(revision, index) for index in free][: count - len(keep)]
    surplus = [replica for replica in replicas if replica.metadata.name not in wanted]
    stop, delete = _retire(surplus, split)
    log = deployment.spec.predictions
    change = tuple(
        replica.with_spec(predictions=log)
        for replica in replicas
        if replica not in stop and not replica.spec.stopped and replica.spec.predictions != log
    )
    return PlacementDecision(tuple(create), stop, delete, requeue_after_s, change)


def log_condition(deployment: ModelDeployment, replicas: Sequence[Replica]) -> Condition | None:
    """Return whether predictions are logged as they should be; None when none should.

    Only modelplane's own model server has a log; what a version's own command serves has none.
    """
    if deployment.spec.predictions is None:
        return None
    without = {
        replica.spec.revision.version
        for replica in replicas
        if not replica.spec.stopped and not keeps_answers(replica.spec.revision.artifact.format)
    }
    versions = ", ".join(sorted(without))
    return Condition(
        type=LOG_CONDITION,
        status="False" if without else "True",
        reason="OwnServer" if without else "Logged",
        message=f"{versions}: a server of its own has no log of predictions" if without else "",
        observed_generation=deployment.metadata.generation,
    )


def decide_removal(replicas: Sequence[Replica], split: TrafficSplit | None) -> PlacementDecision:
    """Decide what to stop and delete when the deployment itself is gone."""
    stop, delete = _retire(replicas, split)
    return PlacementDecision(stop=stop, delete=delete)


def _retire(
    surplus: Sequence[Replica], split: TrafficSplit | None
) -> tuple[tuple[Replica, ...], tuple[Replica, ...]]:
    """Return which of `surplus` to stop now, and which have stopped and can be forgotten."""
    settled = split is None or split.status.accepted_generation == split.metadata.generation
    named = {e.replica for v in split.spec.variants for e in v.endpoints} if split else set()
    never_served = {"Pending", "Preparing", "Starting", "Failed"}
    stop = tuple(
        replica
        for replica in surplus
        if not replica.spec.stopped
        and replica.metadata.name not in named
        # Until the newest split is acknowledged the gateway may still use the one before it.
        and (settled or replica.status.phase in never_served)
    )
    delete = tuple(r for r in surplus if r.spec.stopped and r.status.phase == "Stopped")
    return stop, delete


def _overdue(replica: Replica, deployment: ModelDeployment, now: datetime) -> bool:
    """Whether a failed replica of stable is to be replaced; a candidate's ends its rollout."""
    stable = deployment.status.stable
    if stable is None or replica.spec.revision.digest != stable.digest:
        return False
    age_s = (now - (replica.metadata.updated_at or now)).total_seconds()
    return replica.status.phase == "Failed" and age_s >= RETRY_FAILED_AFTER_S


def _free_indexes(revision: Revision, count: int, replicas: Sequence[Replica]) -> tuple[int, ...]:
    own = {r.spec.index for r in replicas if r.spec.revision.digest == revision.digest}
    return tuple(i for i in range(len(own) + count) if i not in own)
