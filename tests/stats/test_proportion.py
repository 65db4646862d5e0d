"""The lower bound of a share: it moves the right way, and holds at every look."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.stats.proportion import share_lower_bound


@given(st.integers(1, 100_000), st.floats(0, 1), st.sampled_from([0.5, 0.05, 0.001]))
def test_it_lies_below_what_was_seen_and_rises_with_it(
    trials: int, share: float, beta: float
) -> None:
    seen = round(share * trials)
    bound = share_lower_bound(seen, trials, beta)
    assert 0 <= bound <= seen / trials
    assert bound <= share_lower_bound(min(seen + 1, trials), trials, beta) + 1e-9
    assert share_lower_bound(seen, trials + 1, beta) <= bound + 1e-9
    assert share_lower_bound(seen, trials, beta / 2) <= bound


def test_ten_of_ten_say_that_most_differ_and_none_says_nothing() -> None:
    assert share_lower_bound(10, 10) > 0.7
    assert share_lower_bound(0, 10) == share_lower_bound(0, 0) == 0.0


def test_it_comes_close_to_the_truth_with_many_trials() -> None:
    assert 0.045 < share_lower_bound(5_000, 100_000) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.002, 0.05, 0.6])
def test_it_is_seldom_ever_above_the_truth(share: float) -> None:
    random = np.random.default_rng(17)
    runs = 100
    seen = random.binomial(1, share, (runs, 400)).cumsum(axis=1)
    looks = [1, 2, 3, 5, 8, 12, 18, 27, 40, 60, 90, 135, 200, 300, 400]
    wrong = sum(
        any(share_lower_bound(int(one[look - 1]), look) > share for look in looks) for one in seen
    )
    assert wrong / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
