"""Runs the recorded command: within its time, in a group of its own, with a bounded log.

Called by ``modelplane reproduce``. The process may do what its user may; it gets nothing that
opens a control plane.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from modelplane.client.reproduction import VARIABLE

LOG_BYTES = 10 * 2**20
_TAIL_BYTES = 4000
_PIECE = 1 << 16
_DRAIN_S = 5.0

# What would let other code run than what was recorded, or is ours.
_DROPPED = frozenset({"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "MLFLOW_RUN_ID"})


@dataclass(frozen=True, slots=True)
class Ran:
    """How a process ended.

    Attributes
    ----------
    exit_code
        As the shell says it; None when it was ended for taking too long.
    error
        Why it did not start; empty when it did.
    log_tail
        The end of what it printed.
    """

    exit_code: int | None
    error: str = ""
    log_tail: str = ""


def command_environment(
    inherited: Mapping[str, str], pushes: Path, programs: Path | None
) -> dict[str, str]:
    """Return the variables of the command.

    Parameters
    ----------
    inherited
        Those of the user, who may have put secrets there for it.
    pushes
        Where `Client.push` leaves what it would push.
    programs
        The folder of the environment's programs, found first; None for the user's own.
    """
    child = {
        name: value
        for name, value in inherited.items()
        if name not in _DROPPED and not name.startswith("MODELPLANE_")
    }
    child[VARIABLE] = str(pushes)
    child["PYTHONUNBUFFERED"] = "1"
    if programs is not None:
        child["PATH"] = f"{programs}{os.pathsep}{child.get('PATH', os.defpath)}"
        if (programs.parent / "pyvenv.cfg").is_file():
            child["VIRTUAL_ENV"] = str(programs.parent)
    return child


def run_command(
    words: Sequence[str], folder: Path, env: Mapping[str, str], log: Path, *, timeout_s: float
) -> Ran:
    """Run a command to its end and return how it ended; whatever it started ends with it.

    Parameters
    ----------
    words
        Program and arguments.
    folder
        Where it runs.
    env
        All its variables.
    log
        Gets what it prints, up to `LOG_BYTES`.
    timeout_s
        How long it may take.
    """
    try:
        process = subprocess.Popen(
            words,
            cwd=folder,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        return Ran(None, f"{words[0]} cannot be started: {why}")
    assert process.stdout is not None
    tail = bytearray()
    reader = threading.Thread(target=_keep, args=(process.stdout, log, tail), daemon=True)
    reader.start()
    exit_code: int | None = None
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            exit_code = process.wait(timeout_s)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join(_DRAIN_S)
    return Ran(exit_code, log_tail=bytes(tail).decode(errors="replace").strip())


def _keep(stream: IO[bytes], log: Path, tail: bytearray) -> None:
    """Copy a stream to its end: the beginning into the log, the end into `tail`."""
    left = LOG_BYTES
    with log.open("wb") as file:
        while piece := os.read(stream.fileno(), _PIECE):
            file.write(piece[:left])
            file.flush()
            left = max(0, left - len(piece))
            tail += piece
            del tail[:-_TAIL_BYTES]
    stream.close()
