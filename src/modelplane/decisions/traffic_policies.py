"""What happens when somebody applies a traffic policy, changes it or takes it away.

Called by the API between loading and committing, and by `controllers.traffic_policies`. Pure.
A policy changes nothing by itself: for each of its versions there is a Promotion in a lane of its
own (``POLICY/VERSION``), which meets whatever guards the environment, and whose rollout reads the
policy's rule at every step. To end a lane is to ask its rollout back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from modelplane.decisions.admission import (
    Asked,
    Result,
    admit_plain,
    check_allowed,
    compute_revision,
    is_active,
    make_promotion,
    warn_of_staging,
    with_promotion,
)
from modelplane.decisions.hooks import check_hooks, hook_statuses
from modelplane.decisions.inputs import input_types
from modelplane.decisions.rollout import policy_of, ramp_steps
from modelplane.decisions.strategy_checks import check_predicate
from modelplane.errors import FieldError, InvalidResource
from modelplane.resources.environment import Environment
from modelplane.resources.meta import Subject
from modelplane.resources.model import ModelVersion
from modelplane.resources.model_deployment import Lane, ModelDeployment
from modelplane.resources.promotion import Promotion
from modelplane.resources.revision import Revision
from modelplane.resources.rollout import Rollout, RolloutRequest
from modelplane.resources.strategy import Strategy
from modelplane.resources.traffic_policy import TrafficPolicy
from modelplane.resources.traffic_split import InputType

SUBJECT = Subject(name="system:traffic-policy")
DEPLOYMENT_LABEL = "deployment"
MAX_POLICIES = 20
"""Traffic policies of one deployment: each version that is live has replicas of its own."""

_RULE = "spec.trafficRule"


@dataclass(frozen=True, slots=True)
class PolicySituation:
    """What there is before a policy is applied.

    Attributes
    ----------
    environment, deployment
        Where it is, and whose traffic it is about.
    versions
        What each version resolves to, by how it is written in the policy.
    serving
        The record of the version that is stable.
    existing
        The policy as stored, if it exists.
    others
        The deployment's other policies.
    latest
        The latest promotion of each of the deployment's lanes; ``""`` is the deployment's own.
    running
        The deployment's unfinished rollouts.
    was_in_staging
        Names of those of `versions` that have served in staging.
    own_key
        This modelplane's own public key for signatures, PEM; empty where it is not known.
    """

    environment: Environment
    deployment: ModelDeployment
    versions: Mapping[str, ModelVersion]
    serving: ModelVersion | None = None
    existing: TrafficPolicy | None = None
    others: Sequence[TrafficPolicy] = ()
    latest: Mapping[str, Promotion] = field(default_factory=dict)
    running: Sequence[Rollout] = ()
    was_in_staging: Collection[str] = frozenset()
    own_key: str = ""


@dataclass(frozen=True, slots=True)
class PolicyAdmission:
    """What to write: the policy, the deployment, promotions that begin, rollouts that end."""

    result: Result
    policy: TrafficPolicy
    deployment: ModelDeployment
    promotions: tuple[Promotion, ...] = ()
    ended: tuple[Rollout, ...] = ()
    warnings: tuple[str, ...] = ()


def lane_of(policy: str, version: str) -> str:
    """Return the lane of one version of a policy."""
    return f"{policy}/{version}"


def versions_of(policy: TrafficPolicy) -> tuple[str, ...]:
    """Return the versions that a policy names."""
    spec = policy.spec
    if spec.traffic_rule.ab is not None:
        return tuple(arm.version for arm in spec.traffic_rule.ab.arms)
    return (spec.version or "",)


def lanes_of(policy: TrafficPolicy) -> tuple[str, ...]:
    """Return the lanes that a stored policy has."""
    return tuple(lane_of(policy.metadata.name, version) for version in versions_of(policy))


def choose_policy_deployment(
    policy: TrafficPolicy, deployments: Sequence[ModelDeployment]
) -> ModelDeployment:
    """Return the deployment whose traffic a policy is about.

    Parameters
    ----------
    policy
        Names the deployment, or the model that one deployment serves.
    deployments
        Those of its environment.

    Raises
    ------
    InvalidResource
        There is none, or several; says which there are.
    """
    spec, place = policy.spec, policy.metadata.environment
    if spec.deployment is not None:
        found = [d for d in deployments if d.metadata.name == spec.deployment]
        if not found:
            names = _names(deployments)
            message = f"there is no deployment {spec.deployment!r} in {place}; there are: {names}"
            raise _refuse(policy, [FieldError("spec.deployment", message)])
        serves = found[0].spec.model
        if spec.model is not None and spec.model != serves:
            message = f"deployment {spec.deployment!r} serves {serves!r}, not {spec.model!r}"
            raise _refuse(policy, [FieldError("spec.model", message)])
        return found[0]
    found = [d for d in deployments if d.spec.model == spec.model]
    if len(found) == 1:
        return found[0]
    if not found:
        models = ", ".join(sorted({d.spec.model for d in deployments})) or "none"
        message = f"no deployment in {place} serves model {spec.model!r}; served are: {models}"
        hint = "deploy the model first: modelplane apply -f FILE"
    else:
        message = f"several deployments in {place} serve {spec.model!r}: {_names(found)}"
        hint = "name one of them as deployment"
    raise _refuse(policy, [FieldError("spec.model", message)], hint=hint)


def admit_policy(
    declared: TrafficPolicy, situation: PolicySituation, asked: Asked, *, explicit: bool = False
) -> PolicyAdmission:
    """Decide what applying a traffic policy does.

    A version that is new in it, or whose revision has changed, is promoted. A change of shares,
    predicate or hooks needs no promotion: what runs follows. What ended stays ended, unless the
    request is `explicit`: then it is tried again.

    Raises
    ------
    InvalidResource
        With everything that is wrong with it; nothing is to be written.
    """
    deployment, existing = situation.deployment, situation.existing
    resolved = _resolve(declared, situation)
    _check(resolved, situation)
    result, merged = admit_plain(resolved, existing)
    promotions: list[Promotion] = []
    warnings: list[str] = _warn_of_hooks(merged, deployment)
    moved = deployment
    for version in _resolved_versions(merged, situation):
        lane = lane_of(merged.metadata.name, version.spec.version)
        revision = compute_revision(deployment.spec, version)
        needed, said = _needs_promotion(lane, revision, situation, explicit=explicit)
        warnings += said
        if not needed:
            continue
        check_allowed(version, situation.environment, situation.own_key)
        in_staging = version.metadata.name in situation.was_in_staging
        unproved = warn_of_staging(version, situation.environment, in_staging)
        warnings += unproved
        promotion = make_promotion(
            moved,
            revision,
            asked,
            requested_version=version.spec.version,
            warnings=unproved,
            lane=lane,
        )
        promotions.append(promotion)
        moved = with_promotion(moved, promotion)
    gone = [lane for lane in lanes_of(existing) if lane not in lanes_of(merged)] if existing else []
    why = f"traffic policy {merged.metadata.name} names the version no more"
    moved, ended = end_lanes(moved, gone, situation.running, why=why, now=asked.now)
    if promotions or ended or moved != deployment:
        result = "created" if existing is None else "changed"
    return PolicyAdmission(result, merged, moved, tuple(promotions), ended, tuple(warnings))


def end_lanes(
    deployment: ModelDeployment,
    lanes: Collection[str],
    running: Sequence[Rollout],
    *,
    why: str,
    now: datetime,
) -> tuple[ModelDeployment, tuple[Rollout, ...]]:
    """Return the deployment and the rollouts to write so that nothing of `lanes` goes on.

    A rollout that runs is asked back, and its lane stays until it is over, without a promotion:
    whatever waits in the lane is superseded. Doing it again changes nothing.

    Parameters
    ----------
    deployment
        As stored.
    lanes
        Those to end.
    running
        The deployment's unfinished rollouts.
    why, now
        For the request.
    """
    entries = dict(deployment.status.lanes)
    asked_back: list[Rollout] = []
    for lane in lanes:
        if lane not in entries:
            continue
        rollout = next((r for r in running if r.metadata.name == entries[lane].rollout), None)
        if rollout is None:
            del entries[lane]
            continue
        entries[lane] = Lane(promotion="", rollout=rollout.metadata.name)
        request = rollout.spec.request
        if rollout.spec.superseded_by or (request and request.action == "rollback"):
            continue
        request = RolloutRequest(action="rollback", subject=SUBJECT.name, reason=why, at=now)
        asked_back.append(rollout.with_spec(request=request))
    return deployment.with_status(lanes=entries), tuple(asked_back)


def obsolete_lanes(deployment: ModelDeployment, policies: Sequence[TrafficPolicy]) -> list[str]:
    """Return the deployment's lanes that none of its policies has (any more)."""
    wanted = {lane for policy in policies for lane in lanes_of(policy)}
    return [lane for lane in deployment.status.lanes if lane not in wanted]


