"""What people see of a rollout, at 80 columns."""

from __future__ import annotations

import io
from datetime import timedelta
from typing import Any

from rich.console import Console

from modelplane.cli.rollout_view import render_rollout
from modelplane.resources.meta import Condition
from modelplane.resources.model_deployment import WarmRevision
from modelplane.resources.rollout import Rollout, SliceReport
from modelplane.resources.strategy import (
    AbStrategy,
    AllAtOnceStrategy,
    Arm,
    BlueGreenStrategy,
    CanaryStrategy,
    Holdback,
    RollingStrategy,
    ShadowStrategy,
    Strategy,
)
from tests.cli.fakes import NOW, revision, rollout


def view(found: Rollout, width: int = 80, warm: WarmRevision | None = None) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, color_system=None, force_terminal=False)
    console.print(render_rollout(found, now=NOW, warm=warm))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def test_a_rollout_in_mid_ramp() -> None:
    assert view(rollout()) == (
        """\
fraud in production: 1.0.0 → 1.1.0                               rollout fraud-2
Ramping  25 %  for 3m12s  (this step 35s)

███████████████░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░  candidate 25 %
steps   1 ✓   5 ✓   25 ●   50 ·   promoted ·

metric     stable candidate difference      interval  margin verdict     needs
errors      0.5 %    0.61 %   +0.11 pp −0.2 to +0.42 0.25 pp undecided   1,240
latency   12.1 ms   12.4 ms    +0.3 ms             - 2.42 ms pass            -
precision       -         -          -             -       - unavailable     -

Errors: 20 of 3,278 candidate requests (0.61%) against 0.50% of stable's.
3,278 requests to the candidate, 20 failed"""
    )


def test_a_promoted_rollout_has_all_traffic() -> None:
    text = view(rollout("Promoted", 50, finished_at=NOW, metrics=(), message="within the margin"))
    assert "Promoted  in 3m12s" in text
    assert "█" * 60 + "  candidate 100 %" in text
    assert "steps   1 ✓   5 ✓   25 ✓   50 ✓   promoted ✓" in text
    assert "Within the margin." in text


def test_a_rolled_back_rollout_has_none() -> None:
    text = view(rollout("RolledBack", 0, message="the candidate is worse", metrics=()))
    assert "░" * 60 + "  candidate 0 %" in text
    assert "The candidate is worse." in text


def test_before_there_is_traffic_no_bar_is_shown() -> None:
    text = view(rollout("Deploying", 0, message="waiting for 1 replica", metrics=(), steps=()))
    assert "░" not in text
    assert "Waiting for 1 replica." in text


def test_the_smallest_share_is_seen() -> None:
    assert view(rollout(weight_pct=0.1)).count("█") == 1


def test_all_at_once_has_no_steps() -> None:
    strategy = Strategy(all_at_once=AllAtOnceStrategy())
    assert "steps" not in view(rollout(strategy=strategy))


def test_conditions_and_a_bad_replica_are_told() -> None:
    condition = Condition(
        type="MetricUnavailable", status="True", reason="NeedsLabels", message="precision"
    )
    text = view(rollout(conditions=(condition,), bad_replica="fraud-1-0"))
    assert "MetricUnavailable: precision" in text
    assert "replica fraud-1-0 fails and the others do not" in text


def test_every_width_from_40_up_is_kept_to() -> None:
    for width in (40, 60, 79, 100, 200):
        lines: list[Any] = view(rollout(), width).splitlines()
        assert max(map(len, lines)) <= width


def strategy_view(strategy: Strategy, **more: Any) -> str:
    lane = more.pop("lane", "")
    found = rollout(strategy=strategy, metrics=(), **more)
    return view(found.with_spec(lane=lane))


def test_a_policy_and_a_predicate_say_whose_rollout_it_is() -> None:
    strategy = Strategy(canary=CanaryStrategy(predicate="user.region == 'west'"))
    text = strategy_view(strategy, lane="west/1.1.0")
    assert "canary, traffic policy west, for user.region == 'west'" in text


def test_a_shadow_shows_what_is_copied_and_compared() -> None:
    text = strategy_view(
        Strategy(shadow=ShadowStrategy()), weight_pct=0, mirror_pct=30, compared=1200, different=6
    )
    assert "Ramping  copies of 30 %" in text
    assert "█" * 18 + "░" * 42 + "  copied 30 %" in text
    assert "1,200 answers compared, 6 differ (0.5 %)" in text


def test_rolling_shows_the_replicas_of_both() -> None:
    text = strategy_view(
        Strategy(rolling=RollingStrategy()), candidate_replicas=2, stable_replicas=1
    )
    assert "replicas: 2 of the candidate, 1 of stable" in text


def test_times_to_come_are_told() -> None:
    held = Strategy(canary=CanaryStrategy(holdback=Holdback(percentage=5, for_s=3600)))
    text = strategy_view(held, weight_pct=95, holdback_at=NOW - timedelta(minutes=10))
    assert "holdback until 12:50:00 UTC (in 50m00s)" in text
    switch = Strategy(blue_green=BlueGreenStrategy(preview_s=90))
    text = strategy_view(switch, phase="Deploying", ready_at=NOW)
    assert "switches at 12:01:30 UTC (in 1m30s)" in text
    test = Strategy(ab=AbStrategy(arms=(Arm(version="1.1.0", percentage=25),)))
    assert "the test ends at 2025-03-08" in strategy_view(test, ramp_started_at=NOW)


def test_a_concluded_test_shows_its_verdict() -> None:
    test = Strategy(ab=AbStrategy(arms=(Arm(version="1.1.0", percentage=25),)))
    text = strategy_view(test, phase="Concluded", weight_pct=0, verdict="pass", finished_at=NOW)
    assert "Concluded  pass  in 3m12s" in text


def test_harm_to_one_part_of_the_users_stands_out() -> None:
    slices = (
        SliceReport(name="user.region=west", requests=900, stable=0.01, candidate=0.2, harm=True),
        SliceReport(name="user.region=east", requests=1100, stable=0.01, candidate=0.01),
    )
    lines = view(rollout(slices=slices)).splitlines()
    west = next(line for line in lines if line.startswith("user.region=west"))
    east = next(line for line in lines if line.startswith("user.region=east"))
    assert west.split() == ["user.region=west", "1", "%", "20", "%", "900", "harm"]
    assert east.endswith("no harm")


def test_a_switch_says_until_when_one_can_go_back_at_once() -> None:
    done = rollout("Promoted", 100, strategy=Strategy(blue_green=BlueGreenStrategy()))
    warm = WarmRevision(revision=revision("1.0.0"), until=NOW + timedelta(minutes=9))
    text = view(done, 120, warm=warm)
    assert "1.0.0 stays warm until 12:09:00 UTC (in 9m00s)" in text
    assert "modelplane rollout undo fraud -e production" in text
    late = WarmRevision(revision=revision("1.0.0"), until=NOW)
    assert "warm" not in view(done, warm=late)
