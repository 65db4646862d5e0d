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
        description="`errors`, `latency`, or what needs labels: `accuracy`, `precision`, `recall`, "
        "`loss`, `reward`.",
    )
    margin: float | None = Field(
        default=None,
        gt=0,
        le=10,
        description="How much worse the candidate may be. Rates: the difference, below 1 (0.005 is "
        "half a percentage point); absent: max(0.0025, a quarter of stable's rate). `latency`: "
        "slower by this share (0.5 is half as slow again); absent: 0.2. Two milliseconds are "
        "always allowed. `loss` and `reward`: this share of their declared range.",
    )
    weight: float = Field(
        default=1.0, gt=0, description="Its share of the error budget alpha, relative to others."
    )
    percentile: Literal[50, 95, 99] | None = Field(
        default=None,
        description="`latency` only: judge beyond this percentile of stable alone; absent: 50, 95 "
        "and 99 together.",
    )

    @model_validator(mode="after")
    def _margins_of_rates_are_below_one(self) -> MetricRule:
        if self.name != "latency" and self.margin is not None and self.margin >= 1:
            raise ValueError(f"the margin of {self.name} is a difference of rates, below 1")
        return self


class Slice(Part):
    """A part of the users that is judged by itself as well."""

    by: str = Field(
        pattern=r"^user\.[a-z0-9][a-z0-9_]{0,39}$",
        description="What tells the parts apart: `user.region`, the header `x-user-region`.",
    )
    values: tuple[str, ...] = Field(
        min_length=1, max_length=20, description="The parts; anybody else is in none of them."
    )


