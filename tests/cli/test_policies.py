"""``policy …`` as people type it, and what they see of promotions that wait."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from modelplane.cli.files import load_manifests
from modelplane.client.policies import AnyPolicy, PolicyTrial
from modelplane.decisions.analysis_replay import (
    AnalysisReplay,
    Replay,
    ReplaySummary,
    RolloutReplay,
)
from modelplane.decisions.policy_replay import PolicyReplay, Replayed
from modelplane.resources.model_deployment import Lane
from modelplane.resources.promotion import GateOutcome, PolicyOutcome
from modelplane.resources.strategy import Analysis
from tests.cli.conftest import Run
from tests.cli.fakes import NOW, FakeClient, deployment, environment, promotion

POLICY = """
apiVersion: modelplane.dev/v1
kind: PromotionPolicy
metadata: {name: stricter}
spec: {environments: [production], conditions: [{expression: "version.number > 1"}]}
"""


def replayed(version: str, was: Any, would: Any, because: str = "") -> Replayed:
    return Replayed(
        environment="production", promotion=f"fraud-{version[0]}", model="fraud", version=version,
        requested_at=NOW, was=was, would=would, would_because=because,
        flips=(was == "allowed") != (would == "allowed"),
    )  # fmt: skip


class Deciding(FakeClient):
    """Answers as the control plane would, and remembers what was asked."""

    trial = PolicyTrial(
        model="fraud", version="1.1.0", environment="production", phase="Refused",
        reason="PolicyRefused", message="stricter: version.number > 1 is not true",
        policies=(
            PolicyOutcome(kind="PromotionPolicy", name="stricter", digest="d", outcome="refused"),
        ),
        gates=(GateOutcome(pipeline="checks", run="checks-1", phase="Passed"),),
    )  # fmt: skip

    def replay_policies(
        self, policies: Sequence[AnyPolicy], *, since: datetime | None = None
    ) -> PolicyReplay:
        self.asked.append(("replay", [p.metadata.name for p in policies], since))
        items = (
            replayed("1.0.0", "allowed", "allowed"),
            replayed("2.0.0", "allowed", "refused", "stricter: no"),
        )
        return PolicyReplay(
            items=items, promotions=4, undecided=1, exempt=1, flips=1,
            counts={"allowed-allowed": 1, "allowed-refused": 1},
        )  # fmt: skip

    def replay_analysis(
        self,
        analysis: Analysis,
        environment: str,
        deployment: str | None = None,
        *,
        since: datetime | None = None,
    ) -> AnalysisReplay:
        self.asked.append(("analysis", analysis.alpha, environment, deployment))
        row = RolloutReplay(
            environment="production", rollout="fraud-2", version="2.0.0", truth="harmful",
            present=Replay(said="rollback", after_s=12.0, failed_requests=9),
            proposed=Replay(said="nothing"),
        )  # fmt: skip
        same = row.with_(rollout="fraud-3", version="3.0.0", proposed=row.present)
        return AnalysisReplay(
            rollouts=(row, same), healthy=3, harmful=2,
            present=ReplaySummary(detected=2, median_time_to_detect_s=12.0),
            proposed=ReplaySummary(detected=1, missed_regressions=1),
        )  # fmt: skip

    def test_policies(
        self,
        version: str,
        environment: str = "production",
        policies: Sequence[AnyPolicy] = (),
        *,
        deployment: str | None = None,
    ) -> PolicyTrial:
        self.asked.append(("test", version, environment, [p.metadata.name for p in policies]))
        return self.trial


@pytest.fixture
def client() -> FakeClient:
    return Deciding()


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "stricter.yaml"
    path.write_text(POLICY)
    return str(path)


def test_replay_shows_what_flips(run: Run, client: FakeClient, file: str) -> None:
    result = run("policy", "replay", "-f", file, "--since", "2h ago")
    assert result.exit_code == 0, result.output
    assert "2.0.0" in result.stdout
    assert "1.0.0" not in result.stdout
    assert "1 of 2 decisions would flip" in result.stderr
    assert "1 allowed → refused" in result.stderr
    assert "1 never decided, 1 went back" in result.stderr
    (asked,) = client.asked
    assert asked[:2] == ("replay", ["stricter"])
    assert (NOW - asked[2]).total_seconds() == 7200


def test_replay_of_everything_and_as_json(run: Run, file: str) -> None:
    assert "1.0.0" in run("policy", "replay", "-f", file, "--all").stdout
    data = json.loads(run("policy", "replay", "-f", file, "-o", "json").stdout)
    assert (data["flips"], len(data["items"])) == (1, 2)
    assert data["items"][1]["wouldBecause"] == "stricter: no"


def test_test_says_why_and_exits_with_1_when_it_could_not_go(
    run: Run, client: FakeClient, file: str
) -> None:
    result = run("policy", "test", "fraud@1.1.0", "-f", file)
    assert result.exit_code == 1
    assert "fraud@1.1.0 to production: Refused  stricter: version.number > 1" in result.stdout
    assert "checks-1" in result.stdout
    assert client.asked == [("test", "fraud@1.1.0", "production", ["stricter"])]
    assert isinstance(client, Deciding)
    client.trial = client.trial.with_(phase="Approved")
    assert run("policy", "test", "fraud@1.1.0", "-e", "staging").exit_code == 0


def test_what_is_no_policy_is_refused_before_anything_is_asked(
    run: Run, client: FakeClient, tmp_path: Path
) -> None:
    path = tmp_path / "model.yaml"
    path.write_text("apiVersion: modelplane.dev/v1\nkind: Model\nmetadata: {name: fraud}\n")
    result = run("policy", "replay", "-f", str(path))
    assert result.exit_code == 2
    assert "Model fraud is no policy" in result.stderr
    assert client.asked == []


def test_what_guards_is_applied_before_what_is_guarded(tmp_path: Path) -> None:
    pipeline = (
        "kind: ValidationPipeline\nmetadata: {name: p}\nspec: {stages: [{name: a, latency: {}}]}"
    )
    deployed = "kind: ModelDeployment\nmetadata: {name: fraud}\nspec: {version: 1.0.0}"
    head = "apiVersion: modelplane.dev/v1\n"
    path = tmp_path / "all.yaml"
    path.write_text("\n---\n".join([head + deployed, POLICY.strip(), head + pipeline]))
    kinds = [resource.kind for resource in load_manifests([str(path)])]
    assert kinds == ["ValidationPipeline", "PromotionPolicy", "ModelDeployment"]


def test_status_and_describe_say_what_a_promotion_waits_for(run: Run, client: FakeClient) -> None:
    waiting = promotion(
        phase="AwaitingApproval", message="risk: waits for group leads",
        policies=(
            PolicyOutcome(kind="ApprovalPolicy", name="risk", digest="d", outcome="pending"),
        ),
        gates=(GateOutcome(pipeline="checks", run="checks-7", phase="Passed"),),
    )  # fmt: skip
    for resource in (environment(), deployment(promotion="fraud-2"), waiting):
        client.resources[resource.key] = resource
    shown = json.loads(run("status", "-o", "json").stdout)
    row = shown["environments"][0]["deployments"][0]
    assert row["moving"] == "1.1.0 AwaitingApproval: risk: waits for group leads"
    lanes = {"west/1.1.0": Lane(promotion="fraud-2")}
    in_lane = deployment(promotion="fraud-1", lanes=lanes)
    client.resources[in_lane.key] = in_lane
    shown = json.loads(run("status", "-o", "json").stdout)
    assert shown["environments"][0]["deployments"][0]["moving"] == row["moving"]
    told = run("describe", "promotion", "fraud-2").stdout
    assert "Guarded by" in told
    assert "checks-7" in told
    assert "pending" in told


@pytest.mark.parametrize("phase", ["Refused", "Rejected", "Expired"])
def test_promote_wait_ends_with_1_when_it_may_not_go(
    run: Run, client: FakeClient, phase: str
) -> None:
    found = deployment(promotion="fraud-2")
    client.resources[found.key] = found
    client.made_promotion = promotion()
    waiting = promotion(phase="AwaitingApproval", message="waits for group leads")
    client.play("Promotion", waiting, promotion(phase=phase, message="no"))
    result = run("promote", "fraud", "--version", "1.1.0", "--to", "production", "--wait")
    assert result.exit_code == 1
    assert "fraud-2  AwaitingApproval  waits for group leads" in result.stderr
    assert f"fraud-2  {phase}  no" in result.stderr


SETTINGS = """
apiVersion: modelplane.dev/v1
kind: ModelDeployment
metadata: {name: fraud}
spec:
  strategy: {canary: {analysis: {alpha: 0.01}}}
