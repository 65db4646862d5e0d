"""A Job: one command run to its end by an agent, with limits. Pure data.

Pipeline stages, training and repair commands will all be Jobs.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Literal

from pydantic import Field

from modelplane.resources.meta import Part, Resource
from modelplane.resources.quantities import ByteSize, Duration

JobPhase = Literal["Pending", "Running", "Succeeded", "Failed", "Cancelled"]
FINISHED_JOB: frozenset[str] = frozenset({"Succeeded", "Failed", "Cancelled"})


class JobSpec(Part):
    """What to run."""

    command: tuple[str, ...] = Field(min_length=1, description="Program and arguments.")
    env: dict[str, str] = Field(default_factory=dict, description="Environment variables.")
    timeout_s: Duration = Field(default=3600.0, alias="timeout", description="Then it is ended.")
    memory: ByteSize | None = Field(default=None, description="Memory limit of the process.")
    node: str = "local"
    cancelled: bool = Field(default=False, description="Asked to end.")


class JobStatus(Part):
    """How it went."""

    phase: JobPhase = "Pending"
    attempt: int = 0
    exit_code: int | None = None
    message: str = ""
    log_tail: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None


class Job(Resource[JobSpec, JobStatus]):
    """One command run to its end."""

    scoped: ClassVar[bool] = True
    plural: ClassVar[str] = "jobs"
    declared: ClassVar[bool] = True

    kind: Literal["Job"] = "Job"
    spec: JobSpec
    status: JobStatus = Field(default_factory=JobStatus)
