"""rollout plan: what a rollout would take, for people and for scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelplane.decisions.preflight import PlannedMetric, PlannedStep, RolloutPlan
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.traffic_policy import TrafficPolicy
from tests.cli.conftest import Run
from tests.cli.fakes import FakeClient

MANIFEST = """
apiVersion: modelplane.dev/v1
kind: ModelDeployment
metadata: {name: fraud}
spec: {version: 2.0.0, strategy: canary}
"""
PLAN = RolloutPlan(
    environment="production", deployment="fraud", stable="1.0.0", candidate="2.0.0",
    strategy="canary", request_rate_rps=100, typical_s=493, least_s=120, deadline_s=86_400,
    users_pct=50, candidate_requests=24_179, worst_failed_requests=233,
    steps=(
        PlannedStep(weight_pct=1, seconds=5, candidate_requests=5),
        PlannedStep(weight_pct=50, seconds=488, candidate_requests=24_174),
    ),
    metrics=(
        PlannedMetric(name="errors", stable=0.01, margin=0.0025, passes_after_s=493,
                      smallest_harm=0.0053),
        PlannedMetric(name="latency", stable=45_000, margin=0.2),
    ),
    warnings=("latency will typically pass never",), notes=("all of it is typical",),
)  # fmt: skip


@pytest.fixture
def planned(client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where plans were asked for; all are answered with the same."""
    asked: list[str] = []

    def plan(declared: ModelDeployment | TrafficPolicy) -> RolloutPlan:
        asked.append(str(declared.key))
        return PLAN

    monkeypatch.setattr(client, "plan", plan)
    return asked


def test_it_is_a_table_and_sentences_with_warnings_beside(
    run: Run, planned: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "fraud.yaml"
    path.write_text(MANIFEST)
    result = run("rollout", "plan", "-f", str(path))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "fraud in production: 2.0.0 over 1.0.0, canary, at 100 requests/s"
    cells = [" ".join(line.split()) for line in lines]
    assert "50 % 8m08s 24,174" in cells
    assert "errors 1 % 0.25 pp 8m13s 0.53 pp" in cells
    assert "latency 45 ms 20 % slower - -" in cells
    assert lines[-3:] == [
        "a healthy candidate takes about 8m13s, 2m00s at the least; deadline 24h00m",
        "about 24,179 requests and 50 % of the users meet the candidate",
        "at the worst size of harm it fails about 233 requests before it is taken back; stable "
        "answers them",
    ]
    assert "warning: latency will typically pass never" in result.stderr
    assert len(planned) == 1


def test_the_environment_may_be_another_one_and_json_is_whole(
    run: Run, planned: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "fraud.yaml"
    path.write_text(MANIFEST)
    result = run("rollout", "plan", "-f", str(path), "-e", "staging", "-o", "json")
    assert json.loads(result.stdout) == [PLAN.to_dict()]
    assert "staging" in planned[0]


def test_a_manifest_without_anything_to_roll_out_is_refused(run: Run, planned: list[str]) -> None:
    other = "apiVersion: modelplane.dev/v1\nkind: Model\nmetadata: {name: fraud}\nspec: {}\n"
    result = run("rollout", "plan", "-f", "-", input=other)
    assert result.exit_code != 0
    assert "nothing to roll out" in result.stderr
    assert planned == []
