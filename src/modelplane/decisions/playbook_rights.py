"""What somebody needs who applies a playbook: the rights to do each of its steps by hand. Pure.

Called by the API. A playbook acts when nobody looks, so whoever writes one may write only what he
may do himself, in every environment that a step may come to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelplane.decisions.authorization import Verb
from modelplane.decisions.playbook_text import labels_in, only_label_in
from modelplane.resources.alerting import Matcher
from modelplane.resources.playbook import PlaybookSpec, RunCommandStep, StepKind, Target


@dataclass(frozen=True, slots=True)
class Right:
    """One right that a step takes.

    Attributes
    ----------
    step
        Its name.
    verb, kind
        What it does to what.
    environment
        Where; None: in all environments, or of a kind that belongs to none.
    name
        Of the resource, where it is known.
    """

    step: str
    verb: Verb
    kind: str
    environment: str | None = None
    name: str | None = None


_RIGHTS: Mapping[StepKind, tuple[Verb, str]] = {
    "restartReplica": ("steer", "ModelDeployment"),
    "rollBack": ("steer", "ModelDeployment"),
    "shiftTraffic": ("steer", "Rollout"),
    "scale": ("apply", "ModelDeployment"),
    "runCommand": ("apply", "Job"),
    # What a playbook posts is signed with a secret, as what goes to a channel is.
    "callWebhook": ("apply", "NotificationChannel"),
    "startTraining": ("run", "TrainingTrigger"),
}
"""Waiting and asking take none."""


def rights_of(spec: PlaybookSpec) -> tuple[Right, ...]:
    """Return the rights that the steps of a playbook take, in their order."""
    rights = []
    for step in spec.steps:
        if step.kind not in _RIGHTS:
            continue
        verb, kind = _RIGHTS[step.kind]
        place = name = None
        configuration = step.configuration
        if isinstance(configuration, Target | RunCommandStep):
            place = _known(configuration.environment, spec.matchers)
        if isinstance(configuration, Target) and kind == "ModelDeployment" and place is not None:
            name = _known(configuration.deployment, spec.matchers)
        rights.append(Right(step.name, verb, kind, place, name))
    return tuple(rights)


def _known(text: str, matchers: Sequence[Matcher]) -> str | None:
    """Return what a text always becomes; None when that depends on the alert.

    A label is known when a matcher fixes it.
    """
    if not labels_in(text) and "$value" not in text:
        return text
    label = only_label_in(text)
    fixed = [m.value for m in matchers if m.name == label and m.operator == "=" and m.value]
    return fixed[0] if label is not None and fixed else None
