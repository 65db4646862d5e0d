"""The sequential tests: reference values, fairness of every step, storage."""

from __future__ import annotations

import json
import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelplane.stats.sequential import (
    COMPARISON,
    EXCEEDANCE,
    HARM_BETS,
    HARM_ONLY,
    LOWER_MARGINS,
    PENDING_STABLE_TRIALS,
    SHARE_PER_BLOCK,
    SequentialState,
    arm,
    e_value,
    faster_log_e_value,
    log_e_value,
    lower_bound,
    margin_log_wealth,
    new_state,
    update,
    upper_bound,
    upper_margins,
)
from modelplane.stats.sequential_rows import row_from_dict, row_to_dict, split, stack

Block = tuple[int, int, int, int]


def blocks(most: int = 30) -> st.SearchStrategy[list[Block]]:
    side = st.integers(0, most).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))
    return st.lists(st.tuples(side, side).map(lambda two: (*two[0], *two[1])), max_size=6)


def warm(
    plan: object = COMPARISON, stable: tuple[int, int] = (200, 2), shift: float = 0.00025
) -> SequentialState:
    state = update(new_state(plan), [[0, 0, *stable]])  # type: ignore[arg-type]
    return arm(state, shift, 0.0025)


def scalar_harm_wealth(counts: list[Block], stable: tuple[int, int], d: float) -> list[float]:
    """The harm test written out bet by bet with plain floats: an independent reference."""
    n_total, k_total = stable
    wealth = [1.0] * HARM_BETS
    for n_c, k_c, n_b, k_b in counts:
        rate = (k_total + 0.5) / (n_total + 1)
        m = rate + d
        thetas = [r * m / (1 - m + r * m) for r in (1.2, 1.5, 2, 3, 5, 10, 30)]
        thetas += [min(0.995, max(v, 1.5 * m)) for v in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.98)]
        w = n_c / (n_c + n_b)
        for index, theta in enumerate(thetas, start=1):
            b = d - w * theta - (1 - w) * rate
            root = math.sqrt(b * b + 4 * (1 - w) * rate * d)
            q_b = (root - b) / 2
            q_c = q_b + d
            bet_c = min((theta - q_c) / (q_c * (1 - q_c)), 0.999 * n_b / (n_c * (1 - q_b)))
            if theta <= m:
                bet_c = 0.0
            bet_b = -n_c / n_b * bet_c
            wealth[index] *= (1 + bet_c * (1 - q_c)) ** k_c * (1 - bet_c * q_c) ** (n_c - k_c)
            wealth[index] *= (1 + bet_b * (1 - q_b)) ** k_b * (1 - bet_b * q_b) ** (n_b - k_b)
        mean = sum(wealth) / len(wealth)
        wealth = [(1 - SHARE_PER_BLOCK) * own + SHARE_PER_BLOCK * mean for own in wealth]
        n_total, k_total = n_total + n_b, k_total + k_b
    return wealth


@pytest.mark.parametrize("d", [0.0, 0.00025, 0.01])
def test_wealth_agrees_with_the_formula_written_out(d: float) -> None:
    counts: list[Block] = [
        (1, 0, 99, 1),
        (2, 1, 98, 0),
        (50, 3, 50, 1),
        (7, 7, 3, 0),
        (40, 0, 60, 2),
    ]
    state = warm(stable=(500, 4), shift=d)
    for block in counts:
        state = update(state, [block])
    expected = scalar_harm_wealth(counts, (500, 4), d)
    assert np.exp(state.log_wealth[0, :HARM_BETS]) == pytest.approx(expected, rel=1e-9)
    assert float(e_value(state, 1.0)[0]) == pytest.approx(sum(expected) / HARM_BETS, rel=1e-9)


@settings(max_examples=25)
@given(before=blocks(), n_c=st.integers(1, 3), n_b=st.integers(1, 3),
       p_b=st.floats(0, 1), inside=st.floats(0, 1))  # fmt: skip
