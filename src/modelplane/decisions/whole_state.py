"""Rules between resources: what one may be, and when it may go, given the others.

Called by the API before a change is committed. Pure; each function returns nothing or raises.
"""

from __future__ import annotations

from collections.abc import Sequence

from modelplane.errors import Conflict, FieldError, InvalidResource
from modelplane.resources.environment import Environment
from modelplane.resources.job import Job
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.traffic_policy import TrafficPolicy

_WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - recognised here, not listened on


def check_environment(declared: Environment, environments: Sequence[Environment]) -> None:
    """Raise `InvalidResource` when another environment's gateway has the same address."""
    gateway = declared.spec.gateway
    for other in environments:
        theirs = other.spec.gateway
        if other.metadata.name == declared.metadata.name or theirs.port != gateway.port:
            continue
        if theirs.host == gateway.host or {theirs.host, gateway.host} & _WILDCARDS:
            message = f"{gateway.port} is the port of {other.metadata.name}'s gateway"
            raise InvalidResource(
                f"Environment {declared.metadata.name} is not valid",
                [FieldError("spec.gateway.port", message)],
            )


def check_environment_unused(
    environment: Environment,
    deployments: Sequence[ModelDeployment],
    policies: Sequence[TrafficPolicy] = (),
) -> None:
    """Raise `Conflict` while deployments or traffic policies are in `environment`."""
    name = environment.metadata.name
    inside = [d.metadata.name for d in deployments if d.metadata.environment == name]
    if inside:
        raise Conflict(
            f"environment {name} holds {len(inside)} deployments: {', '.join(inside[:5])}",
            hint="delete them first",
        )
    left = [p.metadata.name for p in policies if p.metadata.environment == name]
    if left:
        raise Conflict(
            f"environment {name} holds {len(left)} traffic policies: {', '.join(left[:5])}",
            hint="delete them first",
        )


def check_model_unused(model: Model, versions: Sequence[ModelVersion]) -> None:
    """Raise `Conflict` while `model` has versions that are not deleted."""
    living = [v.spec.version for v in versions if v.status.deleted_at is None]
    if living:
        raise Conflict(
            f"model {model.metadata.name} has {len(living)} versions: {', '.join(living[:5])}",
            hint="delete them first",
        )


def check_job_change(declared: Job, existing: Job) -> None:
    """Raise `Conflict` when more of a job would change than that it is cancelled."""
    if declared.spec.with_(cancelled=existing.spec.cancelled) != existing.spec:
        raise Conflict(
            f"job {existing.metadata.name} exists, and what a job runs never changes",
            hint="use another name; an existing job can only be cancelled",
        )
    if existing.spec.cancelled and not declared.spec.cancelled:
        raise Conflict(f"job {existing.metadata.name} was cancelled, which is final")
