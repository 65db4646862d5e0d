"""When pipelines run by themselves: what has happened, and what is to run because of it. Pure.

Called by `controllers.gate_triggers`. A cause is one thing that happened, for one pipeline and one
model; it starts one run. What happened before a trigger was switched on is no cause.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cronsim import CronSim

from modelplane.decisions.gate_runs import AUTOMATIC
from modelplane.decisions.registration import ARTIFACT_READY
from modelplane.resources.contract import Contract
from modelplane.resources.dataset import DatasetVersion
from modelplane.resources.gate_run import GateRun, ServedModel, Trigger
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.validation_pipeline import ValidationPipeline

MAX_UNFINISHED = 8
"""How many runs that triggers started may be on their way at a time; further causes wait."""

CAUSE_LABEL = "cause"
"""Label of a run that a trigger started: which cause it has."""

CHAMPION, NEWEST = "", "newest"


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a pipeline should run for a model.

    Attributes
    ----------
    trigger
        What sort of thing happened.
    what
        Which thing, so that it is told from every other.
    at
        When it happened.
    model
        The model it concerns.
    version
        The version to check; `CHAMPION` what serves, `NEWEST` what was registered last.
    reason
        In words.
    """

    trigger: Trigger
    what: str
    at: datetime
    model: str
    version: str
    reason: str

    @property
    def label(self) -> str:
        """Its label on the run."""
        text = "\n".join((self.trigger, self.what, self.model, self.version))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def active_triggers(pipeline: ValidationPipeline) -> frozenset[Trigger]:
    """Return the triggers of a pipeline that are switched on."""
    triggers = pipeline.spec.triggers
    named: dict[Trigger, bool] = {
        "push": triggers.on_model_push,
        "dataset": bool(triggers.on_dataset),
        "contract": triggers.on_contract,
        "schedule": triggers.schedule is not None,
    }
    return frozenset(name for name, is_on in named.items() if is_on)


def switch_triggers(pipeline: ValidationPipeline) -> ValidationPipeline:
    """Return `pipeline` with the moment noted at which each of its triggers was switched on."""
    active = sorted(active_triggers(pipeline))
    since = {trigger: at for trigger in active if (at := since_of(pipeline, trigger)) is not None}
    return pipeline.with_status(since=since)


def since_of(pipeline: ValidationPipeline, trigger: Trigger) -> datetime | None:
    """Return since when a trigger is on; None when it is off."""
    if trigger not in active_triggers(pipeline):
        return None
    return pipeline.status.since.get(trigger) or pipeline.metadata.updated_at


def arrived_at(version: ModelVersion) -> datetime | None:
    """Return when a version had its files; None while it has none, or when it was deleted."""
    if version.spec.artifact is None or version.status.deleted_at is not None:
        return None
    fetched = next((c for c in version.status.conditions if c.type == ARTIFACT_READY), None)
    if fetched is not None and fetched.status == "True" and fetched.last_transition_time:
        return fetched.last_transition_time
    return version.metadata.created_at


def causes_of_push(
    pipeline: ValidationPipeline, version: ModelVersion, model: Model
) -> tuple[Cause, ...]:
    """Return the run that the arrival of a version asks for, if any."""
    at = arrived_at(version)
    if not _counts(pipeline, "push", at) or not _is_meant(pipeline, model) or at is None:
        return ()
    name = version.metadata.name
    reason = f"{name} was registered"
    return (
        Cause("push", version.metadata.uid, at, version.spec.model, version.spec.version, reason),
    )


def causes_of_data(
    pipeline: ValidationPipeline, data: DatasetVersion, models: Iterable[Model]
) -> tuple[Cause, ...]:
    """Return the runs that a new version of data asks for: the champions of the models."""
    at = data.metadata.created_at
    if data.spec.dataset not in pipeline.spec.triggers.on_dataset or at is None:
        return ()
    if not _counts(pipeline, "dataset", at):
        return ()
    uid, reason = data.metadata.uid, f"{data.metadata.name} was registered"
    meant = (model.metadata.name for model in models if _is_meant(pipeline, model))
    return tuple(Cause("dataset", uid, at, model, CHAMPION, reason) for model in meant)


def causes_of_contract(
    pipeline: ValidationPipeline, contract: Contract, model: Model
) -> tuple[Cause, ...]:
    """Return the runs that a published contract asks for: of the champion and the newest."""
    at = contract.metadata.created_at
    if not _counts(pipeline, "contract", at) or not _is_meant(pipeline, model) or at is None:
        return ()
    uid, reason = contract.metadata.uid, f"{contract.metadata.name} was published"
    name = model.metadata.name
    versions = (CHAMPION, NEWEST)
    return tuple(Cause("contract", uid, at, name, version, reason) for version in versions)


def causes_of_schedule(
    pipeline: ValidationPipeline, models: Iterable[Model], now: datetime
) -> tuple[Cause, ...]:
    """Return the runs that are due by the schedule; what was missed is made up for once."""
    due = due_at(pipeline, now)
    if due is None:
        return ()
    reason = f"scheduled for {due:%Y-%m-%d %H:%M} UTC"
    meant = (model.metadata.name for model in models if _is_meant(pipeline, model))
    return tuple(
        Cause("schedule", due.isoformat(), due, model, CHAMPION, reason) for model in meant
    )


def due_at(pipeline: ValidationPipeline, now: datetime) -> datetime | None:
    """Return the last moment of the schedule that has come and was not acted on; else None."""
    schedule, since = pipeline.spec.triggers.schedule, since_of(pipeline, "schedule")
    if schedule is None or since is None or since >= now:
        return None
    # Going backwards begins before the given second, unless something of it has passed already.
    passed = now.astimezone(UTC).replace(microsecond=max(1, now.microsecond))
    last: datetime | None = next(CronSim(schedule, passed, reverse=True), None)
    return last if last is not None and last > since else None


def next_at(pipeline: ValidationPipeline, now: datetime) -> datetime | None:
    """Return when the schedule comes next; None without one."""
    schedule = pipeline.spec.triggers.schedule
    return next(CronSim(schedule, now.astimezone(UTC)), None) if schedule else None


def settled_schedule(pipeline: ValidationPipeline, due: datetime) -> ValidationPipeline:
    """Return `pipeline` with everything due until `due` acted on."""
    return pipeline.with_status(since={**pipeline.status.since, "schedule": due})


def is_settled(cause: Cause, candidate: ServedModel, runs: Sequence[GateRun]) -> bool:
    """Whether a cause has its run: one of its own, or one of the same revision begun since.

    Parameters
    ----------
    cause, candidate
        What is to run because of what.
    runs
        Of the pipeline; at least those of the cause and of the candidate's revision.
    """
    digest = candidate.revision.digest
    for run in runs:
        if run.metadata.labels.get(CAUSE_LABEL) == cause.label:
            return True
        begun_at = run.metadata.created_at
        is_same = run.spec.candidate.revision.digest == digest and not run.spec.cancelled
        if is_same and begun_at is not None and begun_at >= cause.at:
            return True
    return False


def is_open(run: GateRun) -> bool:
    """Whether a run that a trigger started is on its way."""
    return run.spec.trigger in AUTOMATIC and not run.finished


def _counts(pipeline: ValidationPipeline, trigger: Trigger, at: datetime | None) -> bool:
    since = since_of(pipeline, trigger)
    return since is not None and at is not None and at >= since


def _is_meant(pipeline: ValidationPipeline, model: Model) -> bool:
    return pipeline.spec.models.matches(model.metadata.name, model.metadata.labels)
