"""How one training goes on: its Job or its service is started, watched, and judged at the end.

Called by `controllers.training_runs`. Pure. A run is over when its process is; what it came to is
told by what it registered: a training that registers nothing has failed, however well it ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from modelplane.resources.dataset import DatasetReference
from modelplane.resources.job import FINISHED_JOB, Job, JobSpec, JobTraining
from modelplane.resources.meta import Metadata
from modelplane.resources.model import ModelVersionSpec
from modelplane.resources.quantities import format_duration
from modelplane.resources.training import TrainingPhase, TrainingRun, TrainingRunStatus

RUN_LABEL = "modelplane.dev/training-run"
"""Label of a Job: the TrainingRun that it belongs to."""

ServiceCall = Literal["start", "ask", "cancel"]
Reason = Literal["", "Failed", "TimedOut", "RegisteredNothing", "Refused", "Unreachable"]

_SPARE_S = 600.0
_MAX_MESSAGE = 2000
_MAX_TAIL = 8000
_NO_PROGRAM = 127
_NO_MLFLOW = "No module named mlflow"


@dataclass(frozen=True, slots=True)
class RunView:
    """What there is to see of one run.

    Attributes
    ----------
    run
        As it is stored.
    others
        Other runs of its model that are not finished.
    job
        Its Job, if that is there.
    versions
        Names of the versions that it registered so far, oldest first.
    """

    run: TrainingRun
    others: Sequence[TrainingRun] = ()
    job: Job | None = None
    versions: tuple[str, ...] = ()


class RunStep(NamedTuple):
    """What is done next.

    Attributes
    ----------
    run
        As it should be stored.
    job
        The Job to create or change in the same transaction.
    call
        What the training service is to be told once that is stored.
    after_s
        When to look again at the latest.
    """

    run: TrainingRun
    job: Job | None = None
    call: ServiceCall | None = None
    after_s: float | None = None


@dataclass(frozen=True, slots=True)
class ServiceAnswer:
    """What a training service said, or that it said nothing.

    Attributes
    ----------
    outcome
        ``unavailable`` may pass; all others are its word.
    message
        In words.
    location
        Where it wants to be asked.
    progress, progress_message
        How far it is: 0 to 1, and in words.
    version
        What it says that it registered.
    """

    outcome: Literal["running", "done", "failed", "refused", "unavailable"]
    message: str = ""
    location: str = ""
    progress: float | None = None
    progress_message: str = ""
    version: str = ""


def decide_run(view: RunView, now: datetime) -> RunStep:
    """Return the next step of a run."""
    run = view.run
    if run.finished:
        return RunStep(run)
    if run.status.phase == "Pending":
        return _begin(view, now)
    if run.spec.run.http is not None:
        return _go_on_with_service(view, now)
    return _go_on_with_job(view, now)


def _begin(view: RunView, now: datetime) -> RunStep:
    run = view.run
    if run.spec.cancelled:
        return RunStep(end_run(run, "Cancelled", "", "cancelled before it began", now))
    first = min([run, *view.others], key=_turn)
    if first is not run:
        message = f"waiting for {first.metadata.name}: one at a time for a model"
        return RunStep(run.with_status(message=message))
    running = run.with_status(phase="Running", started_at=now, message="")
    if run.spec.run.http is not None:
        return RunStep(running, call="start", after_s=run.spec.run.http.every_s)
    job = make_job(run)
    place = f"{job.metadata.environment}/{job.metadata.name}"
    return RunStep(running.with_status(job=place), job)


def _turn(run: TrainingRun) -> tuple[bool, float, str]:
    created_at = run.metadata.created_at
    is_waiting = run.status.phase == "Pending"
    return is_waiting, created_at.timestamp() if created_at else 0.0, run.metadata.name


# -- Jobs -----------------------------------------------------------------------------------


def make_job(run: TrainingRun) -> Job:
    """Return the Job that trains: of a command or of an MLflow project."""
    command, mlflow = run.spec.run.command, run.spec.run.mlflow
    training = JobTraining(run=run.metadata.name, cause=describe_cause(run))
    if command is not None:
        environment, memory = command.environment, command.memory
        arguments, variables = command.command, command.env
    else:
        assert mlflow is not None
        environment, memory, variables = mlflow.environment, None, {}
        given = [part for item in mlflow.parameters.items() for part in ("-P", "=".join(item))]
        # The project's own environment would be built anew each time, by tools that may lack.
        arguments = (
            *("{python}", "-m", "mlflow", "run", mlflow.uri, "--entry-point", mlflow.entry_point),
            *("--env-manager", "local", *given),
        )
    return Job(
        metadata=Metadata(
            name=f"{run.metadata.name}.training",
            environment=environment,
            labels={RUN_LABEL: run.metadata.name, "model": run.spec.model},
        ),
        spec=JobSpec(
            command=arguments,
            env=variables,
            timeout_s=run.spec.timeout_s,
            memory=memory,
            training=training,
        ),
    )


def describe_cause(run: TrainingRun) -> dict[str, Any]:
    """Return what a training is told of why it runs: the content of MODELPLANE_CAUSE."""
    spec = run.spec
    return {
        "run": run.metadata.name,
        "trigger": spec.trigger,
        "model": spec.model,
        "cause": spec.cause,
        "detail": spec.detail,
        "data": spec.data,
    }


def link_training(spec: ModelVersionSpec, run: TrainingRun) -> ModelVersionSpec:
    """Return the record of a version with the run that made it, and the data that caused that.

    Data that the record names already is not added again.
    """
    data = run.spec.data
    dataset, version, digest = (data.get(name) for name in ("dataset", "version", "digest"))
    named = spec.with_(training=spec.training.with_(training_run=run.metadata.name))
    known = {(one.name, one.digest) for one in spec.datasets}
    labels = {(one.name, one.version) for one in spec.datasets}
    if not dataset or not version or (dataset, digest) in known or (dataset, version) in labels:
        return named
    cause = DatasetReference(name=dataset, version=version)
    return named.with_(datasets=(*spec.datasets, cause))


def _go_on_with_job(view: RunView, now: datetime) -> RunStep:
    run, job = view.run, view.job
    if job is None:
        message = f"its job {run.status.job} is gone: nobody knows how it ended"
        return RunStep(end_run(run, "Failed", "Failed", message, now, versions=view.versions))
    if job.status.phase in FINISHED_JOB:
        return RunStep(_judge_job(view, job, now))
    cancelled_job = job if job.spec.cancelled else job.with_spec(cancelled=True)
    if run.spec.cancelled and job.status.phase == "Pending":
        # Its agent may be away for ever; when it comes, it finds the Job cancelled.
        ended = end_run(run, "Cancelled", "", "ended on request", now, versions=view.versions)
        return RunStep(ended, cancelled_job)
    left_s = _until_given_up_s(run, job, now)
    if left_s is not None and left_s <= 0:
        limit = format_duration(run.spec.timeout_s)
        message = f"its agent tells nothing, long after its time-out of {limit}"
        ended = end_run(run, "Failed", "TimedOut", message, now, versions=view.versions)
        return RunStep(ended, cancelled_job)
    told = run.with_status(
        progress=job.status.progress,
        progress_message=job.status.progress_message,
        versions=view.versions,
        message="waiting for its job to start" if job.status.phase == "Pending" else "",
    )
    if run.spec.cancelled and not job.spec.cancelled:
        return RunStep(told, cancelled_job, after_s=left_s)
    return RunStep(told, after_s=left_s)


def _until_given_up_s(run: TrainingRun, job: Job, now: datetime) -> float | None:
    """Return how long a Job that runs may still be silent; its agent ends it long before."""
    if job.status.phase != "Running" or job.status.started_at is None:
        return None
    return run.spec.timeout_s + _SPARE_S - (now - job.status.started_at).total_seconds()


def _judge_job(view: RunView, job: Job, now: datetime) -> TrainingRun:
    run, status, versions = view.run, job.status, view.versions
    if status.phase == "Cancelled":
        return end_run(run, "Cancelled", "", "ended on request", now, versions=versions)
    if status.phase == "Succeeded":
        return _judge_versions(run, versions, now, tail=status.log_tail)
    reason: Reason = "TimedOut" if status.reason == "TimedOut" else "Failed"
    message = status.message or status.reason
    if status.exit_code == _NO_PROGRAM:
        message = f"its program was not found where the agent runs: {message}"
    if run.spec.run.mlflow is not None and _NO_MLFLOW in status.log_tail:
        message = "mlflow is not installed where the agent runs: pip install mlflow there"
    return end_run(run, "Failed", reason, message, now, versions=versions, tail=status.log_tail)


def _judge_versions(
    run: TrainingRun, versions: tuple[str, ...], now: datetime, *, tail: str = "", said: str = ""
) -> TrainingRun:
    if versions:
        return end_run(run, "Succeeded", "", f"registered {', '.join(versions)}", now,
                       versions=versions)  # fmt: skip
    message = f"it ended well, and registered no version of {run.spec.model}"
    if said:
        message = f"it says that it registered {said[:200]}, of which the registry knows nothing"
    return end_run(run, "Failed", "RegisteredNothing", message, now, tail=tail)


# -- services -------------------------------------------------------------------------------


def _go_on_with_service(view: RunView, now: datetime) -> RunStep:
    run, http = view.run, view.run.spec.run.http
    assert http is not None
    if run.spec.cancelled:
        ended = end_run(run, "Cancelled", "", "ended on request", now, versions=view.versions)
        return RunStep(ended, call="cancel" if run.status.location else None)
    started_at = run.status.started_at or now
    left_s = (started_at + timedelta(seconds=run.spec.timeout_s) - now).total_seconds()
    if left_s <= 0:
        return RunStep(_give_up(view, now), call="cancel" if run.status.location else None)
    call: ServiceCall = "ask" if run.status.location else "start"
    return RunStep(run.with_status(versions=view.versions), call=call, after_s=http.every_s)


def _give_up(view: RunView, now: datetime) -> TrainingRun:
    run, limit = view.run, format_duration(view.run.spec.timeout_s)
    if run.status.location and not run.status.message:
        message = f"it had not ended after {limit}"
        return end_run(run, "Failed", "TimedOut", message, now, versions=view.versions)
    message = f"the training service was not to be reached within {limit}: {run.status.message}"
    return end_run(run, "Failed", "Unreachable", message, now, versions=view.versions)


def take_answer(
    run: TrainingRun, answer: ServiceAnswer, versions: tuple[str, ...], now: datetime
) -> TrainingRun:
    """Return a run with what its service said taken in.

    Parameters
    ----------
    run
        That runs.
    answer
        To a start, or to a question how it goes.
    versions
        What is registered of it: what carries its name, and what the service says if that is
        there.
    now
        The time.
    """
    if answer.outcome == "unavailable":
        return run.with_status(message=_cut(answer.message), versions=versions)
    if answer.outcome == "running":
        status = run.status
        return run.with_status(
            message="",
            location=answer.location or status.location,
            progress=answer.progress if answer.progress is not None else status.progress,
            progress_message=answer.progress_message or status.progress_message,
            versions=versions,
        )
    if answer.outcome == "done":
        return _judge_versions(run, versions, now, said=answer.version)
    reason: Reason = "Refused" if answer.outcome == "refused" else "Failed"
    return end_run(run, "Failed", reason, answer.message, now, versions=versions)


def end_run(
    run: TrainingRun,
    phase: TrainingPhase,
    reason: Reason,
    message: str,
    now: datetime,
    *,
    versions: tuple[str, ...] = (),
    tail: str = "",
) -> TrainingRun:
    """Return a run that is over; its token goes with it."""
    before = run.status
    status = TrainingRunStatus(
        phase=phase,
        reason=reason,
        message=_cut(message),
        log_tail=tail[-_MAX_TAIL:] if phase == "Failed" else "",
        job=before.job,
        location=before.location,
        progress=1.0 if phase == "Succeeded" else before.progress,
        progress_message=before.progress_message,
        versions=versions,
        started_at=before.started_at,
        finished_at=now,
    )
    return run.with_(status=status)


def _cut(message: str) -> str:
    return message if len(message) <= _MAX_MESSAGE else message[: _MAX_MESSAGE - 1] + "…"
