"""Whether the ports that are about to be used are free, asked before anything is started.

Called by `supervisor`: a person at a terminal learns it at once and with the way out, instead of
from the log of a process that tries again and again.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass

from modelplane.errors import TerminalError


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """An address that one of the processes will listen on.

    Attributes
    ----------
    what
        For people: ``the API``, ``the gateway of staging``.
    host, port
        Where.
    option
        The option that sets another port: ``--api-port``.
    owner
        The process that listens: a name of the supervisor's keeper (``control-plane``) or of
        the agent's (``gateway-staging``). While it runs the address is rightly in use.
    """

    what: str
    host: str
    port: int
    option: str
    owner: str


def check_addresses(addresses: Iterable[ListenAddress], running: Iterable[str]) -> None:
    """Raise `TerminalError` for the first address that another program uses."""
    ours = set(running)
    for address in addresses:
        if address.owner not in ours:
            _check(address)


def _check(address: ListenAddress) -> None:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
            probe.listen(1)
        except OSError as error:
            raise TerminalError(
                f"{address.what} cannot listen on {address.host}:{address.port}: "
                f"{error.strerror or error}",
                hint=f"stop what uses the port, or choose another with {address.option}",
            ) from error
