"""A gateway as the agent keeps it: the proxy, how to start its process, what keeps it silent.

`ports.proxy.Proxy` is what is done with a running gateway; this is what the agent needs besides
to run one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from modelplane.decisions.routing import RoutePlan
from modelplane.ports.identity import Credentials
from modelplane.ports.proxy import Proxy
from modelplane.resources.environment import Environment


@dataclass(frozen=True, slots=True)
class GatewayCommand:
    """How the proxy process is started: program and arguments, and all its variables."""

    command: tuple[str, ...]
    env: Mapping[str, str]


class GatewayProxy(Proxy, Protocol):
    """One environment's gateway."""

    @property
    def listener_fault(self) -> str | None:
        """Why the running proxy does not listen; None when it does or does not run."""

    async def present(self, credentials: Credentials) -> None:
        """Speak mutual TLS with `credentials` from the next connection on."""

    async def start(self) -> None:
        """Begin to serve configuration to the proxy process; raises `TerminalError`."""

    async def stop(self) -> None:
        """Stop serving configuration; the process goes on with what it has."""

    def prepare_command(self) -> GatewayCommand:
        """Write what the process reads at its start, and return how to start it."""


class GatewayFactory(Protocol):
    """Makes the gateway of an environment."""

    def __call__(self, environment: Environment, plans: Sequence[RoutePlan]) -> GatewayProxy:
        """Return the gateway, not started, with the plans it served when it was last run."""
