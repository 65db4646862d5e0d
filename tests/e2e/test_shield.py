"""The shield, end to end: whatever a candidate does, no client sees it, and it is taken back."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from modelplane.resources.manifest import read_document
from modelplane.resources.rollout import Rollout
from modelplane.resources.traffic_policy import TrafficPolicy
from tests.e2e.conftest import Modelplane, wait_for
from tests.e2e.load import Load

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

TROUBLED = Path(__file__).with_name("troubled_model.py")
TROUBLES = ("killed", "stopped", "failing", "late", "garbage", "memory")
CANARY = {
    "steps": [10],
    "minBake": "60s",
    "analysis": {"interval": "1s", "metrics": [{"name": "errors", "margin": 0.05}]},
}


def declare(plane: Modelplane) -> None:
    manifest = {
        "apiVersion": "modelplane.dev/v1",
        "kind": "ModelDeployment",
        "metadata": {"name": "test"},
        "spec": {
            "version": "1.0.0",
            "tryTimeout": "3s",
            "timeout": "20s",
            "resources": {"memory": "400Mi"},
        },
    }
    plane.client.apply(read_document(manifest))


def roll_out(plane: Modelplane, version: str, trouble: str) -> None:
    """Push a version that will get into trouble and give it a tenth of the users."""
    command = [sys.executable, str(TROUBLED), "{socket}", version, trouble]
    plane.client.push("test", version, command=command)
    policy = {
        "apiVersion": "modelplane.dev/v1",
        "kind": "TrafficPolicy",
        "metadata": {"name": trouble},
        "spec": {"deployment": "test", "version": version, "trafficRule": {"canary": CANARY}},
    }
    plane.client.apply(read_document(policy))


def ended(plane: Modelplane, version: str) -> Rollout | None:
    for rollout in plane.client.list(Rollout, environment="production").items:
        if rollout.spec.candidate.version == version and rollout.finished:
            return rollout
    return None


@pytest.mark.parametrize("live", [1, 2, 3])
async def test_no_client_sees_what_candidates_do(modelplane: Modelplane, live: int) -> None:
    plane = modelplane
    await asyncio.to_thread(plane.push, "1.0.0")
    await asyncio.to_thread(declare, plane)

    def serves() -> bool:
        stable = plane.deployment().status.stable
        return stable is not None and plane.deployment().status.ready_replicas == 1

    await asyncio.to_thread(wait_for, "1.0.0 in production", serves)
    outcomes: dict[str, Rollout] = {}
    async with Load(f"{plane.url}/test/infer", rate_per_s=80) as load:
        await asyncio.sleep(12)  # stable's normal
        rounds = [TROUBLES[at : at + live] for at in range(0, len(TROUBLES), live)]
        for round_, troubles in enumerate(rounds):
            versions = {f"{2 + round_}.{n}.0": trouble for n, trouble in enumerate(troubles)}
            for version, trouble in versions.items():
                await asyncio.to_thread(roll_out, plane, version, trouble)
            for version, trouble in versions.items():
                found = await asyncio.to_thread(
                    wait_for, f"the end of {trouble}", lambda v=version: ended(plane, v), 90
                )
                outcomes[trouble] = found
            for trouble in troubles:
                await asyncio.to_thread(plane.client.delete, TrafficPolicy, trouble, "production")
        await asyncio.sleep(1)
    assert load.failures == [], "clients see nothing of it"
    assert set(outcomes) == set(TROUBLES)
    for trouble, rollout in outcomes.items():
        status = rollout.status
        assert (status.phase, status.reason) == ("RolledBack", "Harm"), (trouble, status.message)
        assert status.failed_requests >= 3, trouble
        assert status.saved_requests == status.failed_requests, trouble