# -- what is checked ----------------------------------------------------------------------


def _resolve(declared: TrafficPolicy, situation: PolicySituation) -> TrafficPolicy:
    """Return the policy with deployment, model and versions as they are meant."""
    deployment, spec = situation.deployment, declared.spec
    rule = spec.traffic_rule
    if rule.ab is not None:
        arms = tuple(
            arm.with_(version=situation.versions[arm.version].spec.version) for arm in rule.ab.arms
        )
        rule = rule.with_(ab=rule.ab.with_(arms=arms))
    version = situation.versions[spec.version].spec.version if spec.version else None
    labels = {**declared.metadata.labels, DEPLOYMENT_LABEL: deployment.metadata.name}
    return declared.with_(
        metadata=declared.metadata.with_(labels=labels),
        spec=spec.with_(
            deployment=deployment.metadata.name,
            model=deployment.spec.model,
            version=version,
            traffic_rule=rule,
        ),
    )


def _resolved_versions(policy: TrafficPolicy, situation: PolicySituation) -> list[ModelVersion]:
    by_version = {found.spec.version: found for found in situation.versions.values()}
    return [by_version[version] for version in versions_of(policy)]


def _check(policy: TrafficPolicy, situation: PolicySituation) -> None:
    deployment, existing = situation.deployment, situation.existing
    name = deployment.metadata.name
    rule = policy.spec.traffic_rule
    faults: list[FieldError] = []
    if deployment.status.stable is None:
        message = f"{name} serves nothing yet, so there is nothing to be compared with"
        faults.append(FieldError("spec.deployment", message))
    if existing is not None and existing.spec.deployment != name:
        message = f"belongs to deployment {existing.spec.deployment}; delete it first"
        faults.append(FieldError("spec.deployment", message))
    if existing is None and len(situation.others) >= MAX_POLICIES:
        message = f"{name} has {len(situation.others)} traffic policies, the most there can be"
        faults.append(FieldError("spec.deployment", message))
    if rule.rolling is not None:
        message = "takes stable's replicas away one by one; write it in the deployment's strategy"
        faults.append(FieldError(f"{_RULE}.rolling", message))
    versions = versions_of(policy)
    if len(set(versions)) < len(versions):
        message = f"two arms mean one version: {', '.join(versions)}"
        faults.append(FieldError(f"{_RULE}.ab.arms", message))
    faults += check_predicate(rule, _inputs(policy, situation), _RULE)
    try:
        check_hooks(policy.spec.monitoring_hooks)
    except InvalidResource as error:
        faults += error.fields
    faults += _check_shares(policy, situation.others)
    faults += _check_free(policy, situation)
    if faults:
        raise _refuse(policy, faults)


