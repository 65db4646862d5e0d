"""The process: claim the socket, answer at once, load in a thread, drain on SIGTERM.

Started by ``__main__``. Exit codes: 0 after a drain, 2 for a wrong command line or socket, 3
when the model cannot be loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import uvicorn
import uvloop

from modelplane_runtime.app import Identity, RuntimeApp
from modelplane_runtime.errors import EXIT_LOAD_FAILED, EXIT_USAGE, LoadError, SocketError
from modelplane_runtime.models import Model
from modelplane_runtime.models.loading import load_model
from modelplane_runtime.options import Options, parse_options
from modelplane_runtime.signature import Signature, parse_signature
from modelplane_runtime.sockets import claim_socket, release_socket

logger = logging.getLogger(__name__)

# The proxy closes idle connections, never this side: a request sent into a closing connection
# would be lost.
_KEEP_ALIVE_S = 7200
# A request that was on its way when SIGTERM came arrives within this time.
_QUIET_S = 0.2
_POLL_S = 0.02


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which would end the process by the signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class RuntimeServer:
    """One server process, from listening to drained.

    Parameters
    ----------
    options
        The command line.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        identity = Identity(options.model_name, options.model_version, options.replica)
        self._app = RuntimeApp(
            identity,
            workers=options.workers,
            queue_limit=options.queue_limit,
            max_body_bytes=options.max_body_bytes,
            log_settings=options.log_settings,
        )
        config = uvicorn.Config(
            self._app,
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        self._loop = asyncio.get_running_loop()
        self._exit_code = 0
        self._drain_task: asyncio.Task[None] | None = None

    async def run(self, listener: socket.socket) -> int:
        """Serve until drained or until loading fails; return the exit code."""
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(signal_number, self._begin_drain)
        threading.Thread(target=self._load, name="load", daemon=True).start()
        await self._server.serve(sockets=[listener])
        return self._exit_code

    def _load(self) -> None:
        started = time.monotonic()
        try:
            model = load_model(
                self._options.format,
                self._options.artifact,
                _read_signature(self._options.signature),
                allow_pickle=self._options.allow_pickle,
            )
        except LoadError as error:
            self._loop.call_soon_threadsafe(self._fail, str(error))
        except (Exception, SystemExit) as error:  # a model's code may raise anything
            logger.exception("loading failed")
            message = f"loading failed: {type(error).__name__}: {error}"
            self._loop.call_soon_threadsafe(self._fail, message)
        else:
            # What is loaded stays: the collector need not look at it again.
            gc.collect()
            gc.freeze()
            load_s = time.monotonic() - started
            self._loop.call_soon_threadsafe(self._take, model, load_s)

    def _take(self, model: Model, load_s: float) -> None:
        self._app.serve(model, load_s)
        identity = self._app.identity
        logger.info("%s %s ready after %.2f s", identity.model, identity.version, load_s)

    def _fail(self, message: str) -> None:
        print(f"cannot load the model: {message}", file=sys.stderr, flush=True)
        self._exit_code = EXIT_LOAD_FAILED
        self._server.should_exit = True

    def _begin_drain(self) -> None:
        if self._drain_task is not None:  # a second signal is an order to hurry
            self._server.should_exit = True
            return
        logger.info("draining, %d requests in flight", self._app.open_requests)
        self._app.drain()
        self._drain_task = self._loop.create_task(self._drain())

    async def _drain(self) -> None:
        deadline = self._loop.time() + self._options.drain_s
        quiet_since = self._loop.time()
        while (now := self._loop.time()) < deadline:
            if self._app.open_requests:
                quiet_since = now
            elif now - quiet_since >= _QUIET_S:
                break
            await asyncio.sleep(_POLL_S)
        if self._app.open_requests:
            logger.warning("gave up on %d requests in flight", self._app.open_requests)
        self._server.should_exit = True


def _read_signature(path: Path | None) -> Signature | None:
    if path is None:
        return None
    try:
        return parse_signature(path.read_bytes())
    except OSError as error:
        raise LoadError(f"cannot read the signature file {path}: {error.strerror}") from error


def run_server(options: Options) -> int:
    """Run one server to its end; return the exit code."""
    try:
        listener = claim_socket(options.uds)
    except SocketError as error:
        print(error, file=sys.stderr, flush=True)
        return EXIT_USAGE
    inode = options.uds.lstat().st_ino

    async def serve() -> int:
        return await RuntimeServer(options).run(listener)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(serve())
    finally:
        release_socket(options.uds, inode)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the server of the command line and end the process."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    code = run_server(parse_options(arguments))
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a prediction that hangs in native code must not hold up the end.
    os._exit(code)
