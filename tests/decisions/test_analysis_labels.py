"""Labels into evidence: each counts once, only beside its like, and whatever order it comes in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelplane.decisions.analysis import (
    AnalysisSettings,
    EvidenceState,
    LabelCase,
    MetricSettings,
    Tick,
    absorb,
    feed_of,
    judge,
    label_ticks,
    needs_labels,
    start_evidence,
)
from modelplane.decisions.analysis_inputs import NOTHING
from modelplane.decisions.recordings import decode_ticks, encode_ticks
from modelplane.ports.predictions import Outcome, Place
from modelplane.resources.monitoring import Labels, ValueRange
from tests.stats.traffic import START, at, tick

NOW = START + timedelta(hours=1)
BEGAN = START
METRICS = ("errors", "accuracy", "precision", "recall", "loss", "reward")
LABELS = Labels(horizon_s=7200, reward=ValueRange(low=0, high=10))
CASE = LabelCase("production", "old", "new", METRICS, LABELS, began=BEGAN)


def outcome(
    sequence: int,
    revision: str = "new",
    predicted: Any = 1,
    label: Any = 1,
    *,
    second: float = 0,
    rule: str = "",
    mirrored: bool = False,
    **fields: Any,
) -> Outcome:
    place = Place("production", "delay", "1.0.0", revision, rule, mirrored)
    made_at = BEGAN + timedelta(seconds=second)
    fields = {"score": None, "reward": None, **fields}
    return Outcome(sequence, place, made_at, predicted, label=label, **fields)


def counted(ticks: Sequence[Tick], name: str) -> dict[str, tuple[int, int]]:
    """Trials and failures of stable, candidate and stable before."""
    sums = dict.fromkeys(("stable", "candidate", "earlier"), NOTHING)
    for one in ticks:
        assert one.labels is not None
        for role, found in (
            ("stable", one.stable.outcomes),
            ("candidate", one.candidate.outcomes),
            ("earlier", one.labels.earlier),
        ):
            more = found.get(name, NOTHING)
            sums[role] = sums[role].plus(more.trials, more.failures)
    return {role: (total.trials, total.failures) for role, total in sums.items() if total.trials}


@pytest.mark.parametrize(
    ("predicted", "label", "accuracy", "precision", "recall"),
    [
        (1, 1, (1, 0), (1, 0), (1, 0)),
        (1, 0, (1, 1), (1, 1), None),
        (0, 1, (1, 1), None, (1, 1)),
        (0, 0, (1, 0), None, None),
        (True, "1", (1, 0), (1, 0), (1, 0)),
        ("late", 1, (1, 1), None, (1, 1)),
        (None, 1, None, None, None),
        (1, None, None, None, None),
    ],
)
def test_what_is_a_trial_and_what_a_failure(
    predicted: Any, label: Any, accuracy: Any, precision: Any, recall: Any
) -> None:
    ticks = label_ticks(CASE, [outcome(1, predicted=predicted, label=label)], now=NOW)
    for name, expected in (("accuracy", accuracy), ("precision", precision), ("recall", recall)):
        assert counted(ticks, name).get("candidate") == expected


@pytest.mark.parametrize(
    ("fields", "role"),
    [
        ({}, "candidate"),
        ({"rule": "default"}, "candidate"),
        ({"revision": "old"}, "stable"),
        ({"revision": "old", "second": -1}, "earlier"),
        ({"revision": "new", "second": -1}, None),
        ({"revision": "other"}, None),
        ({"rule": "rule-12345678"}, None),
        ({"rule": "override"}, None),
        ({"mirrored": True}, None),
        ({"revision": "old", "mirrored": True}, None),
    ],
)
def test_only_what_can_be_compared_counts(fields: dict[str, Any], role: str | None) -> None:
    ticks = label_ticks(CASE, [outcome(1, **fields)], now=NOW)
    assert list(counted(ticks, "accuracy")) == ([role] if role else [])
    assert ticks[-1].sequence == 1


def test_a_label_after_the_horizon_is_no_evidence() -> None:
    late = outcome(1, second=0)
    in_time, too_late = (
        label_ticks(CASE, [late], now=BEGAN + timedelta(seconds=s)) for s in (7200, 7201)
    )
    assert counted(in_time, "accuracy")
    assert not counted(too_late, "accuracy")


def test_before_the_candidate_met_anyone_all_is_history() -> None:
    case = LabelCase("production", "old", "new", METRICS, LABELS)
    ticks = label_ticks(case, [outcome(1, "old", second=5), outcome(2, second=5)], now=NOW)
    assert counted(ticks, "accuracy") == {"earlier": (1, 0)}


outcomes = st.lists(
    st.builds(
        lambda revision, predicted, label, second, reward: (
            revision, predicted, label, second, reward,
        ),
        st.sampled_from(["old", "new"]), st.integers(0, 1), st.integers(0, 1),
        st.floats(-600, 3000), st.none() | st.floats(0, 10),
    ),
    max_size=60,
)  # fmt: skip


def made(rows: Sequence[tuple[Any, ...]]) -> list[Outcome]:
    return [
        outcome(index + 1, revision, predicted, label, second=second, reward=reward)
        for index, (revision, predicted, label, second, reward) in enumerate(rows)
    ]


@given(outcomes, st.integers(1, 60))
@settings(max_examples=60)
def test_pages_change_nothing_and_sequences_rise(rows: list[tuple[Any, ...]], page: int) -> None:
    found = made(rows)
    whole = label_ticks(CASE, found, now=NOW)
    parts = [
        one
        for start in range(0, len(found), page)
        for one in label_ticks(CASE, found[start : start + page], now=NOW)
    ]
    for name in ("accuracy", "precision", "recall"):
        assert counted(whole, name) == counted(parts, name)
    sequences = [one.sequence for one in parts]
    assert sequences == sorted(set(sequences))
    assert sequences[-1:] == ([len(found)] if found else [])
    assert decode_ticks(encode_ticks(parts)) == tuple(parts)


def warm() -> EvidenceState:
    names = ("errors", "accuracy", "reward")
    rules = AnalysisSettings(metrics=tuple(MetricSettings(name) for name in names))
    ticks = [tick(second, (100, 0)) for second in range(1, 13)]
    return absorb(start_evidence("uid", rules), ticks, rules)


RULES = AnalysisSettings(
    metrics=(
        MetricSettings("errors"),
        MetricSettings("accuracy", margin=0.1),
        MetricSettings("reward", margin=0.1, low=0, high=10),
    )
)


@given(outcomes)
@settings(max_examples=30, deadline=None)
def test_what_was_read_twice_counts_once_also_after_it_was_written(
    rows: list[tuple[Any, ...]],
) -> None:
    ticks = label_ticks(CASE, made(rows), now=NOW)
    once = absorb(warm(), ticks, RULES)
    again = absorb(EvidenceState.from_dict(once.to_dict()), ticks, RULES)
    assert again.to_dict() == once.to_dict()
    if rows:
        assert once.sequences[feed_of("production")] == len(rows)


def test_the_place_of_the_labels_is_never_forgotten_however_many_gateways_there_were() -> None:
    state = absorb(warm(), label_ticks(CASE, [outcome(1)], now=NOW), RULES)
    boots = [tick(second, (1, 0), boot_id=f"boot-{second}") for second in range(20, 120)]
    assert absorb(state, boots, RULES).sequences[feed_of("production")] == 1


def stream(wrong_of_ten: int, reward: float, start: int) -> list[Outcome]:
    """Both versions at once; stable is right nine times of ten and earns 5."""
    found = []
    for index in range(800):
        revision, wrong, earned = [("old", 1, 5.0), ("new", wrong_of_ten, reward)][index % 2]
        label = 0 if (index // 2) % 10 < wrong else 1
        found.append(outcome(start + index, revision, 1, label, second=index / 10, reward=earned))
    return found


@pytest.mark.parametrize(
    ("wrong_of_ten", "reward", "harmed"),
    [(1, 5.0, ()), (4, 5.0, ("accuracy",)), (1, 2.0, ("reward",)), (1, 8.0, ())],
)
def test_harm_by_labels_and_by_rewards_is_found(
    wrong_of_ten: int, reward: float, harmed: tuple[str, ...]
) -> None:
    before = [outcome(n, "old", 1, int(n % 10 > 0), second=-5, reward=5.0) for n in range(1, 201)]
    state = absorb(warm(), label_ticks(CASE, before, now=NOW), RULES)
    state = absorb(state, [tick(13, (100, 0), (1, 0))], RULES)
    ticks = label_ticks(CASE, stream(wrong_of_ten, reward, 201), now=NOW)
    verdict = judge(absorb(state, ticks, RULES), RULES, at(14))
    assert verdict.harm_metrics == harmed
    told = {metric.name: metric for metric in verdict.metrics}
    assert told["reward"].candidate == pytest.approx(reward)
    assert told["accuracy"].stable == pytest.approx(0.9)
    if harmed:
        assert harmed[0] in verdict.reason
    elif reward == 8.0:
        assert "better by at least" in told["reward"].sentence
    else:
        assert told["reward"].verdict == "pass"


def test_a_shadow_is_compared_with_stable_request_by_request() -> None:
    case = LabelCase(
        "production", "old", "new", ("accuracy", "precision"), LABELS, is_shadow=True, began=BEGAN
    )
    found: list[Outcome] = []
    for request in range(400):
        truth = int(request % 5 > 0)  # stable says 1 and is wrong about each fifth
        worse = request % 10 == 1
        for revision, said in (("old", 1), ("new", 0 if worse else 1)):
            found.append(
                outcome(
                    len(found) + 1, revision, said, truth, second=request,
                    mirrored=revision == "new", pair=f"{request}/0",
                )
            )  # fmt: skip
    found.append(outcome(len(found) + 1, "new", 0, 1, mirrored=True, pair="alone/0"))
    rules = AnalysisSettings(metrics=(MetricSettings("errors"), MetricSettings("accuracy")))
    gateway = [tick(second, (100, 0), (100, 0)) for second in range(1, 13)]
    state = absorb(start_evidence("uid", rules), gateway, rules)
    for start in range(0, len(found), 200):
        page = found[start : start + 200]
        state = absorb(state, label_ticks(case, page, now=NOW), rules)
    accuracy = state.metric("accuracy")
    assert accuracy is not None
    assert accuracy.means is not None
    assert accuracy.means.differences == 400
    verdict = judge(state, rules, at(13))
    assert verdict.harm_metrics == ("accuracy",)


def test_metrics_that_need_labels() -> None:
    assert needs_labels(["errors", "recall"])
    assert not needs_labels(["errors", "latency"])
