"""All replicas of this node: one runner each, and no process that belongs to none.

Called by `agent.Agent` with what it sees of `Replica` resources. Knows a replica by its uid, so
that one deleted and made again under the same name is another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from modelplane.agent.node import Node, Report
from modelplane.agent.replica_runner import Fronting, ReplicaRunner, Routing
from modelplane.resources.meta import ResourceKey
from modelplane.resources.replica import Replica

log = structlog.get_logger(__name__)

PROCESS_PREFIX = "replica-"
_RETRY_S = 5.0


class Replicas:
    """Runs the replicas of a node.

    Parameters
    ----------
    node, routing, fronting, report
        As each `ReplicaRunner` takes them.
    before_stop
        Called with a replica that no request reaches any more, before its server stops.
    """

    def __init__(
        self,
        node: Node,
        routing: Routing,
        fronting: Fronting,
        report: Report,
        *,
        before_stop: Callable[[Replica], Awaitable[None]],
    ) -> None:
        self._node = node
        self._routing = routing
        self._fronting = fronting
        self._report = report
        self._before_stop = before_stop
        self._runners: dict[str, ReplicaRunner] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._uids: dict[ResourceKey, str] = {}

    def observe(self, replica: Replica) -> None:
        """Take a replica as it is now; those of other nodes are not ours."""
        if replica.spec.node != self._node.name:
            return
        uid = replica.metadata.uid
        before = self._uids.get(replica.key)
        if before is not None and before != uid:
            self._runners[before].ask_to_stop()
        self._uids[replica.key] = uid
        runner = self._runners.get(uid)
        if runner is not None:
            runner.update(replica)
        elif not (replica.spec.stopped and replica.status.phase == "Stopped"):
            runner = ReplicaRunner(
                replica,
                self._node,
                self._routing,
                self._fronting,
                self._report,
                before_stop=self._before_stop,
            )
            self._runners[uid] = runner
            task = asyncio.create_task(self._run(runner), name=str(replica.key))
            self._tasks[uid] = task
            task.add_done_callback(lambda _: self._finished(uid))

    def forget(self, key: ResourceKey) -> None:
        """Take that a replica is no longer declared: it drains and stops."""
        uid = self._uids.pop(key, None)
        if uid is not None and uid in self._runners:
            self._runners[uid].ask_to_stop()

    def serving(self) -> list[Replica]:
        """Return the replicas whose servers may have answered requests."""
        replicas = [runner.replica for runner in self._runners.values()]
        return [one for one in replicas if one.status.phase in {"Ready", "NotReady", "Draining"}]

    def ready(self) -> list[Replica]:
        """Return the replicas that are ready now."""
        replicas = [runner.replica for runner in self._runners.values()]
        return [replica for replica in replicas if replica.status.phase == "Ready"]

    async def stop_orphans(self) -> None:
        """Stop servers whose replica was deleted while no agent ran.

        To be called once all replicas have been observed.
        """
        ours = {runner.process_name for runner in self._runners.values()}
        orphans = [
            process.name
            for process in self._node.processes.list()
            if process.name.startswith(PROCESS_PREFIX) and process.name not in ours
        ]
        for name in orphans:
            log.info("orphan_stopped", process=name)
        drain_s = self._node.options.server_drain_s
        await asyncio.gather(*(self._node.processes.stop(name, drain_s) for name in orphans))
        await self._fronting.release_others(self._runners.keys())

    async def stop_all(self) -> None:
        """Stop every server, draining what each has in flight; nothing is reported."""
        await self.close()
        names = [
            process.name
            for process in self._node.processes.list()
            if process.name.startswith(PROCESS_PREFIX)
        ]
        drain_s = self._node.options.server_drain_s
        await asyncio.gather(*(self._node.processes.stop(name, drain_s) for name in names))

    async def close(self) -> None:
        """Look after the servers no longer; they run on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, runner: ReplicaRunner) -> None:
        while True:
            try:
                await runner.run()
                return
            except Exception:
                # One replica's trouble is not the others'; the runner goes on from what is.
                log.exception("replica_runner_failed", process=runner.process_name)
                await self._node.clock.sleep(_RETRY_S)

    def _finished(self, uid: str) -> None:
        self._runners.pop(uid, None)
        self._tasks.pop(uid, None)
