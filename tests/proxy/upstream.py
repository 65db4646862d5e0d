"""A tiny model server for tests of the gateway: real HTTP on a Unix socket, made to misbehave.

Runs in the test's process (`Upstream`) or, where a test kills or stops it, in one of its own:
``python -m tests.proxy.upstream SOCKET NAME [MODE]``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Literal

Mode = Literal["ok", "500", "503", "400", "hang", "cut", "slow", "forged"]


class Upstream:
    """Answers each request with its own name; `mode` says how well."""

    def __init__(self, path: str, name: str, mode: Mode = "ok", *, slow_s: float = 0.2) -> None:
        self.path = path
        self.name = name
        self.mode: Mode = mode
        self.slow_s = slow_s
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """The replica's address as a plan names it."""
        return f"unix:{self.path}"

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._accept, self.path, backlog=1024)

    async def stop(self) -> None:
        """Close the socket and every connection."""
        if self._server:
            self._server.close()
            for task in list(self._connections):
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            self._server = None

    async def was_asked(self) -> bool:
        """Whether a request has arrived."""
        return bool(self.requests)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._connections.add(task)
        try:
            while await self._answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        method, target, _ = first.split(" ")
        headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines)}
        size = int(headers.get("content-length", "0"))
        if size:
            await reader.readexactly(size)
        elif headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readline(), 16):
                await reader.readexactly(size + 2)
            await reader.readline()
        self.requests.append((method, target, headers))
        if self.mode == "hang":
            await asyncio.sleep(3600)
        if self.mode == "slow":
            await asyncio.sleep(self.slow_s)
        status = self.mode if self.mode.isdigit() else "200"
        extra = ""
        if self.mode == "forged":  # says of itself what only the gateway says
            status, extra = "503", "x-modelplane-shed: 1\r\n"
        body = json.dumps({"served_by": self.name, "target": target, "bytes": size}).encode()
        length = len(body) + (1 if self.mode == "cut" else 0)
        writer.write(
            f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n"
            f"{extra}content-length: {length}\r\n\r\n".encode()
            + body
        )
        await writer.drain()
        return self.mode != "cut"


async def _main(path: str, name: str, mode: Mode) -> None:
    await Upstream(path, name, mode).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "ok"))  # type: ignore[arg-type]
