"""What the parts of the agent share: the machine's ports, where files lie, how patient to be.

Built once by `agent.Agent`; holds no state of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelplane.decisions.restarts import RestartPolicy
from modelplane.ports.clock import Clock
from modelplane.ports.processes import Processes
from modelplane.ports.servers import Artifacts, ModelServers
from modelplane.ports.signatures import SignatureVerifier
from modelplane.resources.meta import Part, Resource

Report = Callable[[Resource[Any, Any], Part], None]
"""Takes a resource and the status to report for it; returns at once."""


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """How often the agent looks and how long it waits; all in seconds unless said otherwise.

    Attributes
    ----------
    probe_interval_s, starting_probe_interval_s
        Between two questions whether a model server is ready, afterwards and while it starts.
    failures_until_not_ready
        So many negative answers in a row make a server not ready.
    unresponsive_s
        A server that answers nothing at all for so long is ended and started again.
    server_drain_s, gateway_drain_s
        What requests in flight get before their process is killed.
    unroute_timeout_s
        How long a server that is to stop waits for the gateway to leave it.
    server_restarts, gateway_restarts
        When they are started again.
    telemetry_interval_s
        Between two readings of a gateway's counts.
    scrape_interval_s
        Between two scrapes of the model servers' own metrics.
    max_preparations
        How many versions' environments are prepared at a time.
    job_slots, training_slots
        How many jobs run at a time, and beside them how many trainings.
    """

    probe_interval_s: float = 1.0
    starting_probe_interval_s: float = 0.1
    failures_until_not_ready: int = 3
    unresponsive_s: float = 30.0
    server_drain_s: float = 15.0
    gateway_drain_s: float = 15.0
    unroute_timeout_s: float = 60.0
    server_restarts: RestartPolicy = field(default=RestartPolicy(max_early_exits=3))
    gateway_restarts: RestartPolicy = field(default=RestartPolicy(0.05, 5.0))
    telemetry_interval_s: float = 1.0
    scrape_interval_s: float = 15.0
    max_preparations: int = 2
    job_slots: int = 2
    training_slots: int = 1


@dataclass(frozen=True, slots=True)
class Places:
    """Directories of an agent.

    Attributes
    ----------
    agent_dir
        Its own: cache, artifacts, working directories.
    runtime_dir
        Sockets; short, because their paths are limited to 107 bytes.
    log_dir
        Logs, in ``replicas/ENVIRONMENT``, ``gateways`` and ``jobs/ENVIRONMENT``.
    """

    agent_dir: Path
    runtime_dir: Path
    log_dir: Path


@dataclass(frozen=True, slots=True)
class Node:
    """One machine as its agent sees it.

    Without `signatures` nothing starts whose environment requires a signature.
    """

    name: str
    processes: Processes
    servers: ModelServers
    artifacts: Artifacts
    clock: Clock
    places: Places
    options: AgentOptions
    preparations: asyncio.Semaphore
    signatures: SignatureVerifier | None = None

    def socket(self, uid: str) -> Path:
        """Return the Unix socket of a replica: the same after each restart, and short."""
        return self.places.runtime_dir / "r" / f"{short_id(uid)}.sock"


def short_id(uid: str) -> str:
    """Return eight hexadecimal digits that stand for a resource's uid in names of files."""
    return hashlib.sha256(uid.encode()).hexdigest()[:8]
