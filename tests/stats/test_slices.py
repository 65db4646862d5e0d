"""Evidence on parts: a mean is an e-value, and few of the parts that are named are innocent."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.stats.sequential import HARM_ONLY, arm, e_value, new_state, update
from modelplane.stats.slices import combine, name_parts

e_values = st.lists(st.floats(0, 1e6), min_size=1, max_size=40)


@given(st.floats(0, 1e6), e_values)
def test_the_whole_and_its_parts_weigh_half_each(whole: float, parts: list[float]) -> None:
    assert combine(whole, parts) == pytest.approx((whole + sum(parts) / len(parts)) / 2)
    assert combine(whole, []) == whole


@given(e_values, st.floats(0.001, 0.5))
def test_the_greatest_are_named_and_more_evidence_never_takes_a_name_away(
    values: list[float], alpha: float
) -> None:
    named = name_parts(values, alpha)
    worst_named = min((e for e, is_named in zip(values, named, strict=True) if is_named), default=0)
    others = [e for e, is_named in zip(values, named, strict=True) if not is_named]
    assert all(e < worst_named for e in others) or not any(named)
    assert sum(named) * worst_named >= len(values) / alpha or not any(named)
    more = name_parts([e * 2 for e in values], alpha)
    assert all(after for before, after in zip(named, more, strict=True) if before)


def test_one_part_alone_needs_as_many_times_the_evidence_as_there_are_parts() -> None:
    assert name_parts([1.0] * 19 + [399.0], 0.05) == (False,) * 20
    assert name_parts([1.0] * 19 + [401.0], 0.05) == (False,) * 19 + (True,)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.01, 0.002])
def test_twenty_parts_and_the_whole_are_seldom_called_harmful_however_often_one_looks(
    rate: float,
) -> None:
    """The share allowed is the promised 5 % and three standard errors of the simulation."""
    runs, parts = 100, 20
    random = np.random.default_rng(31)
    shares = np.array([0.1] + [0.9 / 19] * 19)
    whole, split = new_state(HARM_ONLY, (runs,)), new_state(HARM_ONLY, (runs, parts))
    whole.history[..., 2:], split.history[..., 2:] = (2000, 2000 * rate), (50, 50 * rate)
    whole, split = arm(whole, 0.0), arm(split, 0.0)
    ever = np.zeros(runs, dtype=bool)
    named = np.zeros(runs, dtype=bool)
    for second in range(200):
        weight = (0.05, 0.25, 0.5)[min(second // 50, 2)]
        n_c = random.poisson(150 * weight * shares, (runs, parts))
        n_b = random.poisson(150 * (1 - weight) * shares, (runs, parts))
        counts = np.stack([n_c, random.binomial(n_c, rate), n_b, random.binomial(n_b, rate)], -1)
        whole, split = update(whole, counts.sum(axis=1)), update(split, counts)
        of_parts = e_value(split, 1.0)
        ever |= e_value(whole, 1.0) / 2 + of_parts.mean(axis=1) / 2 >= 20
        named |= np.array([any(name_parts(row, 0.05)) for row in of_parts.tolist()])
    allowed = 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert ever.mean() <= allowed
    assert named.mean() <= allowed
