"""Promotions: the only road, the latest one wins, and each ends with what became of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.promotion import decide_promotion
from modelplane.resources.promotion import FINISHED_PROMOTION
from tests.decisions.worlds import NOW, V1, V2, deployment, promotion, rollout

LATEST = deployment(promotions=2, promotion="delay-2")


def test_without_a_policy_it_is_approved_and_then_starts_its_rollout() -> None:
    first = decide_promotion(promotion(), LATEST, None, None, now=NOW)
    assert (first.status.phase, first.start_rollout) == ("Approved", False)
    second = decide_promotion(promotion().with_(status=first.status), LATEST, None, None, now=NOW)
    assert (second.status.phase, second.start_rollout) == ("RollingOut", True)


def test_it_waits_for_an_older_rollout_to_end_and_asks_it_to() -> None:
    running = rollout(promotion="delay-1")
    decision = decide_promotion(promotion("Approved"), LATEST, None, running, now=NOW)
    assert decision.supersede == running
    assert not decision.start_rollout


def test_an_older_one_gives_way_to_a_newer() -> None:
    newer = deployment(promotions=3, promotion="delay-3")
    decision = decide_promotion(promotion(), newer, None, None, now=NOW)
    assert decision.status.phase == "Superseded"


def test_a_revision_that_already_serves_is_done_at_once() -> None:
    serving = deployment(V2, promotions=2)
    decision = decide_promotion(promotion("Approved", of=V2), serving, None, None, now=NOW)
    assert (decision.status.phase, decision.status.reason) == ("Done", "AlreadyServing")


@pytest.mark.parametrize(
    ("ended", "phase"),
    [
        ("Promoted", "Done"), ("RolledBack", "RolledBack"), ("Failed", "Failed"),
        ("Superseded", "Superseded"),
    ],
)  # fmt: skip
def test_it_ends_as_its_rollout_ended(ended: str, phase: str) -> None:
    own = rollout(ended)
    decision = decide_promotion(promotion("RollingOut"), LATEST, own, None, now=NOW)
    assert decision.status.phase == phase
    assert decision.status.finished_at == NOW


def test_a_deleted_deployment_ends_it() -> None:
    decision = decide_promotion(promotion(), None, None, None, now=NOW)
    assert (decision.status.phase, decision.status.reason) == ("Failed", "Deleted")


@given(
    st.sampled_from(["Requested", "Approved", "RollingOut", *sorted(FINISHED_PROMOTION)]),
    st.sampled_from([None, V1, V2]),
    st.integers(1, 4),
    st.booleans(),
)
def test_a_rollout_starts_only_when_approved_latest_and_alone(
    phase: str, stable: object, latest: int, busy: bool
) -> None:
    world = deployment(stable, promotions=latest)  # type: ignore[arg-type]
    running = rollout(promotion="delay-1") if busy else None
    decision = decide_promotion(promotion(phase), world, None, running, now=NOW)
    if decision.start_rollout:
        assert phase in {"Approved", "RollingOut"}
        assert latest <= 2
        assert running is None
    if phase in FINISHED_PROMOTION:
        assert decision.status == promotion(phase).status
