"""Rollouts whose metrics need labels: few meet the candidate until they decide, and later too."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.rollout import Reason, Verdict
from modelplane.resources.monitoring import Labels
from modelplane.resources.rollout import Judgement, MetricReport
from modelplane.resources.strategy import Analysis, CanaryStrategy, Holdback, MetricRule, Strategy
from tests.decisions.test_rollout import NOW, STARTING, decide, judged, ramping

LABELS = Labels(horizon_s=3600, max_weight=20)
RULES = (MetricRule(name="errors"), MetricRule(name="precision"))


def canary(*steps: float, holdback_s: float = 0) -> Strategy:
    return Strategy(
        canary=CanaryStrategy(
            steps=steps or "auto",
            analysis=Analysis(metrics=RULES),
            holdback=Holdback(percentage=5, for_s=holdback_s) if holdback_s else None,
        )
    )


def known(precision: str = "undecided", **changes: Any) -> Judgement:
    metrics = (
        MetricReport(name="errors", verdict="pass"),
        MetricReport.model_validate({"name": "precision", "verdict": precision}),
    )
    return judged(metrics=metrics, allowed_weight_pct=100.0, **changes)


@given(
    st.sampled_from([(), (1.0, 5.0, 10.0), (10.0, 20.0, 90.0), (50.0,)]),
    st.sampled_from(["undecided", "unavailable"]),
    st.floats(1, 100),
    st.booleans(),
)
def test_no_weight_above_the_cap_is_begun_while_labels_are_undecided(
    steps: tuple[float, ...], precision: str, cap: float, starts: bool
) -> None:
    labels = LABELS.with_(max_weight=cap)
    status = STARTING if starts else ramping(1.0)
    decision = decide(status, judgement=known(precision), strategy=canary(*steps), labels=labels)
    assert decision.status.weight_pct <= max(cap, status.weight_pct)


def test_the_weight_grows_beyond_the_cap_once_labels_have_decided() -> None:
    decision = decide(ramping(5.0), judgement=known("pass"), strategy=canary(), labels=LABELS)
    assert (decision.verdict, decision.status.weight_pct) == (Verdict.ADVANCE, 50.0)


def test_a_metric_that_no_label_has_come_for_is_named() -> None:
    judgement = known("unavailable", unavailable=("precision",))
    decision = decide(ramping(20.0), judgement=judgement, strategy=canary(20), labels=LABELS)
    assert decision.reason is Reason.METRIC_UNAVAILABLE
    assert "precision" in decision.status.message


@pytest.mark.parametrize(("minutes", "verdict"), [(10, "hold"), (59, "hold"), (60, "promote")])
def test_the_holdback_lasts_as_long_as_labels_take(minutes: int, verdict: str) -> None:
    status = ramping(95.0, holdback_at=NOW - timedelta(minutes=minutes))
    strategy = canary(holdback_s=300)
    decision = decide(status, judgement=known("pass"), strategy=strategy, labels=LABELS)
    assert decision.verdict.value == verdict
    without = decide(status, judgement=judged(), strategy=strategy)
    assert without.verdict is Verdict.PROMOTE


def test_harm_during_the_holdback_takes_the_promotion_back_and_says_so() -> None:
    status = ramping(95.0, holdback_at=NOW - timedelta(minutes=50))
    judgement = known("harm", harm=True, sentence="the candidate is worse: precision")
    decision = decide(status, judgement=judgement, strategy=canary(holdback_s=300), labels=LABELS)
    assert (decision.verdict, decision.reason) == (Verdict.ROLL_BACK, Reason.CLAWED_BACK)
    assert decision.status.weight_pct == 0
    assert "taken back: the candidate is worse: precision" in decision.status.message