"""


def test_analysis_settings_are_tried_on_recorded_rollouts(
    run: Run, client: FakeClient, tmp_path: Path
) -> None:
    (tmp_path / "settings.yaml").write_text(SETTINGS)
    done = run("policy", "replay", "-f", str(tmp_path / "settings.yaml"))
    assert done.exit_code == 0, done.output
    assert client.asked == [("analysis", 0.01, "production", "fraud")]
    assert "fraud-2" in done.stdout
    assert "roll back after 12s, 9 failed" in done.stdout
    assert "nothing in the recording" in done.stdout
    assert "fraud-3" not in done.stdout, "what does not change is shown with --all"
    assert "1 of 2" in done.stdout


def test_policies_and_settings_are_answered_in_one_document(run: Run, tmp_path: Path) -> None:
    (tmp_path / "both.yaml").write_text(f"{POLICY}---{SETTINGS}")
    done = run("policy", "replay", "-f", str(tmp_path / "both.yaml"), "-o", "json")
    found = json.loads(done.stdout)
    assert found["flips"] == 1
    assert found["analysis"][0]["settings"] == "production/fraud"
    assert found["analysis"][0]["proposed"]["missedRegressions"] == 1


def test_a_deployment_without_a_canary_proposes_nothing(run: Run, tmp_path: Path) -> None:
    text = SETTINGS.replace("strategy: {canary: {analysis: {alpha: 0.01}}}", "replicas: 2")
    (tmp_path / "plain.yaml").write_text(text)
    done = run("policy", "replay", "-f", str(tmp_path / "plain.yaml"))
    assert done.exit_code == 2
    assert "declares no strategy.canary" in done.stderr
