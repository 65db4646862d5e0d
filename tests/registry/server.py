"""An HTTP server on a port of the kernel's choice that misbehaves as a test tells it to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

Answer = Callable[[web.Request], "web.StreamResponse | None"]


@dataclass
class Server:
    """Answers by path below ``/api/2.0``; remembers what it was asked.

    Attributes
    ----------
    answers
        What a path answers: JSON, or what makes a response.
    asked
        Method, path and headers of each request.
    """

    url: str = ""
    answers: dict[str, object] = field(default_factory=dict)
    asked: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)
    delay_s: float = 0.0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/api/2.0")
        self.asked.append((request.method, path, request.headers))
        await asyncio.sleep(self.delay_s)
        answer = self.answers.get(path)
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, web.StreamResponse):
            return answer
        if isinstance(answer, bytes):
            return web.Response(body=answer)
        if answer is None:
            missing = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"no {path}"}
            return web.json_response(missing, status=404)
        return web.Response(text=json.dumps(answer), content_type="application/json")


@asynccontextmanager
async def serve() -> AsyncIterator[Server]:
    """Serve until the block is left."""
    server = Server()
    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()
