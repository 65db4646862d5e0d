"""How the API and the controllers ask for a version in an environment: what there is, what to do.

Stands beside the store's port because both floors need it and neither knows the other. What is
decided in between: `decisions.admission`.
"""

from __future__ import annotations

from typing import Any

from modelplane.decisions.admission import Admission, Asked, Situation, is_active
from modelplane.ports.store import Lease, Store, Transaction
from modelplane.resources.environment import Environment
from modelplane.resources.model import ModelVersion
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import Promotion
from modelplane.resources.rollout import Rollout


async def load_situation(
    store: Store, environment: Environment, name: str, version: ModelVersion, *, own_key: str = ""
) -> Situation:
    """Return what there is before a version is asked for in a deployment, or a new one.

    `own_key` is this modelplane's own public key for signatures, where the caller knows it.
    """
    place = environment.metadata.name
    existing = await store.find(ModelDeployment, name, place)
    in_staging = environment.spec.stage != "production" or await was_in_staging(store, version)
    if existing is None:
        promotions, _ = await store.list(Promotion, place)
        rollouts, _ = await store.list(Rollout, place)
        return Situation(
            environment,
            in_staging=in_staging,
            promotions_before=_highest(p for p in promotions if p.spec.deployment == name),
            rollouts_before=_highest(r for r in rollouts if r.spec.deployment == name),
            own_key=own_key,
        )
    active = await load_active(store, existing)
    return Situation(environment, existing, active, in_staging, own_key=own_key)


def _highest(resources: Any) -> int:
    return max((resource.spec.ordinal for resource in resources), default=0)


async def load_active(store: Store, deployment: ModelDeployment) -> Promotion | None:
    """Return the deployment's latest promotion while it is unfinished."""
    if deployment.status.promotion is None:
        return None
    place = deployment.metadata.environment
    latest = await store.find(Promotion, deployment.status.promotion, place)
    return latest if is_active(latest) else None


async def was_in_staging(store: Store, version: ModelVersion) -> bool:
    """Whether the version serves, or has served, in an environment whose stage is staging."""
    wanted = version.spec.model, version.spec.version
    environments, _ = await store.list(Environment)
    staging = [e.metadata.name for e in environments if e.spec.stage == "staging"]
    for place in staging:
        deployments, _ = await store.list(ModelDeployment, place)
        stable = [d.status.stable for d in deployments if d.status.stable]
        if any((revision.model, revision.version) == wanted for revision in stable):
            return True
        promotions, _ = await store.list(Promotion, place)
        done = [p.spec.revision for p in promotions if p.status.phase == "Done"]
        if any((revision.model, revision.version) == wanted for revision in done):
            return True
    return False


def write_admission(
    admission: Admission, asked: Asked, action: str, *, fence: Lease | None = None
) -> Transaction:
    """Return the transaction that makes an admission true; empty when nothing changes."""
    transaction = Transaction(asked.subject, asked.reason, fence)
    if admission.result == "created":
        transaction.create(admission.deployment, action)
    elif admission.result == "changed":
        transaction.update(admission.deployment, action)
    if admission.promotion is not None:
        transaction.create(admission.promotion, "request")
    return transaction
