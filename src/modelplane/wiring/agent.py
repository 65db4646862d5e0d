"""The agent process: model servers and gateways of this node.

Run by the supervisor as ``python -m modelplane.wiring.agent``; settings come from the
environment. It knows the control plane only as a client of its API.
"""

from __future__ import annotations

import asyncio
import os
import sys

from modelplane.adapters.clock import SystemClock
from modelplane.adapters.identity.keys import EllipticKeys
from modelplane.adapters.runtime.processes import LinuxProcesses
from modelplane.adapters.runtime.servers import RuntimeServers
from modelplane.adapters.runtime.signatures import ModelSignatures
from modelplane.agent.agent import Agent
from modelplane.agent.node import AgentOptions, Places
from modelplane.client import AsyncClient
from modelplane.errors import TransientError
from modelplane.settings import Paths, Settings
from modelplane.wiring.gateways import EnvoyGateways
from modelplane.wiring.inbounds import EnvoyInbounds
from modelplane.wiring.process import run_process
from modelplane.wiring.state import prepare_runtime_dir

_FIRST_START_S = 60.0


async def serve(settings: Settings, stopping: asyncio.Event) -> None:
    """Run the agent until `stopping` is set."""
    paths = settings.paths
    prepare_runtime_dir(paths)
    token = await _wait_for_token(paths, stopping)
    async with AsyncClient(settings.api_url, token) as client:
        agent = Agent(
            control_plane=client,
            processes=LinuxProcesses(paths.processes / "agent"),
            servers=RuntimeServers(
                paths.agent,
                reuse_interpreter=settings.reuse_interpreter,
                max_body_bytes=settings.max_request_bytes,
            ),
            gateway_factory=EnvoyGateways(settings),
            inbound_factory=EnvoyInbounds(settings),
            keys=EllipticKeys(),
            clock=SystemClock(),
            places=Places(paths.agent, paths.runtime_dir, paths.logs),
            signatures=ModelSignatures(),
            options=AgentOptions(job_slots=settings.job_slots or max(2, os.cpu_count() or 1)),
        )
        await agent.run(stopping)


async def _wait_for_token(paths: Paths, stopping: asyncio.Event) -> str:
    """Return the agent's token; at the very first start the control plane is just making it."""
    waited_s = 0.0
    while not paths.agent_token.is_file() and not stopping.is_set():
        if waited_s >= _FIRST_START_S:
            raise TransientError(
                f"there is no {paths.agent_token}", hint="does the control plane start? see logs"
            )
        await asyncio.sleep(0.1)
        waited_s += 0.1
    return paths.agent_token.read_text().strip() if paths.agent_token.is_file() else ""


def main() -> int:
    """Run the process; return its exit code."""
    return run_process("agent", serve)


if __name__ == "__main__":
    sys.exit(main())
