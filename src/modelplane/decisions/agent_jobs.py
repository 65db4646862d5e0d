"""How a job ended. Pure; called by `agent.jobs`."""

from __future__ import annotations

from datetime import datetime, timedelta

from modelplane.resources.job import Job, JobPhase, JobStatus
from modelplane.resources.quantities import format_duration


def conclude_job(
    job: Job, code: int | None, log_tail: str, *, now: datetime, interrupted: bool = False
) -> JobStatus:
    """Return the final status of a job whose process is gone.

    Parameters
    ----------
    job
        With the status it had while it ran.
    code
        Exit code, negated signal number, or None when nobody saw it.
    log_tail
        The end of what it wrote.
    now
        The time, UTC.
    interrupted
        Whether it was ended before its end; its exit code then says nothing.
    """
    started_at = job.status.started_at
    limit = timedelta(seconds=job.spec.timeout_s)
    phase: JobPhase = "Failed"
    if code == 0 and not interrupted:
        phase, message = "Succeeded", ""
    elif job.spec.cancelled:
        phase, message = "Cancelled", "ended on request"
    elif started_at is not None and now - started_at >= limit:
        message = f"ended at its time-out of {format_duration(job.spec.timeout_s)}"
    elif code is None:
        message = "ended with the agent or the machine that it ran on; it is not run twice"
    elif code < 0:
        message = f"ended by signal {-code}"
    else:
        message = f"ended with exit code {code}"
    return job.status.with_(
        phase=phase, exit_code=code, message=message, log_tail=log_tail, finished_at=now
    )
