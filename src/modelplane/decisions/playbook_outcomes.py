"""What the steps of playbooks have in common: what they see, and how one turns out. Pure.

The ground of `playbook_steps` and `playbook_serving`; decides nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from modelplane.decisions.notifications import Delivery
from modelplane.decisions.playbook_text import fill
from modelplane.resources.meta import Part, Resource, Subject
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.playbook import PlaybookRun, PlaybookStep, Target
from modelplane.resources.promotion import Promotion
from modelplane.resources.replica import Replica
from modelplane.resources.rollout import Rollout
from modelplane.resources.training import TrainingRun, TrainingTrigger

AnyResource = Resource[Any, Any]
C = TypeVar("C", bound=Part)
_MAX_NAME = 128


@dataclass(frozen=True, slots=True)
class World:
    """What one step is about, as it is now; what a step of its kind does not need is left out.

    Attributes
    ----------
    deployment, replicas, rollouts, active
        The deployment it names, all replicas and rollouts of it, and its unfinished promotion.
    has_environment
        Whether the environment that it names exists.
    trigger, trainings
        The TrainingTrigger it names, and all training runs.
    made
        What the step made, when it has begun: its Job, TrainingRun, Rollout or Promotion.
    answer
        Whether the expression that it waits for holds; text: why it can never be answered; None:
        nobody answers now.
    delivery
        What became of the newest attempt to post.
    """

    deployment: ModelDeployment | None = None
    replicas: Sequence[Replica] = ()
    rollouts: Sequence[Rollout] = ()
    active: Promotion | None = None
    has_environment: bool = False
    trigger: TrainingTrigger | None = None
    trainings: Sequence[TrainingRun] = ()
    made: AnyResource | None = None
    answer: bool | str | None = None
    delivery: Delivery | None = None


class Act(NamedTuple):
    """The step begins: what it writes, what that is called, and what it does in words."""

    writes: tuple[AnyResource, ...]
    effect: str
    message: str


class Done(NamedTuple):
    """The step is done, or has nothing to do."""

    message: str


class Waiting(NamedTuple):
    """The step has begun and is not done."""

    message: str


class Refused(NamedTuple):
    """The step has failed."""

    message: str
    reason: Literal["StepFailed", "SaidNo"] = "StepFailed"


def subject_of(run: PlaybookRun) -> Subject:
    """Return who is accountable for what a run does."""
    # No part of the system: whoever reads a rollout's request sees which playbook asked.
    return Subject(name=f"playbook:{run.spec.playbook}")


def effect_name(run: str, step: str) -> str:
    """Return the name of what a step makes: the same each time, and at most 128 characters.

    Examples
    --------
    >>> effect_name("restart-3", "collect")
    'restart-3.collect'
    """
    name = f"{run}.{step}"
    if len(name) <= _MAX_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{name[: _MAX_NAME - 13].rstrip('-._')}-{digest}"


def target_of(step: Target, run: PlaybookRun) -> tuple[str, str]:
    """Return environment and deployment that a step is about; raises `Unfilled`."""
    labels, value = run.spec.labels, run.spec.value
    return fill(step.environment, labels, value), fill(step.deployment, labels, value)


def read(step: PlaybookStep, kind: type[C]) -> C:
    """Return how a step of this kind does it."""
    configuration = step.configuration
    assert isinstance(configuration, kind)
    return configuration
