"""Runs of pipelines, and the results of their stages. Pure data.

A `GateRun` takes one revision of a model through the stages of one pipeline. What a stage found
is a `StageResult`, named by the digest of everything it depends on, so that an unchanged stage
is not run again.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import Field

from modelplane.resources.checks import CheckName
from modelplane.resources.dataset import DatasetFormat
from modelplane.resources.meta import Condition, ModelName, Name, NoStatus, Part, Resource, Subject
from modelplane.resources.revision import Revision
from modelplane.resources.validation_pipeline import Stage

RunPhase = Literal["Pending", "Running", "Passed", "Failed", "Errored", "Cancelled"]
"""``Failed``: a check said no. ``Errored``: a check could not be made; that is no pass either."""
FINISHED_RUN: frozenset[str] = frozenset({"Passed", "Failed", "Errored", "Cancelled"})

StagePhase = Literal["Waiting", "Running", "Passed", "Failed", "Errored", "Skipped", "Cancelled"]
FINISHED_STAGE: frozenset[str] = frozenset({"Passed", "Failed", "Errored", "Skipped", "Cancelled"})

Trigger = Literal["push", "dataset", "contract", "schedule", "promotion", "hand"]


class DataInput(Part):
    """A version of data that a stage reads where it lies."""

    name: ModelName
    version: str
    digest: str
    uri: str | None = None
    format: DatasetFormat = "unknown"


class ServedModel(Part):
    """A version as a stage runs it."""

    revision: Revision
    signature: dict[str, Any] | None = None
    input_example: dict[str, Any] | None = None
    flavour: str = ""


class Measurement(Part):
    """One number that a check found, with what it was held against."""

    name: str = Field(description="As policies call it: `accuracy`, `latency_p95_s`.")
    value: float
    slice: str = Field(default="", description="`column=value`; absent: of everything.")
    rows: int | None = Field(default=None, description="How many it was computed from.")
    at_least: float | None = None
    at_most: float | None = None
    champion: float | None = None
    difference: float | None = Field(default=None, description="Candidate minus champion.")
    lower: float | None = Field(default=None, description="Bound of the difference.")
    upper: float | None = Field(default=None, description="Bound of the difference.")
    passed: bool | None = Field(default=None, description="Absent: shown only.")


class Finding(Part):
    """One thing that a check has to say."""

    severity: Literal["info", "warning", "error"]
    code: str
    message: str
    where: str = ""


class TestCase(Part):
    """One case of a suite, as JUnit tells it."""

    __test__: ClassVar[bool] = False

    name: str
    passed: bool
    skipped: bool = False
    message: str = ""
    duration_s: float = 0.0


class StageOutcome(Part):
    """What a stage found; the last thing that its job writes."""

    passed: bool
    message: str = Field(default="", max_length=2000, description="The outcome in one sentence.")
    measurements: tuple[Measurement, ...] = Field(default=(), max_length=2000)
    findings: tuple[Finding, ...] = Field(default=(), max_length=1000)
    cases: tuple[TestCase, ...] = Field(default=(), max_length=5000)
    details: dict[str, Any] = Field(default_factory=dict, description="Further facts, small.")


class StageTask(Part):
    """What the job of a stage is given."""

    run: str
    stage: Stage
    candidate: ServedModel
    champion: ServedModel | None = None
    datasets: tuple[DataInput, ...] = ()
    contracts: tuple[dict[str, Any], ...] = Field(
        default=(), description="Contracts (their outside form) that the stage looks at."
    )
    endpoints: dict[str, str] = Field(
        default_factory=dict, description="Gateway address by environment, for parity."
    )
    deployments: dict[str, Any] = Field(
        default_factory=dict, description="What serves the model, by environment, for parity."
    )
    signatures: tuple[dict[str, Any], ...] = Field(
        default=(), description="Signatures of the candidate's files."
    )
    trusted_keys: tuple[str, ...] = Field(default=(), description="Public keys, PEM.")
    production: dict[str, Any] = Field(
        default_factory=dict, description="What production was asked lately, for data."
    )
    shard: int = 0
    shards: int = 1
    cases: tuple[str, ...] = Field(default=(), description="Cases of this shard.")


class StageStatus(Part):
    """Where a stage of a run is."""

    name: str
    phase: StagePhase = "Waiting"
    key: str = Field(default="", description="Digest of everything that it depends on.")
    inputs: dict[str, str] = Field(default_factory=dict, description="What the key is made of.")
    result: str | None = Field(default=None, description="Name of its StageResult.")
    cached: bool = Field(default=False, description="The result is of an earlier run.")
    jobs: tuple[str, ...] = Field(
        default=(), description="Its latest jobs, a shard each; empty: not started yet."
    )
    shards: tuple[tuple[str, ...], ...] = Field(
        default=(), description="The cases of each shard, when it was cut into some."
    )
    attempt: int = Field(default=0, description="How often its jobs were started.")
    message: str = ""
    log_tail: str = Field(default="", description="Of the job that ended it in error.")
    started_at: datetime | None = None
    finished_at: datetime | None = None


class GateRunSpec(Part):
    """What is run on what, and who wanted it."""

    pipeline: Name
    pipeline_digest: str = Field(description="SHA-256 of the pipeline's spec when it began.")
    stages: tuple[Stage, ...] = Field(description="As they were then.")
    max_parallel: int = 4
    candidate: ServedModel
    champion: ServedModel | None = None
    trigger: Trigger = "hand"
    subject: Subject
    reason: str = ""
    no_cache: bool = False
    cancelled: bool = False


class GateRunStatus(Part):
    """How far it came."""

    phase: RunPhase = "Pending"
    message: str = ""
    stages: tuple[StageStatus, ...] = ()
    environment: str | None = Field(default=None, description="Where its jobs are.")
    started_at: datetime | None = None
    finished_at: datetime | None = None
    conditions: tuple[Condition, ...] = ()


class GateRun(Resource[GateRunSpec, GateRunStatus]):
    """One revision on its way through a pipeline. Named ``PIPELINE-N``."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "gate-runs"
    short_names: ClassVar[tuple[str, ...]] = ("run", "runs", "gate-run")

    kind: Literal["GateRun"] = "GateRun"
    spec: GateRunSpec
    status: GateRunStatus = Field(default_factory=GateRunStatus)

    @property
    def finished(self) -> bool:
        """Whether nothing will move any more."""
        return self.status.phase in FINISHED_RUN


class StageResultSpec(Part):
    """What a stage found, and what that depends on."""

    key: str = Field(description="SHA-256 over `inputs`, hex.")
    inputs: dict[str, str] = Field(description="Name and digest of everything it depends on.")
    check: CheckName
    stage: str
    model: ModelName
    version: str
    outcome: StageOutcome
    evidence: str | None = Field(
        default=None, description="Digest of the artifact with everything it wrote."
    )
    shard_evidence: tuple[str, ...] = Field(
        default=(), description="Digests of what the further shards wrote."
    )
    run: str = Field(description="The GateRun that it was made in.")
    duration_s: float = Field(description="Time of all its jobs together.")
    case_durations_s: dict[str, float] = Field(
        default_factory=dict, description="By case, to balance shards by."
    )


class StageResult(Resource[StageResultSpec, NoStatus]):
    """What a stage found; never changed. Named by the beginning of its key."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "stage-results"

    kind: Literal["StageResult"] = "StageResult"
    spec: StageResultSpec
    status: NoStatus = Field(default_factory=NoStatus)
