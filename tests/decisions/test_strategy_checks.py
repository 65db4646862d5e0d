"""A strategy is refused where it makes no sense, with the place and the way out."""

from __future__ import annotations

import pytest

from modelplane.decisions.strategy_checks import check_environment_strategy, check_strategy
from modelplane.errors import InvalidResource
from modelplane.resources.environment import Environment
from modelplane.resources.strategy import (
    AbStrategy,
    Arm,
    CanaryStrategy,
    RollingStrategy,
    ShadowStrategy,
    Strategy,
)

TEST = Strategy(ab=AbStrategy(arms=(Arm(version="2.0.0", percentage=20),)))


def environment(strategy: Strategy | None) -> Environment:
    spec = {"stage": "production", "gateway": {"port": 7082}}
    made = Environment.model_validate({"metadata": {"name": "production"}, "spec": spec})
    return made.with_spec(strategy=strategy)


def test_a_test_between_versions_is_no_deployment_s_strategy() -> None:
    (fault,) = check_strategy(TEST, {})
    assert fault.path == "spec.strategy.ab"
    assert "TrafficPolicy" in fault.message
    with pytest.raises(InvalidResource, match="Environment production is not valid"):
        check_environment_strategy(environment(TEST))


@pytest.mark.parametrize(
    "strategy",
    [
        None,
        Strategy(rolling=RollingStrategy()),
        Strategy(canary=CanaryStrategy(predicate="user.region == 'west' && input.amount > 200.0")),
    ],
)
def test_what_makes_sense_passes(strategy: Strategy | None) -> None:
    assert check_strategy(strategy, {"amount": "number"}) == []
    check_environment_strategy(environment(strategy))


def test_a_predicate_is_compiled_before_anything_reaches_a_gateway() -> None:
    broken = Strategy(shadow=ShadowStrategy(predicate="user.region =="))
    (fault,) = check_strategy(broken, {})
    assert fault.path == "spec.strategy.shadow.predicate"
    with pytest.raises(InvalidResource):
        check_environment_strategy(environment(broken))


def test_an_input_that_the_model_does_not_have_is_refused_but_not_for_all_of_an_environment() -> (
    None
):
    strategy = Strategy(canary=CanaryStrategy(predicate="input.amonut > 200.0"))
    (fault,) = check_strategy(strategy, {"amount": "number"})
    assert "amount" in fault.message
    check_environment_strategy(environment(strategy))
