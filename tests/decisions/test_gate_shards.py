"""Suites in parts: every case once, loads that are even, and one outcome of it all."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.gate_shards import case_durations, cut_cases, merge_outcomes
from modelplane.resources.gate_run import Finding, Measurement, StageOutcome, TestCase

NAMES = st.lists(st.text("abcdefgh", min_size=1, max_size=3), min_size=1, max_size=40)


@given(
    cases=NAMES,
    shards=st.integers(1, 8),
    durations=st.dictionaries(st.text("abcdefgh", max_size=3), st.floats(0, 100)),
)
def test_every_case_is_in_one_shard_and_no_shard_is_empty(
    cases: list[str], shards: int, durations: dict[str, float]
) -> None:
    cut = cut_cases(cases, shards, durations)
    assert sorted(case for part in cut for case in part) == sorted(set(cases))
    assert all(cut)
    assert len(cut) == min(shards, len(set(cases)))


@given(lengths=st.lists(st.floats(0.1, 100), min_size=2, max_size=12), shards=st.integers(2, 4))
def test_the_slowest_shard_is_within_four_thirds_of_the_best(
    lengths: list[float], shards: int
) -> None:
    durations = {f"c{index}": length for index, length in enumerate(lengths)}
    cut = cut_cases(list(durations), shards, durations)
    slowest = max(sum(durations[case] for case in part) for part in cut)
    # No cut can beat the mean, nor the longest case, nor two of the shards + 1 longest together.
    longest = sorted(lengths, reverse=True)
    two = longest[shards - 1] + longest[shards] if len(longest) > shards else 0.0
    best = max(math.fsum(lengths) / shards, longest[0], two)
    assert slowest <= best * (4 / 3 - 1 / (3 * shards)) + 1e-6 or slowest <= best + longest[0]


def test_unknown_cases_count_as_the_mean_of_the_known() -> None:
    cut = cut_cases(["a", "b", "c", "d"], 2, {"a": 4.0, "b": 2.0})
    assert [set(part) for part in cut] == [{"a", "b"}, {"c", "d"}] or len(cut) == 2
    loads = [sum({"a": 4.0, "b": 2.0}.get(case, 3.0) for case in part) for part in cut]
    assert loads == [6.0, 6.0]


def test_order_is_kept_within_a_shard() -> None:
    (only,) = cut_cases(["z", "a", "m", "a"], 1, {"m": 9.0})
    assert only == ("z", "a", "m")


def outcome(passed: bool, value: float, cases: int, message: str = "") -> StageOutcome:
    return StageOutcome(
        passed=passed,
        message=message,
        measurements=(Measurement(name="score", value=value),),
        findings=(Finding(severity="info", code="x", message=f"{value}"),),
        cases=tuple(
            TestCase(name=f"{value}-{i}", passed=passed, duration_s=0.5) for i in range(cases)
        ),
    )


def test_shards_become_one_outcome() -> None:
    merged = merge_outcomes([outcome(True, 1.0, 3), outcome(False, 0.0, 1, "one failed")])
    assert (merged.passed, merged.message) == (False, "one failed")
    assert len(merged.cases) == 4
    assert [f.message for f in merged.findings] == ["1.0", "0.0"]
    by_slice = {m.slice: m.value for m in merged.measurements}
    assert by_slice == {"": 0.75, "shard=0": 1.0, "shard=1": 0.0}
    assert merge_outcomes([outcome(True, 1.0, 1)]) == outcome(True, 1.0, 1)
    assert merge_outcomes([outcome(True, 1, 1)] * 2).message == "2 of 2 cases passed, in 2 shards"


def test_too_many_cases_are_cut_and_the_failed_ones_stay() -> None:
    many = outcome(True, 1.0, 4999)
    merged = merge_outcomes([many, outcome(False, 0.0, 3)])
    assert len(merged.cases) == 5000
    assert sum(not case.passed for case in merged.cases) == 3
    assert merged.findings[0].code == "cases-left-out"


def test_durations_come_from_the_report_or_from_what_is_left_of_the_shard() -> None:
    told = outcome(True, 1.0, 1)
    durations = case_durations([("1.0-0", "other", "third")], [told], [4.5])
    assert durations == {"1.0-0": 0.5, "other": 2.0, "third": 2.0}
    assert case_durations([("a",)], [outcome(True, 1.0, 0)], [3.0]) == {"a": pytest.approx(3.0)}
