"""Kill -9 of each process, in each phase of a rollout, under load: nothing is lost.

No request fails because of the control plane or the agent; Envoy's own death is mended within
two seconds; each rollout goes on where it was, and no step is done twice.
"""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.rollout import Rollout
from tests.e2e.conftest import Modelplane, wait_for
from tests.e2e.load import Load

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

CANARY = {
    "steps": [5, 20, 50],
    "minBake": "3s",
    "analysis": {"interval": "2s", "metrics": [{"name": "errors", "margin": 0.05}]},
}


def phase_reached(modelplane: Modelplane, version: str, phase: str) -> bool:
    """Whether the rollout of `version` is at `phase`: starting, ramping, last-step or done."""
    try:
        deployment = modelplane.client.get(ModelDeployment, "test", "production")
        if deployment.status.rollout is None:
            return False
        rollout = modelplane.client.get(Rollout, deployment.status.rollout, "production")
    except Exception:
        return False
    if rollout.spec.candidate.version != version:
        return False
    status = rollout.status
    return {
        "starting": status.phase in {"Pending", "Deploying"},
        "ramping": 0 < status.weight_pct < 50,
        "last-step": status.weight_pct == 50,
    }[phase] or rollout.finished


async def kill_in_each_phase(modelplane: Modelplane, victims: dict[str, str]) -> None:
    """Promote one version after the other; kill its victim in each phase of its rollout."""
    for version, name in victims.items():
        await asyncio.to_thread(modelplane.push, version)
        await asyncio.to_thread(modelplane.apply, version, CANARY)
        for phase in ("starting", "ramping", "last-step"):
            await asyncio.to_thread(
                wait_for, f"{phase} of {version}",
                lambda p=phase, v=version: phase_reached(modelplane, v, p),
            )  # fmt: skip
            before = modelplane.pid(name)
            os.kill(before, signal.SIGKILL)
            await asyncio.to_thread(
                wait_for, f"another {name}", lambda n=name, b=before: restarted(modelplane, n, b)
            )
        rollout = await asyncio.to_thread(modelplane.wait_until_finished, version, 150.0)
        assert rollout.status.phase == "Promoted", rollout.status.message
        steps = [(step.id, step.weight_pct) for step in rollout.status.steps]
        assert steps == [(1, 5), (2, 20), (3, 50)], "each step once, in order"


def restarted(modelplane: Modelplane, name: str, before: int) -> bool:
    try:
        return modelplane.pid(name) != before
    except Exception:
        return False


async def test_each_process_dies_in_each_phase_and_every_rollout_goes_on(
    modelplane: Modelplane,
) -> None:
    modelplane.serve(canary=CANARY)
    async with Load(f"{modelplane.url}/test/infer", rate_per_s=80) as load:
        await asyncio.sleep(4)
        victims = {"2.0.0": "control-plane", "2.1.0": "agent"}
        await kill_in_each_phase(modelplane, victims)
        assert load.failures == []
        assert load.sent > 500
        # Envoy takes the requests it holds with it, but no step and no evidence.
        await kill_in_each_phase(modelplane, {"2.2.0": "gateway-production"})
        assert len(load.failures) < 3 * 2 * 80, "away for less than two seconds each time"
    assert (await asyncio.to_thread(modelplane.client.verify_audit))["verified"]


async def test_envoy_dies_and_is_back_within_two_seconds(modelplane: Modelplane) -> None:
    modelplane.serve(canary=CANARY)
    body_url = f"{modelplane.url}/test/infer"
    async with Load(body_url, rate_per_s=80) as load:
        await asyncio.sleep(2)
        for _ in range(3):
            os.kill(modelplane.pid("gateway-production"), signal.SIGKILL)
            await asyncio.sleep(0.05)
            served = load.statuses[200]
            for _ in range(100):  # looks, not a clock: what stands still with Envoy counts nothing
                if load.statuses[200] >= served + 5:
                    break
                await asyncio.sleep(0.02)
            else:
                pytest.fail("the gateway was away for two seconds")
            await asyncio.sleep(2)


async def test_envoy_restarts_without_a_control_plane_or_after_the_agents_death(
    modelplane: Modelplane,
) -> None:
    modelplane.serve()
    supervisor = int((modelplane.state / "up.lock").read_text().split()[0])
    os.kill(supervisor, signal.SIGKILL)
    os.kill(modelplane.pid("control-plane"), signal.SIGKILL)
    async with Load(f"{modelplane.url}/test/infer", rate_per_s=50) as load:
        await asyncio.sleep(1)
        assert load.failures == []
        os.kill(modelplane.pid("gateway-production"), signal.SIGKILL)
        served = load.statuses[200]
        await asyncio.to_thread(
            wait_for,
            "answers by the last good configuration",
            lambda: load.statuses[200] > served + 100,
        )
        failed = len(load.failures)
        await asyncio.to_thread(modelplane.up)
        await asyncio.sleep(2)
        assert len(load.failures) == failed, "the next `up` takes back what runs"
