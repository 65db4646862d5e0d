"""What a deployment remembers of its predictions, and what it is watched for. Pure data.

Three parts of a `ModelDeployment`'s spec, which change in place: `PredictionLog` (what is kept),
`Labels` (how truth that comes later is read), `DriftWatch` (what counts as drift).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from modelplane.resources.meta import Part
from modelplane.resources.quantities import Duration, Percent

Task = Literal["binary", "multiclass", "regression"]

ColumnName = Annotated[str, Field(min_length=1, max_length=200)]

SliceBy = Annotated[str, Field(pattern=r"^(user\.[a-z0-9][a-z0-9_]{0,39}|input\..{1,200})$")]
"""``user.region`` (header ``x-user-region``) or ``input.carrier`` (an input of the model)."""

MAX_LOG_SLICES = 5


class PredictionLog(Part):
    """What is kept of each prediction. Without it nothing is."""

    sampling: Percent = Field(default=100.0, description="Share of the requests that is kept.")
    inputs: bool = Field(
        default=True,
        description="Whether inputs are kept. Without them there is no drift by feature.",
    )
    redact: tuple[ColumnName, ...] = Field(
        default=(),
        max_length=200,
        description="Inputs and outputs whose values are never kept nor looked at, by name.",
    )
    retention_s: Duration = Field(
        default=30 * 86400.0, gt=0, alias="retention", description="Then they are deleted."
    )
    join_key: str | None = Field(
        default=None,
        pattern=r"^(id|header\.[a-z0-9-]{1,63}|input\..{1,200})$",
        description="What labels name predictions by besides the request id: `id` (of the body), "
        "`header.x-order-id`, `input.flight`.",
    )
    slices: tuple[SliceBy, ...] = Field(
        default=(), max_length=MAX_LOG_SLICES, description="Parts that quality is told of apart."
    )

    @model_validator(mode="after")
    def _reads_nothing_redacted(self) -> PredictionLog:
        for field, names in (("joinKey", (self.join_key or "",)), ("slices", self.slices)):
            for name in names:
                if name.startswith("input.") and name.removeprefix("input.") in self.redact:
                    raise ValueError(f"{field} reads {name!r}, whose values redact keeps away")
        return self


class ValueRange(Part):
    """Bounds of a number; what lies outside counts as the bound."""

    low: float = Field(description="What lies below counts as this.")
    high: float = Field(description="What lies above counts as this.")

    @model_validator(mode="after")
    def _rises(self) -> ValueRange:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low:g} and {self.high:g}")
        return self


class Labels(Part):
    """How labels are read and how long they may take."""

    task: Task | None = Field(
        default=None, description="Absent: told by the model's outputs and the labels."
    )
    output: str | None = Field(
        default=None,
        description="The output that is the prediction; absent: `predictions`, or the only one.",
    )
    score: str | None = Field(
        default=None,
        description="The output with the probability of `positive`; absent: `probabilities`.",
    )
    positive: str | int | float | bool = Field(
        default=1, description="The label that counts as positive, of a binary task."
    )
    horizon_s: Duration = Field(
        default=86400.0,
        gt=0,
        alias="horizon",
        description="By then nearly all labels have come. Later ones count for figures, not for "
        "verdicts.",
    )
    max_weight: Percent = Field(
        default=25.0,
        gt=0,
        description="Most traffic a candidate gets while a metric that needs labels is undecided.",
    )
    loss: ValueRange | None = Field(
        default=None,
        description="Range of the absolute error that `loss` judges; needed for a regression.",
    )
    reward: ValueRange | None = Field(
        default=None, description="Range of the rewards that `reward` judges."
    )


class DriftWatch(Part):
    """What counts as drift."""

    features: tuple[ColumnName, ...] = Field(
        default=(), max_length=1000, description="Inputs to watch; absent: all, and the output."
    )
    window_s: Duration = Field(
        default=3600.0, ge=10, alias="window", description="Recent predictions that are compared."
    )
    min_rows: int = Field(default=500, ge=50, description="Fewer in the window say nothing.")
    psi: float = Field(
        default=0.2, gt=0, le=10, description="Population stability index that counts as drift."
    )
    alpha: float = Field(
        default=0.01,
        gt=0,
        lt=0.5,
        description="Greatest chance a day that any of the stable features is called drifted.",
    )
    hold: bool = Field(default=False, description="Whether rollouts wait while there is drift.")
