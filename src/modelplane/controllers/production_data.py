"""What production was asked lately, for the stage `data`: read, counted, handed to the stage's job.

Called by `controllers.gates` for a stage that is about to start.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

from modelplane.decisions.data_check import Production, count_production
from modelplane.decisions.drift_report import profile_key
from modelplane.decisions.gate_plans import StagePlan
from modelplane.ports.predictions import Prediction, Predictions
from modelplane.ports.store import Store
from modelplane.resources.checks import DataCheck
from modelplane.resources.data_profile import DataProfile
from modelplane.resources.environment import Environment
from modelplane.resources.model_deployment import ModelDeployment

_PARTS = 10
"""Stretches of time that rows are taken from, so that they are not all of one hour."""


async def add_production(
    plan: StagePlan, store: Store, predictions: Predictions | None, now: datetime
) -> StagePlan:
    """Return the plan of a stage with what production was asked; others as they are."""
    check = plan.task.stage.data
    if check is None or plan.fault:
        return plan
    revision = plan.task.candidate.revision
    name = f"{revision.model}@{revision.version}"
    told = (await store.evidence([profile_key(name)])).get(profile_key(name))
    if told is None:
        return replace(
            plan,
            fault=f"{name} was pushed without its training data: push it with "
            "`dataset=PATH or frame` (--training-data)",
        )
    data = DataProfile.model_validate(told)
    deployment = await _find_deployment(store, revision.model, check.environment)
    production = Production(data=data)
    if deployment is not None:
        meta = deployment.metadata
        made = await _recent(deployment, predictions, check, now)
        production = await asyncio.to_thread(
            count_production, meta.name, meta.environment or "", data, made, check.columns
        )
    return replace(plan, task=plan.task.with_(production=production.to_dict()))


async def _find_deployment(
    store: Store, model: str, environment: str | None
) -> ModelDeployment | None:
    """Return what serves the model, furthest on the way to production."""
    order = {e.metadata.name: e.spec.order for e in (await store.list(Environment))[0]}
    deployments, _ = await store.list(ModelDeployment)
    serving = [
        deployment
        for deployment in deployments
        if deployment.spec.model == model
        and deployment.status.stable is not None
        and environment in {None, deployment.metadata.environment}
    ]
    return max(
        serving,
        key=lambda d: (order.get(d.metadata.environment or "", 0), d.metadata.name),
        default=None,
    )


async def _recent(
    deployment: ModelDeployment,
    predictions: Predictions | None,
    check: DataCheck,
    now: datetime,
) -> list[Prediction]:
    """Return predictions from all of the time that counts, the first ones of each stretch."""
    if predictions is None:
        return []
    meta, found = deployment.metadata, list[Prediction]()
    length = timedelta(seconds=check.within_s / _PARTS)
    for part in range(_PARTS, 0, -1):
        since = now - part * length
        found += await predictions.rows(
            meta.environment or "",
            meta.name,
            since=since,
            until=since + length,
            limit=check.max_rows,
        )
    return found[:: -(-len(found) // check.max_rows) or 1]
