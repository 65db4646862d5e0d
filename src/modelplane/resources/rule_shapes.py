"""Prometheus rule files as they are: made into the canonical AlertRules.

Called by `manifest`. A document with ``groups`` and no kind is a rule file, and named after its
file. In rules, what YAML reads as numbers and Prometheus as text (labels, annotations, ``expr: 1``)
becomes text, and weeks and years in durations become seconds. Pure; what it does not know it
leaves in place for validation to report.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from modelplane.resources.meta import API_VERSION

DEFAULT_NAME = "rules"
"""What rules are called that come from no file."""

_DURATIONS = ("for", "keep_firing_for", "interval", "query_offset")
_LONG = re.compile(r"(?:(\d+)y)?(?:(\d+)w)?((?:\d+d)?(?:\d+h)?(?:\d+m)?(?:\d+s)?(?:\d+ms)?)")


def is_rule_file(data: object) -> bool:
    """Whether a document is a Prometheus rule file."""
    return isinstance(data, dict) and "groups" in data and not {"kind", "apiVersion"} & data.keys()


def name_of_file(source: str, count: int) -> str:
    """Return what the `count`-th rule file of a source (from 1) is called.

    Examples
    --------
    >>> name_of_file("rules/my quality.rules.yml", 1), name_of_file("-", 2)
    ('my-quality.rules', 'rules-2')
    """
    stem = PurePath(source).stem if source.endswith((".yml", ".yaml", ".json")) else ""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem)[:55].strip("-._") or DEFAULT_NAME
    return name if count == 1 else f"{name}-{count}"


def expand_rule_file(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a rule file as an AlertRules document; `groups` stays where it was written."""
    return {"apiVersion": API_VERSION, "kind": "AlertRules", "metadata": {"name": name}, **data}


def read_rules(spec: dict[str, Any]) -> None:
    """Bring the spec of AlertRules into canonical form, in place."""
    groups = spec.get("groups")
    if isinstance(groups, list):
        spec["groups"] = [_read_group(group) for group in groups]


def _read_group(group: Any) -> Any:
    if not isinstance(group, dict):
        return group
    read = dict(_read_fields(group))
    if isinstance(read.get("rules"), list):
        read["rules"] = [
            dict(_read_fields(rule)) if isinstance(rule, dict) else rule for rule in read["rules"]
        ]
    return read


def _read_fields(data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if value is None:
            continue  # `labels:` with nothing in it
        if key in {"labels", "annotations"} and isinstance(value, dict):
            yield key, {name: _text(text) for name, text in value.items()}
        elif key == "expr":
            yield key, _text(value)
        elif key in _DURATIONS and isinstance(value, str):
            yield key, _seconds(value)
        else:
            yield key, value


def _text(value: Any) -> Any:
    """Return a scalar as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"{value!r}".removesuffix(".0") if isinstance(value, float) else str(value)
    return "" if value is None else value


def _seconds(text: str) -> str:
    """Return a duration in units that `Duration` knows."""
    match = _LONG.fullmatch(text.strip())
    if match is None or not (match[1] or match[2]):
        return text
    hours = 24 * (365 * int(match[1] or 0) + 7 * int(match[2] or 0))
    return f"{hours}h{match[3]}"
