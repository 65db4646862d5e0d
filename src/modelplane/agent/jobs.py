"""Jobs of this node: each command run once, to its end, within its limits.

Called by `agent.Agent` with what it sees of `Job` resources. A job's process is recorded before
it runs and its record goes only when the control plane knows the outcome, so whatever dies, a
job is never run twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import structlog

from modelplane.agent.node import Node, Report, short_id
from modelplane.decisions.agent_jobs import conclude_job
from modelplane.errors import TransientError
from modelplane.ports.processes import KeptProcess, ProcessExit, ProcessSpec
from modelplane.resources.job import FINISHED_JOB, Job
from modelplane.resources.meta import ResourceKey

log = structlog.get_logger(__name__)

PROCESS_PREFIX = "job-"
MAX_RUNNING = 2
_STOP_S = 5.0
_RETRY_S = 5.0


class JobRunner:
    """Runs one job.

    Parameters
    ----------
    job
        As last seen; `update` brings newer ones.
    node
        The machine.
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
        report: Report,
        *,
        allowed: asyncio.Event,
        slots: asyncio.Semaphore,
    ) -> None:
        self._job = job
        self._node = node
        self._report = report
        self._allowed = allowed
        self._slots = slots
        self._name = process_name(job)
        self._cancelled = asyncio.Event()

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
        """Run the job to its end, or take back the one that runs."""
        self.update(self._job)
        async with self._slots:
            process = self._node.processes.find(self._name)
            if process is None:
                await _first(self._allowed.wait(), self._cancelled.wait())
                if self._job.status.phase == "Running" or self._cancelled.is_set():
                    self._conclude(ProcessExit(None), "")
                    return
                process = await self._start()
            if self._job.status.phase == "Pending":
                self._set(phase="Running", attempt=1, started_at=process.started_at)
            await self._see_it_end(process)

    async def _start(self) -> KeptProcess:
        metadata, spec = self._job.metadata, self._job.spec
        environment = metadata.environment or "default"
        work_dir = self._node.places.agent_dir / "jobs" / short_id(metadata.uid)
        work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return await self._node.processes.start(
            ProcessSpec(
                name=self._name,
                command=spec.command,
                env=self._node.servers.job_environment(spec.env),
                cwd=work_dir,
                log_path=self._node.places.log_dir / "jobs" / environment / f"{metadata.name}.log",
                memory_bytes=spec.memory,
                labels={"job": f"{environment}/{metadata.name}"},
            )
        )

    async def _see_it_end(self, process: KeptProcess) -> None:
        clock = self._node.clock
        started_at = self._job.status.started_at or process.started_at
        left = started_at + timedelta(seconds=self._job.spec.timeout_s) - clock.now()
        await _first(
            self._node.processes.wait(self._name),
            self._cancelled.wait(),
            clock.sleep(max(0.0, left.total_seconds())),
        )
        found = self._node.processes.find(self._name)
        log_tail = self._node.processes.log_tail(self._name)
        if found is not None and found.exit is not None:
            self._conclude(found.exit, log_tail)
        else:
            ended = await self._node.processes.stop(self._name, _STOP_S)
            self._conclude(ended or ProcessExit(None), log_tail, interrupted=True)

    def _conclude(self, ended: ProcessExit, log_tail: str, *, interrupted: bool = False) -> None:
        status = conclude_job(
            self._job, ended.code, log_tail, now=self._node.clock.now(), interrupted=interrupted
        )
        log.info("job_ended", job=str(self._job.key), phase=status.phase)
        self._job = self._job.with_(status=status)
        self._report(self._job, status)

    def _set(self, **changes: object) -> None:
        self._job = self._job.with_status(**changes)
        self._report(self._job, self._job.status)


class Jobs:
    """Runs the jobs of a node."""

    def __init__(self, node: Node, report: Report) -> None:
        self._node = node
        self._report = report
        self._allowed = asyncio.Event()
        self._slots = asyncio.Semaphore(MAX_RUNNING)
        self._runners: dict[str, JobRunner] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._uids: dict[ResourceKey, str] = {}

    def observe(self, job: Job) -> None:
        """Take a job as it is now; those of other nodes are not ours."""
        if job.spec.node != self._node.name:
            return
        uid = job.metadata.uid
        self._uids[job.key] = uid
        runner = self._runners.get(uid)
        if job.status.phase in FINISHED_JOB:
            # The control plane knows the outcome: the record has done its work.
            self._node.processes.forget(process_name(job))
            if self._runners.pop(uid, None) is not None:
                self._tasks.pop(uid).cancel()
        elif runner is not None:
            runner.update(job)
        else:
            runner = JobRunner(
                job, self._node, self._report, allowed=self._allowed, slots=self._slots
            )
            self._runners[uid] = runner
            self._tasks[uid] = asyncio.create_task(self._run(runner), name=str(job.key))

    def forget(self, key: ResourceKey) -> None:
        """Take that a job is no longer declared: it ends."""
        uid = self._uids.pop(key, None)
        if uid is not None and uid in self._runners:
            self._runners.pop(uid).cancel()

    async def synced(self) -> None:
        """Take that all jobs have been observed: start new ones, end those of nobody."""
        self._allowed.set()
        ours = {f"{PROCESS_PREFIX}{short_id(uid)}" for uid in self._uids.values()}
        for process in self._node.processes.list():
            if process.name.startswith(PROCESS_PREFIX) and process.name not in ours:
                await self._node.processes.stop(process.name, _STOP_S)

    async def stop_all(self) -> None:
        """End every job; each says so when the agent runs again."""
        await self.close()
        for process in self._node.processes.list():
            if process.name.startswith(PROCESS_PREFIX) and process.exit is None:
                await self._node.processes.stop(process.name, _STOP_S)

    async def close(self) -> None:
        """Look after the jobs no longer; they run on."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _run(self, runner: JobRunner) -> None:
        while True:
            try:
                await runner.run()
                return
            except (TransientError, OSError):
                log.exception("job_not_started")
                await self._node.clock.sleep(_RETRY_S)


def process_name(job: Job) -> str:
    """Return the name of a job's process in the keeper."""
    return f"{PROCESS_PREFIX}{short_id(job.metadata.uid)}"


async def _first(*waits: Coroutine[Any, Any, Any]) -> None:
    """Wait for the first of several coroutines and cancel the others."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
