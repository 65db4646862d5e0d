"""Prometheus rule files are taken as they are; a fault says where it is."""

from __future__ import annotations

import time

import pytest

from modelplane.errors import InvalidResource
from modelplane.resources.alerting import AlertRules, Matcher, Silence
from modelplane.resources.manifest import canonical, read_document, read_documents

FILE = """\
groups:
  - name: node
    interval: 1w
    query_offset: 5s
    limit: 10
    labels: {team: ml}
    rules:
      - alert: InstanceDown
        expr: up == 0
        for: 1h30m
        keep_firing_for: 5m
        labels: {severity: 1, page: true}
        annotations:
          summary: "Instance {{ $labels.instance }} down"
      - record: job:up:count
        expr: |
          count by (job) (up)
            > 0
  - name: empty
---
groups:
  - name: more
    rules:
      - {record: one, expr: 1, labels: }
"""


def read(text: str, source: str = "rules/node.rules.yml") -> list[AlertRules]:
    found = read_documents(text, source)
    assert all(isinstance(one, AlertRules) for one in found)
    return [one for one in found if isinstance(one, AlertRules)]


def test_a_rule_file_is_taken_as_it_is() -> None:
    first, second = read(FILE)
    assert (first.metadata.name, second.metadata.name) == ("node.rules", "node.rules-2")
    node, empty = first.spec.groups
    assert (node.interval_s, node.query_offset_s, node.limit) == (7 * 86_400, 5, 10)
    alert, record = node.rules
    assert (alert.for_s, alert.keep_firing_for_s) == (5400, 300)
    assert alert.labels == {"severity": "1", "page": "true"}
    assert record.expr == "count by (job) (up)\n  > 0\n"
    assert empty.rules == ()
    assert second.spec.groups[0].rules[0].expr == "1"


def test_what_was_read_reads_again_the_same() -> None:
    for one in read(FILE):
        assert read_document(canonical(one)) == one


def test_a_manifest_of_the_kind_says_the_same() -> None:
    first, _ = read(FILE)
    groups = FILE.partition("---")[0]
    text = "apiVersion: modelplane.dev/v1\nkind: AlertRules\nmetadata: {name: node.rules}\nspec:\n"
    (manifest,) = read(text + "".join(f"  {line}\n" for line in groups.splitlines()))
    assert manifest == first


@pytest.mark.parametrize(
    ("before", "after", "path", "message", "line"),
    [
        ("expr: up == 0", "expr: up = = 0", "groups[0].rules[0].expr",
         "not PromQL: line 1, column 4", 9),
        ("            > 0", "            > > 0", "groups[0].rules[1].expr",
         "not PromQL: line 2, column 5", 16),
        ("alert: InstanceDown", "alrt: InstanceDown", "groups[0].rules[0].alrt",
         "unknown field; did you mean 'alert'?", 8),
        ("for: 1h30m", "for: soon", "groups[0].rules[0].for", "not a duration", 10),
        ("name: empty", "name: node", "groups", "two groups are called 'node'", 1),
        ("record: job:up:count", "record: job:up:count\n        for: 5m", "groups[0].rules[1]",
         "belong to alert", 15),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_path_and_line(
    before: str, after: str, path: str, message: str, line: int
) -> None:
    with pytest.raises(InvalidResource) as caught:
        read(FILE.replace(before, after))
    fault = next(one for one in caught.value.fields if one.path == path)
    assert message in fault.message
    assert fault.message.endswith(f"(line {line})")


@pytest.mark.parametrize(
    ("source", "name"),
    [("-", "rules"), ("my alerts (old).yaml", "my-alerts-old"), ("/etc/().yml", "rules")],
)
def test_rules_are_called_like_their_file(source: str, name: str) -> None:
    (one,) = read("groups: [{name: a, rules: []}]", source)
    assert one.metadata.name == name


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"matchers": ['severity=~".*"']}, "hold for every alert"),
        ({"matchers": ["severity=page"]}, "not a matcher"),
        ({"matchers": ['severity=~"("']}, "regular expression"),
        ({"startsAt": "2026-03-01T12:00:00Z"}, "startsAt must be before endsAt"),
        ({"endsAt": "2026-03-01T12:00:00"}, "timezone"),
        ({"comment": ""}, "must be not empty"),
    ],
)
def test_a_silence_says_what_how_long_and_why(changes: dict[str, object], why: str) -> None:
    spec = {"matchers": ['severity="page"'], "endsAt": "2026-03-01T12:00:00Z", "comment": "disks"}
    head = {"apiVersion": "modelplane.dev/v1", "kind": "Silence", "metadata": {"name": "quiet"}}
    assert isinstance(read_document({**head, "spec": spec}), Silence)
    with pytest.raises(InvalidResource) as caught:
        read_document({**head, "spec": {**spec, **changes}})
    assert why in " ".join(fault.message for fault in caught.value.fields)


def test_numbers_in_a_rule_file_keep_all_their_digits() -> None:
    text = FILE.replace("{record: one, expr: 1, labels: }", "{record: one, expr: 1234567.5}")
    assert read(text)[1].spec.groups[0].rules[0].expr == "1234567.5"


def test_a_pattern_of_a_matcher_can_hold_nobody_up() -> None:
    began_s = time.process_time()
    matcher = Matcher.model_validate('name=~"(a+)+(a+)+(a+)+b"')
    assert not matcher.matches({"name": "a" * 5_000})
    assert time.process_time() - began_s < 1.0, "patterns that backtrack never end on this"
    with pytest.raises(ValueError, match="bad regular expression"):
        Matcher.model_validate('name=~"(?=a)"')
