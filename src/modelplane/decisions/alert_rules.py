"""Which alert rules modelplane evaluates itself, and what an evaluation gives. Pure.

Called by the API (warnings when rules are applied) and by `controllers.alerts`. Rules are
Prometheus'; those that need one, where none is configured, are evaluated by nobody and say so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from modelplane.decisions.alert_templates import Facts, fill_in
from modelplane.decisions.alerts import alert_name
from modelplane.decisions.promql import NAME, reach_s, without_name
from modelplane.decisions.promql_reading import REMEMBERED_S, NeedsPrometheus, read_promql
from modelplane.decisions.series import BY_NAME, Sample
from modelplane.resources.alerting import (
    AlertRule,
    AlertRules,
    AlertRulesSpec,
    AlertRulesStatus,
    RuleGroup,
    RuleStatus,
)
from modelplane.resources.meta import Condition, set_condition

MAX_ALERTS = 1000
"""Most alerts of one rule, where its group has no limit of its own."""

INTERVAL_S = 1.0
"""How often a group without an interval is evaluated, seconds."""

_OWN_COUNTS = ("modelplane_http_requests", "modelplane_http_request_duration_seconds")

WAITS = "it looks further back than modelplane has been measuring since it started"
"""Said of a rule that will be evaluated as soon as its ranges are filled."""


@dataclass(frozen=True, slots=True)
class PlannedRule:
    """One rule of one AlertRules, and where it stands.

    Attributes
    ----------
    rules, group, index
        Name of the AlertRules, the group, and the rule's place in it: together they name it.
    fault
        Why nobody evaluates it; empty: modelplane does.
    """

    rules: str
    group: RuleGroup
    index: int
    rule: AlertRule
    fault: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells it from all others."""
        return (self.rules, self.group.name, self.index)

    @property
    def name(self) -> str:
        """Its alert or record."""
        return self.rule.alert or self.rule.record or ""


@dataclass(frozen=True, slots=True)
class FoundAlert:
    """One series for which an alerting rule holds."""

    name: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    value: float


def recorded_names(specs: Collection[AlertRulesSpec]) -> frozenset[str]:
    """Return the names of the series that modelplane can record for these rules.

    A rule that records may use what other rules record, in any order.
    """
    waiting = [(group, rule) for spec in specs for group in spec.groups for rule in group.rules]
    known: frozenset[str] = frozenset()
    while True:
        found = known | {
            rule.record
            for group, rule in waiting
            if rule.record and rule.record not in known and not _fault(group, rule, known)
        }
        if found == known:
            return known
        known = found


def plan_rules(
    rules: Mapping[str, AlertRulesSpec], recorded: Collection[str]
) -> Iterator[PlannedRule]:
    """Return all rules with who evaluates them, in order.

    Parameters
    ----------
    rules
        By the name of the AlertRules.
    recorded
        From `recorded_names` of all of them.
    """
    for name, spec in rules.items():
        for group in spec.groups:
            for index, rule in enumerate(group.rules):
                yield PlannedRule(name, group, index, rule, _fault(group, rule, recorded))


def warn_of_rules(
    declared: AlertRulesSpec, others: Collection[AlertRulesSpec] = ()
) -> tuple[str, ...]:
    """Return a warning for each rule that nobody would evaluate, without a Prometheus."""
    recorded = recorded_names([declared, *others])
    return tuple(
        f"{planned.group.name}/{planned.name}: {planned.fault}"
        for planned in plan_rules({"": declared}, recorded)
        if planned.fault
    )


def find_excess(planned: PlannedRule, count: int) -> str:
    """Return what is wrong with so many series; such a rule has no alerts, as in Prometheus."""
    limit = min(planned.group.limit or MAX_ALERTS, MAX_ALERTS)
    return f"{count} series, and {limit} alerts at the most" if count > limit else ""


