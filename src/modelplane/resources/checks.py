"""What a validation stage checks, each with its configuration. Pure data.

A stage of a `ValidationPipeline` holds exactly one of these. What each measures is named in
`decisions.gate_metrics`; the code that runs lies in `modelplane.stages`.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from modelplane.resources.meta import Name, Part
from modelplane.resources.quantities import ByteSize, Duration

CheckName = Literal[
    "accuracy", "latency", "security_scan", "schema", "contract", "parity", "fairness", "data",
    "command",
]  # fmt: skip


def check_inner_path(path: str) -> str:
    """Return a relative path that stays in the folder where it begins; raises ValueError.

    Examples
    --------
    >>> check_inner_path("suite/test_a.py")
    'suite/test_a.py'
    >>> check_inner_path("../secret")
    Traceback (most recent call last):
    ValueError: '../secret' is not inside the working directory
    """
    found = PurePosixPath(path)
    if not found.parts or found.is_absolute() or ".." in found.parts or not path.isprintable():
        raise ValueError(f"{path!r} is not inside the working directory")
    return path


InnerPath = Annotated[str, AfterValidator(check_inner_path)]

DataName = str
"""``DATASET`` (its newest version) or ``DATASET@VERSION``."""

Features = Annotated[
    tuple[str, ...],
    Field(
        description="Columns of the features, in the model's order, for a model that takes one "
        "matrix; absent: all columns of numbers but the target.",
    ),
]
Output = Annotated[
    str | None,
    Field(
        description="The model's output that is judged; absent: `predictions`, or `probabilities` "
        "for metrics of them, or the only one that fits.",
    ),
]


class AccuracyCheck(Part):
    """A metric on a dataset: against a threshold, and against the champion, paired."""

    dataset: DataName | None = Field(
        default=None,
        description="Absent: the data that the version was evaluated on when it was pushed.",
    )
    target: str | None = Field(
        default=None, description="Column with the truth; absent: `target` or `label`."
    )
    metric: str = Field(
        default="accuracy",
        min_length=1,
        max_length=100,
        description="A function of sklearn.metrics, or `accuracy`, `f1`, `auc`, `rmse` …",
    )
    arguments: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="Further arguments of the metric: `average: macro`."
    )
    threshold: float | None = Field(
        default=None, description="At least this; errors and losses: at most this."
    )
    margin: float | None = Field(
        default=None,
        ge=0,
        description="How much worse than the champion it may be at the most, by the interval's "
        "bound; absent: the champion is shown and does not decide.",
    )
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="Of the interval.")
    slices: tuple[str, ...] = Field(
        default=(), max_length=20, description="Columns to look at value by value."
    )
    slice_threshold: float | None = Field(
        default=None, description="Threshold for each slice of at least `sliceRows` rows."
    )
    slice_rows: int = Field(default=100, ge=1, description="Smaller slices are shown only.")
    max_rows: int | None = Field(default=None, ge=1, description="A seeded sample of so many.")
    features: Features = ()
    output: Output = None

    @model_validator(mode="after")
    def _slice_threshold_has_slices(self) -> AccuracyCheck:
        if self.slice_threshold is not None and not self.slices:
            raise ValueError("sliceThreshold decides on slices: name their columns in slices")
        return self


class FairnessCheck(Part):
    """The difference of a rate between groups."""

    dataset: DataName | None = Field(
        default=None,
        description="Absent: the data that the version was evaluated on when it was pushed.",
    )
    target: str | None = Field(
        default=None,
        description="Column with the truth; absent: `target` or `label`. `selection_rate` takes "
        "none.",
    )
    group: str = Field(description="Column with the group.")
    metric: Literal["selection_rate", "true_positive_rate", "false_positive_rate", "accuracy"] = (
        Field(default="selection_rate", description="The rate that is compared between groups.")
    )
    positive: str | int | float | bool = Field(default=1, description="The favourable outcome.")
    max_difference: float = Field(default=0.1, ge=0, le=1, description="Between any two groups.")
    min_rows: int = Field(default=100, ge=1, description="Smaller groups are shown only.")
    max_rows: int | None = Field(default=None, ge=1, description="A seeded sample of so many.")
    features: Features = ()
    output: Output = None


class LatencyCheck(Part):
    """The real model server under load."""

    requests: int = Field(default=2000, ge=20, le=1_000_000, description="How many are measured.")
    concurrency: int = Field(default=4, ge=1, le=1024, description="Connections beside each other.")
    warm_up: int = Field(default=100, ge=0, description="Requests that are not counted.")
    p50_s: Duration | None = Field(default=None, alias="p50", description="At most.")
    p95_s: Duration | None = Field(default=None, alias="p95", description="At most.")
    p99_s: Duration | None = Field(default=None, alias="p99", description="At most.")
    min_throughput_rps: float | None = Field(
        default=None, gt=0, description="Requests per second, at least."
    )
    max_memory: ByteSize | None = Field(default=None, description="Of the process, at its peak.")
    cold_start_s: Duration | None = Field(
        default=None, alias="coldStart", description="From start to ready, at most."
    )
    max_slowdown: float | None = Field(
        default=None,
        gt=0,
        description="How much slower than the champion its p95 may be: 0.2 is a fifth.",
    )


class SecurityScanCheck(Part):
    """What loading the files could do, and what is known of their packages; fails closed."""

    allow: tuple[str, ...] = Field(
        default=(), description="Further names that pickles may import: `module.name`."
    )
    trusted_types: tuple[str, ...] = Field(
        default=(), description="Further types that skops files may hold."
    )
    require_signature: bool = Field(
        default=False, description="Whether files without a trusted signature fail."
    )
    vulnerabilities: str | None = Field(
        default=None, description="Path of an OSV file (or folder) to check the packages against."
    )
    max_severity: Literal["low", "medium", "high", "critical"] = Field(
        default="medium", description="Known vulnerabilities above this fail the stage."
    )


class SchemaCheck(Part):
    """Inputs and outputs against what the champion accepts and what consumers use."""

    compatible_with: Literal["champion", "consumers", "both"] = Field(
        default="both", description="Whose use of the model must still work."
    )


class ContractCheck(Part):
    """Consumer pacts, verified against the running candidate."""

    consumers: tuple[str, ...] = Field(default=(), description="Only these; absent: all.")


class ParityCheck(Part):
    """Golden inputs give the same outputs in each environment, from files of one digest."""

    dataset: DataName | None = Field(
        default=None, description="Golden inputs; absent: the version's input example."
    )
    environments: tuple[str, ...] = Field(
        default=(), description="Absent: every environment that serves the model."
    )
    tolerance: float = Field(default=1e-9, ge=0, description="Of numbers, relative.")
    max_rows: int = Field(
        default=200, ge=1, le=10_000, description="A seeded sample of so many golden inputs."
    )
    features: Features = ()


class DataCheck(Part):
    """Training data against what production was asked lately."""

    environment: Name | None = Field(
        default=None, description="Absent: the furthest one that serves the model."
    )
    within_s: Duration = Field(
        default=7 * 86400.0, gt=0, alias="within", description="How far back requests count."
    )
    columns: tuple[str, ...] = Field(
        default=(), max_length=1000, description="Only these inputs; absent: all."
    )
    max_rows: int = Field(
        default=5000, ge=100, le=20_000, description="Predictions that are looked at, at the most."
    )
    min_rows: int = Field(default=500, ge=50, description="With fewer it cannot be made.")
    psi: float = Field(
        default=0.2, gt=0, le=10, description="Population stability index at the most."
    )
    max_missing: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="How much greater the share of missing values may be, at the most.",
    )
    max_columns: int = Field(
        default=0, ge=0, le=1000, description="Inputs that may differ, at the most."
    )


class CommandCheck(Part):
    """Any program: its exit code, a JSON result, a JUnit file."""

    run: tuple[str, ...] = Field(
        min_length=1,
        description="Program and arguments. `{model}` is the folder of the model's files, "
        "`{url}` and `{socket}` the running candidate, `{data:NAME}` the place of a dataset, "
        "`{python}` modelplane's interpreter.",
    )
    env: dict[str, str] = Field(default_factory=dict, description="Environment variables.")
    files: dict[InnerPath, str] = Field(
        default_factory=dict, description="Small files by name, put into the working directory."
    )
    datasets: tuple[DataName, ...] = Field(
        default=(), description="Data that the program reads: `{data:NAME}` in `run`."
    )
    serve: bool = Field(default=False, description="Whether the candidate runs meanwhile.")
    result: InnerPath = Field(
        default="result.json",
        description="File with the result: `{passed, message, metrics: {name: number}}`.",
    )
    junit: InnerPath | None = Field(default=None, description="File or pattern of JUnit reports.")
    metrics: tuple[str, ...] = Field(
        default=(), description="Metrics it reports, so that policies can refer to them."
    )
    cases: tuple[str, ...] = Field(
        default=(),
        description="Names of cases for a large suite; `{cases}` is replaced by those of a shard.",
    )
