"""Training: when a model is trained anew, how, and each time it was. Pure data.

A `TrainingTrigger` says on what and how; a `TrainingRun` is one training with its cause. What
it trains registers versions as anybody does, with a token that is good for nothing else; they
are linked to the run and to the data, and pass the same gates.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from modelplane.resources.addresses import Url
from modelplane.resources.alerting import Matchers
from modelplane.resources.meta import Condition, ModelName, Name, Part, Resource
from modelplane.resources.quantities import ByteSize, Duration
from modelplane.resources.validation_pipeline import check_schedule

DataForm = Literal["auto", "file", "folder", "parquet", "delta", "dvc"]
Cause = Literal["dataset", "data", "alert", "schedule", "playbook", "hand"]


def check_place(uri: str) -> str:
    """Return `uri` when it says the same wherever it is read: a whole path or an address."""
    if not (uri.startswith("/") or re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://\S+", uri)):
        raise ValueError(
            f"neither a path from the root on nor an address: {uri[:80]!r}; the control plane "
            "looks at it, from a directory of its own"
        )
    return check_no_credentials(uri)


def check_no_credentials(uri: str) -> str:
    """Return `uri` when it holds no password or token; the message does not repeat one.

    Examples
    --------
    >>> check_no_credentials("ssh://git@example.com/team/code.git")
    'ssh://git@example.com/team/code.git'
    """
    scheme, found, rest = uri.partition("://")
    user, at, _ = rest.partition("/")[0].rpartition("@")
    # With ssh the user is part of the address; in abfss://CONTAINER@ACCOUNT it is no user at all.
    is_plain = re.search("ssh|abfs|wasb", scheme) and ":" not in user
    if found and at and not is_plain:
        raise ValueError("leave credentials out of the address: resources hold no secrets")
    return uri


class WatchedData(Part):
    """Data outside the registry that is looked at again and again."""

    uri: Annotated[str, AfterValidator(check_place)] = Field(
        min_length=1, description="Path or address: `s3://bucket/flights/`."
    )
    format: DataForm = Field(default="auto", description="`auto`: told by what lies there.")
    every_s: Duration = Field(default=60.0, ge=1, alias="every", description="How often.")
    dataset: ModelName | None = Field(
        default=None, description="The Dataset its versions are recorded in; absent: the model's."
    )


class TrainingCauses(Part):
    """When it begins; any of them."""

    dataset: tuple[ModelName, ...] = Field(
        default=(), max_length=20, description="A new version of one of these Datasets."
    )
    data: tuple[WatchedData, ...] = Field(default=(), max_length=20)
    alerts: Matchers | None = Field(
        default=None,
        description="An alert that fires: of drift, or of quality below a bound.",
    )
    schedule: Annotated[str, AfterValidator(check_schedule)] | None = Field(
        default=None, description="Cron, UTC: `0 3 * * *`."
    )


class CommandTraining(Part):
    """A command, run by an agent as a Job."""

    command: tuple[str, ...] = Field(min_length=1, description="Program and arguments.")
    env: dict[str, str] = Field(
        default_factory=dict, description="Environment variables besides those of every Job."
    )
    memory: ByteSize | None = Field(default=None, description="Most memory it may take.")
    environment: Name = Field(default="staging", description="Where the Job is recorded.")


class HttpTraining(Part):
    """A training service: told to start, then asked how it goes."""

    url: Url = Field(description="Gets the cause as a signed CloudEvent, by POST.")
    secret: Name | None = Field(default=None, description="Name of the signing secret.")
    every_s: Duration = Field(
        default=10.0,
        ge=1,
        alias="every",
        description="How often the address in its answer's `Location` is asked.",
    )


class MlflowTraining(Part):
    """An MLflow project, run by an agent with the `mlflow` that is installed there."""

    uri: Annotated[str, AfterValidator(check_no_credentials)] = Field(
        min_length=1, description="Folder or git address."
    )
    entry_point: str = Field(default="main", description="Of the project.")
    parameters: dict[str, str] = Field(
        default_factory=dict, description="Given to the entry point with `-P NAME=VALUE`."
    )
    environment: Name = Field(default="staging", description="Where the Job is recorded.")


class TrainingMethod(Part):
    """How it is trained: exactly one."""

    command: CommandTraining | None = None
    http: HttpTraining | None = None
    mlflow: MlflowTraining | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> TrainingMethod:
        if sum(way is not None for way in (self.command, self.http, self.mlflow)) != 1:
            raise ValueError("training is exactly one of: command, http, mlflow")
        return self


class TrainingTriggerSpec(Part):
    """On what, how, and how often at the most."""

    model: ModelName = Field(description="What is trained; its runs may register versions of it.")
    on: TrainingCauses = Field(default_factory=TrainingCauses, description="Absent: by hand only.")
    run: TrainingMethod
    timeout_s: Duration = Field(default=3600.0, gt=0, alias="timeout", description="Of one run.")
    debounce_s: Duration = Field(
        default=0.0, alias="debounce", description="Causes that come this close are one."
    )
    cooldown_s: Duration = Field(
        default=0.0, alias="cooldown", description="After a run, before the next one begins."
    )
    per_day: int = Field(default=24, ge=1, le=10_000, description="Runs that begin in a day.")
    suspended: bool = Field(default=False, description="Whether it begins no runs by itself.")


class PendingCause(Part):
    """What will begin a run once it may."""

    type: Cause
    detail: str = ""
    since: datetime
    latest: datetime
    data: dict[str, Any] = Field(default_factory=dict)


class TrainingTriggerStatus(Part):
    """What it saw and did."""

    seen: dict[str, str] = Field(
        default_factory=dict, description="Digest or version seen last, by Dataset or address."
    )
    pending: PendingCause | None = None
    last_run: str = ""
    runs: int = 0
    scheduled_from: datetime | None = None
    conditions: tuple[Condition, ...] = ()


class TrainingTrigger(Resource[TrainingTriggerSpec, TrainingTriggerStatus]):
    """When and how a model is trained anew."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "training-triggers"
    declared: ClassVar[bool] = True
    short_names: ClassVar[tuple[str, ...]] = ("trigger", "triggers")

    kind: Literal["TrainingTrigger"] = "TrainingTrigger"
    spec: TrainingTriggerSpec
    status: TrainingTriggerStatus = Field(default_factory=TrainingTriggerStatus)


