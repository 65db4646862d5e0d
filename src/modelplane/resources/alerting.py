"""Alerts: the rules they come from, what they are now, and who asked for quiet. Pure data.

`AlertRules` holds a Prometheus rule file as it is. An `Alert` is one series of one rule, or what
an Alertmanager told; its name is made of the rule's and the fingerprint of its labels, so that
the next episode is the same resource. A `Silence` keeps people from being told.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from modelplane.resources.label_patterns import matches_whole
from modelplane.resources.meta import Condition, Part, Resource
from modelplane.resources.promql import check_promql
from modelplane.resources.quantities import Duration

LabelName = Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")]
Labels = dict[LabelName, str]
SeriesName = Annotated[str, Field(pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]*$")]
MAX_HISTORY = 50
"""Changes of an alert that are kept; the audit log has them all."""


def _name_no_series(labels: dict[str, str]) -> dict[str, str]:
    if "__name__" in labels:
        raise ValueError("__name__ is no label that a rule can add")
    return labels


AddedLabels = Annotated[Labels, AfterValidator(_name_no_series)]


class AlertRule(Part):
    """One rule, alerting or recording, in Prometheus' own words."""

    model_config = ConfigDict(alias_generator=None)

    alert: str | None = Field(default=None, min_length=1, description="Name of the alert.")
    record: SeriesName | None = Field(default=None, description="Name of the series it records.")
    expr: Annotated[str, AfterValidator(check_promql)] = Field(min_length=1, description="PromQL.")
    for_s: Duration = Field(default=0.0, alias="for", description="How long before it fires.")
    keep_firing_for_s: Duration = Field(
        default=0.0, alias="keep_firing_for", description="How long it fires on afterwards."
    )
    labels: AddedLabels = Field(default_factory=dict, description="Added to the series' own.")
    annotations: Labels = Field(default_factory=dict, description="Texts; templates are filled in.")

    @model_validator(mode="after")
    def _is_one_of_two(self) -> AlertRule:
        if (self.alert is None) == (self.record is None):
            raise ValueError("a rule has either alert or record")
        if self.record is not None and (self.for_s or self.keep_firing_for_s or self.annotations):
            raise ValueError("for, keep_firing_for and annotations belong to alert, not to record")
        return self


class RuleGroup(Part):
    """Rules that are evaluated together, one after the other."""

    model_config = ConfigDict(alias_generator=None)

    name: str = Field(min_length=1, description="Unique among the groups.")
    interval_s: Duration | None = Field(
        default=None, alias="interval", description="Absent: each second, or Prometheus' own."
    )
    limit: int = Field(default=0, ge=0, description="Most alerts of one rule; 0 is no limit.")
    query_offset_s: Duration = Field(
        default=0.0, alias="query_offset", description="Evaluate this much in the past."
    )
    labels: AddedLabels = Field(default_factory=dict, description="Added to each rule's.")
    rules: tuple[AlertRule, ...] = Field(default=(), max_length=1000)


class AlertRulesSpec(Part):
    """A Prometheus rule file."""

    groups: tuple[RuleGroup, ...] = Field(min_length=1, max_length=200)

    @field_validator("groups")
    @classmethod
    def _groups_are_told_apart(cls, groups: tuple[RuleGroup, ...]) -> tuple[RuleGroup, ...]:
        names = [group.name for group in groups]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two groups are called {twice[:80]!r}")
        return groups


class RuleStatus(Part):
    """One rule, and who evaluates it."""

    group: str
    rule: str = Field(description="Its alert or record.")
    evaluated_by: Literal["modelplane", "prometheus", "nobody"] = "nobody"
    message: str = Field(default="", description="Why nobody does, or how the last time failed.")


class AlertRulesStatus(Part):
    """What became of the rules."""

    rules: tuple[RuleStatus, ...] = ()
    conditions: tuple[Condition, ...] = ()


