"""Automatic promotions: from the first environment on, newer ones only, each version once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.automatic import ModelSituation, decide_automatic, find_previous
from modelplane.resources.model import ModelVersion
from modelplane.resources.model_deployment import (
    ModelDeployment,
    ModelDeploymentSpec,
    ModelDeploymentStatus,
)
from modelplane.resources.promotion import FINISHED_PROMOTION, Promotion
from modelplane.resources.promotion_policy import PromotionPolicy
from tests.decisions.gates import environment, model, policy, version
from tests.decisions.worlds import metadata, promotion, revision

STAGING, PRODUCTION = environment("staging", 10), environment("production", 20)
EVERYWHERE = policy(environments=["staging", "production"], automatic=True)
ONLY_PRODUCTION = policy(automatic=True)
ONLY_STAGING = policy(environments=["staging"], automatic=True)


def pushed(*numbers: str) -> list[ModelVersion]:
    return [version(revision(number)) for number in numbers]


def serves(place: str, number: str | None, name: str = "delay") -> ModelDeployment:
    return ModelDeployment(
        metadata=metadata(name, environment=place),
        spec=ModelDeploymentSpec(model="delay"),
        status=ModelDeploymentStatus(stable=revision(number) if number else None),
    )


def asked(number: str, phase: str = "Done", automatic: bool = True) -> Promotion:
    return promotion(phase, of=revision(number)).with_spec(automatic=automatic)


def steps(
    versions: list[ModelVersion],
    deployments: list[ModelDeployment],
    policies: tuple[PromotionPolicy, ...] = (EVERYWHERE,),
    **promotions: list[Promotion],
) -> list[tuple[str, str]]:
    situation = ModelSituation(
        model(), [PRODUCTION, STAGING], policies, versions, deployments, promotions
    )
    return [(step.environment, step.version) for step in decide_automatic(situation)]


@pytest.mark.parametrize(
    ("versions", "deployments", "policies", "expected"),
    [
        (["1.0.0"], [], (EVERYWHERE,), []),
        (["1.0.0"], [("staging", None)], (EVERYWHERE,), [("staging", "1.0.0")]),
        (["1.0.0", "2.0.0"], [("staging", "1.0.0")], (EVERYWHERE,),
         [("staging", "2.0.0"), ("production", "1.0.0")]),
        (["1.0.0"], [("staging", "1.0.0")], (EVERYWHERE,), [("production", "1.0.0")]),
        (["1.0.0"], [("staging", "1.0.0"), ("production", "1.0.0")], (EVERYWHERE,), []),
        (["1.0.0", "0.9.0"], [("staging", "1.0.0")], (ONLY_STAGING,), []),
        (["1.0.0", "2.0.0-rc.1"], [("staging", "1.0.0")], (ONLY_STAGING,), []),
        (["2.0.0"], [("staging", "1.0.0"), ("production", "1.0.0")], (policy(),), []),
        # Versions come to production from staging, also when they came to staging by hand …
        (["1.0.0", "2.0.0"], [("staging", "1.0.0"), ("production", None)], (ONLY_PRODUCTION,),
         [("production", "1.0.0")]),
        # … and from the registry only where the model is nowhere before.
        (["1.0.0", "2.0.0"], [("production", "1.0.0")], (ONLY_PRODUCTION,),
         [("production", "2.0.0")]),
        (["1.0.0"], [("staging", "2.0.0")], (ONLY_PRODUCTION,), []),
    ],
)  # fmt: skip
def test_what_goes_where(
    versions: list[str], deployments: list[Any], policies: Any, expected: list[tuple[str, str]]
) -> None:
    found = steps(pushed(*versions), [serves(*each) for each in deployments], policies)
    assert found == expected


@pytest.mark.parametrize("phase", sorted(FINISHED_PROMOTION))
def test_what_was_asked_for_once_does_not_come_again_by_itself(phase: str) -> None:
    before = asked("2.0.0", phase, automatic=False)
    found = steps(pushed("1.0.0", "2.0.0"), [serves("staging", "1.0.0")], staging=[before],
                  production=[asked("1.0.0")])  # fmt: skip
    assert found == []


@pytest.mark.parametrize(
    ("phase", "automatic", "goes"),
    [
        ("Validating", True, True), ("AwaitingApproval", True, True), ("RollingOut", True, False),
        ("AwaitingApproval", False, False), ("RollingOut", False, False),
    ],
)  # fmt: skip
def test_a_newer_one_takes_the_place_of_an_automatic_one_that_waits(
    phase: str, automatic: bool, goes: bool
) -> None:
    waiting = asked("2.0.0", phase, automatic)
    found = steps(
        pushed("1.0.0", "2.0.0", "3.0.0"), [serves("staging", "1.0.0")], staging=[waiting]
    )
    assert (("staging", "3.0.0") in found) is goes


def test_versions_without_files_or_deleted_ones_and_unclear_deployments_stay() -> None:
    without = version(revision("2.0.0")).with_spec(artifact=None)
    assert steps([without], [serves("staging", None)]) == []
    gone = version(revision("2.0.0"), status={"deletedAt": "2026-01-01T00:00:00Z"})
    assert steps([gone], [serves("staging", None)]) == []
    two = [serves("staging", "1.0.0"), serves("staging", "1.0.0", "other")]
    assert steps(pushed("1.0.0", "2.0.0"), two) == []


def test_the_environment_before_is_the_nearest_that_has_the_model() -> None:
    test = environment("development", 5)
    places, deployed = [test, STAGING, PRODUCTION], [serves("development", "1.0.0")]
    situation = ModelSituation(model(), places, [ONLY_PRODUCTION], deployments=deployed)
    assert find_previous(PRODUCTION, situation) == test
    assert find_previous(test, situation) is None


_NUMBERS = st.sampled_from(["1.0.0", "1.1.0", "2.0.0", "3.0.0"])


@given(
    st.lists(_NUMBERS, unique=True), st.none() | _NUMBERS, st.none() | _NUMBERS,
    st.lists(st.tuples(_NUMBERS, st.sampled_from(sorted(FINISHED_PROMOTION))), max_size=4),
)  # fmt: skip
def test_only_newer_versions_and_never_twice(
    versions: list[str], staging: str | None, production: str | None, past: list[tuple[str, str]]
) -> None:
    deployments = [serves("staging", staging), serves("production", production)]
    before = [asked(*each) for each in past]
    found = steps(pushed(*versions), deployments, staging=before, production=before)
    serving = {"staging": staging, "production": production}
    for place, number in found:
        assert number in versions
        assert number not in {each[0] for each in past}
        assert serving[place] is None or number > (serving[place] or "")
    assert len({place for place, _ in found}) == len(found)


@pytest.mark.parametrize("reason", ["TestOver", "ArmRemoved", "PolicyGone"])
def test_a_version_of_which_nothing_was_said_still_comes(reason: str) -> None:
    tested = asked("2.0.0", automatic=False).with_status(reason=reason)
    places = [serves("staging", "2.0.0"), serves("production", "1.0.0")]
    versions = pushed("1.0.0", "2.0.0")
    coming = steps(versions, places, (ONLY_PRODUCTION,), production=[tested])
    assert coming == [("production", "2.0.0")]
    harmed = tested.with_status(phase="RolledBack", reason="Harm")
    assert steps(versions, places, (ONLY_PRODUCTION,), production=[harmed]) == []
