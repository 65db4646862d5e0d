"""What resources say becomes series: replicas, weights, rollouts, and what waits. Pure.

`ResourceSeries` is told of each change of a resource once and keeps only what it needs of it;
`controllers.measuring` follows the change log and takes samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modelplane.decisions.series import Sample, sample
from modelplane.decisions.telemetry_series import RevisionPlace
from modelplane.resources.alerting import Alert
from modelplane.resources.approval import Approval
from modelplane.resources.job import Job
from modelplane.resources.meta import Resource, ResourceKey
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.notification import Notification
from modelplane.resources.playbook import FINISHED_PLAYBOOK_RUN, PlaybookRun
from modelplane.resources.promotion import WAITING_PROMOTION, Promotion
from modelplane.resources.replica import Replica
from modelplane.resources.rollout import FINISHED_ROLLOUT, Judgement, Rollout
from modelplane.resources.traffic_split import DEFAULT_RULE, TrafficSplit
from modelplane.resources.training import TrainingRun

KINDS: tuple[type[Resource[Any, Any]], ...] = (
    ModelDeployment, Replica, TrafficSplit, Rollout, Promotion, Approval, Notification, Job,
    Alert, PlaybookRun, TrainingRun,
)  # fmt: skip
"""The kinds whose changes it wants to be told of."""

MAX_VERSIONS = 50_000
_FINISHED_TRAINING = frozenset({"Succeeded", "Failed", "Cancelled"})
_DOWN = frozenset({"NotReady", "Failed"})


class ResourceSeries:
    """What is to be told of the resources there are."""

    def __init__(self) -> None:
        self._kept: dict[type[Resource[Any, Any]], dict[ResourceKey, Any]] = {
            kind: {} for kind in KINDS
        }
        self._versions: dict[RevisionPlace, str] = {}
        self._finished: set[str] = set()
        self._rollouts: Counter[tuple[str, str, str]] = Counter()
        self._playbooks: Counter[tuple[str, str]] = Counter()
        self._trainings: Counter[tuple[str, str]] = Counter()

    @property
    def versions(self) -> Mapping[RevisionPlace, str]:
        """The version of each revision that was ever seen."""
        return self._versions

    @property
    def deployments(self) -> Sequence[ModelDeployment]:
        """All deployments."""
        return list(self._kept[ModelDeployment].values())

    @property
    def running(self) -> Sequence[Rollout]:
        """The rollouts that are not finished."""
        return list(self._kept[Rollout].values())

    def begin(self) -> None:
        """Forget what is kept, before all resources are put again; counts stay."""
        for kept in self._kept.values():
            kept.clear()

    def put(self, resource: Resource[Any, Any]) -> None:
        """Take in a resource as it is now."""
        self._learn_version(resource)
        self._count_end(resource)
        kept = self._kept[type(resource)]
        if _matters(resource):
            kept[resource.key] = resource
        else:
            kept.pop(resource.key, None)

    def remove(self, resource: Resource[Any, Any]) -> None:
        """Take in that a resource is gone."""
        self._kept[type(resource)].pop(resource.key, None)

    def samples(self, judgements: Mapping[str, Judgement]) -> Iterator[Sample]:
        """Return the samples now; `judgements` of running rollouts are by their uid."""
        for replica in self._kept[Replica].values():
            yield from _of_replica(replica)
        for split in self._kept[TrafficSplit].values():
            yield from _of_split(split)
        for rollout in self._kept[Rollout].values():
            yield from _of_rollout(rollout, judgements.get(rollout.metadata.uid))
        yield from self._counted()
        yield from self._waiting()

    def _learn_version(self, resource: Resource[Any, Any]) -> None:
        if isinstance(resource, TrafficSplit):
            named = [(one.revision[:10], one.version) for one in resource.spec.variants]
        elif isinstance(resource, Replica):
            named = [(resource.spec.revision.short, resource.spec.revision.version)]
        else:
            return
        for revision, version in named:
            place = (resource.metadata.environment or "", resource.spec.deployment, revision)
            self._versions[place] = version
        while len(self._versions) > MAX_VERSIONS:
            del self._versions[next(iter(self._versions))]

    def _count_end(self, resource: Resource[Any, Any]) -> None:
        uid = resource.metadata.uid
        if uid in self._finished:
            return
        if isinstance(resource, Rollout) and resource.status.phase in FINISHED_ROLLOUT:
            place = resource.metadata.environment or ""
            self._rollouts[place, resource.spec.deployment, resource.status.phase] += 1
        elif isinstance(resource, PlaybookRun) and resource.status.phase in FINISHED_PLAYBOOK_RUN:
            self._playbooks[resource.spec.playbook, resource.status.phase] += 1
        elif isinstance(resource, TrainingRun) and resource.status.phase in _FINISHED_TRAINING:
            self._trainings[resource.spec.trigger, resource.status.phase] += 1
        else:
            return
        self._finished.add(uid)

    def _counted(self) -> Iterator[Sample]:
        for (place, deployment, phase), count in self._rollouts.items():
            labels = {"environment": place, "deployment": deployment, "phase": phase}
            yield sample("modelplane_rollouts_finished_total", float(count), **labels)
        for (playbook, phase), count in self._playbooks.items():
            labels = {"playbook": playbook, "phase": phase}
            yield sample("modelplane_playbook_runs_total", float(count), **labels)
        for (trigger, phase), count in self._trainings.items():
            labels = {"trigger": trigger, "phase": phase}
            yield sample("modelplane_training_runs_total", float(count), **labels)

    def _waiting(self) -> Iterator[Sample]:
        alerts = Counter(alert.status.phase for alert in self._kept[Alert].values())
        for phase in ("Pending", "Firing"):
            yield sample("modelplane_alerts", float(alerts[phase]), phase=phase)
        jobs = Counter(job.status.phase for job in self._kept[Job].values())
        for phase in ("Pending", "Running"):
            yield sample("modelplane_jobs", float(jobs[phase]), phase=phase)
        waiting = Counter(one.metadata.environment for one in self._kept[Promotion].values())
        places = {one.metadata.environment for one in self._kept[ModelDeployment].values()}
        for place in sorted(places | set(waiting)):
            name = "modelplane_promotions_waiting"
            yield sample(name, float(waiting[place]), environment=place)
        yield sample("modelplane_notifications_pending", float(len(self._kept[Notification])))
        yield sample("modelplane_approvals_pending", float(len(self._kept[Approval])))


def _matters(resource: Resource[Any, Any]) -> bool:
    phase = getattr(resource.status, "phase", "")
    match resource:
        case ModelDeployment() | TrafficSplit():
            return True
        case Replica():
            return not resource.spec.stopped and phase not in {"Draining", "Stopped"}
        case Rollout():
            return phase not in FINISHED_ROLLOUT
        case Promotion():
            return phase in WAITING_PROMOTION
        case Approval() | Notification():
            return phase == "Pending"
        case Job():
            return phase in {"Pending", "Running"}
        case Alert():
            return phase != "Resolved"
    return False


def _of_replica(replica: Replica) -> Iterator[Sample]:
    """A replica that never was ready and has not failed is on its way, and not down."""
    status = replica.status
    if status.phase != "Ready" and status.phase not in _DOWN and status.ready_at is None:
        return
    labels = {
        "environment": replica.metadata.environment or "",
        "deployment": replica.spec.deployment,
        "version": replica.spec.revision.version,
        "replica": replica.metadata.name,
    }
    yield sample("modelplane_replica_up", float(status.phase == "Ready"), **labels)
    yield sample("modelplane_replica_restarts_total", float(status.restarts), **labels)


def _of_split(split: TrafficSplit) -> Iterator[Sample]:
    rule = next((one for one in split.spec.rules if one.name == DEFAULT_RULE), None)
    shares: dict[str, float] = {}
    for variant in split.spec.variants:
        share = variant.weight_pct / 100
        if rule is not None:
            widths = [one.width for one in rule.segments if one.revision == variant.revision]
            share = sum(widths) / 10_000
        shares[variant.version] = shares.get(variant.version, 0.0) + share
    for version, share in shares.items():
        yield sample(
            "modelplane_weight_ratio",
            share,
            environment=split.metadata.environment or "",
            deployment=split.spec.deployment,
            version=version,
        )


def _of_rollout(rollout: Rollout, judgement: Judgement | None) -> Iterator[Sample]:
    labels = {
        "environment": rollout.metadata.environment or "",
        "deployment": rollout.spec.deployment,
        "rollout": rollout.metadata.name,
        "version": rollout.spec.candidate.version,
    }
    yield sample("modelplane_rollout_running", 1.0, **labels)
    evidence = [
        metric.e_value
        for metric in (judgement.metrics if judgement is not None else ())
        if metric.e_value is not None
    ]
    if evidence:
        yield sample("modelplane_rollout_e_value", max(evidence), **labels)
