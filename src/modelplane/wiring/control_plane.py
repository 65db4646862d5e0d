"""The control plane process: store, API and controllers in one event loop.

Run by the supervisor as ``python -m modelplane.wiring.control_plane``; settings come from the
environment. It owns the database and nothing else: Envoy and the model servers belong to the
agent, and serve on while this process is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Generator

import structlog
import uvicorn
from fastapi import FastAPI

from modelplane.adapters.clock import SystemClock
from modelplane.adapters.identity.authority import FolderAuthority
from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.api.app import create_app
from modelplane.api.catalog import Catalog
from modelplane.api.dependencies import ApiDependencies, ApiLimits
from modelplane.errors import ModelplaneError, TerminalError
from modelplane.settings import Paths, Settings
from modelplane.wiring.controllers import Parts, make_parts, run_controllers
from modelplane.wiring.network import on_loopback
from modelplane.wiring.notifying import (
    allowed_hosts,
)
from modelplane.wiring.predictions import open_predictions
from modelplane.wiring.process import run_process
from modelplane.wiring.state import ensure_first_resources, prepare_state

_log = structlog.get_logger(__name__)

GRACE_S = 5
"""How long requests in flight may take when the process stops, seconds."""


@contextlib.asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[SqliteStore]:
    """Open the database of a prepared state directory."""

    paths = settings.paths
    store = SqliteStore(
        paths.database, clock=SystemClock(), new_uid=lambda: uuid.uuid4().hex, audit_dir=paths.audit
    )
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def serve(settings: Settings, stopping: asyncio.Event) -> None:
    """Serve until `stopping` is set."""

    prepare_state(settings.paths)
    listener = _bind(settings)
    async with open_store(settings) as store, open_predictions(settings) as predictions:
        await ensure_first_resources(store, settings)
        parts = make_parts(settings, store, predictions)
        app = create_app(_dependencies(settings, parts, stopping))
        async with asyncio.TaskGroup() as group:
            # Nobody's first request should wait until the whole registry has been read.
            group.create_task(_warm(app.state.context.catalog))
            controllers = group.create_task(run_controllers(parts))
            await _serve_api(settings, app, listener, stopping)
            controllers.cancel()
        await parts.approving.notifications.close()
        await parts.alerting.close()
        await parts.repairing.close()


async def _warm(catalog: Catalog) -> None:
    with contextlib.suppress(ModelplaneError):  # who reads next will meet it
        await catalog.current()


def _bind(settings: Settings) -> socket.socket:
    """Take the API's port, before anything else is touched."""
    family = socket.AF_INET6 if ":" in settings.api_host else socket.AF_INET
    # The protocol is named, so that accepted sockets get TCP_NODELAY.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.api_host, settings.api_port))
    except OSError as error:
        listener.close()
        raise TerminalError(
            f"the API cannot listen on {settings.api_host}:{settings.api_port}: {error.strerror}",
            hint="stop what uses the port, or choose another with --api-port",
        ) from error
    return listener


def _dependencies(settings: Settings, parts: Parts, stopping: asyncio.Event) -> ApiDependencies:
    return ApiDependencies(
        store=parts.store,
        blobs=parts.blobs,
        metrics=parts.metrics,
        clock=SystemClock(),
        new_uid=lambda: uuid.uuid4().hex,
        new_secret=lambda: f"mp_{secrets.token_urlsafe(32)}",
        verify_audit=parts.proof.verify,
        signed_head=parts.proof.signed_head,
        sign=parts.proof.sign,
        link_key=parts.approving.link_key,
        authority=FolderAuthority(
            settings.paths.ca, SystemClock(), life_s=settings.certificate_life_s
        ),
        stage_place=parts.place,
        secret=parts.watching.secret,
        wake_source=parts.watching.sources.wake,
        predictions=parts.predictions,
        quality=parts.quality,
        series=parts.measuring.series,
        evaluates_rules=parts.measuring.alerts is not None,
        on_loopback=on_loopback(settings.api_host),
        allowed_hosts=allowed_hosts(settings),
        limits=ApiLimits(artifact_bytes=settings.max_artifact_bytes),
        stopping=stopping,
    )


class _Server(uvicorn.Server):
    """Leaves the signals to the process: watches must end before connections are waited for."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Capture none."""
        yield


async def _serve_api(
    settings: Settings, app: FastAPI, listener: socket.socket, stopping: asyncio.Event
) -> None:

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        http="httptools",
        timeout_graceful_shutdown=GRACE_S,
        server_header=False,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    stopped = asyncio.create_task(stopping.wait())
    _write_endpoint(settings.paths, settings.api_url)
    _log.info("listening", url=settings.api_url)
    await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopping.set()
    server.should_exit = True
    stopped.cancel()
    await serving


def _write_endpoint(paths: Paths, url: str) -> None:
    """Tell the CLI where the API is; it reads this file from the state directory."""
    temporary = paths.endpoint.with_suffix(".new")
    temporary.write_text(json.dumps({"url": url}) + "\n")
    temporary.rename(paths.endpoint)


def main() -> int:
    """Run the process; return its exit code."""
    return run_process("control-plane", serve)


if __name__ == "__main__":
    sys.exit(main())
