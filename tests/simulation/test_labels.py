"""Precision, judged by labels that come ten minutes late: what is worse goes, what is not stays.

Nothing but the labels tells the versions apart: no request fails, and all take the same time.
``python -m pytest tests/simulation/test_labels.py -s`` prints the tables.
"""

from __future__ import annotations

from statistics import median

import pytest

from tests.simulation.labelled import LABELS, LabelledRollout, many, run_all, strategy_of

pytestmark = pytest.mark.slow

HEALTHY = 200
HARMFUL = 20
ALPHA = 0.05
HOURS = 3600


def reasons(rollouts: list[LabelledRollout]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for one in rollouts:
        name = one.status.reason if one.is_over else "running"
        counts[name] = counts.get(name, 0) + 1
    return counts


def tell(what: str, rollouts: list[LabelledRollout]) -> None:
    """Print one row: how they ended, and after how long."""
    ended = [one.ended_s for one in rollouts if one.ended_s is not None]
    after = f"{median(ended) / 60:.0f} min" if ended else "-"
    print(f"{what:<34} {len(rollouts):>4} {after:>8}  {reasons(rollouts)}")


@pytest.mark.parametrize("worse", [0.57, 0.47])
def test_a_candidate_that_is_worse_only_in_precision_is_rolled_back(worse: float) -> None:
    like = LabelledRollout(0, 0.67, worse, strategy_of("precision"))
    rollouts = run_all(many(HARMFUL, 1000, like), until_s=4 * HOURS)
    tell(f"precision 0.67 -> {worse}", rollouts)
    assert reasons(rollouts) == {"Harm": HARMFUL}
    # Until labels decide, few meet it.
    assert max(max(one.weights) for one in rollouts) <= LABELS.max_weight
    assert all("precision" in one.status.message for one in rollouts)


def test_a_healthy_candidate_is_not_rolled_back_more_often_than_alpha() -> None:
    like = LabelledRollout(0, 0.67, 0.67, strategy_of("precision"))
    rollouts = run_all(many(HEALTHY, 1, like), until_s=2 * HOURS)
    tell("precision 0.67 -> 0.67", rollouts)
    assert reasons(rollouts).get("Harm", 0) <= ALPHA * HEALTHY
    assert reasons(rollouts).get("WithinMargins", 0) >= 0.9 * HEALTHY


def test_harm_that_shows_after_the_verdict_takes_the_promotion_back() -> None:
    strategy = strategy_of("precision", holdback_pct=10)
    like = LabelledRollout(0, 0.67, 0.42, strategy, from_pct=80)
    rollouts = run_all(many(HARMFUL, 2000, like), until_s=4 * HOURS)
    tell("0.67 -> 0.42 in the holdback", rollouts)
    assert reasons(rollouts).get("ClawedBack", 0) >= 0.9 * HARMFUL
    for one in rollouts:
        if one.status.reason == "ClawedBack":
            assert one.status.weight_pct == 0
            assert one.weights[-2] == 90
