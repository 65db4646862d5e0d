"""A Job: one command run to its end by an agent, with limits. Pure data.

Pipeline stages, trainings and repair commands are Jobs.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import Field

from modelplane.resources.meta import Name, Part, Resource
from modelplane.resources.quantities import ByteSize, Duration

JobPhase = Literal["Pending", "Running", "Succeeded", "Failed", "Cancelled"]
FINISHED_JOB: frozenset[str] = frozenset({"Succeeded", "Failed", "Cancelled"})

JobReason = Literal[
    "", "ExitCode", "Signal", "TimedOut", "OutOfDisk", "InvalidResult", "NotStarted", "Lost"
]  # fmt: skip
"""Why a job failed. ``NotStarted`` and ``Lost`` are the machine's doing: trying again may help."""


class JobTraining(Part):
    """That a Job trains a model: its token and its cause come from this run."""

    run: str = Field(description="The TrainingRun; its token may register versions.")
    cause: dict[str, Any] = Field(
        default_factory=dict,
        description="Given to it as the JSON file that MODELPLANE_CAUSE names.",
    )


class JobSpec(Part):
    """What to run."""

    command: tuple[str, ...] = Field(min_length=1, description="Program and arguments.")
    env: dict[str, str] = Field(default_factory=dict, description="Environment variables.")
    timeout_s: Duration = Field(default=3600.0, alias="timeout", description="Then it is ended.")
    memory: ByteSize | None = Field(default=None, description="Memory limit of the process.")
    disk: ByteSize | None = Field(
        default=None, description="Most that it may write into its working directory."
    )
    artifacts: dict[Name, str] = Field(
        default_factory=dict,
        description="Files it needs: digest by name. `{artifact:NAME}` in the command and the "
        "environment becomes their folder.",
    )
    input: dict[str, Any] | None = Field(
        default=None,
        description="Given to it as the JSON file that MODELPLANE_JOB_INPUT names.",
    )
    result_optional: bool = Field(
        default=False, description="Whether it may leave no result though it was given an input."
    )
    training: JobTraining | None = Field(
        default=None, description="Of a Job that trains; made by the control plane."
    )
    node: str = "local"
    cancelled: bool = Field(default=False, description="Asked to end.")


class JobStatus(Part):
    """How it went."""

    phase: JobPhase = "Pending"
    attempt: int = 0
    exit_code: int | None = None
    reason: JobReason = ""
    message: str = ""
    log_tail: str = ""
    progress: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="What it says in the JSON file that MODELPLANE_JOB_PROGRESS names.",
    )
    progress_message: str = Field(default="", max_length=200, description="The same, in words.")
    result: dict[str, Any] | None = Field(
        default=None,
        description="What it wrote to the JSON file that MODELPLANE_JOB_RESULT names.",
    )
    output: str | None = Field(
        default=None,
        description="Digest of the artifact with what it left in MODELPLANE_JOB_OUTPUT.",
    )
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
