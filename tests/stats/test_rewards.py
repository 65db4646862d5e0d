"""Numbers of two versions: the e-value keeps its promise, the bounds too, and pairs need less."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.stats.rewards import (
    MeanState,
    add_history,
    add_pairs,
    add_values,
    arm_means,
    lower_mean_bound,
    mean_e_value,
    scale,
    upper_mean_bound,
)

ALPHA = 0.05
unit = st.floats(0, 1)
Draw = Callable[[np.random.Generator, float, int], np.ndarray]


def armed(shift: float = 0.0, margin: float = 0.05) -> MeanState:
    return arm_means(MeanState(), shift, margin)


def skewed(random: np.random.Generator, mean: float, count: int) -> np.ndarray:
    """Mostly 0, sometimes far: the shape that breaks tests made for normal numbers."""
    return random.binomial(1, mean, count).astype(float)


def smooth(random: np.random.Generator, mean: float, count: int) -> np.ndarray:
    return random.beta(4 * mean, 4 * (1 - mean), count)


def reject(
    random: np.random.Generator,
    draw: Draw,
    means: tuple[float, float],
    per_call: tuple[int, int],
    calls: int = 60,
) -> int | None:
    """The call at which harm is shown, looking after each; None when it never is."""
    state = armed()
    for call in range(1, calls + 1):
        candidate = draw(random, means[0], per_call[0])
        stable = draw(random, means[1], per_call[1])
        state = add_values(state, candidate.tolist(), stable.tolist())
        if mean_e_value(state) >= 1 / ALPHA:
            return call
    return None


@pytest.mark.slow
@pytest.mark.parametrize("per_call", [(10, 10), (2, 38), (30, 3)])
@pytest.mark.parametrize("draw", [skewed, smooth])
def test_equal_versions_are_told_apart_no_more_often_than_alpha(
    draw: Draw, per_call: tuple[int, int]
) -> None:
    random = np.random.default_rng(7)
    runs = 100
    false = sum(reject(random, draw, (0.2, 0.2), per_call) is not None for _ in range(runs))
    assert false <= ALPHA * runs


@pytest.mark.parametrize("draw", [skewed, smooth])
def test_a_worse_version_is_found(draw: Draw) -> None:
    random = np.random.default_rng(8)
    found = [reject(random, draw, (0.4, 0.2), (10, 10)) for _ in range(30)]
    assert all(call is not None for call in found)


@pytest.mark.slow
def test_bounds_hold_at_every_look() -> None:
    random, wrong, runs = np.random.default_rng(9), 0, 200
    for _ in range(runs):
        state = armed()
        for _ in range(30):
            state = add_values(
                state, smooth(random, 0.3, 10).tolist(), smooth(random, 0.25, 10).tolist()
            )
            outside = not lower_mean_bound(state) <= 0.05 <= upper_mean_bound(state)
            if outside:
                wrong += 1
                break
    assert wrong <= 2 * ALPHA * runs


def test_a_better_version_gets_an_upper_bound_below_zero() -> None:
    random = np.random.default_rng(10)
    state = add_values(
        armed(), smooth(random, 0.2, 3000).tolist(), smooth(random, 0.4, 3000).tolist()
    )
    assert -0.25 < upper_mean_bound(state) < 0
    assert lower_mean_bound(state) < -0.15


def test_pairs_of_the_same_requests_need_fewer_labels_than_two_arms() -> None:
    """Both models are wrong about the same hard requests; the candidate about a few more."""
    random = np.random.default_rng(11)
    hard = random.random(4000) < 0.2
    worse = hard | (random.random(4000) < 0.05)
    needed = {}
    for name, add in (("pairs", add_pairs), ("arms", add_values)):
        state, order = armed(), random.permutation(4000)
        needed[name] = 4000
        for start in range(0, 4000, 50):
            chosen = order[start : start + 50]
            other = chosen if name == "pairs" else order[::-1][start : start + 50]
            ours, theirs = worse[chosen].astype(float), hard[other].astype(float)
            state = add(state, ours.tolist(), theirs.tolist())
            if mean_e_value(state) >= 1 / ALPHA:
                needed[name] = start + 50
                break
    assert needed["pairs"] <= needed["arms"] / 2


@given(st.integers(0, 200), st.integers(0, 200))
def test_only_discordant_pairs_count_against_one_half(worse: int, better: int) -> None:
    some = add_pairs(armed(), [1.0] * worse + [0.0] * better, [0.0] * worse + [1.0] * better)
    agreeing = [1.0] * 300
    more = add_pairs(
        armed(), [*agreeing, *[1.0] * worse, *[0.0] * better],
        [*agreeing, *[0.0] * worse, *[1.0] * better],
    )  # fmt: skip
    if worse + better:
        assert mean_e_value(more) == pytest.approx(mean_e_value(some))
    assert mean_e_value(more) < 1 / ALPHA or worse > better


@given(st.lists(unit, max_size=50), st.lists(unit, max_size=50), st.randoms())
def test_a_record_reads_back_exactly_and_goes_on_the_same(
    candidate: list[float], stable: list[float], random: object
) -> None:
    state = add_values(add_history(MeanState(), stable), candidate, [])
    for now in (state, arm_means(state, 0.01, 0.05)):
        again = MeanState.from_dict(json.loads(json.dumps(now.to_dict())))
        went, goes = (add_values(one, stable, candidate) for one in (now, again))
        assert (went.log_wealth == goes.log_wealth).all()
        assert went.to_dict() == goes.to_dict()


@given(st.lists(unit, min_size=1, max_size=30), st.lists(unit, min_size=1, max_size=30))
def test_what_waits_for_the_warm_up_is_not_lost(
    candidate: list[float], stable: list[float]
) -> None:
    waited = add_values(armed(), [], [])
    for state in (add_values(add_values(MeanState(), candidate, []), [], stable),):
        late = add_values(arm_means(state, 0.0, 0.05), [0.5], [0.5])
        at_once = add_values(waited, [*candidate, 0.5], [*stable, 0.5])
        assert late.differences == at_once.differences
        assert mean_e_value(late) == pytest.approx(mean_e_value(at_once))


@given(st.floats(-1e6, 1e6), st.floats(-100, 100), st.floats(0.01, 100), st.booleans())
def test_badness_lies_between_its_ends(value: float, low: float, width: float, up: bool) -> None:
    badness = scale(value, low, low + width, higher_is_better=up)
    assert 0 <= badness <= 1
    assert scale(float("nan"), low, low + width, higher_is_better=up) == 1
