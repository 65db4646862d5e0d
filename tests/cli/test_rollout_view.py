"""What people see of a rollout, at 80 columns."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from modelplane.cli.rollout_view import render_rollout
from modelplane.resources.meta import Condition
from modelplane.resources.rollout import Rollout
from modelplane.resources.strategy import AllAtOnceStrategy, Strategy
from tests.cli.fakes import NOW, rollout


def view(found: Rollout, width: int = 80) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, color_system=None, force_terminal=False)
    console.print(render_rollout(found, now=NOW))
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
