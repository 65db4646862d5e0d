"""``quality …`` as people type it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from modelplane.decisions.quality import QualityReport
from tests.cli.conftest import Run
from tests.cli.fakes import NOW, FakeClient

REPORT = QualityReport.model_validate(
    {
        "deployment": "fraud",
        "environment": "production",
        "task": "binary",
        "since": NOW - timedelta(hours=2),
        "until": NOW - timedelta(minutes=10),
        "versions": [
            {
                "version": "1.0.0",
                "labelled": 1200,
                "metrics": {
                    "precision": {"value": 0.671, "lower": 0.64, "upper": 0.70, "count": 900},
                    "calibration_error": {"value": 0.0412, "count": 1200},
                },
            }
        ],
        "completeness": [
            {"version": "1.0.0", "predictions": 1500, "labelled": 1200, "due": 1000,
             "dueLabelled": 990, "dropped": 3},
        ],
    }
)  # fmt: skip


class Labelled(FakeClient):
    """Knows the quality of one deployment."""

    report = REPORT
    asked_for: tuple[Any, ...] = ()

    def quality(
        self, deployment: str, environment: str = "production", *, part: str | None = None
    ) -> QualityReport:
        self.asked_for = (deployment, environment, part)
        return self.report


@pytest.fixture
def client() -> FakeClient:
    return Labelled()


def test_show_tells_figures_intervals_and_how_complete_labels_are(run: Run, client: Any) -> None:
    result = run("quality", "show", "fraud", "-e", "staging")
    assert result.exit_code == 0, result.output
    assert client.asked_for == ("fraud", "staging", "")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines == [
        "fraud in production, binary: predictions made 2h to 10m ago",
        "",
        "VERSION SLICE METRIC VALUE 95 % INTERVAL OF",
        "1.0.0 all precision 0.671 0.64 to 0.7 900",
        "1.0.0 all calibration_error 0.0412 - 1,200",
        "",
        "VERSION PREDICTIONS LABELLED DUE OF THESE LABELLED LOST",
        "1.0.0 1,500 1,200 1,000 99.0% 3",
    ]


@pytest.mark.parametrize(
    ("options", "part"),
    [((), ""), (("--slice", "user.region=west"), "user.region=west"), (("--all-slices",), None)],
)
def test_slices_are_shown_when_asked_for(
    run: Run, client: Any, options: tuple[str, ...], part: str | None
) -> None:
    result = run("quality", "show", "fraud", *options, "-o", "json")
    assert client.asked_for == ("fraud", "production", part)
    assert QualityReport.model_validate(json.loads(result.stdout)) == REPORT


def test_what_is_missing_is_told(run: Run, client: Any) -> None:
    client.report = QualityReport(deployment="fraud", environment="production")
    assert "no predictions are kept" in run("quality", "show", "fraud").stdout
    client.report = REPORT.with_(since=None, until=None, task=None, versions=())
    assert "no label has come" in run("quality", "show", "fraud").stdout
