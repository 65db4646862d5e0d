"""The two processes of a modelplane, and the keepers of what runs: what `up` and `down` need.

Called by `platform`. Builds values and asks whether what runs answers; starts nothing itself.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from modelplane.adapters.clock import SystemClock
from modelplane.adapters.runtime.processes import LinuxProcesses
from modelplane.client import Client
from modelplane.errors import ModelplaneError
from modelplane.ports.processes import ProcessSpec
from modelplane.resources.environment import Environment
from modelplane.settings import Paths, Settings
from modelplane.supervisor.addresses import ListenAddress
from modelplane.supervisor.stopping import Member, Progress
from modelplane.supervisor.supervisor import Supervisor

_MEMBERS = {"control-plane": ("modelplane.wiring.control_plane", 15.0),
            "agent": ("modelplane.wiring.agent", 60.0)}  # fmt: skip
"""Module and time to end, in seconds, in the order of starting."""

_DEFAULT_HOST = "127.0.0.1"
_DEFAULT_PORTS = {"staging": 7081, "production": 7082}
_ANSWER_TIMEOUT_S = 1.0


def child_variables(overrides: Mapping[str, object], paths: Paths) -> dict[str, str]:
    """Return the environment variables of the processes: ours, and what the options say."""
    given = {name: str(value) for name, value in overrides.items() if value is not None}
    given["state"] = str(paths.state_dir)
    return {**os.environ, **{f"MODELPLANE_{name.upper()}": text for name, text in given.items()}}


def make_members(paths: Paths, variables: Mapping[str, str]) -> list[Member]:
    """Return the two processes, in the order of starting."""
    return [
        Member(
            ProcessSpec(
                name=name,
                command=(sys.executable, "-m", module),
                env=variables,
                cwd=paths.state_dir,
                log_path=paths.logs / f"{name}.log",
            ),
            drain_s=drain_s,
        )
        for name, (module, drain_s) in _MEMBERS.items()
    ]


def keep_members(paths: Paths) -> LinuxProcesses:
    """Return the keeper of the two processes."""
    return LinuxProcesses(paths.processes / "supervisor")


def keep_leftovers(paths: Paths) -> LinuxProcesses:
    """Return a keeper over what the agent runs, for what a killed agent left behind."""
    return LinuxProcesses(paths.processes / "agent")


def make_supervisor(
    settings: Settings, variables: Mapping[str, str], tell: Callable[[Progress], None]
) -> Supervisor:
    """Return what `up` runs."""
    paths = settings.paths
    return Supervisor(
        lock=paths.lock,
        members=make_members(paths, variables),
        processes=keep_members(paths),
        leftovers=keep_leftovers(paths),
        clock=SystemClock(),
        addresses=_addresses(settings),
        tell=tell,
    )


def _addresses(settings: Settings) -> list[ListenAddress]:
    host, port = settings.api_host, settings.api_port
    found = [ListenAddress("the API", host, port, "--api-port", "control-plane")]
    ports = {"staging": settings.staging_port, "production": settings.production_port}
    first_start = not settings.paths.database.exists()
    for name, given in ports.items():
        # Later the environment says where its gateway listens, unless the settings do.
        wanted = given or (_DEFAULT_PORTS[name] if first_start else None)
        if wanted is not None:
            gateway_host = settings.gateway_host or _DEFAULT_HOST
            what, option = f"the gateway of {name}", f"--{name}-port"
            found.append(ListenAddress(what, gateway_host, wanted, option, f"gateway-{name}"))
    return found


async def find_gateways(settings: Settings) -> dict[str, str] | None:
    """Return the addresses of the gateways once everything answers; None before."""
    return await asyncio.to_thread(_find_gateways, settings)


def _find_gateways(settings: Settings) -> dict[str, str] | None:
    try:
        token = _read_token(settings.paths.admin_token)
        with Client(settings.api_url, token, timeout_s=_ANSWER_TIMEOUT_S) as client:
            environments = client.list(Environment).items
        found = {}
        for environment in sorted(environments, key=lambda e: e.spec.order):
            gateway = environment.spec.gateway
            host = _DEFAULT_HOST if gateway.host in {"0.0.0.0", "::"} else gateway.host  # noqa: S104
            name, fault = environment.metadata.name, environment.status.gateway_fault
            found[name] = gateway.url_at(host)
            try:
                socket.create_connection((host, gateway.port), _ANSWER_TIMEOUT_S).close()
            except OSError:
                # Without its certificate or its issuer's keys one does not listen, however long
                # it is waited for; the others should not have to wait with it.
                if not fault or not (gateway.tls or gateway.jwt):
                    raise
                found[name] += f" (does not listen: {fault})"
    except (ModelplaneError, OSError):
        return None
    return found or None


def _read_token(file: Path) -> str:
    return file.read_text().strip()
