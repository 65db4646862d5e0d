"""What a job is started with, and how it ended. Pure; called by `agent.job_runner`."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from modelplane.resources.job import Job, JobPhase, JobReason, JobSpec, JobStatus
from modelplane.resources.quantities import format_duration, format_size

PYTHON_PLACE = "{python}"
"""In a job's command: the interpreter that the agent itself runs in."""

_PLACE = re.compile(r"\{python\}|\{artifact:([^{}]*)\}")
_MAX_MESSAGE_CHARS = 2000

Interruption = Literal["TimedOut", "OutOfDisk", "Cancelled"]
"""Why the agent ended a job before its end."""


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job's process ended, and what it left.

    Attributes
    ----------
    code
        Exit code, negated signal number, or None when nobody saw it.
    at
        When, UTC.
    interruption
        Why it was ended before its end; its exit code then says nothing.
    not_started
        Why there never was a process.
    log_tail
        The end of what it wrote.
    result
        The object that it left as its result; None when there is none.
    result_fault
        Why what it left is no result.
    disk_full
        Whether its files had reached their limit.
    output
        Digest of the artifact with its output.
    output_message
        What became of its output, where that needs saying.
    """

    code: int | None
    at: datetime
    interruption: Interruption | None = None
    not_started: str = ""
    log_tail: str = ""
    result: dict[str, Any] | None = None
    result_fault: str = ""
    disk_full: bool = False
    output: str | None = None
    output_message: str = ""


def conclude_job(job: Job, end: JobEnd) -> JobStatus:
    """Return the final status of a job whose process is gone.

    Parameters
    ----------
    job
        With the status it had while it ran.
    end
        How it ended.
    """
    phase, reason, message = _judge(job.spec, end)
    parts = [message, end.output_message]
    return job.status.with_(
        phase=phase,
        reason=reason,
        exit_code=end.code,
        message="; ".join(part for part in parts if part)[:_MAX_MESSAGE_CHARS],
        log_tail=end.log_tail,
        result=end.result,
        output=end.output,
        finished_at=end.at,
    )


def _judge(spec: JobSpec, end: JobEnd) -> tuple[JobPhase, JobReason, str]:
    """Decide in the order of what explains most: nothing ran, we ended it, it ended itself."""
    if spec.cancelled and (end.code != 0 or end.interruption):
        return "Cancelled", "", "ended on request"
    if end.not_started:
        return "Failed", "NotStarted", end.not_started
    if end.interruption == "Cancelled":
        return "Cancelled", "", "ended on request"
    if end.interruption == "TimedOut":
        message = f"ended at its time-out of {format_duration(spec.timeout_s)}"
        return "Failed", "TimedOut", message
    if end.interruption == "OutOfDisk" or _hit_its_limit(spec, end):
        limit = format_size(spec.disk) if spec.disk is not None else "the disk"
        return "Failed", "OutOfDisk", f"its files reached their limit of {limit}"
    if end.code == 0:
        return _judge_success(spec, end)
    if end.code is None:
        message = "ended with the agent or the machine that it ran on; it is not run twice"
        return "Failed", "Lost", message
    if end.code < 0:
        return "Failed", "Signal", f"ended by signal {-end.code}"
    return "Failed", "ExitCode", f"ended with exit code {end.code}"


def _hit_its_limit(spec: JobSpec, end: JobEnd) -> bool:
    failed = end.code is not None and end.code != 0
    return spec.disk is not None and failed and (end.disk_full or end.code == -signal.SIGXFSZ)


def _judge_success(spec: JobSpec, end: JobEnd) -> tuple[JobPhase, JobReason, str]:
    """Judge exit code 0: who was given an input owes a result, unless it is said otherwise."""
    if spec.input is None or spec.result_optional:
        fault = f"its result is left out: {end.result_fault}" if end.result_fault else ""
        return "Succeeded", "", fault
    if end.result is None:
        return "Failed", "InvalidResult", end.result_fault or "it ended well and left no result"
    return "Succeeded", "", ""


def places_in(*texts: str) -> list[str]:
    """Return the places that `fill_places` would fill in, in their order.

    Examples
    --------
    >>> places_in("{python}", "-m", "x{artifact:model}", "{other}")
    ['{python}', '{artifact:model}']
    """
    return [match[0] for text in texts for match in _PLACE.finditer(text)]


@dataclass(frozen=True, slots=True)
class JobCommand:
    """A job's command and variables, with every place filled in."""

    command: tuple[str, ...]
    env: Mapping[str, str]


def fill_places(spec: JobSpec, python: str, folders: Mapping[str, str]) -> JobCommand | str:
    """Return the command with ``{python}`` and ``{artifact:NAME}`` filled in, or what is wrong.

    Parameters
    ----------
    spec
        The job.
    python
        Path of the interpreter.
    folders
        Where its artifacts lie, by name.

    Examples
    --------
    >>> spec = JobSpec(command=("{python}", "check.py", "--model={artifact:model}", "{other}"))
    >>> fill_places(spec, "/usr/bin/python3", {"model": "/artifacts/1f"}).command
    ('/usr/bin/python3', 'check.py', '--model=/artifacts/1f', '{other}')
    >>> fill_places(spec, "/usr/bin/python3", {})
    'it names the artifact model, which it does not declare'
    """
    texts = [*spec.command, *spec.env.values()]
    found = {match for text in texts for match in _PLACE.findall(text)} - {""}
    unknown = sorted(found - set(folders))
    if unknown:
        return f"it names the artifact {', '.join(unknown)}, which it does not declare"

    def fill(text: str) -> str:
        return _PLACE.sub(lambda f: python if f[0] == PYTHON_PLACE else folders[f[1]], text)

    return JobCommand(
        tuple(fill(part) for part in spec.command),
        {name: fill(value) for name, value in spec.env.items()},
    )
