"""The rollouts that run for one deployment: its own, and those of its traffic policies."""

from __future__ import annotations

from modelplane.ports.store import Store
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.rollout import Rollout


async def load_running(store: Store, deployment: ModelDeployment) -> list[Rollout]:
    """Return the deployment's unfinished rollouts in the order they began."""
    status = deployment.status
    names = [status.rollout, *(lane.rollout for lane in status.lanes.values())]
    found = [
        await store.find(Rollout, name, deployment.metadata.environment) for name in names if name
    ]
    running = [rollout for rollout in found if rollout is not None and not rollout.finished]
    return sorted(running, key=lambda rollout: rollout.spec.ordinal)
