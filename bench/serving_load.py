"""The load process of ``serving``: closed-loop inference requests from N connections.

``python serving_load.py ADDRESS CONNECTIONS SECONDS`` with the request's body on standard input;
prints the requests answered and the seconds taken as JSON. A process of its own with few
imports, so that it starts quickly and its own work is not counted to a server.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import uvloop


async def drive_connection(address: str, request: bytes, until: float) -> int:
    """Send one request after the other; return how many were answered."""
    if address.startswith("/"):
        reader, writer = await asyncio.open_unix_connection(address)
    else:
        host, port = address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
    count = 0
    while time.monotonic() < until:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 200"):
            raise RuntimeError(head.decode())
        length = head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]
        await reader.readexactly(int(length))
        count += 1
    writer.close()
    return count


async def generate_load(
    address: str, connections: int, seconds: float, body: bytes
) -> dict[str, float]:
    """Drive all connections at once for a time."""
    head = (
        "POST /v2/models/m/infer HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    started = time.monotonic()
    counts = await asyncio.gather(
        *(
            drive_connection(address, head.encode() + body, started + seconds)
            for _ in range(connections)
        )
    )
    return {"requests": sum(counts), "seconds": time.monotonic() - started}


if __name__ == "__main__":
    _, target, connection_count, duration_s = sys.argv
    request_body = sys.stdin.buffer.read()
    result = uvloop.run(
        generate_load(target, int(connection_count), float(duration_s), request_body)
    )
    print(json.dumps(result))
