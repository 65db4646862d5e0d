"""Names of workloads and the standing of authorities."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from modelplane.decisions.identity import (
    Authority,
    allowed_peers,
    decide_standing,
    renewal_due,
    spiffe_id,
    trust_domain_of,
)
from modelplane.resources.certificates import Workload

START = datetime(2026, 1, 5, tzinfo=UTC)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Authority], datetime]:
    """Authorities as rotations make them: one signs before the next is made."""
    authorities: list[Authority] = []
    created = START
    for number in range(1, draw(st.integers(1, 5)) + 1):
        joining_s = draw(st.integers(1, 1000)) if authorities else 0
        signs = created + timedelta(seconds=joining_s)
        life_s = float(draw(st.integers(1, 5000)))
        authorities.append(Authority(number, created, signs, life_s))
        created = signs + timedelta(seconds=draw(st.integers(0, 3000)))
    return authorities, START + timedelta(seconds=draw(st.integers(0, 30_000)))


@given(histories())
def test_whoever_may_have_signed_a_living_certificate_is_trusted(
    history: tuple[list[Authority], datetime],
) -> None:
    authorities, now = history
    made = [one for one in authorities if one.created_at <= now]
    standing = decide_standing(made, now)
    assert standing.signer.signs_from <= now
    trusted = {one.number for one in standing.trusted}
    for one, successor in itertools.pairwise(made):
        last_issued = successor.signs_from
        if last_issued + timedelta(seconds=one.longest_life_s) > now:
            assert one.number in trusted
    assert {one.number for one in standing.gone}.isdisjoint(trusted)
    assert len(standing.trusted) + len(standing.gone) == len(made)


@given(st.text(max_size=30), st.integers(1, 100_000))
def test_renewal_comes_well_before_the_end_and_not_at_once(seed: str, life_s: int) -> None:
    end = START + timedelta(seconds=life_s)
    share = (renewal_due(START, end, seed) - START) / (end - START)
    assert 0.39 < share < 0.61


def test_names_tell_environments_and_nodes_apart() -> None:
    inbound = Workload(environment="staging", role="inbound", node="one")
    name = spiffe_id("d", inbound)
    assert name == "spiffe://d/environments/staging/nodes/one/inbound"
    assert trust_domain_of(name) == "d"
    assert allowed_peers(("staging", "spiffe://other/gateway", "staging"), "d") == (
        "spiffe://d/environments/staging/gateway",
        "spiffe://other/gateway",
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"environment": "staging", "role": "gateway", "node": "one"},
        {"environment": "staging", "role": "inbound"},
        {"environment": "staging", "role": "inbound", "node": "a/../../b"},
        {"environment": "staging/nodes/x", "role": "gateway"},
        {"environment": "staging", "role": "admin"},
    ],
)
def test_a_workload_is_one_of_two(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Workload.model_validate(fields)