def _inputs(policy: TrafficPolicy, situation: PolicySituation) -> dict[str, InputType]:
    known = [situation.serving] if situation.serving is not None else []
    known += _resolved_versions(policy, situation)
    return input_types(version.spec.signature for version in known)


def _check_shares(policy: TrafficPolicy, others: Sequence[TrafficPolicy]) -> list[FieldError]:
    """Refuse more than all users under one predicate.

    Who is under a predicate may meet its versions and those without a predicate.
    """
    rule = policy.spec.traffic_rule
    going = [other for other in others if other.status.phase not in {"Ended", "Refused"}]
    predicates = {other.spec.traffic_rule.predicate for other in going} | {rule.predicate}
    for predicate in sorted(predicates if not rule.predicate else {rule.predicate}):
        beside = [o for o in going if o.spec.traffic_rule.predicate in {predicate, ""}]
        total = share_pct(rule) + sum(share_pct(other.spec.traffic_rule) for other in beside)
        if total > 100:
            shares = ", ".join(
                f"{o.metadata.name} up to {share_pct(o.spec.traffic_rule):g} %" for o in beside
            )
            whose = f"users under {predicate!r}" if predicate else "users"
            message = f"{total:g} % of the {whose} would be given away; there are already: {shares}"
            return [FieldError(f"{_RULE}.{rule.type}", message)]
    return []


