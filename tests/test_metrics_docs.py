"""The catalogue, its page, the Grafana dashboard and the rules we ship speak of the same series."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from modelplane.decisions.alert_rules import recorded_names, warn_of_rules
from modelplane.decisions.built_in_rules import built_in_rules
from modelplane.decisions.promql_functions import AGGREGATIONS, OVER_TIME
from modelplane.decisions.series import BY_NAME, CATALOGUE
from modelplane.resources.alerting import AlertRules, AlertRulesSpec
from modelplane.resources.manifest import read_documents
from modelplane.resources.promql import check_promql

DOCS = Path(__file__).resolve().parent.parent / "docs"
SHIPPED = ("alerts.yml", "recording.yml")
_SERIES = re.compile(r"\bmodelplane_[a-z_]+\b(?!:)")


def rules_of(file: str) -> AlertRulesSpec:
    (resource,) = read_documents((DOCS / "prometheus" / file).read_text(), file)
    assert isinstance(resource, AlertRules)
    return resource.spec


def dashboard() -> Any:
    return json.loads((DOCS / "grafana" / "modelplane.json").read_text())


def expressions_of_dashboard() -> list[str]:
    return [
        target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])
    ]


def series_in(text: str) -> set[str]:
    return set(_SERIES.findall(text))


def test_the_page_has_every_series_with_its_type_labels_and_help() -> None:
    page = (DOCS / "guides" / "metrics.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `modelplane_")]
    expected = [
        f"| `{one.name}` | {one.type} | {', '.join(f'`{name}`' for name in one.labels)} | "
        f"{one.help} |"
        for one in CATALOGUE
    ]
    assert rows == expected


def test_the_dashboard_shows_every_series_and_no_other() -> None:
    shown = set().union(*map(series_in, expressions_of_dashboard()))
    assert shown == set(BY_NAME)


def test_the_dashboard_asks_what_prometheus_understands() -> None:
    for expression in expressions_of_dashboard():
        check_promql(expression.replace("$environment", ".*").replace("$deployment", ".*"))
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)


def test_the_dashboard_adds_up_no_models_that_are_not_one() -> None:
    """Versions of two models, or of two environments, may have the same number."""
    targets = [t for panel in dashboard()["panels"] for t in panel.get("targets", [])]
    by_version = [t for t in targets if "{{version}}" in t["legendFormat"]]
    assert by_version
    for target in by_version:
        assert "{{environment}}" in target["legendFormat"]
        grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
        assert all("environment, deployment, version" in labels for labels in grouped)


@pytest.mark.parametrize("file", SHIPPED)
def test_rules_that_are_shipped_need_no_prometheus(file: str) -> None:
    assert warn_of_rules(rules_of(file)) == ()


def test_the_alerts_that_are_shipped_are_those_that_are_built_in() -> None:
    assert rules_of("alerts.yml") == built_in_rules().spec


def test_the_page_names_what_is_recorded() -> None:
    page = (DOCS / "guides" / "metrics.md").read_text()
    recorded = recorded_names([rules_of("recording.yml")])
    assert recorded
    assert [name for name in recorded if f"`{name}`" not in page] == []


def test_the_guide_on_alerts_lists_what_is_evaluated() -> None:
    guide = (DOCS / "guides" / "alerts.md").read_text()
    names = {*AGGREGATIONS, *OVER_TIME, "absent", "abs", "clamp_min", "clamp_max"}
    assert [name for name in names if f"`{name}`" not in guide] == []


@pytest.mark.parametrize("name", ["metrics.md", "alerts.md", "prometheus.md", "playbooks.md"])
def test_guides_name_no_series_that_there_is_not(name: str) -> None:
    known = set(BY_NAME) | {"modelplane_http_requests_total"}
    known |= {"modelplane_http_request_duration_seconds", "modelplane_source", "modelplane_closing"}
    found = series_in((DOCS / "guides" / name).read_text())
    assert {one for one in found if not one.endswith("_")} <= known
