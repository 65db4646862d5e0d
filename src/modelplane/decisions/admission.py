"""What happens when somebody applies a deployment, promotes a version or takes one back.

Called by the API between loading and committing. Pure: it returns what to write, and whether a
`Promotion` is needed, for nothing else changes what an environment should run. Replicas,
strategy and time-outs change in place. What is already declared, serving or on its way is left
alone, so that every request may be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeVar

from modelplane.decisions.analysis import ERRORS, LABEL_METRICS, LATENCY
from modelplane.decisions.analysis_inputs import REWARD
from modelplane.decisions.inputs import input_types
from modelplane.decisions.rollout import effective_strategy
from modelplane.decisions.signatures import check_signed
from modelplane.decisions.strategy_checks import check_strategy
from modelplane.decisions.versions import LATEST
from modelplane.errors import FieldError, InvalidResource
from modelplane.resources.environment import Environment
from modelplane.resources.meta import Condition, Metadata, Resource, Subject, set_condition
from modelplane.resources.model import ModelVersion
from modelplane.resources.model_deployment import (
    Lane,
    ModelDeployment,
    ModelDeploymentSpec,
    ModelDeploymentStatus,
)
from modelplane.resources.promotion import FINISHED_PROMOTION, Promotion, PromotionSpec
from modelplane.resources.revision import Revision, RuntimeSpec, make_revision

REQUESTED_VERSION = "modelplane.dev/requested-version"
"""Annotation that holds the version as it was written when it last changed: ``latest``."""

MAX_DEPLOYMENT_NAME = 40
"""Longest name of a deployment: promotions, rollouts and replicas add to it within 63."""

_OWN_ANNOTATIONS = "modelplane.dev/"

Result = Literal["created", "changed", "unchanged"]
R = TypeVar("R", bound=Resource[Any, Any])


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks, why, and when; `automatic` says that a policy does and no person."""

    subject: Subject
    now: datetime
    reason: str = ""
    automatic: bool = False


@dataclass(frozen=True, slots=True)
class Situation:
    """What there is before the request.

    Attributes
    ----------
    environment
        Where the deployment is or will be.
    existing
        The deployment as stored, if it exists.
    active
        Its latest promotion, when that is not finished.
    in_staging
        Whether the version has served in an environment whose stage is staging.
    promotions_before, rollouts_before
        Highest ordinals that a deployment of this name ever had here, also one since deleted.
    own_key
        This modelplane's own public key for signatures, PEM; empty where it is not known.
    """

    environment: Environment
    existing: ModelDeployment | None = None
    active: Promotion | None = None
    in_staging: bool = False
    promotions_before: int = 0
    rollouts_before: int = 0
    own_key: str = ""


@dataclass(frozen=True, slots=True)
class Admission:
    """What to write: the deployment (when it is not unchanged) and perhaps a promotion."""

    result: Result
    deployment: ModelDeployment
    promotion: Promotion | None = None
    warnings: tuple[str, ...] = ()


def compute_revision(spec: ModelDeploymentSpec, version: ModelVersion) -> Revision:
    """Return the revision that `spec` declares of `version`.

    Requirements of the deployment stand before those of the version.

    Raises
    ------
    InvalidResource
        The version's files are not here.
    """
    if version.spec.artifact is None:
        raise InvalidResource(
            f"{version.metadata.name} cannot be deployed: its files are not here",
            [FieldError("spec.version", _describe_missing(version))],
        )
    runtime = RuntimeSpec(
        requirements=spec.requirements if spec.requirements is not None
        else version.spec.requirements,
        env=spec.env,
        resources=spec.resources,
        metrics_endpoint=spec.metrics_endpoint,
        start_timeout_s=spec.start_timeout_s,
    )  # fmt: skip
    return make_revision(version.spec.model, version.spec.version, version.spec.artifact, runtime)


def admit_deployment(
    declared: ModelDeployment, version: ModelVersion, situation: Situation, asked: Asked
) -> Admission:
    """Decide what applying a manifest does.

    Parameters
    ----------
    declared
        The deployment as written; its version may be ``latest`` or a number.
    version
        What that version resolves to.
    situation, asked
        What there is, and who asks.

    Raises
    ------
    InvalidResource
        The environment does not allow what the manifest declares; nothing is to be written.
    """
    return _admit(declared, version, situation, asked, explicit=False)


def admit_promotion(
    source: ModelDeployment,
    requested_version: str,
    version: ModelVersion,
    situation: Situation,
    asked: Asked,
) -> Admission:
    """Decide what promoting `version` into the situation's environment does.

    Parameters
    ----------
    source
        The deployment there, or the one of an earlier environment that it is copied from.
    requested_version, version
        The version as written, and what it resolves to.

    Raises
    ------
    InvalidResource
        The environment does not allow the version.
    """
    metadata = Metadata(
        name=source.metadata.name,
        environment=situation.environment.metadata.name,
        labels=source.metadata.labels,
        annotations=_people_s(source.metadata.annotations),
    )
    declared = ModelDeployment(metadata=metadata, spec=source.spec.with_(version=requested_version))
    return _admit(declared, version, situation, asked, explicit=True)