def find_alerts(
    planned: PlannedRule,
    elements: Sequence[tuple[Mapping[str, str], float]],
    external_url: str = "",
) -> dict[str, FoundAlert] | str:
    """Return the alerts of one evaluation by name, or why there is no knowing: then those that
    there were stay as they are.

    Labels are the series' own without its name, then the group's, then the rule's, then the
    rule's name as ``alertname``; an empty one is none, as in Prometheus.
    """
    rule = planned.rule
    found: dict[str, FoundAlert] = {}
    for own, value in elements:
        facts = Facts(own, value, external_url)
        labels = without_name(own) | {
            name: fill_in(text, facts)
            for name, text in {**planned.group.labels, **rule.labels}.items()
        }
        labels["alertname"] = planned.name
        labels = {name: text for name, text in labels.items() if text}
        name = alert_name(planned.name, labels)
        if name in found:
            return "several series have the same labels once the rule's are added"
        annotations = {key: fill_in(text, facts) for key, text in rule.annotations.items()}
        found[name] = FoundAlert(name, labels, annotations, value)
    return found


def make_records(
    planned: PlannedRule, elements: Sequence[tuple[Mapping[str, str], float]]
) -> list[Sample] | str:
    """Return the samples that one evaluation of a recording rule gives, or what is wrong."""
    limit = planned.group.limit
    if limit and len(elements) > limit:
        return f"{len(elements)} series, and {limit} at the most"
    added = {**planned.group.labels, **planned.rule.labels}
    samples = []
    for own, value in elements:
        labels = {n: t for n, t in (without_name(own) | added).items() if t and n != NAME}
        samples.append(Sample(planned.name, labels, value))
    distinct = {tuple(sorted(sample.labels.items())) for sample in samples}
    if len(distinct) < len(samples):
        return "several series have the same labels once the rule's are added"
    return samples


def status_of(
    resource: AlertRules,
    planned: Sequence[PlannedRule],
    messages: Mapping[tuple[str, str, int], str],
    now: datetime,
) -> AlertRulesStatus:
    """Return what an AlertRules' status should be, from its own planned rules.

    Parameters
    ----------
    messages
        By key of a rule: how its last evaluation failed, or `WAITS`.
    """
    rules = tuple(
        RuleStatus(
            group=one.group.name,
            rule=one.name,
            evaluated_by="nobody" if one.fault else "modelplane",
            message=one.fault or messages.get(one.key, ""),
        )
        for one in planned
    )
    idle = [one for one in rules if one.evaluated_by == "nobody"]
    waiting = [one for one in rules if one.message == WAITS]
    failing = [one for one in rules if one.evaluated_by != "nobody" and one.message]
    failing = [one for one in failing if one.message != WAITS]
    if idle:
        reason, message = "NeedsPrometheus", f"{len(idle)} of {len(rules)} rules need a Prometheus"
    elif failing:
        reason, message = "Failing", f"{len(failing)} of {len(rules)} rules fail"
    elif waiting:
        reason, message = "Waiting", f"{len(waiting)} of {len(rules)} rules wait for a while"
    else:
        reason, message = "Evaluated", f"{len(rules)} rules"
    condition = Condition(
        type="Evaluated",
        status="False" if idle or failing else "True",
        reason=reason,
        message=message,
        observed_generation=resource.metadata.generation,
    )
    return AlertRulesStatus(
        rules=rules, conditions=set_condition(resource.status.conditions, condition, now)
    )


def rule_of(planned: Sequence[PlannedRule], labels: Mapping[str, str]) -> PlannedRule | None:
    """Return the rule that an alert with `labels` is of, among those of its name.

    Several rules may have one name, and tell themselves apart by labels that they add.
    """
    for one in planned:
        added = {**one.group.labels, **one.rule.labels}
        if all(labels.get(n, "") == text for n, text in added.items() if "{{" not in text):
            return one
    return planned[0] if planned else None


def _fault(group: RuleGroup, rule: AlertRule, recorded: Collection[str]) -> str:
    if rule.record and (rule.record in BY_NAME or rule.record.startswith(_OWN_COUNTS)):
        return f"modelplane measures {rule.record} itself; record under another name"
    try:
        read = read_promql(rule.expr, recorded)
    except ValueError as error:
        return str(error)
    if isinstance(read, NeedsPrometheus):
        return f"it needs a Prometheus: {read.reason}"
    if reach_s(read) + group.query_offset_s > REMEMBERED_S:
        return "it needs a Prometheus: with query_offset it reaches back more than an hour"
    return ""
