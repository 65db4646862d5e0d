"""Whether a strategy makes sense where it is written: its predicate, and what belongs elsewhere.

Called when a deployment, an environment or a traffic policy is applied. Pure: it tells faults and
changes nothing. Shapes and ranges were checked before, by `resources.strategy`.
"""

from __future__ import annotations

from collections.abc import Mapping

from modelplane.errors import FieldError, InvalidResource
from modelplane.expressions.predicates import compile_predicate
from modelplane.resources.environment import Environment
from modelplane.resources.strategy import Strategy
from modelplane.resources.traffic_split import InputType

_PLACE = "spec.strategy"


def check_strategy(strategy: Strategy | None, inputs: Mapping[str, InputType]) -> list[FieldError]:
    """Return what is wrong with the strategy of a deployment.

    Parameters
    ----------
    strategy
        As declared; None is the environment's.
    inputs
        The model's inputs; none allows any name in a predicate.
    """
    if strategy is not None and strategy.ab is not None:
        message = (
            "a test between versions never takes over, so it is no deployment's strategy; write it "
            "in a TrafficPolicy: trafficRule: {ab: …}"
        )
        return [FieldError(f"{_PLACE}.ab", message)]
    return check_predicate(strategy, inputs, _PLACE)


def check_environment_strategy(environment: Environment) -> None:
    """Raise `InvalidResource` unless an environment's strategy can be that of any deployment."""
    faults = check_strategy(environment.spec.strategy, {})
    if faults:
        raise InvalidResource(f"Environment {environment.metadata.name} is not valid", faults)


def check_predicate(
    strategy: Strategy | None, inputs: Mapping[str, InputType], path: str
) -> list[FieldError]:
    """Return what is wrong with a strategy's predicate, with line and column in it.

    Parameters
    ----------
    strategy
        None has no predicate.
    inputs
        The model's inputs; none allows any name.
    path
        Of the strategy, for messages.
    """
    if strategy is None or not strategy.predicate:
        return []
    compiled = compile_predicate(strategy.predicate, inputs)
    if not isinstance(compiled, tuple):
        return []
    return [FieldError(f"{path}.{strategy.type}.predicate", str(fault)) for fault in compiled]
