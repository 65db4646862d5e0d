"""Rules as Prometheus has them: what they find, what they say, and who evaluates them."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.alert_rules import (
    MAX_ALERTS,
    PlannedRule,
    find_alerts,
    find_excess,
    make_records,
    plan_rules,
    recorded_names,
    rule_of,
    status_of,
    warn_of_rules,
)
from modelplane.decisions.alert_templates import MAX_CHARS, Facts, fill_in
from modelplane.decisions.built_in_rules import ANNOTATION, built_in_rules, renewed
from modelplane.resources.alerting import AlertRulesSpec
from modelplane.resources.meta import Metadata

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


def spec(*rules: dict[str, Any], **group: Any) -> AlertRulesSpec:
    return AlertRulesSpec.model_validate({"groups": [{"name": "g", "rules": rules, **group}]})


def planned(rule: dict[str, Any], **group: Any) -> PlannedRule:
    return next(plan_rules({"r": spec(rule, **group)}, ()))


def test_labels_are_those_of_the_series_the_group_and_the_rule() -> None:
    one = planned(
        {
            "alert": "Down",
            "expr": "modelplane_replica_up == 0",
            "labels": {"severity": "page", "who": "{{ $labels.deployment }}", "replica": ""},
            "annotations": {"summary": "{{ $labels.replica }} is {{ $value }}"},
        },
        labels={"severity": "none", "team": "ml"},
    )
    own = {"__name__": "modelplane_replica_up", "deployment": "fraud", "replica": "fraud-0"}
    found = find_alerts(one, [(own, 0.0)])
    assert isinstance(found, dict)
    (alert,) = found.values()
    assert alert.labels == {
        "alertname": "Down", "severity": "page", "who": "fraud", "team": "ml",
        "deployment": "fraud",
    }  # fmt: skip
    assert alert.annotations == {"summary": "fraud-0 is 0"}
    assert alert.name.startswith("Down-")


def test_more_alerts_than_the_limit_are_none_and_say_so() -> None:
    one = planned({"alert": "A", "expr": "modelplane_jobs"}, limit=2)
    assert find_excess(one, 3) == "3 series, and 2 alerts at the most"
    assert find_excess(one, 2) == ""
    boundless = planned({"alert": "A", "expr": "modelplane_jobs"})
    assert find_excess(boundless, MAX_ALERTS + 1) != ""


@pytest.mark.parametrize(
    ("rule", "group", "fault"),
    [
        ({"record": "modelplane_jobs", "expr": "vector(1)"}, {}, "modelplane measures"),
        ({"record": "modelplane_http_requests_total", "expr": "1"}, {}, "modelplane measures"),
        ({"record": "a:b", "expr": "modelplane_jobs"}, {}, ""),
        ({"alert": "A", "expr": "modelplane_jobs"}, {"query_offset": "2h"}, "needs a Prometheus"),
        (
            {"alert": "A", "expr": "max_over_time(modelplane_jobs[40m])"},
            {"query_offset": "30m"},
            "needs a Prometheus",
        ),
    ],
)
def test_rules_that_nobody_could_evaluate_say_so(
    rule: dict[str, Any], group: dict[str, Any], fault: str
) -> None:
    assert fault in planned(rule, **group).fault
    assert bool(planned(rule, **group).fault) == bool(fault)


@pytest.mark.parametrize(
    "rule",
    [
        {"record": "a b", "expr": "up"},
        {"record": "", "expr": "up"},
        {"alert": "", "expr": "up"},
        {"alert": "A", "expr": "up", "labels": {"__name__": "x"}},
    ],
)
def test_names_that_no_series_can_have_are_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="groups"):
        spec(rule)


def test_a_rule_that_makes_series_alike_says_so() -> None:
    one = planned({"alert": "A", "expr": "modelplane_jobs", "labels": {"phase": "any"}})
    series = [({"phase": "Pending"}, 1.0), ({"phase": "Running"}, 1.0)]
    assert "same labels" in str(find_alerts(one, series))
    record = planned({"record": "r", "expr": "modelplane_jobs", "labels": {"phase": "any"}})
    assert "same labels" in str(make_records(record, series))


def test_recording_rules_feed_each_other_in_any_order() -> None:
    first = spec(
        {"record": "c", "expr": "b + 1"},
        {"record": "b", "expr": "a + 1"},
        {"record": "d", "expr": "up + c"},
    )
    second = spec({"record": "a", "expr": "modelplane_jobs"}, {"alert": "X", "expr": "c > 1"})
    assert recorded_names([first, second]) == {"a", "b", "c"}
    assert warn_of_rules(second, [first]) == ()
    (warning,) = warn_of_rules(spec({"alert": "X", "expr": "c > 1"}))
    assert warning == "g/X: it needs a Prometheus: modelplane does not measure c"


def test_the_status_names_each_rule_and_why_nobody_evaluates_it() -> None:
    rules = built_in_rules().with_(
        spec=spec({"alert": "Ours", "expr": "modelplane_jobs > 1"}, {"alert": "B", "expr": "up"})
    )
    plan = list(plan_rules({"modelplane": rules.spec}, ()))
    status = status_of(rules, plan, {}, NOW)
    assert [(one.rule, one.evaluated_by) for one in status.rules] == [
        ("Ours", "modelplane"), ("B", "nobody"),
    ]  # fmt: skip
    assert status.conditions[0].reason == "NeedsPrometheus"
    assert "does not measure up" in status.rules[1].message
    assert status_of(rules.with_(status=status), plan, {}, NOW) == status, "nothing new to write"


def test_rules_of_one_name_are_told_apart_by_the_labels_they_add() -> None:
    both = spec(
        {"alert": "A", "expr": "modelplane_jobs > 9", "labels": {"severity": "page"}},
        {"alert": "A", "expr": "modelplane_jobs > 1", "labels": {"severity": "mail"}},
    )
    plan = list(plan_rules({"r": both}, ()))
    chosen = rule_of(plan, {"alertname": "A", "severity": "mail"})
    assert chosen is not None
    assert chosen.index == 1


def test_shipped_rules_need_no_prometheus_and_follow_releases_until_people_change_them() -> None:
    shipped = built_in_rules()
    assert warn_of_rules(shipped.spec) == ()
    assert renewed(shipped) is None
    older = spec({"alert": "Old", "expr": "modelplane_jobs"})
    digest = Metadata(name="x", annotations={ANNOTATION: "another digest"})
    assert renewed(shipped.with_(spec=older)) is None, "people changed it"
    assert renewed(shipped.with_(spec=older, metadata=digest)) is None


FACTS = Facts({"version": "2.0.0", "odd": '{{ $value }} "x"'}, 1234.5, "https://mp.example.org")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("no template", "no template"),
        ("{{ $labels.version }}/{{$value}}", "2.0.0/1234.5"),
        ("{{ .Labels.version }} {{ .Value }}", "2.0.0 1234.5"),
        ("{{ $labels.absent }}!", "!"),
        ("{{ $labels.odd }}", '{{ $value }} "x"'),
        ("{{ $externalURL }}/x", "https://mp.example.org/x"),
        ("{{ humanize $value }}", "1.234k"),
        ("{{ $value | humanize }}B", "1.234kB"),
        ("{{ 0.12345 | humanizePercentage }}", "12.35%"),
        ("{{ humanizeDuration 3723 }}", "1h 2m 3s"),
        ("{{ humanizeDuration 0.0456 }}", "45.6ms"),
        ("{{ 100000 | humanizeDuration }}", "1d 3h 46m 40s"),
        ('{{ printf "%.1f %s %%" $value $labels.version }}', "1234.5 2.0.0 %"),
        ('{{ printf "%s!" (humanize $value) }}', "1.234k!"),
        ('{{ "text" }}', "text"),
        ("a {{- $labels.version -}} b", "a2.0.0b"),
        ("{{/* a remark */}}x", "x"),
        ("{{ $value | title }}", "[not filled in: {{ $value | title }}]"),
        ('{{ printf "%d" $value }}', '[not filled in: {{ printf "%d" $value }}]'),
        ('{{ with query "up" }}{{ end }}',
         '[not filled in: {{ with query "up" }}][not filled in: {{ end }}]'),
        ("{{ $labels.version | humanize }}",
         "[not filled in: {{ $labels.version | humanize }}]"),
        ("{{ $value", "{{ $value"),
    ],
)  # fmt: skip
def test_templates(template: str, text: str) -> None:
    assert fill_in(template, FACTS) == text


@given(text=st.text(alphabet='{}()|"`$.-% abLhlvuepritnf12\n', max_size=60), value=st.floats())
def test_no_template_breaks_anything(text: str, value: float) -> None:
    filled = fill_in("{{" + text + "}}", Facts({"a": "b"}, value))
    assert len(filled) <= MAX_CHARS


@pytest.mark.parametrize("piece", ["{{", '{{ "', " ", "{{a}}", "{{ a -}} "])
def test_the_time_for_a_template_grows_with_its_length_only(piece: str) -> None:
    text = piece * (100_000 // len(piece)) + "{{"
    began_s = time.process_time()
    fill_in(text, FACTS)
    assert time.process_time() - began_s < 1.0, "some took minutes"


def test_space_is_trimmed_where_a_template_says_so() -> None:
    text = "a  {{- $value -}}  b {{- /* none */ -}} c {{ $value }} d"
    assert fill_in(text, Facts({}, 1.0)) == "a1bc 1 d"


def test_a_deep_template_is_not_filled_in() -> None:
    assert fill_in("{{" + "(" * 3_000 + "}}", FACTS).startswith("[not filled in")
