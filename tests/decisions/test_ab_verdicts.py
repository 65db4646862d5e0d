"""Which arm of an A/B/n test a rollout is, and what the last test said of a version."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from modelplane.decisions.rollout_ab import find_arm, last_verdict
from modelplane.resources.strategy import AbStrategy, Arm
from tests.decisions import worlds
from tests.decisions.test_rollout import NOW, spec


@pytest.mark.parametrize(
    ("arm", "candidate", "lane"),
    [
        ("2.0.0", "2.0.0", "test/2.0.0"),
        ("v2", "2.0.0", "test/2.0.0"),
        ("7", "2.0.0", "test/7"),
    ],
)
def test_an_arm_is_found_however_it_names_its_version(arm: str, candidate: str, lane: str) -> None:
    ab = AbStrategy(arms=(Arm(version="9.9.9", percentage=1), Arm(version=arm, percentage=20)))
    found = find_arm(ab, spec(candidate=worlds.revision(candidate), lane=lane))
    assert found is not None
    assert found.percentage == 20


def concluded(verdict: str, minutes: int, of: Any) -> Any:
    ended = NOW + timedelta(minutes=minutes)
    made = worlds.rollout("Concluded", candidate=of)
    return made.with_status(verdict=verdict, finished_at=ended)


def test_the_last_test_of_the_version_counts_in_whichever_environment() -> None:
    tests = [
        concluded("pass", 3, worlds.V2),
        concluded("undecided", 1, worlds.V2),
        concluded("", 9, worlds.V2),
        concluded("harm", 8, worlds.V3),
        worlds.rollout("Ramping"),
    ]
    assert last_verdict(tests, worlds.V2) == "pass"
    assert last_verdict(tests, worlds.V2, NOW + timedelta(minutes=2)) == "undecided"
    assert last_verdict(tests, worlds.V1) == ""
