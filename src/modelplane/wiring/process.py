"""What both processes do first: logs as JSON lines, settings, and a clean end.

Called by `control_plane.main` and `agent.main`.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable

import structlog

from modelplane.errors import ModelplaneError
from modelplane.settings import Settings, load_settings

EXIT_CANNOT_START = 78
"""Exit code when starting again cannot help: a port in use, a state of a newer version."""


def run_process(name: str, serve: Callable[[Settings, asyncio.Event], Awaitable[None]]) -> int:
    """Run `serve` until it ends or SIGTERM or SIGINT sets its event; return the exit code."""
    _configure_logs(name, "info")
    log = structlog.get_logger(name)
    try:
        settings = load_settings()
        _configure_logs(name, settings.log_level)
        _run(settings, serve)
    except ModelplaneError as error:
        log.error("cannot_start", error=error.message, hint=error.hint, code=error.code)
        return EXIT_CANNOT_START
    except BaseExceptionGroup as group:
        log.error("died", exc_info=group)
        return 1
    return 0


def _run(settings: Settings, serve: Callable[[Settings, asyncio.Event], Awaitable[None]]) -> None:
    async def until_stopped() -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        await serve(settings, stopping)

    import uvloop  # noqa: PLC0415 - only the two processes need it

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(until_stopped())


def _configure_logs(name: str, level: str) -> None:
    number = getattr(logging, level.upper())
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(process=name)