class AlertRules(Resource[AlertRulesSpec, AlertRulesStatus]):
    """Alerting and recording rules, as in a Prometheus rule file."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "alert-rules"
    declared: ClassVar[bool] = True
    short_names: ClassVar[tuple[str, ...]] = ("rules",)

    kind: Literal["AlertRules"] = "AlertRules"
    spec: AlertRulesSpec
    status: AlertRulesStatus = Field(default_factory=AlertRulesStatus)


AlertSource = Literal["modelplane", "prometheus", "alertmanager"]
AlertPhase = Literal["Pending", "Firing", "Resolved"]


class AlertSpec(Part):
    """Which alert it is."""

    alert: str = Field(description="The rule's name: the label `alertname`.")
    source: AlertSource
    rules: str = Field(default="", description="The AlertRules it comes from.")
    labels: Labels = Field(default_factory=dict)
    fingerprint: str = Field(description="Of the labels, as Alertmanager computes it; hex.")


class AlertChange(Part):
    """One change of an alert."""

    at: datetime
    phase: AlertPhase
    message: str = ""


class AlertStatus(Part):
    """What it is now, and what was done about it."""

    phase: AlertPhase = "Pending"
    episode: int = Field(default=0, description="Counts the times it began.")
    value: float | None = Field(
        default=None, description="Of the expression, when it last changed."
    )
    annotations: Labels = Field(default_factory=dict, description="Filled in.")
    generator_url: str = ""
    active_at: datetime | None = Field(default=None, description="Since when the condition holds.")
    fired_at: datetime | None = None
    missing_since: datetime | None = Field(
        default=None, description="Since when the condition does not hold, while it fires on."
    )
    resolved_at: datetime | None = None
    flapping: bool = Field(
        default=False, description="It came and went too often; nobody is told until it rests."
    )
    silenced_by: str = Field(default="", description="The Silence that holds; empty: none.")
    notified_episode: int = Field(default=0, description="The last one people were told of.")
    notified: Literal["", "firing", "flapping", "resolved"] = Field(
        default="", description="What they were told last of that episode."
    )
    run: str = Field(default="", description="The PlaybookRun that deals with this episode.")
    closing: str = Field(default="", description="What was done, in words, once it is resolved.")
    posted: Literal["", "Firing", "Resolved"] = Field(
        default="", description="What an Alertmanager was told last of this episode."
    )
    posted_at: datetime | None = Field(
        default=None, description="When an Alertmanager was last told."
    )
    history: tuple[AlertChange, ...] = Field(default=(), max_length=MAX_HISTORY)


class Alert(Resource[AlertSpec, AlertStatus]):
    """One series of an alerting rule that held, or what an Alertmanager told."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "alerts"
    short_names: ClassVar[tuple[str, ...]] = ("alert",)

    kind: Literal["Alert"] = "Alert"
    spec: AlertSpec
    status: AlertStatus = Field(default_factory=AlertStatus)


_MATCHER = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"\s*')


class Matcher(Part):
    """One condition on a label, as Alertmanager writes it: ``severity="page"``."""

    name: LabelName = Field(description="The label; one that is absent is empty.")
    operator: Literal["=", "!=", "=~", "!~"] = Field(
        default="=", description="With `~` the value is a regular expression for the whole label."
    )
    value: str = Field(max_length=1000, description="What the label is compared with.")

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        match = _MATCHER.fullmatch(value)
        if match is None:
            raise ValueError(f'not a matcher: {value[:80]!r}; write severity="page"')
        text = re.sub(r"\\(.)", r"\1", match[3])
        return {"name": match[1], "operator": match[2], "value": text}

    @model_validator(mode="after")
    def _is_a_regular_expression(self) -> Matcher:
        if "~" in self.operator:
            matches_whole(self.value, "")  # raises when it is none
        return self

    def matches(self, labels: dict[str, str]) -> bool:
        """Whether it holds for `labels`; a label that is absent is empty."""
        found = labels.get(self.name, "")
        is_pattern = "~" in self.operator
        held = matches_whole(self.value, found) if is_pattern else found == self.value
        return held != self.operator.startswith("!")

    @property
    def matches_nothing_given(self) -> bool:
        """Whether it holds for an alert without the label, so that it narrows nothing down."""
        return self.matches({})


Matchers = Annotated[tuple[Matcher, ...], Field(min_length=1, max_length=20)]


class SilenceSpec(Part):
    """Which alerts, how long, and why."""

    matchers: Matchers = Field(description='All must hold: `alertname="ModelErrors"`.')
    starts_at: AwareDatetime | None = Field(default=None, description="Absent: at once.")
    ends_at: AwareDatetime = Field(description="From then on people are told again.")
    created_by: str = Field(default="", description="Who asked for quiet.")
    comment: str = Field(min_length=1, max_length=1000, description="Why.")

    @model_validator(mode="after")
    def _silences_something(self) -> SilenceSpec:
        if self.starts_at is not None and self.starts_at >= self.ends_at:
            raise ValueError("startsAt must be before endsAt")
        if all(matcher.matches_nothing_given for matcher in self.matchers):
            raise ValueError(
                'matchers hold for every alert; name at least a label: severity="page"'
            )
        return self


class SilenceStatus(Part):
    """Whether it holds."""

    phase: Literal["Pending", "Active", "Expired"] = "Pending"
    alertmanager_id: str = Field(default="", description="What Alertmanager calls it.")
    message: str = ""


class Silence(Resource[SilenceSpec, SilenceStatus]):
    """Keeps people and playbooks from being told of alerts for a while."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "silences"
    declared: ClassVar[bool] = True
    short_names: ClassVar[tuple[str, ...]] = ("silence",)

    kind: Literal["Silence"] = "Silence"
    spec: SilenceSpec
    status: SilenceStatus = Field(default_factory=SilenceStatus)
