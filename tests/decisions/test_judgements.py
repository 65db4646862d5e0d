"""The judgement beside the evidence: read when it can be, and shown only while a rollout runs."""

from __future__ import annotations

import pytest

from modelplane.decisions.judgements import read_judgement, show_judgement
from modelplane.resources.rollout import Judgement
from tests.decisions.worlds import NOW, rollout

JUDGEMENT = Judgement(
    step_id=2, at=NOW, candidate_requests=40, failed_requests=3, saved_requests=3,
    requests_needed=700,
)  # fmt: skip


def test_what_was_stored_is_read_back() -> None:
    assert read_judgement({"judgement": JUDGEMENT.to_dict(), "state": {}}) == JUDGEMENT


@pytest.mark.parametrize("evidence", [None, {}, {"state": {}}, {"judgement": {"later": 1}}])
def test_what_is_missing_or_of_another_release_is_none(evidence: dict[str, object] | None) -> None:
    assert read_judgement(evidence) is None


def test_a_running_rollout_shows_what_is_known_now() -> None:
    shown = show_judgement(rollout(), JUDGEMENT).status
    assert (shown.candidate_requests, shown.failed_requests, shown.saved_requests) == (40, 3, 3)
    assert (shown.requests_needed, shown.judged_at) == (700, NOW)


@pytest.mark.parametrize("phase", ["Promoted", "RolledBack", "Failed", "Superseded"])
def test_a_finished_rollout_keeps_its_last_figures(phase: str) -> None:
    finished = rollout(phase)
    assert show_judgement(finished, JUDGEMENT) == finished
    assert show_judgement(rollout(), None) == rollout()