def test_the_mean_harm_wealth_never_grows_on_average_under_the_null(
    before: list[Block], n_c: int, n_b: int, p_b: float, inside: float
) -> None:
    state = warm(shift=0.01)
    for block in before:
        state = update(state, [block])
    state = update(state, [[1, 0, 1, 0]])  # nothing stays pending
    p_c = inside * min(1.0, p_b + 0.01)
    now = float(e_value(state, 1.0)[0])
    later = 0.0
    for k_c, k_b in product(range(n_c + 1), range(n_b + 1)):
        chance = math.comb(n_c, k_c) * p_c**k_c * (1 - p_c) ** (n_c - k_c)
        chance *= math.comb(n_b, k_b) * p_b**k_b * (1 - p_b) ** (n_b - k_b)
        later += chance * float(e_value(update(state, [[n_c, k_c, n_b, k_b]]), 1.0)[0])
    assert later <= now * (1 + 1e-9)


@given(blocks())
def test_an_update_leaves_the_old_state_alone(counts: list[Block]) -> None:
    state = warm()
    kept = json.dumps(row_to_dict(state, 0))
    for block in counts:
        update(state, [block])
    assert json.dumps(row_to_dict(state, 0)) == kept


@settings(max_examples=20)
@given(blocks(), st.sampled_from([COMPARISON, HARM_ONLY, EXCEEDANCE]))
def test_a_stored_row_goes_on_exactly_as_one_that_was_never_stored(
    counts: list[Block], plan: object
) -> None:
    kept = stored = warm(plan)
    for block in counts:
        kept = update(kept, [block])
        stored = update(stored, [block])
        stored = row_from_dict(json.loads(json.dumps(row_to_dict(stored, 0))))
    assert row_to_dict(kept, 0) == row_to_dict(stored, 0)


@settings(max_examples=15)
@given(st.lists(blocks(), min_size=1, max_size=3))
def test_rows_updated_together_are_the_same_as_rows_updated_alone(many: list[list[Block]]) -> None:
    together = [warm(stable=(100 + row, row)) for row in range(len(many))]
    alone = list(together)
    for turn in range(max(map(len, many))):
        tick = [counts[turn] if turn < len(counts) else (0, 0, 0, 0) for counts in many]
        together = split(update(stack(together), tick), [1] * len(many))
        alone = [update(state, [block]) for state, block in zip(alone, tick, strict=True)]
    for one, other in zip(together, alone, strict=True):
        assert row_to_dict(one, 0) == row_to_dict(other, 0)


def test_rows_may_have_any_leading_shape() -> None:
    state = arm(
        update(new_state(COMPARISON, (2, 3)), np.broadcast_to([0, 0, 100, 1], (2, 3, 4))), 0.0, 0.01
    )
    state = update(state, np.broadcast_to([5, 5, 50, 0], (2, 3, 4)))
    assert e_value(state, 1.0).shape == upper_bound(state, 1.0, 0.05).shape == (2, 3)


class TestBlocks:
    def test_candidate_counts_wait_for_a_stable_trial(self) -> None:
        state = update(warm(), [[3, 3, 0, 0]])
        assert float(e_value(state, 1.0)[0]) == 1.0
        together = update(state, [[0, 0, 30, 0]])
        assert row_to_dict(together, 0) == row_to_dict(update(warm(), [[3, 3, 30, 0]]), 0)

    def test_stable_counts_without_candidates_become_history(self) -> None:
        state = warm(stable=(200, 2))
        for _ in range(5):
            state = update(state, [[0, 0, PENDING_STABLE_TRIALS, 1]])
        assert state.history[0, 2:].tolist() == [200 + 4 * PENDING_STABLE_TRIALS, 6]
        assert state.pending[0].tolist() == [0, 0, PENDING_STABLE_TRIALS, 1]
        assert float(e_value(state, 1.0)[0]) == 1.0

    def test_candidate_failures_in_the_warm_up_are_not_lost(self) -> None:
        state = update(new_state(COMPARISON), [[4, 4, 200, 1]])
        assert float(e_value(state, 1.0)[0]) == 1.0
        state = update(arm(state, 0.0, 0.0025), [[0, 0, 40, 0]])
        assert float(e_value(state, 1.0)[0]) > 20

    @given(blocks())
    def test_no_trial_is_lost_or_counted_twice(self, counts: list[Block]) -> None:
        state = warm(stable=(200, 2))
        for block in counts:
            state = update(state, [block])
        total = (state.history + state.pending)[0] - [0, 0, 200, 2]
        assert total.tolist() == np.array(counts or [(0, 0, 0, 0)]).sum(axis=0).tolist()


