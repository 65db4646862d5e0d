"""How a new revision takes over an environment's traffic.

Declared in a `ModelDeployment` (or as an environment's default) and read by the rollout
controller at every step, so that an edit in mid-ramp takes effect. Pure data.
"""

from __future__ import annotations

import itertools
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from modelplane.resources.meta import Part
from modelplane.resources.quantities import Duration, Percent

OnInconclusive = Literal["hold", "rollback", "promote"]


class MetricRule(Part):
    """One metric that the candidate is judged by."""

    name: str = Field(
        min_length=1,
        max_length=63,
        description="`errors`, `latency`, or a metric that needs labels such as `precision`.",
    )
    margin: float | None = Field(
        default=None,
        gt=0,
        le=10,
        description="How much worse the candidate may be. Rates: the difference, below 1 (0.005 is "
        "half a percentage point); absent: max(0.0025, a quarter of stable's rate). `latency`: "
        "slower by this share (0.5 is half as slow again); absent: 0.2. Two milliseconds are "
        "always allowed.",
    )
    weight: float = Field(
        default=1.0, gt=0, description="Its share of the error budget alpha, relative to others."
    )

    @model_validator(mode="after")
    def _margins_of_rates_are_below_one(self) -> MetricRule:
        if self.name != "latency" and self.margin is not None and self.margin >= 1:
            raise ValueError(f"the margin of {self.name} is a difference of rates, below 1")
        return self


class Analysis(Part):
    """How the candidate is judged against stable, live."""

    metrics: tuple[MetricRule, ...] = Field(
        default=(MetricRule(name="errors"), MetricRule(name="latency")),
        min_length=1,
        description="All must pass for a promotion; any may roll back.",
    )
    interval_s: Duration = Field(
        default=5.0, alias="interval", description="Least time between two changes of weight."
    )
    alpha: float = Field(
        default=0.05,
        gt=0,
        lt=0.5,
        description="Greatest chance that a healthy candidate is ever rolled back.",
    )
    on_inconclusive: OnInconclusive = Field(
        default="hold", description="What happens when the deadline comes without a verdict."
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> Analysis:
        names = [metric.name for metric in self.metrics]
        if len(set(names)) != len(names):
            raise ValueError(f"a metric is named twice: {', '.join(names)}")
        return self


class CanaryStrategy(Part):
    """Traffic moves to the candidate in steps, as fast as the evidence allows."""

    steps: Literal["auto"] | tuple[Percent, ...] = Field(
        default="auto",
        description="Percentages that rise, or `auto`: 1, 5, 25, 50 as the risk budget allows. "
        "100 is the result of the promotion, not a step.",
    )
    min_bake_s: Duration = Field(
        default=120.0, alias="minBake", description="Least time of the whole rollout."
    )
    deadline_s: Duration = Field(
        default=86400.0, alias="deadline", description="By then there must be a verdict."
    )
    analysis: Analysis = Field(default_factory=Analysis)

    @field_validator("steps", mode="after")
    @classmethod
    def _steps_rise(cls, steps: Literal["auto"] | tuple[float, ...]) -> Any:
        if steps == "auto":
            return steps
        if any(later <= earlier for earlier, later in itertools.pairwise(steps)):
            raise ValueError(f"steps must rise, got {', '.join(f'{step:g}' for step in steps)}")
        below = tuple(step for step in steps if step < 100)
        if not below or below[0] <= 0:
            raise ValueError("steps need at least one percentage above 0 and below 100")
        return below


class AllAtOnceStrategy(Part):
    """The new revision takes all traffic once it is ready and a smoke prediction passed."""


class Strategy(Part):
    """Exactly one way for a revision to take over."""

    canary: CanaryStrategy | None = None
    all_at_once: AllAtOnceStrategy | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Strategy:
        if (self.canary is None) == (self.all_at_once is None):
            raise ValueError("a strategy is exactly one of: canary, allAtOnce")
        return self

    @property
    def type(self) -> Literal["canary", "allAtOnce"]:
        """The name of the strategy."""
        return "canary" if self.canary is not None else "allAtOnce"
