"""Watches: the change log as server-sent events.

Each event is ``put`` or ``delete`` with the resource as data and its resource version as id; a
comment shows every few seconds that the stream lives. ``expired`` means: list again. Changes
are read from the log only as fast as the client takes them, so a slow one costs no memory; one
that takes nothing is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from modelplane.api.answers import encode, show
from modelplane.api.dependencies import ApiDependencies
from modelplane.api.problems import problem_of
from modelplane.errors import ModelplaneError
from modelplane.ports.store import AnyResource, Change


def format_event(event: str, data: bytes, id: int | None = None) -> bytes:
    """Return one server-sent event; `data` holds no line break."""
    number = f"id: {id}\n".encode() if id is not None else b""
    return number + b"event: " + event.encode() + b"\ndata: " + data + b"\n\n"


class WatchResponse(Response):
    """Streams the changes of one kind until the client, or the server, goes.

    `wanted` says which resources to tell of; `recheck` raises once the subject may not watch any
    more (its token was revoked), and is asked as often as the stream shows that it lives.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        dependencies: ApiDependencies,
        kind: type[AnyResource],
        since: int,
        *,
        wanted: Callable[[AnyResource], bool],
        recheck: Callable[[], Awaitable[object]],
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._dependencies = dependencies
        self._kind = kind
        self._since = since
        self._wanted = wanted
        self._recheck = recheck

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until something ends the stream."""
        limits = self._dependencies.limits

        async def write(body: bytes, more: bool = True) -> None:
            async with asyncio.timeout(limits.idle_timeout_s):
                await send({"type": "http.response.body", "body": body, "more_body": more})

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        over = asyncio.create_task(self._wait_for_the_end(receive))
        changes = self._dependencies.store.watch(self._since, (self._kind,))
        try:
            await write(b": watching\n\n")
            async for event in self._events(changes, over):
                await write(event)
            await write(b"", more=False)
        except (TimeoutError, OSError):
            return  # the client takes nothing any more
        finally:
            over.cancel()
            await asyncio.gather(over, return_exceptions=True)

    async def _events(
        self, changes: AsyncIterator[Change], over: asyncio.Task[None]
    ) -> AsyncIterator[bytes]:
        heartbeat_s = self._dependencies.limits.heartbeat_s
        clock = self._dependencies.clock
        recheck_at_s = clock.monotonic_s() + heartbeat_s
        upcoming: asyncio.Task[Change] | None = None
        try:
            while not over.done():
                upcoming = upcoming or asyncio.ensure_future(_next(changes))
                await asyncio.wait(
                    {upcoming, over}, timeout=heartbeat_s, return_when=asyncio.FIRST_COMPLETED
                )
                if over.done():
                    return
                if not upcoming.done() or clock.monotonic_s() >= recheck_at_s:
                    await self._recheck()
                    recheck_at_s = clock.monotonic_s() + heartbeat_s
                if not upcoming.done():
                    yield b": alive\n\n"
                    continue
                change = upcoming.result()
                upcoming = None
                if self._wanted(change.resource):
                    data = encode(show(change.resource))
                    yield format_event(change.type, data, change.resource_version)
        except ModelplaneError as error:
            name = "expired" if error.code == "expired" else "error"
            yield format_event(name, to_json(problem_of(error)))
        except StopAsyncIteration:
            return
        finally:
            if upcoming is not None:
                upcoming.cancel()
                await asyncio.gather(upcoming, return_exceptions=True)
            close = getattr(changes, "aclose", None)
            if close is not None:
                await close()

    async def _wait_for_the_end(self, receive: Receive) -> None:
        """Return when the client has gone or the server is about to stop."""

        async def disconnect() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        waits = {
            asyncio.ensure_future(disconnect()),
            asyncio.ensure_future(self._dependencies.stopping.wait()),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)


async def _next(changes: AsyncIterator[Change]) -> Change:
    return await anext(changes)
