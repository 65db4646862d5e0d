"""``drift show`` as people type it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from modelplane.decisions.drift_report import DriftReport, FeatureDrift, VersionDrift
from tests.cli.conftest import Run
from tests.cli.fakes import NOW, FakeClient

REPORT = DriftReport(
    environment="production",
    deployment="fraud",
    watched=True,
    message="1 of 1 versions drift",
    versions=(
        VersionDrift(
            version="1.0.0",
            state="drifted",
            message="1.0.0 meets other values than its reference: distance (PSI 0.412)",
            data="flights@7",
            window_from=NOW - timedelta(hours=1, minutes=1),
            window_until=NOW - timedelta(minutes=1),
            rows=12_345,
            features=(
                FeatureDrift(
                    feature="carrier",
                    kind="category",
                    origin="traffic",
                    rows=12_345,
                    psi=0.0123,
                    variation=0.031,
                    missing=0.02,
                    other=0.01,
                ),
                FeatureDrift(
                    feature="distance",
                    kind="number",
                    origin="data",
                    rows=12_345,
                    psi=0.412,
                    moved=0.8,
                    drifted_since=NOW - timedelta(minutes=20),
                ),
                FeatureDrift(feature="note", kind="text", origin="traffic", rows=12),
            ),
        ),
    ),
)


class Drifting(FakeClient):
    """Has one report, whatever is asked."""

    report = REPORT
    place: tuple[str, str] | None = None

    def drift(self, deployment: str, environment: str = "production") -> DriftReport:
        self.place = (deployment, environment)
        return self.report


@pytest.fixture
def client() -> FakeClient:
    return Drifting()


def test_the_most_drifted_comes_first_with_what_it_is_compared_with(run: Run, client: Any) -> None:
    result = run("drift", "show", "fraud", "-e", "staging")
    assert result.exit_code == 0, result.output
    assert client.place == ("fraud", "staging")
    lines = result.output.splitlines()
    assert lines[0] == "fraud in production: 1 of 1 versions drift"
    assert "12,345 rows" in lines[2]
    table = [line.split() for line in lines if line.startswith(("distance", "carrier", "note"))]
    assert [row[0] for row in table] == ["distance", "carrier", "note"]
    assert {"drifted", "0.412", "0.80", "flights@7"} <= set(table[0])
    assert "stable" in table[1]
    assert "few" in table[2]


def test_json_is_the_whole_report(run: Run) -> None:
    result = run("drift", "show", "fraud", "-o", "json")
    assert DriftReport.model_validate(json.loads(result.output)) == REPORT


def test_why_nothing_is_known_is_told(run: Run, client: Any) -> None:
    why = "drift is not watched; write spec.drift: {}"
    client.report = DriftReport(
        environment="production", deployment="fraud", watched=False, message=why
    )
    assert run("drift", "show", "fraud").output.strip() == f"fraud in production: {why}"
