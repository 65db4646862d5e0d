"""The whole road with real parts: command line, control plane, agent, model servers, Envoy."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from modelplane.resources.replica import Replica
from tests.e2e.conftest import Modelplane, wait_for
from tests.e2e.load import Load

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

CANARY = {
    "minBake": "3s",
    "analysis": {"interval": "1s", "metrics": [{"name": "errors", "margin": 0.05}]},
}


async def test_a_bad_version_is_taken_back_unseen_and_a_good_one_promoted(
    modelplane: Modelplane,
) -> None:
    modelplane.serve(canary=CANARY)
    modelplane.push("2.0.0", fail_share=0.3)
    modelplane.push("3.0.0")
    async with Load(f"{modelplane.url}/test/infer", rate_per_s=100) as load:
        await asyncio.sleep(5)
        await asyncio.to_thread(modelplane.cli, "promote", "test", "--version", "2.0.0",
                                "--to", "production")  # fmt: skip
        bad = await asyncio.to_thread(modelplane.wait_until_finished, "2.0.0")
        await asyncio.to_thread(modelplane.cli, "promote", "test", "--version", "3.0.0",
                                "--to", "production", "--wait")  # fmt: skip
        good = modelplane.rollout()
        await asyncio.sleep(1)
    assert (bad.status.phase, bad.status.reason) == ("RolledBack", "Harm")
    assert 3 <= bad.status.failed_requests <= 60
    assert (good.status.phase, good.status.reason) == ("Promoted", "WithinMargins")
    assert load.failures == [], "the shield hides what the candidate failed"
    assert set(load.served) == {"1.0.0", "2.0.0", "3.0.0"}
    wait_for("the old replicas' end", lambda: len(modelplane.client.list(Replica).items) == 1)
    verified = json.loads(modelplane.cli("audit", "verify", "-o", "json").stdout)
    assert verified["verified"] is True
    weights = [step.weight_pct for step in good.status.steps]
    assert weights == sorted(set(weights)), "a ramp only grows"


async def test_pause_resume_rollback_and_undo_by_hand(modelplane: Modelplane) -> None:
    modelplane.serve(canary=CANARY)
    modelplane.push("2.0.0")
    modelplane.apply("2.0.0", CANARY)
    wait_for("the first step", lambda: modelplane.rollout().status.weight_pct > 0)
    modelplane.cli("rollout", "pause", "test", "--reason", "lunch")
    wait_for("a pause", lambda: modelplane.rollout().status.phase == "Paused")
    modelplane.cli("rollout", "resume", "test")
    wait_for("a resumption", lambda: modelplane.rollout().status.phase == "Ramping")
    modelplane.cli("rollout", "rollback", "test", "--reason", "wrong prices")
    rolled_back = modelplane.wait_until_finished("2.0.0")
    assert "wrong prices" in rolled_back.status.message

    modelplane.apply("2.0.0", CANARY)
    assert modelplane.deployment().status.rollouts == 2, "an unchanged manifest does nothing"

    modelplane.cli("promote", "test", "--version", "2.0.0", "--to", "production")
    wait_for("another rollout", lambda: modelplane.deployment().status.rollouts == 3)
    wait_for("its first step", lambda: modelplane.rollout().status.weight_pct > 0)
    modelplane.cli("rollout", "promote", "test", "--reason", "tested elsewhere")
    assert modelplane.wait_until_finished("2.0.0").status.phase == "Promoted"
    modelplane.cli("rollout", "undo", "test", "--reason", "second thoughts")
    wait_for("the way back", lambda: modelplane.deployment().status.rollouts == 4)
    assert modelplane.rollout().spec.candidate.version == "1.0.0"
    records = modelplane.cli("audit", "list", "--limit", "1000", "-o", "json").stdout
    for reason in ("lunch", "wrong prices", "tested elsewhere", "second thoughts"):
        assert reason in records


def test_a_version_that_cannot_start_fails_with_its_log_and_stable_serves_on(
    modelplane: Modelplane,
) -> None:
    modelplane.serve(canary=CANARY)
    modelplane.client.push("test", "2.0.0", command=["/bin/sh", "-c", "echo no model here; exit 9"])
    modelplane.apply("2.0.0", CANARY)
    failed = modelplane.wait_until_finished("2.0.0")
    assert failed.status.phase == "Failed"
    assert "no model here" in failed.status.message
    body = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1.0]}]}
    assert modelplane.client.predict("test", body).version == "1.0.0"


def test_up_twice_and_down_leave_things_in_order(modelplane: Modelplane) -> None:
    second = modelplane.up(check=False)
    assert second.returncode != 0
    assert "already running" in second.stderr
    modelplane.serve()
    modelplane.down()
    wait_for("end of all processes", lambda: not modelplane.processes(), 30)
    modelplane.up()
    body = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1.0]}]}

    def served() -> bool:
        try:
            return modelplane.client.predict("test", body).version == "1.0.0"
        except Exception:
            return False

    wait_for("what served before", served)


def test_ctrl_c_in_the_foreground_stops_everything() -> None:
    folder = Path(tempfile.mkdtemp(prefix="mp-e2e-"))
    plane = Modelplane(folder / "state")
    ports = [f"--{name}-port={port}" for name, port in plane.ports.items()]
    env = {**os.environ, "MODELPLANE_STATE": str(plane.state), "NO_COLOR": "1"}
    with (folder / "out").open("w") as out:
        up = subprocess.Popen(
            [sys.executable, "-m", "modelplane.cli", "up", *ports], env=env, stdout=out, stderr=out
        )
    try:
        wait_for("readiness", lambda: "modelplane is up" in (folder / "out").read_text(), 90)
        up.send_signal(signal.SIGINT)
        up.wait(60)
        wait_for("end of all processes", lambda: not plane.processes(), 30)
    finally:
        up.kill()
        plane.cli("down", check=False)
    shutil.rmtree(folder)
