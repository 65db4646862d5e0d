"""TCP ports for servers that are told where to listen, by a test and before they start."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Iterator

_FIRST, _LAST = 20_000, 32_000
_SHARES = 8
"""Tests that run beside each other: as many workers have ports that no other takes."""


def _candidates() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _SHARES
    while True:
        yield from random.sample(
            range(_FIRST + worker, _LAST, _SHARES), (_LAST - _FIRST) // _SHARES
        )


_UNTRIED = _candidates()


def free_port() -> int:
    """Return a free port of 127.0.0.1 that was not returned before, nor by a worker beside.

    It lies below those that the kernel gives to connections: between here and the server's start
    the kernel could give it to anybody. And while a gateway is down, one of the clients that try
    to reach it could be given its very port, be connected with itself, and keep the gateway from
    coming back.
    """
    for port in (next(_UNTRIED) for _ in range(100)):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")
