"""Jobs of this node: each command run once, to its end, within its limits.

Called by `agent.Agent` with what it sees of `Job` resources. A job's process is recorded before
it runs, and its record and files go only when the control plane knows the outcome, so whatever
dies, a job is never run twice and what it left is not lost.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from modelplane.agent.control_plane import ControlPlane
from modelplane.agent.job_files import remove_tree
from modelplane.agent.job_runner import (
    PROCESS_PREFIX,
    STOP_S,
    JobRunner,
    files_of,
    jobs_dir,
    process_name,
    sockets_dir,
)
from modelplane.agent.node import Node, Report, short_id
from modelplane.errors import TransientError
from modelplane.resources.job import FINISHED_JOB, Job
from modelplane.resources.meta import Part, Resource, ResourceKey

log = structlog.get_logger(__name__)

_RETRY_S = 5.0


class Jobs:
    """Runs the jobs of a node."""

    def __init__(self, node: Node, control_plane: ControlPlane, report: Report) -> None:
        self._node = node
        self._control_plane = control_plane
        self._report = report
        self._allowed = asyncio.Event()
        self._slots = asyncio.Semaphore(node.options.job_slots)
        # Trainings take long: the stages of pipelines must not wait for them.
        self._training_slots = asyncio.Semaphore(node.options.training_slots)
        self._runners: dict[str, JobRunner] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._uids: dict[ResourceKey, str] = {}
        self._errands: set[asyncio.Task[None]] = set()

    def observe(self, job: Job) -> None:
        """Take a job as it is now; those of other nodes are not ours."""
        if job.spec.node != self._node.name:
            return
        uid = job.metadata.uid
        if self._uids.get(job.key, uid) != uid:
            self.forget(job.key)  # deleted and made anew while nobody looked
        self._uids[job.key] = uid
        runner = self._runners.get(uid)
        if job.status.phase in FINISHED_JOB:
            # The control plane knows the outcome: the record has done its work.
            if self._runners.pop(uid, None) is not None:
                self._tasks.pop(uid).cancel()
            self._clear(job)
        elif runner is not None:
            runner.update(job)
        else:
            runner = JobRunner(
                job,
                self._node,
                self._control_plane,
                self._report_known,
                allowed=self._allowed,
                slots=self._slots if job.spec.training is None else self._training_slots,
            )
            self._runners[uid] = runner
            self._tasks[uid] = asyncio.create_task(self._run(runner, job), name=str(job.key))

    def _report_known(self, job: Resource[Any, Any], status: Part) -> None:
        """Report, unless the job was deleted: by its name one that was made anew may be known."""
        if self._uids.get(job.key) == job.metadata.uid:
            self._report(job, status)

    def forget(self, key: ResourceKey) -> None:
        """Take that a job is no longer declared: it ends."""
        uid = self._uids.pop(key, None)
        if uid is not None and uid in self._runners:
            self._runners.pop(uid).cancel()

    async def synced(self) -> None:
        """Take that all jobs have been observed: start new ones, end those of nobody."""
        self._allowed.set()
        for process in self._node.processes.list():
            name = process.name.removeprefix(PROCESS_PREFIX)
            if name != process.name and not self._is_ours(name):
                await self._node.processes.stop(process.name, STOP_S)
        for parent in (jobs_dir(self._node), sockets_dir(self._node)):
            for folder in list(parent.iterdir()) if parent.is_dir() else ():
                if not self._is_ours(folder.name):
                    await asyncio.to_thread(remove_tree, folder)

    async def stop_all(self) -> None:
        """End every job; each says so when the agent runs again."""
        await self.close()
        for process in self._node.processes.list():
            if process.name.startswith(PROCESS_PREFIX) and process.exit is None:
                await self._node.processes.stop(process.name, STOP_S)

    async def close(self) -> None:
        """Look after the jobs no longer; they run on."""
        tasks = [*self._tasks.values(), *self._errands]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, runner: JobRunner, job: Job) -> None:
        while True:
            try:
                await runner.run()
                break
            except (TransientError, OSError) as error:
                log.warning("job_waits", job=str(job.key), error=str(error))
                await self._node.clock.sleep(_RETRY_S)
        if self._uids.get(job.key) != job.metadata.uid:
            # Deleted: nobody will say that it is finished.
            self._tasks.pop(job.metadata.uid, None)
            self._clear(job)

    def _is_ours(self, name: str) -> bool:
        """Whether a job goes by this short id; asked just before, since jobs come meanwhile."""
        # Those of deleted jobs that are just being ended are somebody's, too.
        return any(short_id(uid) == name for uid in (*self._uids.values(), *self._tasks))

    def _clear(self, job: Job) -> None:
        """Drop the record and the files of a job."""
        self._node.processes.forget(process_name(job))
        files = files_of(self._node, job)
        if files.root.exists() or files.sockets.exists():
            errand = asyncio.create_task(asyncio.to_thread(files.remove))
            self._errands.add(errand)
            errand.add_done_callback(self._errands.discard)
