"""A model server that gets into trouble once it has traffic; standard library only.

Run as ``python troubled_model.py SOCKET VERSION TROUBLE``: its first inferences are right; from
then on it is killed, stopped, fails, hangs, answers what is no HTTP, or runs out of memory.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

HEALTHY = 3
"""So many inferences are answered first: the smoke prediction is one of them."""

_HOARD: list[bytearray] = []


def fail() -> tuple[int, dict[str, object]]:
    return 500, {"error": "made to fail"}


def hoard() -> tuple[int, dict[str, object]]:
    """Take all memory that there is, and keep it."""
    while True:
        _HOARD.append(bytearray(os.urandom(1 << 20) * 16))


class Model:
    """Counts its inferences over all connections."""

    def __init__(self, version: str, trouble: str) -> None:
        self.version = version
        self.trouble = trouble
        self.inferences = 0

    async def answer(self, path: str) -> bytes:
        """Return the bytes of the answer to one request."""
        status, body = 200, self._output()
        if path.endswith("/infer"):
            self.inferences += 1
            if self.inferences > HEALTHY:
                if self.trouble == "garbage":
                    return b"\x16\x03\x01 this is no HTTP at all \x00\xff\r\n\r\n"
                status, body = await self._get_into_trouble()
        payload = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n"
        return f"{head}content-length: {len(payload)}\r\n\r\n".encode() + payload

    async def _get_into_trouble(self) -> tuple[int, dict[str, object]]:
        if self.trouble == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.trouble == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.trouble == "late":
            await asyncio.sleep(30)
        elif self.trouble == "failing":
            return fail()
        elif self.trouble == "memory":
            return hoard()
        return 200, self._output()

    def _output(self) -> dict[str, object]:
        output = {"name": "version", "datatype": "BYTES", "shape": [1], "data": [self.version]}
        return {"model_name": "test", "outputs": [output]}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it is closed."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                request_line, *lines = head.decode("latin-1").split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
                await reader.readexactly(int(headers.get("content-length", "0")))
                writer.write(await self.answer(request_line.split()[1]))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def main() -> None:
    """Serve until SIGTERM."""
    socket, version, trouble = sys.argv[1:]
    server = await asyncio.start_unix_server(Model(version, trouble).serve, socket)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with server:
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(main())
