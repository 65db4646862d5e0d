"""One job: started once, watched to its end, and told with what it left.

One task per job, started by `jobs.Jobs`. Level-triggered: `run` looks at what runs and goes on
from there, so it may be started again at any point. Never drops a record or a file: that is done
when the control plane knows the outcome.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from modelplane.agent.control_plane import ControlPlane
from modelplane.agent.job_files import JobFiles, NotedEnd, Output
from modelplane.agent.node import Node, Report, short_id
from modelplane.decisions.agent_jobs import (
    PYTHON_PLACE,
    Interruption,
    JobEnd,
    conclude_job,
    fill_places,
)
from modelplane.errors import Conflict, ModelplaneError, NotFound, TerminalError, TransientError
from modelplane.ports.processes import KeptProcess, ProcessSpec
from modelplane.resources.job import FINISHED_JOB, Job

log = structlog.get_logger(__name__)

PROCESS_PREFIX = "job-"
STOP_S = 5.0
_GIVE_UP_STARTING_S = 600.0
_LOOK_S = 1.0
_TELL_PROGRESS_S = 10.0
_FIRST_UPLOAD_RETRY_S = 0.5
_MAX_UPLOAD_RETRY_S = 30.0
# Beyond its disk limit, one file may grow by so much between two looks; its log counts too.
_FILE_ALLOWANCE_BYTES = 64 * 2**20


class JobRunner:
    """Runs one job.

    Parameters
    ----------
    job
        As last seen; `update` brings newer ones.
    node
        The machine.
    control_plane
        Where its output goes.
    report
        Takes the status whenever it changes.
    allowed
        Set once the control plane has been heard: what the cache says may be long over.
    slots
        Bounds how many run at a time.
    """

    def __init__(
        self,
        job: Job,
        node: Node,
        control_plane: ControlPlane,
        report: Report,
        *,
        allowed: asyncio.Event,
        slots: asyncio.Semaphore,
    ) -> None:
        self._job = job
        self._node = node
        self._control_plane = control_plane
        self._report = report
        self._allowed = allowed
        self._slots = slots
        self._name = process_name(job)
        self._files = files_of(node, job)
        self._cancelled = asyncio.Event()
        self._first_failure_s: float | None = None
        self._tell_progress_at_s = 0.0

    def update(self, job: Job) -> None:
        """Take a newer form of the job; only its wish to end can change."""
        mine = self._job.status
        if mine.phase == "Pending":
            mine = job.status  # what the cache said may be old
        self._job = job.with_(status=mine)
        if job.spec.cancelled:
            self._cancelled.set()
        if job.status != mine:
            self._report(job, mine)

    def cancel(self) -> None:
        """End the job: it was deleted."""
        self._cancelled.set()

    async def run(self) -> None:
        """Run the job to its end, or take back the one that runs, and report what it left.

        Raises `TransientError` and `OSError` when it could not be started or ended: to be
        called again.
        """
        self.update(self._job)
        if self._job.status.phase not in FINISHED_JOB:
            async with self._slot():
                end = await self._run_to_its_end()
            await self._conclude(end)

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """Wait for a free slot; a cancelled job does without."""
        acquiring = asyncio.ensure_future(self._slots.acquire())
        cancelled = asyncio.ensure_future(self._cancelled.wait())
        try:
            await asyncio.wait({acquiring, cancelled}, return_when=asyncio.FIRST_COMPLETED)
            yield
        finally:
            cancelled.cancel()
            if acquiring.done() and not acquiring.cancelled():
                self._slots.release()
            acquiring.cancel()

    # Starting ---------------------------------------------------------------------------------

    async def _run_to_its_end(self) -> JobEnd:
        process = self._node.processes.find(self._name)
        if process is None:
            await _first(self._allowed.wait(), self._cancelled.wait())
            if self._job.status.phase == "Running":
                return self._end_without_process()
            if self._cancelled.is_set():
                return JobEnd(None, self._now(), interruption="Cancelled")
            started = await self._start()
            if isinstance(started, str):
                return JobEnd(None, self._now(), not_started=started)
            process = started
        if self._job.status.phase == "Pending":
            self._set(phase="Running", attempt=1, started_at=process.started_at)
        return await self._see_it_end(process)

    def _end_without_process(self) -> JobEnd:
        """Tell how a job ended whose record is gone: by the agent before this, or lost."""
        noted = self._files.noted_end()
        if noted is None:
            return JobEnd(None, self._now())
        return JobEnd(None, self._now(), interruption=noted.interruption, log_tail=noted.log_tail)

    async def _start(self) -> KeptProcess | str:
        """Start the process; return why not when trying again would not help."""
        metadata, spec, node = self._job.metadata, self._job.spec, self._node
        try:
            folders = {n: await node.artifacts.fetch(d) for n, d in spec.artifacts.items()}
        except (NotFound, TerminalError) as error:
            return str(error)
        except TransientError as error:
            return self._try_again(error)
        filled = fill_places(spec, sys.executable, {n: str(f) for n, f in folders.items()})
        if isinstance(filled, str):
            return filled
        training = spec.training
        cause = training.cause if training is not None else None
        await asyncio.to_thread(self._files.prepare, spec.input, cause)
        env = node.servers.job_environment(filled.env, ours=PYTHON_PLACE in spec.command)
        if training is not None:
            try:
                env |= await self._training_variables(training.run)
            except (NotFound, Conflict, TerminalError) as error:
                return str(error)
            except TransientError as error:
                return self._try_again(error)
        environment = metadata.environment or "default"
        process = ProcessSpec(
            name=self._name,
            command=filled.command,
            env={**env, **self._files.variables(folders)},
            cwd=self._files.work_dir,
            log_path=node.places.log_dir / "jobs" / environment / f"{metadata.name}.log",
            memory_bytes=spec.memory,
            file_bytes=None if spec.disk is None else spec.disk + _FILE_ALLOWANCE_BYTES,
            labels={"job": f"{environment}/{metadata.name}"},
        )
        try:
            return await node.processes.start(process)
        except ValueError as error:  # a zero byte in it, or "=" in the name of a variable
            return f"no system starts such a command: {error}"
        except TransientError as error:
            return self._try_again(error)

    async def _training_variables(self, run: str) -> dict[str, str]:
        """Return what tells a training where it may register versions, and as what.

        One that the agent's interpreter runs finds the programs that are installed beside that:
        an MLflow project calls `python`.
        """
        metadata = self._job.metadata
        job = f"{metadata.environment}/{metadata.name}"
        access = await self._control_plane.get_training_access(run, job)
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
        ours = {"PATH": path} if PYTHON_PLACE in self._job.spec.command else {}
        return {
            **ours,
            "MODELPLANE_URL": access.url,
            "MODELPLANE_TOKEN": access.token,
            "MODELPLANE_TRAINING_RUN": run,
        }

    def _try_again(self, error: TransientError) -> str:
        """Have the start tried again, or, when that has gone on for long, say why not."""
        now_s = self._node.clock.monotonic_s()
        if self._first_failure_s is None:
            self._first_failure_s = now_s
        if now_s - self._first_failure_s < _GIVE_UP_STARTING_S:
            raise error
        return f"not started within {_GIVE_UP_STARTING_S:g} s: {error}"

    # Until it ends ----------------------------------------------------------------------------

    async def _see_it_end(self, process: KeptProcess) -> JobEnd:
        processes = self._node.processes
        noted = self._files.noted_end()
        if noted is None:
            interruption = await self._watch(process)
            found = processes.find(self._name)
            if found is not None and found.exit is not None:
                tail = processes.log_tail(self._name)
                return JobEnd(found.exit.code, self._now(), log_tail=tail)
            noted = NotedEnd(interruption, processes.log_tail(self._name))
            self._files.note_end(noted)
        at = self._now()
        ended = await processes.stop(self._name, STOP_S)
        code = ended.code if ended is not None else None
        return JobEnd(code, at, interruption=noted.interruption, log_tail=noted.log_tail)

    async def _watch(self, process: KeptProcess) -> Interruption:
        """Wait until the process has ended, or there is a reason to end it."""
        started_at = self._job.status.started_at or process.started_at
        left = started_at + timedelta(seconds=self._job.spec.timeout_s) - self._now()
        first = await _first(
            self._node.processes.wait(self._name),
            self._cancelled.wait(),
            self._until_out_of_disk(),
            self._node.clock.sleep(max(0.0, left.total_seconds())),
        )
        reasons: tuple[Interruption, ...] = ("Cancelled", "Cancelled", "OutOfDisk", "TimedOut")
        return reasons[first]

    async def _until_out_of_disk(self) -> None:
        """Look at what the job writes, again and again, until that is too much.

        How far it says it is is passed on.
        """
        limit_bytes = self._job.spec.disk
        while True:
            await self._node.clock.sleep(_LOOK_S)
            self._node.processes.trim_logs()
            self._note_progress()
            if limit_bytes is not None:
                size_bytes = await asyncio.to_thread(self._files.size_bytes, limit_bytes)
                if size_bytes >= limit_bytes:
                    return

    def _note_progress(self, *, at_end: bool = False) -> None:
        """Pass on how far the job says it is, when that has changed.

        Not too often: each time is a record in the audit log.
        """
        now_s = self._node.clock.monotonic_s()
        if now_s < self._tell_progress_at_s and not at_end:
            return
        found, status = self._files.read_progress(), self._job.status
        if found is not None and found != (status.progress, status.progress_message):
            self._tell_progress_at_s = now_s + _TELL_PROGRESS_S
            self._set(progress=found.share, progress_message=found.message)

    # The end ----------------------------------------------------------------------------------

    async def _conclude(self, end: JobEnd) -> None:
        """Keep what the job left, and report how it ended."""
        if not end.not_started:
            self._note_progress(at_end=True)
            end = await self._take_result(end)
            output = await self._store_output()
            end = replace(end, output=output.digest, output_message=output.message)
        status = conclude_job(self._job, end)
        log.info("job_ended", job=str(self._job.key), phase=status.phase, reason=status.reason)
        self._job = self._job.with_(status=status)
        self._report(self._job, status)

    async def _take_result(self, end: JobEnd) -> JobEnd:
        result = await asyncio.to_thread(self._files.read_result)
        limit_bytes = self._job.spec.disk
        full = limit_bytes is not None and limit_bytes <= await asyncio.to_thread(
            self._files.size_bytes, limit_bytes
        )
        if isinstance(result, str):
            return replace(end, result_fault=result, disk_full=full)
        return replace(end, result=result, disk_full=full)

    async def _store_output(self) -> Output:
        """Store the output with the control plane, however long that takes to answer."""
        output = await asyncio.to_thread(self._files.gather_output)
        delay_s = _FIRST_UPLOAD_RETRY_S
        while output.digest is not None:
            try:
                await self._control_plane.upload_artifact(self._files.output_dir, output.digest)
                break
            except TransientError as error:
                log.warning("output_waits", job=str(self._job.key), error=str(error))
                await self._node.clock.sleep(delay_s)
                delay_s = min(2 * delay_s, _MAX_UPLOAD_RETRY_S)
            except ModelplaneError as error:
                return Output(message=f"its output is not kept: {error}")
        return output

    def _set(self, **changes: object) -> None:
        self._job = self._job.with_status(**changes)
        self._report(self._job, self._job.status)

    def _now(self) -> datetime:
        return self._node.clock.now()


def process_name(job: Job) -> str:
    """Return the name of a job's process in the keeper."""
    return f"{PROCESS_PREFIX}{short_id(job.metadata.uid)}"


def files_of(node: Node, job: Job) -> JobFiles:
    """Return where a job's files lie."""
    name = short_id(job.metadata.uid)
    return JobFiles(jobs_dir(node) / name, sockets_dir(node) / name)


def jobs_dir(node: Node) -> Path:
    """Return where all jobs have their files."""
    return node.places.agent_dir / "jobs"


def sockets_dir(node: Node) -> Path:
    """Return where all jobs have their sockets."""
    return node.places.runtime_dir / "j"


async def _first(*waits: Coroutine[Any, Any, Any]) -> int:
    """Wait for the first of several coroutines, cancel the others, and return its number."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(number for number, task in enumerate(tasks) if task.done())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
