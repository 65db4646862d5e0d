"""A candidate that answers well but slowly is taken back for its latency, with real parts."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.e2e.conftest import Modelplane
from tests.e2e.load import Load

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

CANARY = {
    "minBake": "3s",
    "analysis": {
        "interval": "1s",
        "metrics": [{"name": "errors", "margin": 0.05}, {"name": "latency", "margin": 0.5}],
    },
}
MANIFEST = {
    "kind": "ModelDeployment",
    "apiVersion": "modelplane.dev/v1",
    "metadata": {"name": "test"},
    "spec": {"version": "2.0.0", "strategy": {"canary": CANARY}},
}


async def test_a_slow_candidate_is_rolled_back_for_latency(modelplane: Modelplane) -> None:
    modelplane.serve(canary=CANARY)
    # Much slower than stable is while it makes up for a second in which a machine stood still.
    modelplane.push("2.0.0", latency_ms=400)
    async with Load(f"{modelplane.url}/test/infer", rate_per_s=80) as load:
        await asyncio.sleep(8)
        planned = await asyncio.to_thread(
            modelplane.cli, "rollout", "plan", "-f", "-", "-o", "json", input=json.dumps(MANIFEST)
        )
        await asyncio.to_thread(modelplane.apply, "2.0.0", CANARY)
        slow = await asyncio.to_thread(modelplane.wait_until_finished, "2.0.0")
    (plan,) = json.loads(planned.stdout)
    assert 20 < plan["requestRateRps"] < 100
    assert [metric["name"] for metric in plan["metrics"]] == ["errors", "latency"]
    assert (slow.status.phase, slow.status.reason) == ("RolledBack", "Harm")
    latency = next(metric for metric in slow.status.metrics if metric.name == "latency")
    assert latency.verdict == "harm"
    assert latency.candidate is not None
    assert latency.candidate >= 400_000
    assert "latency: p95" in slow.status.message
    assert load.failures == []
