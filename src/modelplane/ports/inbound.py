"""The proxy before an environment's model servers: admits the gateway over mutual TLS only.

Called by the agent. An implementation configures one running proxy process; it does not start or
stop it, but says how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from modelplane.ports.gateways import GatewayCommand
from modelplane.ports.identity import Credentials


@dataclass(frozen=True, slots=True)
class InboundRoute:
    """One replica behind the proxy.

    Attributes
    ----------
    key
        Names it within the proxy; never used again for another replica.
    address
        ``host:port`` on which the proxy listens for it.
    socket
        Path of the model server's Unix socket.
    """

    key: str
    address: str
    socket: str


class InboundProxy(Protocol):
    """One environment's inbound proxy on one node."""

    async def start(self) -> None:
        """Begin to serve configuration to the proxy process; raises `TerminalError`."""

    async def stop(self) -> None:
        """Stop serving configuration; the process goes on with what it has."""

    def prepare_command(self) -> GatewayCommand:
        """Write what the process reads at its start, and return how to start it."""

    async def present(self, credentials: Credentials) -> None:
        """Speak with `credentials` from the next connection on."""

    async def expose(self, route: InboundRoute) -> str:
        """Listen for `route`; return why the proxy does not, or nothing once it does.

        Doing so again changes nothing. Raises `TransientError` when the proxy does not answer.
        """

    async def withdraw(self, key: str) -> None:
        """Listen for a replica no more; what is connected may finish; unknown: nothing."""


class InboundFactory(Protocol):
    """Makes the inbound proxy of an environment."""

    def __call__(
        self, environment: str, gateway: str, routes: Sequence[InboundRoute]
    ) -> InboundProxy:
        """Return the proxy, not started: who is admitted, and what it served last."""