def admit_plain(declared: R, existing: R | None) -> tuple[Result, R]:
    """Decide what applying a kind without promotions does: its spec changes in place."""
    if existing is None:
        return "created", declared
    metadata = _merge_metadata(declared.metadata, existing.metadata, {})
    merged = existing.with_(metadata=metadata, spec=declared.spec)
    return ("unchanged" if merged == existing else "changed"), merged


def _admit(
    declared: ModelDeployment,
    version: ModelVersion,
    situation: Situation,
    asked: Asked,
    *,
    explicit: bool,
) -> Admission:
    """Merge `declared` into what exists; add a promotion when what should run has changed."""
    existing, environment = situation.existing, situation.environment
    spec = declared.spec.with_(version=version.spec.version)
    written = declared.spec.version
    requested = written if written == LATEST or written.isdecimal() else spec.version
    if existing is None:
        _check_name(declared.metadata.name)
        status = ModelDeploymentStatus(
            promotions=situation.promotions_before, rollouts=situation.rollouts_before
        )
        before = declared.metadata.with_(annotations={})
        metadata = _merge_metadata(declared.metadata, before, {REQUESTED_VERSION: requested})
        merged = ModelDeployment(metadata=metadata, spec=spec, status=status)
    else:
        # Recorded when the version changes, so that what was read can be applied as it is.
        own = {REQUESTED_VERSION: requested} if existing.spec.version != spec.version else {}
        metadata = _merge_metadata(declared.metadata, existing.metadata, own)
        merged = existing.with_(metadata=metadata, spec=spec)
    merged = _with_conditions(merged, existing, environment, asked.now)

    _check_strategy(merged, version)
    _check_user_claim(merged, environment)
    revision = compute_revision(spec, version)
    present = situation.active.spec.revision if situation.active else merged.status.stable
    heading_there = present is not None and present.digest == revision.digest
    redeclared = existing is None or _differs(existing.spec, spec, version)
    if heading_there or not (redeclared or explicit):
        result: Result = "unchanged" if merged == existing else "changed"
        return Admission(result, merged, None, _already(situation, revision, explicit))

    check_allowed(version, environment, situation.own_key)
    warnings = warn_of_staging(version, situation.environment, situation.in_staging)
    promotion = make_promotion(
        merged, revision, asked, requested_version=requested, warnings=warnings
    )
    result = "created" if existing is None else "changed"
    return Admission(result, with_promotion(merged, promotion), promotion, warnings)


def _check_strategy(declared: ModelDeployment, version: ModelVersion) -> None:
    faults = check_strategy(declared.spec.strategy, input_types([version.spec.signature]))
    if faults:
        raise InvalidResource(f"ModelDeployment {declared.metadata.name} is not valid", faults)


def _check_user_claim(declared: ModelDeployment, environment: Environment) -> None:
    """Refuse a claim that nobody verifies: its header would be the client's to choose."""
    claim, jwt = declared.spec.user_claim, environment.spec.gateway.jwt
    if claim is None or (jwt is not None and claim in jwt.claims):
        return
    place = environment.metadata.name
    message = f"the gateway of {place} does not verify it: name it in gateway.jwt.claims there"
    name = declared.metadata.name
    raise InvalidResource(
        f"ModelDeployment {name} is not valid", [FieldError("spec.userClaim", message)]
    )


def _differs(before: ModelDeploymentSpec, spec: ModelDeploymentSpec, version: ModelVersion) -> bool:
    """Whether the revision that `spec` declares is not the one last declared."""
    if (before.model, before.version) != (spec.model, spec.version):
        return True
    return compute_revision(before, version).digest != compute_revision(spec, version).digest


def make_promotion(
    deployment: ModelDeployment,
    revision: Revision,
    asked: Asked,
    *,
    requested_version: str,
    warnings: tuple[str, ...] = (),
    restores: str | None = None,
    lane: str = "",
) -> Promotion:
    """Return the deployment's next promotion: the wish that it run `revision`.

    `restores` names the promotion that brought the revision here before, when this one goes back;
    `lane` is the traffic policy's that asks.
    """
    name, ordinal = deployment.metadata.name, deployment.status.promotions + 1
    return Promotion(
        metadata=Metadata(name=f"{name}-{ordinal}", environment=deployment.metadata.environment),
        spec=PromotionSpec(
            deployment=name,
            revision=revision,
            ordinal=ordinal,
            requested_version=requested_version,
            subject=asked.subject,
            reason=asked.reason,
            warnings=warnings,
            restores=restores,
            automatic=asked.automatic,
            lane=lane,
        ),
    )


