"""Limits and time-outs: what may be declared, and that it means the same when it is read again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from modelplane.resources.limits import Limits
from modelplane.resources.model_deployment import ModelDeploymentSpec

WHOLE = st.integers(-2, 200_000)
NUMBERS = st.floats() | st.integers(-1, 10**10) | st.booleans() | st.text(max_size=5)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "maxBody": NUMBERS,
            "maxConcurrency": WHOLE,
            "rate": st.fixed_dictionaries({"requests": WHOLE}, optional={"per": NUMBERS}),
            "retryBudget": NUMBERS,
            "ejectAfter": WHOLE,
            "ejectFor": NUMBERS | st.floats(0, 0.01),
        },
    )
)
@example({"ejectFor": 0.0001})
def test_what_is_taken_is_within_bounds_and_can_be_read_again(declared: dict[str, Any]) -> None:
    try:
        limits = Limits.model_validate(declared)
    except ValidationError:
        return
    assert Limits.model_validate(limits.to_dict()) == limits
    assert limits.max_body is None or limits.max_body >= 1
    assert limits.max_concurrency is None or 1 <= limits.max_concurrency <= 100_000
    assert limits.rate is None or 0.1 <= limits.rate.per_s <= 3600
    assert limits.retry_budget is None or 0 <= limits.retry_budget <= 100
    assert 1 <= limits.eject_after <= 1000
    assert 0.001 <= limits.eject_for_s <= 300


@pytest.mark.parametrize("field", ["timeout", "tryTimeout"])
@pytest.mark.parametrize("value", [0, "0s", 0.0004, -1, float("nan")])
def test_a_request_has_a_time_out(field: str, value: Any) -> None:
    good = {"model": "fraud", "version": "1.0.0"}
    assert ModelDeploymentSpec.model_validate({**good, field: "250ms"})
    with pytest.raises(ValidationError, match=field):
        ModelDeploymentSpec.model_validate({**good, field: value})