MAX_SLICES = 40
"""Values of all slices together: each is counted for each version."""


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
    slices: tuple[Slice, ...] = Field(
        default=(),
        max_length=3,
        description="Parts of the users that are judged each by itself too, so that harm to one "
        "does not hide in the average.",
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> Analysis:
        names = [metric.name for metric in self.metrics]
        if len(set(names)) != len(names):
            raise ValueError(f"a metric is named twice: {', '.join(names)}")
        if sum(len(part.values) for part in self.slices) > MAX_SLICES:
            raise ValueError(f"slices have {MAX_SLICES} values together at the most")
        return self


class Holdback(Part):
    """Users who stay on the version before for a while after the verdict, for comparison."""

    percentage: Percent = Field(description="Their share of the users, above 0 and at most 50.")
    for_s: Duration = Field(alias="for", gt=0, description="How long they stay.")

    @field_validator("percentage", mode="after")
    @classmethod
    def _is_a_minority(cls, percentage: float) -> float:
        if not 0 < percentage <= 50:
            raise ValueError(f"must lie above 0 and at most at 50, got {percentage:g}")
        return percentage


PREDICATE = (
    "Who may meet it, in CEL over `user.*`, `request.*` and `input.*`; absent: everybody. The "
    "percentage is one of these."
)
MAX_PREDICATE_CHARS = 1000


class CanaryStrategy(Part):
    """Traffic moves to the candidate in steps, as fast as the evidence allows."""

    predicate: str = Field(default="", max_length=MAX_PREDICATE_CHARS, description=PREDICATE)
    holdback: Holdback | None = Field(
        default=None, description="After the verdict, before the rollout ends; absent: none."
    )

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


class RollingStrategy(Part):
    """Replica by replica: each new one that is ready takes its share, then an old one goes."""

    interval_s: Duration = Field(
        default=5.0, alias="interval", description="Least time between two replicas."
    )
    analysis: Analysis = Field(
        default_factory=Analysis, description="Harm rolls back; nothing waits for evidence."
    )


class BlueGreenStrategy(Part):
    """All traffic at once, to a whole second set of replicas; the old set stays warm."""

    keep_warm_s: Duration = Field(
        default=600.0,
        alias="keepWarm",
        description="How long the version before stays running after the switch; until then "
        "`rollout undo` switches back at once.",
    )
    preview_s: Duration = Field(
        default=0.0,
        alias="preview",
        description="How long the new set waits, ready, before the switch; testers reach it by "
        "the header `x-modelplane-version` where `allowOverride` is set.",
    )


class ShadowStrategy(Part):
    """The candidate gets copies of requests; its answers are compared and thrown away."""

    percentage: Percent = Field(default=100.0, description="Share of requests that is copied.")
    predicate: str = Field(default="", max_length=MAX_PREDICATE_CHARS, description=PREDICATE)
    duration_s: Duration = Field(
        default=600.0, alias="duration", description="Least time of the comparison."
    )
    deadline_s: Duration = Field(
        default=86400.0, alias="deadline", description="By then there must be a verdict."
    )
    min_compared: int = Field(
        default=100, ge=0, description="Pairs of answers that must have been compared."
    )
    max_different: Percent = Field(
        default=100.0, description="Share of answers that may differ; 100 never rolls back."
    )
    tolerance: float = Field(
        default=1e-6, ge=0, description="Relative difference of numbers that counts as none."
    )
    then: Literal["promote", "hold"] = Field(
        default="promote", description="What a good verdict leads to."
    )
    analysis: Analysis = Field(default_factory=Analysis)


class Arm(Part):
    """One version's fixed share in an A/B/n test."""

    version: str = Field(description="Semantic version or number.")
    percentage: Percent = Field(description="Share of the users.")


class AbStrategy(Part):
    """Fixed shares between live versions; compares them and never takes over by itself."""

    arms: tuple[Arm, ...] = Field(
        min_length=1, max_length=8, description="The versions beside stable, which has the rest."
    )
    predicate: str = Field(default="", max_length=MAX_PREDICATE_CHARS, description=PREDICATE)
    duration_s: Duration = Field(
        default=7 * 86400.0, alias="duration", description="When the test ends at the latest."
    )
    analysis: Analysis = Field(default_factory=Analysis)

    @model_validator(mode="after")
    def _shares_leave_some_to_stable(self) -> AbStrategy:
        versions = [arm.version for arm in self.arms]
        if len(set(versions)) != len(versions):
            raise ValueError(f"a version is named twice: {', '.join(versions)}")
        if any(arm.percentage <= 0 for arm in self.arms):
            raise ValueError("each arm has a share above 0")
        if sum(arm.percentage for arm in self.arms) >= 100:
            raise ValueError("the arms' shares are below 100 together; stable has the rest")
        return self


StrategyName = Literal["canary", "allAtOnce", "rolling", "blueGreen", "shadow", "ab"]


class Strategy(Part):
    """Exactly one way for a revision to take over."""

    canary: CanaryStrategy | None = None
    all_at_once: AllAtOnceStrategy | None = None
    rolling: RollingStrategy | None = None
    blue_green: BlueGreenStrategy | None = None
    shadow: ShadowStrategy | None = None
    ab: AbStrategy | None = Field(default=None, description="In a TrafficPolicy only.")

    @model_validator(mode="after")
    def _exactly_one(self) -> Strategy:
        if len(self._named()) != 1:
            names = "canary, allAtOnce, rolling, blueGreen, shadow, ab"
            raise ValueError(f"a strategy is exactly one of: {names}")
        return self

    def _named(self) -> list[StrategyName]:
        ways: dict[StrategyName, Part | None] = {
            "canary": self.canary,
            "allAtOnce": self.all_at_once,
            "rolling": self.rolling,
            "blueGreen": self.blue_green,
            "shadow": self.shadow,
            "ab": self.ab,
        }
        return [name for name, way in ways.items() if way is not None]

    @property
    def type(self) -> StrategyName:
        """The name of the strategy."""
        return self._named()[0]

    @property
    def analysis(self) -> Analysis | None:
        """How the candidate is judged; None where nothing is compared."""
        way = self.canary or self.rolling or self.shadow or self.ab
        return way.analysis if way is not None else None

    @property
    def predicate(self) -> str:
        """Who may meet the candidate, in CEL; empty: everybody."""
        way = self.canary or self.shadow or self.ab
        return way.predicate if way is not None else ""
