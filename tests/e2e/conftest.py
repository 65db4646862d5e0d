"""A whole modelplane for the end-to-end tests: started as a user starts it, left with nothing
running."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from modelplane.client import Client
from modelplane.errors import ModelplaneError
from modelplane.resources.manifest import read_document
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.rollout import Rollout
from modelplane.settings import Paths
from tests.ports import free_port

T = TypeVar("T")
MODEL = Path(__file__).parent / "oip_model.py"


def wait_for(what: str, probe: Callable[[], T | None], timeout_s: float = 60.0) -> T:
    """Return what `probe` finds, once it finds something; no answer is no find."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(ModelplaneError):
            found = probe()
            if found:
                return found
        time.sleep(0.1)
    raise AssertionError(f"no {what} within {timeout_s:g} s")


@dataclass
class Modelplane:
    """One running modelplane."""

    state: Path
    ports: dict[str, int] = field(
        default_factory=lambda: {n: free_port() for n in ("api", "staging", "production")}
    )

    def cli(
        self, *arguments: str, check: bool = True, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run one command as a user does."""
        env = {n: v for n, v in os.environ.items() if not n.startswith("MODELPLANE_")}
        done = subprocess.run(
            [sys.executable, "-m", "modelplane.cli", *arguments],
            env={**env, "MODELPLANE_STATE": str(self.state), "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
            **more,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{arguments}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def up(self, check: bool = True) -> subprocess.CompletedProcess[str]:
        ports = [f"--{name}-port={port}" for name, port in self.ports.items()]
        return self.cli("up", "--detach", *ports, check=check)

    def down(self) -> None:
        self.cli("down")

    @property
    def client(self) -> Client:
        return Client(state=self.state)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['production']}/v2/models"

    def pid(self, name: str) -> int:
        """Return the pid of `control-plane`, `agent` or `gateway-production`."""
        folder = "agent" if name.startswith(("gateway", "replica")) else "supervisor"
        record = json.loads((self.state / "processes" / folder / f"{name}.json").read_text())
        return int(record["pid"])

    def processes(self) -> list[str]:
        """Return the command lines of everything that belongs to this state directory."""
        mark = f"MODELPLANE_STATE={self.state}"
        runtime = str(self.runtime_dir)
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                line = " ".join(process.cmdline())
                environ = process.environ()
                if runtime in line or f"MODELPLANE_STATE={environ.get('MODELPLANE_STATE')}" == mark:
                    found.append(line)
            except psutil.Error:
                continue
        return found

    @property
    def runtime_dir(self) -> Path:
        return Paths(self.state).runtime_dir

    def push(self, version: str, fail_share: float = 0.0, latency_ms: float = 0.0) -> None:
        """Push a version of the model `test` whose server behaves as told."""
        command = [
            sys.executable,
            str(MODEL),
            "{socket}",
            version,
            str(fail_share),
            str(latency_ms),
        ]
        self.client.push("test", version, command=command)

    def apply(self, version: str, canary: dict[str, Any] | None = None, replicas: int = 1) -> None:
        """Declare `test` in production."""
        spec: dict[str, Any] = {"version": version, "replicas": replicas}
        if canary is not None:
            spec["strategy"] = {"canary": canary}
        manifest = {
            "apiVersion": "modelplane.dev/v1",
            "kind": "ModelDeployment",
            "metadata": {"name": "test"},
            "spec": spec,
        }
        self.client.apply(read_document(manifest))

    def deployment(self) -> ModelDeployment:
        return self.client.get(ModelDeployment, "test", "production")

    def rollout(self) -> Rollout:
        name = self.deployment().status.rollout
        assert name is not None
        return self.client.get(Rollout, name, "production")

    def serve(self, version: str = "1.0.0", **more: Any) -> None:
        """Push and apply a first version and wait until the gateway serves it."""
        self.push(version)
        self.apply(version, **more)
        body = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1.0]}]}

        def served() -> bool:
            try:
                return self.client.predict("test", body).version == version
            except Exception:
                return False

        wait_for(f"{version} in production", served)

    def wait_until_finished(self, version: str, timeout_s: float = 120.0) -> Rollout:
        def finished() -> Rollout | None:
            rollout = self.rollout()
            done = rollout.spec.candidate.version == version and rollout.finished
            return rollout if done else None

        return wait_for(f"end of the rollout of {version}", finished, timeout_s)


@pytest.fixture
def modelplane() -> Iterator[Modelplane]:
    """A modelplane that is up; afterwards it is down and nothing is left."""
    folder = Path(tempfile.mkdtemp(prefix="mp-e2e-"))
    plane = Modelplane(folder / "state")
    try:
        plane.up()
        yield plane
    finally:
        plane.cli("down", check=False)
        try:
            # `down` returns when the supervisor lets go of its lock, a moment before it ends.
            wait_for("end of all processes", lambda: not plane.processes(), 30)
        except AssertionError:
            raise AssertionError(f"left running: {plane.processes()}") from None
        shutil.rmtree(folder, ignore_errors=True)
