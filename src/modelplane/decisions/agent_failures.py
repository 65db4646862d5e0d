"""Why a model server ended, in a stable code and one sentence. Pure.

Called by `agent.replicas` when a server exits; judges by the exit code and the end of its log.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from modelplane.resources.quantities import format_size

FailureReason = Literal[
    "EnvironmentFailed",
    "ArtifactMissing",
    "ArtifactChanged",
    "StartFailed",
    "NotReadyInTime",
    "OutOfMemory",
    "PickleNotAllowed",
    "SignatureInvalid",
    "SmokeFailed",
]

EXIT_LOAD_FAILED = 3
"""The model server's exit code for an artifact that it cannot serve."""

_OUT_OF_MEMORY = re.compile(
    r"MemoryError|std::bad_alloc|Cannot allocate memory|Unable to allocate|[Oo]ut of memory"
    r"|Memory allocation .*failed"
)
# Seen of libraries that meet their limit; without a limit these have other causes.
_LIMIT_MET = re.compile(r"can't start new thread|failed to map segment")
_OFF_LIST = re.compile(
    r"^cannot load the model: (.* is not within the pickle allowlist: .*)$", re.MULTILINE
)
_PICKLE = re.compile(r"where pickles are allowed", re.IGNORECASE)
_SIGKILL = -9
_COMMAND_NOT_FOUND = 127


@dataclass(frozen=True, slots=True)
class ExitCause:
    """Why a server ended.

    Attributes
    ----------
    reason
        Stable code.
    message
        One sentence that says what to do.
    final
        Whether another start would end the same way.
    """

    reason: FailureReason
    message: str
    final: bool = False


def explain_exit(
    code: int | None, log_tail: str, *, memory_bytes: int | None, speaks_our_codes: bool
) -> ExitCause:
    """Return why a server ended that was not asked to.

    Parameters
    ----------
    code
        Exit code, negated signal number, or None when nobody saw it.
    log_tail
        The end of what it wrote.
    memory_bytes
        Its memory limit, if it has one.
    speaks_our_codes
        Whether it is our own model server and not a program of the user's.
    """
    if found := _OFF_LIST.search(log_tail):
        message = f"{found.group(1)[:1000]}; push it as skops or ONNX, or set allowPickle: always"
        return ExitCause("PickleNotAllowed", message, final=True)
    if _PICKLE.search(log_tail):
        message = (
            "the artifact holds what can run any code when it is loaded, and the environment does "
            "not allow that; push it as skops or ONNX, or set allowPickle: always"
        )
        return ExitCause("PickleNotAllowed", message, final=True)
    met = memory_bytes is not None and _LIMIT_MET.search(log_tail)
    if met or _OUT_OF_MEMORY.search(log_tail) or code == _SIGKILL:
        limit = f"its limit of {format_size(memory_bytes)}" if memory_bytes else "this machine"
        how = "was killed, most likely because" if code == _SIGKILL else "ended because"
        return ExitCause(
            "OutOfMemory",
            f"the model server {how} it needs more memory than {limit} gives; "
            "raise resources.memory or use a smaller model",
        )
    if speaks_our_codes and code == EXIT_LOAD_FAILED:
        return ExitCause("StartFailed", f"the model cannot be loaded: {_last(log_tail)}", True)
    if code == _COMMAND_NOT_FOUND:
        return ExitCause("StartFailed", f"the command cannot be run: {_last(log_tail)}", True)
    if code is None:
        return ExitCause("StartFailed", "the model server ended while no agent ran")
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    return ExitCause("StartFailed", f"the model server {how}: {_last(log_tail)}")


def _last(log_tail: str) -> str:
    """Return the last line that says something."""
    lines = [line.strip() for line in log_tail.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it wrote nothing"
