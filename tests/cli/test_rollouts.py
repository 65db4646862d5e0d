"""rollout …: following to the end, and steering."""

from __future__ import annotations

import json

import pytest

from modelplane.errors import TransientError
from modelplane.resources.model_deployment import Lane
from tests.cli.conftest import Run
from tests.cli.fakes import FakeClient, deployment, promotion, revision, rollout


def begin(client: FakeClient) -> None:
    found = deployment(promotion="fraud-2", rollout="fraud-2")
    client.resources[found.key] = found
    running = promotion(phase="RollingOut", rollout="fraud-2")
    client.resources[running.key] = running


@pytest.mark.parametrize(
    ("phase", "exit_code"), [("Promoted", 0), ("RolledBack", 1), ("Failed", 1), ("Superseded", 1)]
)
def test_watch_ends_with_the_rollout(
    run: Run, client: FakeClient, phase: str, exit_code: int
) -> None:
    begin(client)
    client.play(
        "Rollout",
        rollout(weight_pct=5, message="goes on", version=1),
        rollout(weight_pct=5, message="goes on", version=1),
        rollout(weight_pct=25, message="goes on", version=2),
        rollout(phase, message="decided", version=3),  # type: ignore[arg-type]
    )
    result = run("rollout", "watch", "fraud")
    assert result.exit_code == exit_code
    assert result.stdout.splitlines() == [
        "fraud-2  1.0.0 → 1.1.0  Ramping 5 %  goes on",
        "fraud-2  1.0.0 → 1.1.0  Ramping 25 %  goes on",
        f"fraud-2  1.0.0 → 1.1.0  {phase}  decided",
    ]


def test_watch_json_is_one_line_for_each_change(run: Run, client: FakeClient) -> None:
    begin(client)
    client.play(
        "Rollout", rollout(version=1), rollout(version=1), rollout("Promoted", 100, version=2)
    )
    result = run("rollout", "watch", "fraud", "-o", "json")
    assert result.exit_code == 0
    phases = [json.loads(line)["status"]["phase"] for line in result.stdout.splitlines()]
    assert phases == ["Ramping", "Promoted"]


