"""A model server for tests, speaking the Open Inference Protocol with the standard library only.

Run as ``python oip_model.py SOCKET VERSION [FAIL_SHARE] [LATENCY_MS]``: it answers every
inference with its version, fails the given share of requests with 500 (spread evenly, from the
first on), and takes the given time.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys


class Model:
    """Answers requests, one connection after the other or many at once."""

    def __init__(self, version: str, fail_share: float, latency_s: float) -> None:
        self.version = version
        self.fail_share = fail_share
        self.latency_s = latency_s
        self.owed = 1.0 if fail_share else 0.0

    async def answer(self, path: str) -> tuple[int, dict[str, object]]:
        """Return status and body for one request."""
        if not path.endswith("/infer"):
            return 200, {"name": "test", "ready": True}
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        self.owed += self.fail_share
        if self.owed >= 1:
            self.owed -= 1
            return 500, {"error": "made to fail"}
        output = {"name": "version", "datatype": "BYTES", "shape": [1], "data": [self.version]}
        return 200, {"model_name": "test", "outputs": [output]}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it is closed."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                request_line, *lines = head.decode("latin-1").split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
                await reader.readexactly(int(headers.get("content-length", "0")))
                status, body = await self.answer(request_line.split()[1])
                payload = json.dumps(body).encode()
                writer.write(
                    f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n"
                    f"content-length: {len(payload)}\r\n\r\n".encode()
                    + payload
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def main() -> None:
    """Serve until SIGTERM."""
    socket, version, *rest = sys.argv[1:]
    numbers = [float(value) for value in rest] + [0.0, 0.0]
    model = Model(version, numbers[0], numbers[1] / 1000)
    server = await asyncio.start_unix_server(model.serve, socket)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with server:
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(main())
