"""`modelplane up --detach`: the supervisor in the background, once it is known to work.

Called by the CLI. The supervisor is the same program, started anew in a session of its own, so
that it keeps nothing of the terminal.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from modelplane.errors import TerminalError

_POLL_S = 0.1
_END_S = 30.0
_TAIL_LINES = 20


async def detach(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    log_path: Path,
    is_healthy: Callable[[], Awaitable[bool]],
    timeout_s: float = 60.0,
) -> int:
    """Start `command` in the background and return its pid once it is healthy.

    Parameters
    ----------
    command
        `modelplane up` with its options, but in the foreground.
    env
        Its environment variables.
    log_path
        Takes its output; begun anew.
    is_healthy
        Says whether what it supervises answers.
    timeout_s
        How long that may take.

    Raises
    ------
    TerminalError
        When it ends or does not get healthy, with the end of its log; it does not run then.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as output:
        child = subprocess.Popen(  # noqa: ASYNC220 - it outlives this loop, and starting is quick
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(env),
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(timeout_s):
            while not await is_healthy():
                if child.poll() is not None:
                    raise TerminalError(
                        f"modelplane ended with exit code {child.returncode}:\n{_tail(log_path)}",
                        hint=f"the whole log is {log_path}",
                    )
                await asyncio.sleep(_POLL_S)
    except TimeoutError as error:
        await _end(child)
        raise TerminalError(
            f"modelplane was not healthy within {timeout_s:g} s:\n{_tail(log_path)}",
            hint=f"the whole log is {log_path}",
        ) from error
    except asyncio.CancelledError:
        await _end(child)
        raise
    child.returncode = 0  # it runs on by intention: without this, Popen warns of it
    return child.pid


async def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        await asyncio.to_thread(child.wait, _END_S)
    except subprocess.TimeoutExpired:
        os.kill(child.pid, signal.SIGKILL)
        await asyncio.to_thread(child.wait, _END_S)


def _tail(log_path: Path) -> str:
    try:
        return "\n".join(log_path.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
    except OSError:
        return ""
