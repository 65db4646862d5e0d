"""Which replica: what is left without each, and when failures gather on one."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from modelplane.stats.replicas import counts_without_each, gathering


def test_what_no_replica_accounts_for_counts_everywhere() -> None:
    rows = counts_without_each([10, 5, 90, 0], [[4, 1], [4, 2]])
    assert rows == [(6, 4, 90, 0), (6, 3, 90, 0)]


def test_attempts_beyond_the_requests_do_not_hide_failures() -> None:
    rows = counts_without_each([10, 10, 9, 0], [[10, 10], [10, 10]])
    assert rows == [(10, 10, 9, 0)] * 2


@given(
    st.lists(st.integers(0, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))),
    st.integers(0, 20),
    st.integers(0, 20),
)
def test_every_row_is_a_possible_count(
    replicas: list[tuple[int, int]], requests: int, failures: int
) -> None:
    whole = (max(requests, failures), failures, 7, 1)
    for n_c, k_c, n_b, k_b in counts_without_each(whole, replicas):
        assert 0 <= k_c <= n_c
        assert (n_b, k_b) == (7, 1)


@given(st.integers(1, 60), st.integers(0, 60), st.floats(0.01, 0.99))
def test_gathering_never_overstates_the_surprise(total: int, own: int, share: float) -> None:
    own = min(own, total)
    exact = float(binom.sf(own - 1, total, share))
    assert math.exp(-gathering(own, total, share)) >= exact * (1 - 1e-9)


@given(st.integers(1, 60), st.integers(0, 59), st.floats(0.01, 0.99))
def test_more_failures_on_a_replica_surprise_more(total: int, own: int, share: float) -> None:
    own = min(own, total - 1)
    assert gathering(own + 1, total, share) >= gathering(own, total, share)


def test_a_lone_replica_is_never_surprising() -> None:
    assert gathering(9, 9, 1.0) == 0
    assert gathering(0, 0, 0.5) == 0
