"""Reads what guards a promotion: policies, runs of pipelines with their results, approvals.

Used by the promotion controller, and by the API to say what would be decided. Stands beside the
store's port because both floors need it and neither knows the other. Reads only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modelplane.decisions.approvals import REVISION_LABEL
from modelplane.decisions.deployability import can_deploy
from modelplane.decisions.policies import Surroundings, matching_policies, mentions
from modelplane.decisions.promotion_guards import Gate, Guards, required_pipelines
from modelplane.decisions.rollout_ab import last_verdict
from modelplane.ports.gate_runs import find_run
from modelplane.ports.models import load_model
from modelplane.ports.store import Store
from modelplane.resources.approval import Approval, ApprovalPolicy
from modelplane.resources.contract import Contract
from modelplane.resources.dataset import Dataset
from modelplane.resources.environment import Environment
from modelplane.resources.gate_run import GateRun, StageResult
from modelplane.resources.model import ModelVersion
from modelplane.resources.promotion import Promotion
from modelplane.resources.promotion_policy import PromotionPolicy
from modelplane.resources.rollout import AbVerdict, Rollout
from modelplane.resources.validation_pipeline import ValidationPipeline


@dataclass(frozen=True, slots=True)
class Policies:
    """All policies that are to count."""

    promotion: Sequence[PromotionPolicy]
    approval: Sequence[ApprovalPolicy]


async def load_policies(store: Store) -> Policies:
    """Return the policies that are applied."""
    promotion, _ = await store.list(PromotionPolicy)
    approval, _ = await store.list(ApprovalPolicy)
    return Policies(promotion, approval)


async def load_surroundings(store: Store) -> Surroundings:
    """Return everything that a policy may refer to."""
    pipelines, _ = await store.list(ValidationPipeline)
    datasets, _ = await store.list(Dataset)
    environments, _ = await store.list(Environment)
    return Surroundings(
        {pipeline.metadata.name: pipeline for pipeline in pipelines},
        tuple(dataset.metadata.name for dataset in datasets),
        tuple(environment.metadata.name for environment in environments),
    )


async def load_guards(store: Store, promotion: Promotion, policies: Policies) -> Guards:
    """Return what guards `promotion`; of what no policy asks for nothing is read.

    Raises
    ------
    NotFound
        Its environment is gone.
    """
    revision, place = promotion.spec.revision, promotion.metadata.environment or ""
    model = await load_model(store, revision.model)
    environment = await store.get(Environment, place)
    matching = matching_policies(policies.promotion, place, model)
    if not matching and not policies.approval:
        return Guards(environment, model)
    version = await store.find(ModelVersion, f"{revision.model}@{revision.version}")
    around = await load_surroundings(store)
    gates = {
        name: await _load_gate(store, around.pipelines[name], promotion)
        for name in required_pipelines(matching)
        if name in around.pipelines
    }
    approvals, _ = await store.list(Approval, labels={REVISION_LABEL: revision.short})
    deployable: bool | None = None
    if mentions([*matching, *policies.approval], "contracts."):
        contracts, _ = await store.list(Contract)
        digest = revision.artifact.digest
        deployable, _ = can_deploy(contracts, revision.model, revision.version, digest, place)
    verdict: AbVerdict | None = None
    if mentions([*matching, *policies.approval], "ab."):
        rollouts, _ = await store.list(Rollout)
        verdict = last_verdict(rollouts, revision)
    return Guards(
        environment, model, version,
        matching, policies.approval, approvals,
        gates=gates, around=around, can_deploy=deployable, ab_verdict=verdict,
    )  # fmt: skip


async def _load_gate(store: Store, pipeline: ValidationPipeline, promotion: Promotion) -> Gate:
    run = await find_run(store, pipeline, promotion.spec.revision)
    noted = next(
        (g.run for g in promotion.status.gates if g.pipeline == pipeline.metadata.name and g.run),
        None,
    )
    return Gate(
        run,
        await store.find(GateRun, noted) if noted else None,
        await load_results(store, run) if run is not None else {},
    )


async def load_results(store: Store, run: GateRun) -> dict[str, StageResult]:
    """Return the results of a run by the name of the stage; without those that are gone."""
    found = {}
    for stage in run.status.stages:
        result = await store.find(StageResult, stage.result) if stage.result else None
        if result is not None:
            found[stage.name] = result
    return found