class TestReading:
    def test_a_total_outage_shows_within_six_failures(self) -> None:
        for stable_failures in (0, 2, 10):
            state = warm(stable=(1000, stable_failures), shift=0.0)
            failures = 0
            while float(e_value(state, 1.0)[0]) < 20:
                state = update(state, [[1, 1, 99, 0]])
                failures += 1
            assert failures <= 6

    def test_an_outage_after_a_long_healthy_time_shows_at_once(self) -> None:
        state = warm(stable=(1000, 1))
        for _ in range(600):
            state = update(state, [[1, 0, 99, 0]])
        for _ in range(6):
            state = update(state, [[1, 1, 99, 0]])
        assert float(e_value(state, 1.0)[0]) > 20

    @given(blocks(), st.floats(1, 5))
    def test_phi_never_adds_evidence(self, counts: list[Block], phi: float) -> None:
        state = warm()
        for block in counts:
            state = update(state, [block])
        plain = float(log_e_value(state, 1.0)[0])
        assert float(log_e_value(state, phi)[0]) <= max(plain, 0.0) / phi + 1e-9

    def test_the_e_value_stays_finite(self) -> None:
        state = warm()
        for _ in range(20):
            state = update(state, [[500, 500, 500, 0]])
        assert np.isfinite(e_value(state, 1.0)).all()
        assert json.loads(json.dumps(row_to_dict(state, 0)))["log_wealth"][1] > 100

    @given(blocks(most=400))
    def test_the_bounds_are_in_order_and_on_their_grids(self, counts: list[Block]) -> None:
        state = warm()
        for block in counts:
            state = update(state, [block])
        upper = float(upper_bound(state, 1.0, 0.05)[0])
        lower = float(lower_bound(state, 1.0, 0.05)[0])
        assert upper in {1.0, *upper_margins(state.margin)[0].tolist()}
        assert lower in {-1.0, *LOWER_MARGINS.tolist()}

    def test_a_good_candidate_reaches_its_margin_and_says_so_before(self) -> None:
        state = warm(stable=(1000, 0), shift=0.0)
        needed = 0
        while float(upper_bound(state, 1.0, 0.05)[0]) > 0.0025:
            state = update(state, [[50, 0, 50, 0]])
            needed += 100
        assert 2000 <= needed <= 2800  # about 2,400 by the formula
        assert float(margin_log_wealth(state, 1.0)[0]) >= math.log(20)

    @pytest.mark.parametrize("failing", [0, 1])
    def test_a_billion_requests_of_one_kind_leave_all_wealth_finite(self, failing: int) -> None:
        n = 10**9
        for plan in (COMPARISON, EXCEEDANCE):
            state = warm(plan, (n, failing * n))
            for _ in range(3):
                state = update(state, [[n, failing * n, n, failing * n]])
            state = update(state, [[100, 50, 100, 50]])
            assert np.isfinite(state.log_wealth).all()

    def test_a_much_worse_candidate_has_a_positive_lower_bound(self) -> None:
        state = warm()
        for _ in range(40):
            state = update(state, [[50, 10, 50, 1]])
        assert 0.05 <= float(lower_bound(state, 1.0, 0.05)[0]) <= 0.18
        assert float(upper_bound(state, 1.0, 0.05)[0]) >= 0.18

    def test_fewer_exceedances_than_stable_pass_and_as_many_do_not(self) -> None:
        state = warm(EXCEEDANCE, stable=(2000, 100), shift=0.0)
        fewer = same = state
        for _ in range(60):
            fewer = update(fewer, [[40, 1, 40, 2]])
            same = update(same, [[40, 2, 40, 2]])
        assert float(faster_log_e_value(fewer, 1.0)[0]) > math.log(20)
        assert float(faster_log_e_value(same, 1.0)[0]) < 0


class TestMargins:
    @given(st.floats(0.0005, 0.5))
    def test_the_rows_own_margin_is_among_the_falling_ones(self, margin: float) -> None:
        grid = upper_margins([margin])[0]
        assert margin in grid.tolist()
        assert (np.diff(grid) < 0).all()


def test_a_record_of_another_shape_is_refused() -> None:
    record = row_to_dict(warm(), 0)
    with pytest.raises(ValueError, match="holds 55 bets, the record has 54"):
        row_from_dict({**record, "log_wealth": record["log_wealth"][:-1]})


def test_states_of_different_plans_do_not_mix() -> None:
    with pytest.raises(ValueError, match="different plans"):
        stack([warm(COMPARISON), warm(HARM_ONLY)])
