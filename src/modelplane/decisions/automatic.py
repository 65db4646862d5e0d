"""Which versions go where by themselves, because a policy says so.

Called by `controllers.automatic`. Pure and level-triggered: it looks at what is there, so that
nothing is lost between the end of one promotion and the next. A version goes on by itself only
when it is newer than what serves, and only once: after a refusal, a rejection or a rollback it is
for people to ask again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from modelplane.decisions.policies import matching_policies
from modelplane.decisions.rollout import Reason
from modelplane.decisions.versions import LATEST, resolve_version
from modelplane.resources.environment import Environment
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import FINISHED_PROMOTION, WAITING_PROMOTION, Promotion
from modelplane.resources.promotion_policy import PromotionPolicy
from modelplane.resources.versions import version_order

_SAY_NOTHING = frozenset({Reason.TEST_OVER, Reason.ARM_REMOVED, Reason.POLICY_GONE})


@dataclass(frozen=True, slots=True)
class ModelSituation:
    """What there is of one model.

    Attributes
    ----------
    environments, policies
        All of them.
    versions
        Of the model.
    deployments
        Of the model, in all environments.
    promotions
        By environment, those of the model's deployment there (or of the one that would be made).
    """

    model: Model
    environments: Sequence[Environment]
    policies: Sequence[PromotionPolicy]
    versions: Sequence[ModelVersion] = ()
    deployments: Sequence[ModelDeployment] = ()
    promotions: Mapping[str, Sequence[Promotion]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """A version that is to go to an environment, and why."""

    environment: str
    version: str
    reason: str


def automatic_policies(
    policies: Sequence[PromotionPolicy], environments: Sequence[Environment], model: Model
) -> dict[str, PromotionPolicy]:
    """Return the policy that lets versions of `model` come by themselves, by environment."""
    found: dict[str, PromotionPolicy] = {}
    for environment in environments:
        name = environment.metadata.name
        for policy in matching_policies(policies, name, model):
            if policy.spec.automatic:
                found.setdefault(name, policy)
    return found


def find_previous(environment: Environment, situation: ModelSituation) -> Environment | None:
    """Return the environment that versions come from, nearest before; None for the first one.

    That is one where the model is deployed, or comes to by itself.
    """
    places = {d.metadata.environment for d in situation.deployments}
    places |= set(automatic_policies(situation.policies, situation.environments, situation.model))
    before = [
        e for e in situation.environments
        if e.spec.order < environment.spec.order and e.metadata.name in places
    ]  # fmt: skip
    return min(before, key=lambda e: (-e.spec.order, e.metadata.name), default=None)


def decide_automatic(situation: ModelSituation) -> tuple[Step, ...]:
    """Return the promotions that are to be asked for now, in the order of the environments."""
    policies = automatic_policies(situation.policies, situation.environments, situation.model)
    steps = []
    for environment in sorted(situation.environments, key=lambda e: e.spec.order):
        place = environment.metadata.name
        policy = policies.get(place)
        if policy is None:
            continue
        previous = find_previous(environment, situation)
        version = _next_version(previous, place, situation)
        if version is None or not _may_go(version, place, situation):
            continue
        why = f"serves in {previous.metadata.name}" if previous else "is the newest version"
        reason = f"policy {policy.metadata.name}: {version} {why}"
        steps.append(Step(place, version, reason))
    return tuple(steps)


def _next_version(
    previous: Environment | None, place: str, situation: ModelSituation
) -> str | None:
    """Return the version that would come next; None when there is none, or no way to tell."""
    living = {v.spec.version: v for v in situation.versions if _is_deployable(v)}
    if previous is None:
        if not living or not _deployed_in(place, situation):
            return None
        name = situation.model.metadata.name
        return resolve_version(name, list(living.values()), LATEST).spec.version
    sources = _deployed_in(previous.metadata.name, situation)
    if len(sources) != 1 or sources[0].status.stable is None:
        return None
    version = sources[0].status.stable.version
    return version if version in living else None


def _may_go(version: str, place: str, situation: ModelSituation) -> bool:
    """Whether `version` is new in `place`, and nobody's wish stands against it."""
    wanted = (situation.model.metadata.name, version)
    for promotion in situation.promotions.get(place, ()):
        revision, phase = promotion.spec.revision, promotion.status.phase
        if (revision.model, revision.version) == wanted and not _is_undecided(promotion):
            return False
        if phase in FINISHED_PROMOTION:
            continue
        # What a person asked for is left alone, and what has begun is not broken off.
        replaceable = promotion.spec.automatic and phase in WAITING_PROMOTION
        if not replaceable or not _is_newer(version, revision.version):
            return False
    deployed = _deployed_in(place, situation)
    if len(deployed) > 1:
        return False
    stable = deployed[0].status.stable if deployed else None
    return stable is None or _is_newer(version, stable.version)


def _is_undecided(promotion: Promotion) -> bool:
    """Whether it is over and says nothing of the version.

    It brought an A/B/n test, which takes nothing over by itself, or its traffic policy ended.
    """
    status = promotion.status
    return status.phase in FINISHED_PROMOTION and status.reason in _SAY_NOTHING


def _deployed_in(place: str, situation: ModelSituation) -> list[ModelDeployment]:
    return [d for d in situation.deployments if d.metadata.environment == place]


def _is_deployable(version: ModelVersion) -> bool:
    return version.spec.artifact is not None and version.status.deleted_at is None


def _is_newer(version: str, than: str) -> bool:
    return version_order(version) > version_order(than)