TrainingPhase = Literal["Pending", "Running", "Succeeded", "Failed", "Cancelled"]
FINISHED_TRAINING: frozenset[str] = frozenset({"Succeeded", "Failed", "Cancelled"})


class TrainingRunSpec(Part):
    """What is trained, how, and why."""

    trigger: Name
    model: ModelName
    run: TrainingMethod = Field(description="As it was when the run began.")
    timeout_s: Duration = Field(alias="timeout")
    cause: Cause
    detail: str = Field(default="", description="The cause in words.")
    data: dict[str, Any] = Field(
        default_factory=dict,
        description="The cause as data: dataset, version and digest, or alert and labels.",
    )
    subject: str = Field(default="", description="Who asked; empty: the trigger.")
    cancelled: bool = Field(default=False, description="Asked to end.")


class TrainingRunStatus(Part):
    """How it went."""

    phase: TrainingPhase = "Pending"
    reason: Literal["", "Failed", "TimedOut", "RegisteredNothing", "Refused", "Unreachable"] = ""
    message: str = ""
    log_tail: str = Field(default="", description="The end of what a failed one wrote.")
    job: str = Field(default="", description="`ENVIRONMENT/NAME` of its Job.")
    location: str = Field(default="", description="Where a training service is asked.")
    token: str = Field(default="", description="Name of the Token that it registers with.")
    progress: float | None = Field(default=None, ge=0, le=1)
    progress_message: str = ""
    versions: tuple[str, ...] = Field(default=(), description="What it registered.")
    started_at: datetime | None = None
    finished_at: datetime | None = None


class TrainingRun(Resource[TrainingRunSpec, TrainingRunStatus]):
    """One training and what came of it."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "training-runs"
    short_names: ClassVar[tuple[str, ...]] = ("training", "trainings")

    kind: Literal["TrainingRun"] = "TrainingRun"
    spec: TrainingRunSpec
    status: TrainingRunStatus = Field(default_factory=TrainingRunStatus)

    @property
    def finished(self) -> bool:
        """Whether it is over."""
        return self.status.phase in FINISHED_TRAINING