def test_watch_on_a_terminal_redraws_the_view_in_place(
    run: Run, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    begin(client)
    client.play("Rollout", rollout(), rollout("RolledBack", 0, message="the candidate is worse"))
    result = run("rollout", "watch", "fraud")
    assert result.exit_code == 1
    assert "candidate 25 %" in result.stdout
    assert "\x1b[1A" in result.stdout
    assert "The candidate is worse." in result.stdout


def test_watch_waits_for_a_rollout_that_is_about_to_begin(run: Run, client: FakeClient) -> None:
    begin(client)
    client.play("Promotion", promotion(), promotion(rollout="fraud-2"))
    client.play("Rollout", rollout("Promoted", 100))
    assert run("rollout", "watch", "fraud").exit_code == 0


def test_watch_goes_on_after_a_restart_of_the_control_plane(run: Run, client: FakeClient) -> None:
    begin(client)
    gone = TransientError("nobody answers")
    client.play("Rollout", rollout(), gone, gone, rollout("Promoted", 100))
    assert run("rollout", "watch", "fraud").exit_code == 0


def test_watch_ends_when_the_control_plane_stays_away(run: Run, client: FakeClient) -> None:
    begin(client)
    client.play("Rollout", rollout(), TransientError("nobody answers"))
    result = run("rollout", "watch", "fraud")
    assert result.exit_code == 6
    assert "error: nobody answers" in result.stderr


def test_without_any_rollout_it_says_so(run: Run, client: FakeClient) -> None:
    found = deployment()
    client.resources[found.key] = found
    for verb in ("status", "watch"):
        result = run("rollout", verb, "fraud")
        assert result.exit_code == 4
        assert "fraud has had no rollout in production" in result.stderr


def test_status_shows_the_view(run: Run, client: FakeClient) -> None:
    begin(client)
    client.play("Rollout", rollout())
    text = run("rollout", "status", "fraud").stdout
    assert "fraud in production: 1.0.0 → 1.1.0" in text
    assert "candidate 25 %" in text


@pytest.mark.parametrize(
    ("words", "asked", "said"),
    [
        (("pause",), "pause", "rollout/fraud-2 paused\n"),
        (("resume",), "resume", "rollout/fraud-2 resumed\n"),
        (("promote",), "promote-rollout", "rollout/fraud-2 asked to promote\n"),
        (("rollback",), "rollback", "rollout/fraud-2 asked to roll back\n"),
    ],
)
def test_steering_passes_environment_and_reason(
    run: Run, client: FakeClient, words: tuple[str, ...], asked: str, said: str
) -> None:
    result = run("rollout", *words, "fraud", "-e", "staging", "--reason", "because")
    assert result.stdout == said
    assert client.asked == [(asked, "fraud", "staging", "because")]


def test_undo_makes_a_promotion(run: Run, client: FakeClient) -> None:
    begin(client)
    client.made_promotion = promotion("1.0.0")
    result = run("rollout", "undo", "fraud")
    assert result.stdout.endswith("  promotion fraud-2 to version 1.0.0\n")


def test_promote_waits_and_fails_when_it_was_not_promoted(run: Run, client: FakeClient) -> None:
    begin(client)
    client.made_promotion = promotion()
    client.play("Promotion", promotion(phase="Failed", message="did not start"))
    result = run("promote", "fraud", "--version", "1.1.0", "--to", "production", "--wait")
    assert result.exit_code == 1
    assert client.asked == [("promote", "fraud", "1.1.0", "production", "")]
    assert "did not start" in result.stderr


def test_list_shows_oldest_first(run: Run, client: FakeClient) -> None:
    found = rollout()
    client.resources[found.key] = found
    assert "fraud-2" in run("rollout", "list", "fraud").stdout
    assert run("rollout", "list", "other").stdout == ""


def begin_two(client: FakeClient) -> None:
    """Two rollouts run beside each other: the deployment's own, and a policy's."""
    lanes = {"west/1.2.0": Lane(promotion="fraud-3", rollout="fraud-3")}
    found = deployment(promotion="fraud-2", rollout="fraud-2", lanes=lanes)
    own = rollout()
    beside = own.with_(
        metadata=own.metadata.with_(name="fraud-3"),
        spec=own.spec.with_(ordinal=3, candidate=revision("1.2.0"), lane="west/1.2.0"),
    )
    for resource in (found, own, beside):
        client.resources[resource.key] = resource


def test_status_shows_all_that_run(run: Run, client: FakeClient) -> None:
    begin_two(client)
    text = run("rollout", "status", "fraud").stdout
    assert "1.0.0 → 1.1.0" in text
    assert "1.0.0 → 1.2.0" in text
    assert "traffic policy west" in text
    several = json.loads(run("rollout", "status", "fraud", "-o", "json").stdout)
    assert [item["metadata"]["name"] for item in several["items"]] == ["fraud-2", "fraud-3"]
    one = run("rollout", "status", "fraud", "--version", "1.2.0", "-o", "name").stdout
    assert one == "rollout/fraud-3\n"


def test_watch_asks_which_one_is_meant(run: Run, client: FakeClient) -> None:
    begin_two(client)
    result = run("rollout", "watch", "fraud")
    assert result.exit_code == 2
    assert "fraud-2 (1.1.0), fraud-3 (1.2.0)" in result.stderr
    unknown = run("rollout", "watch", "fraud", "--version", "9.9.9")
    assert unknown.exit_code == 4


def test_a_test_that_passed_ended_well(run: Run, client: FakeClient) -> None:
    begin(client)
    client.play("Rollout", rollout("Concluded", 0, verdict="pass"))
    assert run("rollout", "watch", "fraud").exit_code == 0
    client.play("Rollout", rollout("Concluded", 0, verdict="undecided"))
    assert run("rollout", "watch", "fraud").exit_code == 1


def test_steering_names_the_rollout_that_is_meant(run: Run, client: FakeClient) -> None:
    run("rollout", "pause", "fraud", "--version", "1.2.0")
    run("rollout", "rollback", "fraud", "--rollout", "fraud-3")
    assert client.meant == [
        {"rollout": None, "version": "1.2.0"},
        {"rollout": "fraud-3", "version": None},
    ]