def with_promotion(deployment: ModelDeployment, promotion: Promotion) -> ModelDeployment:
    """Return `deployment` with `promotion` as the latest of its lane."""
    name, ordinal, lane = promotion.metadata.name, promotion.spec.ordinal, promotion.spec.lane
    if not lane:
        return deployment.with_status(promotions=ordinal, promotion=name)
    before = deployment.status.lanes.get(lane)
    entry = Lane(promotion=name, rollout=before.rollout if before is not None else None)
    lanes = {**deployment.status.lanes, lane: entry}
    return deployment.with_status(promotions=ordinal, lanes=lanes)


def _people_s(annotations: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in annotations.items() if not k.startswith(_OWN_ANNOTATIONS)}


def _merge_metadata(declared: Metadata, existing: Metadata, own: dict[str, str]) -> Metadata:
    """Return `existing` with the declared labels and annotations; ours are kept or replaced."""
    kept = {k: v for k, v in existing.annotations.items() if k.startswith(_OWN_ANNOTATIONS)}
    annotations = _people_s(declared.annotations) | kept | own
    return existing.with_(labels=declared.labels, annotations=annotations)


def _with_conditions(
    merged: ModelDeployment,
    existing: ModelDeployment | None,
    environment: Environment,
    now: datetime,
) -> ModelDeployment:
    """Record metrics that are declared and cannot be measured, or that this is over."""
    strategy = effective_strategy(merged.spec, environment.spec)
    rules = strategy.analysis.metrics if strategy.analysis else ()
    unmeasured = [rule.name for rule in rules if not _is_measured(rule.name, merged.spec)]
    before = next((c for c in merged.status.conditions if c.type == "MetricUnavailable"), None)
    if not unmeasured and (before is None or before.status == "False"):
        return merged
    names = ", ".join(unmeasured)
    changed = existing is None or existing.spec != merged.spec
    condition = Condition(
        type="MetricUnavailable",
        status="True" if unmeasured else "False",
        reason="NeedsLabels" if unmeasured else "Available",
        message=f"{names}: cannot be measured; accuracy, precision, recall and loss need "
        "spec.predictions, and reward spec.labels.reward besides; a rollout holds, then follows "
        "onInconclusive at its deadline" if unmeasured else "every metric can be measured",
        observed_generation=merged.metadata.generation + changed,
    )  # fmt: skip
    if before is not None and before.status == condition.status:
        same = (before.reason, before.message) == (condition.reason, condition.message)
        if same:
            return merged
    conditions = set_condition(merged.status.conditions, condition, now)
    return merged.with_status(conditions=conditions)


def _is_measured(metric: str, spec: ModelDeploymentSpec) -> bool:
    if metric not in LABEL_METRICS:
        return metric in {ERRORS, LATENCY}
    return spec.predictions is not None and (metric != REWARD or spec.labels.reward is not None)


def _check_name(name: str) -> None:
    if len(name) > MAX_DEPLOYMENT_NAME:
        message = (
            f"has {len(name)} characters; a deployment's name has {MAX_DEPLOYMENT_NAME} at most"
        )
        raise InvalidResource(
            f"ModelDeployment {name} is not valid", [FieldError("metadata.name", message)]
        )


def check_allowed(version: ModelVersion, environment: Environment, own_key: str) -> None:
    """Raise `InvalidResource` unless the environment loads such a version."""
    _check_pickle(version, environment)
    check_signed(version, environment, own_key)


def _check_pickle(version: ModelVersion, environment: Environment) -> None:
    artifact = version.spec.artifact
    if artifact is None or artifact.format != "joblib" or environment.spec.allow_pickle != "never":
        return
    place, label = environment.metadata.name, f"{version.spec.model} {version.spec.version}"
    raise InvalidResource(
        f"{label} holds a pickle, which environment {place!r} does not load",
        [FieldError("spec.version", "its artifact has format joblib; loading it runs any code")],
        hint=f"push the model as skops or ONNX, or set allowPickle: scanned in {place!r}",
    )


def _describe_missing(version: ModelVersion) -> str:
    conditions = version.status.conditions
    ready = next((c for c in conditions if c.type == "ArtifactReady"), None)
    return ready.message if ready else f"they are at {version.spec.source}"


def warn_of_staging(
    version: ModelVersion, environment: Environment, in_staging: bool
) -> tuple[str, ...]:
    """Say that a version goes to production without having been in staging, if it does."""
    if environment.spec.stage != "production" or in_staging:
        return ()
    label = f"{version.spec.model} {version.spec.version}"
    return (f"{label} goes to {environment.metadata.name} without having been in staging",)


def _already(situation: Situation, revision: Revision, explicit: bool) -> tuple[str, ...]:
    """Say why an explicit promotion does nothing."""
    if not explicit:
        return ()
    if situation.active is not None:
        return (f"{revision.version} is already on its way: {situation.active.metadata.name}",)
    return (f"{revision.version} already serves",)


def is_active(promotion: Promotion | None) -> bool:
    """Whether a promotion is still going to change something."""
    return promotion is not None and promotion.status.phase not in FINISHED_PROMOTION
