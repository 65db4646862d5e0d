"""Copies for another environment follow where its mesh is, and end when it lets nobody in."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelplane.ports.store import Transaction
from modelplane.resources.environment import Environment, EnvironmentSpec, Gateway, GatewayMesh
from modelplane.resources.meta import Metadata
from modelplane.resources.model_deployment import MirrorTo
from modelplane.resources.traffic_split import TrafficSplit
from tests.controllers.plane import ANA, Plane, open_plane, revision

pytestmark = pytest.mark.slow


def staging(port: int, order: int = 1) -> Environment:
    mesh = GatewayMesh(port=port, allow=("production",))
    gateway = Gateway(port=7081, mesh=mesh)
    return Environment(
        metadata=Metadata(name="staging"),
        spec=EnvironmentSpec(stage="staging", order=order, gateway=gateway),
    )


async def remotes(plane: Plane) -> list[str]:
    split = await plane.store.get(TrafficSplit, "delay", "production")
    return [remote.address for remote in split.spec.remotes]


async def write(plane: Plane, environment: Environment) -> None:
    found = await plane.store.find(Environment, environment.metadata.name)
    transaction = Transaction(ANA)
    transaction.put(found.with_(spec=environment.spec) if found else environment, "apply")
    await plane.store.commit(transaction)


async def reconcile(plane: Plane, environment: Environment) -> None:
    """What the loop does when an environment changes, and nothing else."""
    for reconciler in plane.reconcilers:
        if isinstance(environment, tuple(reconciler.kinds)):
            for key in reconciler.keys(environment):
                await reconciler.reconcile(key)


async def test_an_edited_environment_moves_the_copies_for_it(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await plane.declare()
        production = await plane.store.get(Environment, "production")
        await write(plane, production.with_spec(order=9))
        await write(plane, staging(7091))
        await plane.promote(revision("1.0.0"))
        transaction = Transaction(ANA)
        mirror = MirrorTo(environment="staging")
        transaction.update((await plane.deployment()).with_spec(mirror_to=(mirror,)))
        await plane.store.commit(transaction)
        await plane.settle()
        assert await remotes(plane) == ["127.0.0.1:7091"]
        await write(plane, staging(7099))
        await reconcile(plane, staging(7099))
        assert await remotes(plane) == ["127.0.0.1:7099"]
        behind = staging(7099, order=20)
        await write(plane, behind)
        await reconcile(plane, behind)
        assert await remotes(plane) == [], "copies never go on towards production"
