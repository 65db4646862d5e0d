"""The jobs of a stage: what they are made of, and what one that ended says. Pure.

Called by `decisions.gates`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from modelplane.resources.gate_run import GateRun, StageOutcome, StageTask
from modelplane.resources.job import FINISHED_JOB, Job, JobSpec
from modelplane.resources.meta import Metadata
from modelplane.resources.validation_pipeline import Stage

COMMAND = ("{python}", "-m", "modelplane.stages")
DISK_BYTES = 2 * 2**30
"""Most that a stage's job may write into its working directory."""

INFRASTRUCTURE_EXIT = 75
"""Exit code (EX_TEMPFAIL) of a stage that something outside has hindered."""

_INFRASTRUCTURE = frozenset({"NotStarted", "Lost"})
_MAX_NAME = 128
_MAX_MESSAGE = 2000


@dataclass(frozen=True, slots=True)
class Found:
    """The check was made."""

    outcome: StageOutcome


@dataclass(frozen=True, slots=True)
class Hindered:
    """Something outside hindered it; another attempt may go through."""

    message: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The check could not be made, and another attempt would end the same."""

    message: str
    log_tail: str = ""


def read_job(job: Job | None) -> Found | Hindered | Broken | None:
    """Return what a job that ended says; None while it runs.

    A job that is gone without having been read counts as hindered: nobody knows what it found.
    """
    if job is None:
        return Hindered("its job is gone")
    status, result = job.status, job.status.result or {}
    if status.phase not in FINISHED_JOB:
        return None
    if status.phase == "Cancelled":
        return Broken("its job was cancelled")
    if status.phase == "Succeeded":
        return _read_outcome(job)
    if isinstance(result.get("infrastructure"), str):
        return Hindered(_cut(result["infrastructure"]))
    if status.reason in _INFRASTRUCTURE or status.exit_code == INFRASTRUCTURE_EXIT:
        return Hindered(_cut(status.message or status.reason))
    if isinstance(result.get("impossible"), str):
        return Broken(_cut(result["impossible"]))
    return Broken(_cut(status.message or status.reason), status.log_tail)


def _read_outcome(job: Job) -> Found | Broken:
    try:
        return Found(StageOutcome.model_validate(job.status.result))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "result"
        message = f"its result is none that a stage may write: {place}: {first['msg']}"
        return Broken(_cut(message), job.status.log_tail)


def _cut(message: str) -> str:
    return message if len(message) <= _MAX_MESSAGE else message[: _MAX_MESSAGE - 1] + "…"


def job_name(run: str, stage: str, shard: int, attempt: int) -> str:
    """Return the name of a stage's job: unique in the run, and at most 128 characters.

    Examples
    --------
    >>> job_name("quality-7", "accuracy", 0, 1)
    'quality-7.accuracy.0.1'
    """
    name, ending = f"{run}.{stage}", f".{shard}.{attempt}"
    if len(name) + len(ending) > _MAX_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:12]
        name = f"{name[: _MAX_NAME - len(ending) - 13].rstrip('-._')}-{digest}"
    return name + ending


def make_job(run: GateRun, task: StageTask, attempt: int, environment: str) -> Job:
    """Return the first job of a shard."""
    stage, shard = task.stage, task.shard
    artifacts = {"candidate": task.candidate.revision.artifact.digest}
    if task.champion is not None:
        artifacts["champion"] = task.champion.revision.artifact.digest
    spec = JobSpec(
        command=COMMAND,
        timeout_s=stage.timeout_s,
        memory=stage.memory,
        disk=DISK_BYTES,
        artifacts=artifacts,
        input=task.to_dict(),
    )
    return _job(run, stage, shard, attempt, environment=environment, spec=spec)


def repeat_job(run: GateRun, stage: Stage, shard: int, attempt: int, before: Job) -> Job:
    """Return another job for what `before` was given: its retry, or the same for a shard."""
    place = before.metadata.environment or ""
    spec = before.spec.with_(cancelled=False)
    return _job(run, stage, shard, attempt, environment=place, spec=spec)


def for_shard(job: Job, shard: int, cases: Sequence[str]) -> Job:
    """Return `job` with another shard's cases: all shards are given the same otherwise."""
    given: dict[str, Any] = {**(job.spec.input or {}), "shard": shard, "cases": list(cases)}
    return job.with_spec(input=given)


def _job(
    run: GateRun, stage: Stage, shard: int, attempt: int, *, environment: str, spec: JobSpec
) -> Job:
    return Job(
        metadata=Metadata(
            name=job_name(run.metadata.name, stage.name, shard, attempt),
            environment=environment,
            labels={"run": run.metadata.name, "stage": stage.name, "shard": str(shard)},
        ),
        spec=spec,
    )
