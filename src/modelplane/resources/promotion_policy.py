"""Promotion policies: what must hold before an environment runs a revision. Pure data.

Every policy that names the environment and the model must allow a promotion; none means that
nothing guards it.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from modelplane.resources.meta import Name, NoStatus, Part, Resource
from modelplane.resources.selector import ModelSelector

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class PolicyCondition(Part):
    """One expression that must be true."""

    expression: str = Field(
        min_length=1,
        max_length=2000,
        description="CEL over `version`, `metrics`, `data`, `stages`, `promotion`: "
        "`metrics.accuracy >= 0.92`.",
    )
    message: str = Field(default="", max_length=500, description="Said when it is not true.")


class FreezeWindow(Part):
    """A time in which nothing new begins: either from-to, or each week; rollbacks always may."""

    reason: str = Field(default="", max_length=500, description="Told to whoever waits.")
    starts_at: datetime | None = Field(default=None, alias="from", description="Once: its start …")
    ends_at: datetime | None = Field(default=None, alias="to", description="… and its end.")
    days: tuple[Weekday, ...] = Field(default=(), description="Each week on these days …")
    start: str | None = Field(
        default=None,
        description="… from this time of day, such as 18:00; absent: 00:00 …",
        pattern=r"^([01]\d|2[0-3]):[0-5]\d$",
    )
    end: str | None = Field(
        default=None,
        description="… to this one; absent: 24:00. Earlier than start: next day.",
        pattern=r"^([01]\d|2[0-3]):[0-5]\d$|^24:00$",
    )
    timezone: str = Field(default="UTC", description="Of days, start and end: `Europe/Berlin`.")

    @model_validator(mode="after")
    def _once_or_weekly(self) -> FreezeWindow:
        once = self.starts_at is not None and self.ends_at is not None
        if once == bool(self.days):
            raise ValueError("a freeze has either from and to, or days (with start and end)")
        if self.starts_at is not None and self.ends_at is not None:
            if self.starts_at.tzinfo is None or self.ends_at.tzinfo is None:
                raise ValueError("from and to need a time zone, such as 2026-12-20T00:00:00Z")
            if self.ends_at <= self.starts_at:
                raise ValueError("to must be after from")
        return self


class PromotionPolicySpec(Part):
    """What must hold, where, for which models."""

    environments: tuple[Name, ...] = Field(min_length=1, description="What it guards.")
    models: ModelSelector = Field(
        default_factory=ModelSelector, description="Whose promotions; absent: those of all models."
    )
    pipelines: tuple[Name, ...] = Field(
        default=(), description="Pipelines that must have passed for the exact revision."
    )
    conditions: tuple[PolicyCondition, ...] = Field(
        default=(), max_length=50, description="All must be true."
    )
    freezes: tuple[FreezeWindow, ...] = Field(
        default=(), max_length=50, description="When nothing new begins."
    )
    automatic: bool = Field(
        default=False,
        description="Versions come here by themselves: from the environment before once they are "
        "done there; into the first one once they are registered.",
    )
    aliases: tuple[str, ...] = Field(
        default=(),
        description="Aliases that may name only a version that is or was promoted here; one that "
        "is moved by hand against that is put back.",
    )


class PromotionPolicy(Resource[PromotionPolicySpec, NoStatus]):
    """What must hold before environments run a revision."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "promotion-policies"
    declared: ClassVar[bool] = True
    short_names: ClassVar[tuple[str, ...]] = ("policy", "policies", "pp")

    kind: Literal["PromotionPolicy"] = "PromotionPolicy"
    spec: PromotionPolicySpec
    status: NoStatus = Field(default_factory=NoStatus)
