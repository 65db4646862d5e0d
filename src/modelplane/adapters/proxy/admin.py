"""Envoy's admin interface on its Unix socket: one short request at a time.

Called by `envoy` only. Every call is bounded in time and size; a silent Envoy is a
`TransientError`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

import httptools

from modelplane.errors import TransientError

_PEER_CREDENTIALS = struct.Struct("3i")
_CHUNK = 1 << 18
_BODY_MAX = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class AdminAnswer:
    """What the admin interface said, and which process said it.

    Attributes
    ----------
    status
        HTTP status.
    body
        The answer's bytes.
    boot_id
        Differs for every start of Envoy.
    """

    status: int
    body: bytes
    boot_id: str


class Admin:
    """Client of one Envoy's admin socket.

    Parameters
    ----------
    path
        The socket.
    timeout_s
        How long one call may take in all, seconds.
    """

    def __init__(self, path: Path, *, timeout_s: float = 2.0) -> None:
        self._path = path
        self._timeout_s = timeout_s

    async def get(self, target: str) -> AdminAnswer:
        """Return the answer to ``GET target``."""
        return await self._ask("GET", target)

    async def post(self, target: str) -> AdminAnswer:
        """Return the answer to ``POST target``."""
        return await self._ask("POST", target)

    async def _ask(self, method: str, target: str) -> AdminAnswer:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._exchange(method, target)
        except (TimeoutError, OSError, EOFError, httptools.HttpParserError) as error:
            raise TransientError(
                f"Envoy's admin interface does not answer on {self._path}: "
                f"{str(error) or type(error).__name__}",
                hint="it answers again once the agent has restarted the gateway",
            ) from error

    async def _exchange(self, method: str, target: str) -> AdminAnswer:
        reader, writer = await asyncio.open_unix_connection(str(self._path))
        try:
            boot_id = _boot_id(writer.get_extra_info("socket"))
            writer.write(f"{method} {target} HTTP/1.1\r\nhost: admin\r\n\r\n".encode())
            answer = _Answer()
            parser = httptools.HttpResponseParser(answer)
            while not answer.complete:
                data = await reader.read(_CHUNK)
                if not data or answer.size > _BODY_MAX:
                    raise EOFError("its answer broke off")
                parser.feed_data(data)
            return AdminAnswer(parser.get_status_code(), b"".join(answer.parts), boot_id)
        finally:
            writer.close()


class _Answer:
    """Collects what the parser finds."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0
        self.complete = False

    def on_body(self, data: bytes) -> None:
        self.parts.append(data)
        self.size += len(data)

    def on_message_complete(self) -> None:
        self.complete = True


def _boot_id(connection: socket.socket) -> str:
    """Return an id of the process at the other end: its pid and when the kernel started it.

    Envoy's own numbers do not serve: its uptime is in whole seconds and its node id is the same
    after a restart.
    """
    size = _PEER_CREDENTIALS.size
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, _, _ = _PEER_CREDENTIALS.unpack(credentials)
    stat = Path(f"/proc/{pid}/stat").read_text()
    started_ticks = stat.rpartition(")")[2].split()[19]
    machine_boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    return f"{machine_boot}-{pid}-{started_ticks}"
