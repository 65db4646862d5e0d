"""What happened that calls for training: new data, alerts that fire, the clock. Pure.

Called by `decisions.training`. Nothing is told twice: what was seen is noted with the trigger.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from cronsim import CronSim

from modelplane.decisions.training_names import run_number, run_of_token
from modelplane.resources.alerting import Alert
from modelplane.resources.dataset import DatasetVersion
from modelplane.resources.training import Cause, TrainingTrigger, TrainingTriggerStatus

ABSENT = "absent"
"""What was seen where watched data is to be and there was none."""

# Names of Datasets hold no slash, and addresses of data begin with one or with a scheme.
_SCHEDULE, _ALERT = "schedule/", "alert/"


@dataclass(frozen=True, slots=True)
class SightedData:
    """What lies at the address of watched data, settled.

    Attributes
    ----------
    version
        The DatasetVersion it is recorded as; None when there is nothing.
    fault
        Why it cannot be read; then the rest says nothing.
    """

    version: DatasetVersion | None = None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is to see for one trigger.

    Attributes
    ----------
    datasets
        The versions of each Dataset that it names, in any order.
    data
        What was looked at so far of the data that it watches, by address.
    alerts
        At least those that fire.
    """

    datasets: Mapping[str, Sequence[DatasetVersion]] = field(default_factory=dict)
    data: Mapping[str, SightedData] = field(default_factory=dict)
    alerts: Sequence[Alert] = ()


class Happened(NamedTuple):
    """One thing that calls for training: its type, in words, and as data."""

    type: Cause
    detail: str
    data: dict[str, Any]


def observe(
    trigger: TrainingTrigger, seen: Seen, now: datetime
) -> tuple[TrainingTriggerStatus, list[Happened]]:
    """Return the status with everything noted, and what of it is new.

    What there was before the trigger began to look at it is no cause; an alert that fires is one
    however long it has been firing.
    """
    before, causes = trigger.status.seen, trigger.spec.on
    noted: dict[str, str] = {}
    happened: list[Happened] = []
    for dataset in causes.dataset:
        newest = _newest(seen.datasets.get(dataset, ()))
        noted[dataset] = str(newest.spec.number if newest else 0)
        if dataset in before:
            happened += _new_versions(trigger, seen.datasets.get(dataset, ()), int(before[dataset]))
    for watched in causes.data:
        happened += _look_at_data(watched.uri, seen, before, noted)
    happened += _look_at_alerts(trigger, seen.alerts, before, noted)
    scheduled_from = trigger.status.scheduled_from
    if causes.schedule is None:
        scheduled_from = None
    else:
        noted[_SCHEDULE] = causes.schedule
        if scheduled_from is None or before.get(_SCHEDULE) != causes.schedule:
            scheduled_from = now
        due = due_at(causes.schedule, scheduled_from, now)
        if due is not None:
            detail = f"scheduled for {due:%Y-%m-%d %H:%M} UTC"
            happened.append(Happened("schedule", detail, {"dueAt": due.isoformat()}))
            scheduled_from = due
    status = trigger.status.with_(seen=noted, scheduled_from=scheduled_from)
    return status, happened


def _new_versions(
    trigger: TrainingTrigger, versions: Iterable[DatasetVersion], last: int
) -> list[Happened]:
    """Return the newest version since number `last`, unless only our own runs made some."""
    foreign = [
        version
        for version in versions
        if version.spec.number > last and not _is_own(trigger, version.spec.author)
    ]
    newest = _newest(foreign)
    if newest is None:
        return []
    detail = f"{newest.metadata.name} was registered"
    return [Happened("dataset", detail, _facts_of_data(newest))]


def _look_at_data(
    uri: str, seen: Seen, before: Mapping[str, str], noted: dict[str, str]
) -> list[Happened]:
    sighted = seen.data.get(uri)
    if sighted is None or sighted.fault:
        if uri in before:
            noted[uri] = before[uri]
        return []
    version = sighted.version
    noted[uri] = version.spec.digest if version is not None else ABSENT
    if uri not in before or before[uri] == noted[uri] or version is None:
        return []
    if version.spec.dataset in noted:
        # Registering it was our own doing: it is one cause, not two.
        number = max(int(noted[version.spec.dataset]), version.spec.number)
        noted[version.spec.dataset] = str(number)
    detail = f"{uri} has changed: it is {version.metadata.name} now"
    return [Happened("data", detail, {"uri": uri, **_facts_of_data(version)})]


def _look_at_alerts(
    trigger: TrainingTrigger,
    alerts: Iterable[Alert],
    before: Mapping[str, str],
    noted: dict[str, str],
) -> list[Happened]:
    happened = []
    for alert in alerts:
        key, episode = f"{_ALERT}{alert.metadata.name}", str(alert.status.episode)
        if not calls_for(trigger, alert):
            if before.get(key) == episode:
                noted[key] = episode  # silenced for a while, say: it is no other cause after that
            continue
        noted[key] = episode
        if before.get(key) != episode:
            happened.append(Happened("alert", f"{alert.spec.alert} fires", _facts_of(alert)))
    return happened


def calls_for(trigger: TrainingTrigger, alert: Alert) -> bool:
    """Whether an alert fires that the trigger is for; silenced and flapping ones are not heard."""
    matchers, status = trigger.spec.on.alerts, alert.status
    if matchers is None or status.phase != "Firing" or status.silenced_by or status.flapping:
        return False
    labels = {**alert.spec.labels, "alertname": alert.spec.alert}
    return all(matcher.matches(labels) for matcher in matchers)


def due_at(schedule: str, since: datetime, now: datetime) -> datetime | None:
    """Return the last moment of a schedule after `since` that has come; None without one.

    What was missed meanwhile is made up for once.
    """
    # Going backwards begins before the given second, unless something of it has passed already.
    passed = now.astimezone(UTC).replace(microsecond=max(1, now.microsecond))
    last: datetime | None = next(CronSim(schedule, passed, reverse=True), None)
    return last if last is not None and since < last <= now else None


def next_at(trigger: TrainingTrigger, now: datetime) -> datetime | None:
    """Return when the trigger's schedule comes next; None without one."""
    schedule = trigger.spec.on.schedule
    return next(CronSim(schedule, now.astimezone(UTC)), None) if schedule else None


def _is_own(trigger: TrainingTrigger, author: str) -> bool:
    """Whether a run of the trigger registered something that `author` registered."""
    run = run_of_token(author)
    return run != author and run_number(trigger.metadata.name, run) > 0


def _newest(versions: Iterable[DatasetVersion]) -> DatasetVersion | None:
    return max(versions, key=lambda version: version.spec.number, default=None)


def _facts_of_data(version: DatasetVersion) -> dict[str, Any]:
    spec = version.spec
    facts = {
        "dataset": spec.dataset,
        "version": spec.version,
        "digest": spec.digest,
        "uri": spec.uri,
        "rows": spec.rows,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _facts_of(alert: Alert) -> dict[str, Any]:
    status = alert.status
    facts = {
        "alert": alert.metadata.name,
        "labels": {**alert.spec.labels, "alertname": alert.spec.alert},
        "annotations": dict(status.annotations),
        "value": status.value,
        "episode": status.episode,
        "firedAt": status.fired_at.isoformat() if status.fired_at else None,
    }
    return {name: value for name, value in facts.items() if value is not None}