def share_pct(rule: Strategy) -> float:
    """Return the largest share of the users that a rule gives away while it is judged."""
    if rule.canary is not None:
        return max(ramp_steps(rule.canary))
    if rule.ab is not None:
        return sum(arm.percentage for arm in rule.ab.arms)
    return 0.0


def _check_free(policy: TrafficPolicy, situation: PolicySituation) -> list[FieldError]:
    """Refuse a version that something else has under way: counts could not be told apart."""
    faults = []
    own = set(lanes_of(policy))
    path = "spec.version" if policy.spec.version else f"{_RULE}.ab.arms"
    for version in _resolved_versions(policy, situation):
        digest = compute_revision(situation.deployment.spec, version).digest
        for lane, promotion in situation.latest.items():
            busy = lane not in own and is_active(promotion)
            if busy and promotion.spec.revision.digest == digest:
                by = f"traffic policy {policy_of(lane)}" if lane else promotion.metadata.name
                message = f"{version.spec.version} is already under way by {by}"
                faults.append(FieldError(path, message))
    return faults


def _needs_promotion(
    lane: str, revision: Revision, situation: PolicySituation, *, explicit: bool
) -> tuple[bool, tuple[str, ...]]:
    """Return whether a version has to be promoted, and what to say if not."""
    stable = situation.deployment.status.stable
    if stable is not None and stable.digest == revision.digest:
        return False, (f"{revision.version} already serves",)
    latest = situation.latest.get(lane)
    if latest is None or latest.spec.revision.digest != revision.digest:
        return True, ()
    if is_active(latest):
        return False, ()
    if explicit:
        return True, ()
    return False, (
        f"{revision.version} was tried by promotion {latest.metadata.name}, which ended as "
        f"{latest.status.phase}; to try it again, delete the policy and apply it anew",
    )


def _warn_of_hooks(policy: TrafficPolicy, deployment: ModelDeployment) -> list[str]:
    statuses = hook_statuses(
        policy.spec.monitoring_hooks,
        policy.spec.traffic_rule,
        keeps_predictions=deployment.spec.predictions is not None,
    )
    return [f"{status.hook}: {status.message}" for status in statuses if status.state == "waiting"]


def _names(deployments: Sequence[ModelDeployment]) -> str:
    return ", ".join(sorted(d.metadata.name for d in deployments)) or "none"


def _refuse(
    policy: TrafficPolicy, faults: Sequence[FieldError], *, hint: str = ""
) -> InvalidResource:
    return InvalidResource(f"TrafficPolicy {policy.metadata.name} is not valid", faults, hint=hint)
