"""One replica: from Pending to Ready, kept so, and drained when it is asked to stop.

One task per replica, started by `replicas.Replicas`. Level-triggered: `run` looks at what runs
and goes on from there, so it may be started again at any point. Decides restarts by
`decisions.restarts` and causes by `decisions.agent_failures`; never touches the gateway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Protocol

import structlog

from modelplane.agent.inbound import ReplicaAddress
from modelplane.agent.node import Node, Report, short_id
from modelplane.decisions.agent_failures import ExitCause, explain_exit
from modelplane.decisions.agent_routing import cluster_name
from modelplane.decisions.restarts import (
    GiveUp,
    RestartHistory,
    RestartPolicy,
    StartAfter,
    decide_restart,
    record_exit,
)
from modelplane.errors import NotFound, TerminalError, TransientError
from modelplane.ports.processes import KeptProcess, ProcessExit, ProcessSpec
from modelplane.ports.servers import PreparationFailed, Readiness, ServerCommand
from modelplane.resources.quantities import format_duration, format_size
from modelplane.resources.replica import Replica, ReplicaPhase, ReplicaStatus

log = structlog.get_logger(__name__)

_UNROUTE_POLL_S = 0.1
_RETRY = RestartPolicy(first_delay_s=0.5, max_delay_s=30.0)


class Routing(Protocol):
    """What a replica asks about the gateway before it stops."""

    def names_replica(self, environment: str, deployment: str, replica: str) -> bool:
        """Whether the gateway may still send requests to the replica."""

    def names_cluster(self, environment: str, cluster: str) -> bool:
        """Whether the gateway may still send requests to any replica of the cluster."""

    async def in_flight(self, environment: str, cluster: str) -> int:
        """Return the cluster's requests in flight; 0 when the gateway does not answer."""


class Fronting(Protocol):
    """What stands before a replica's server, if anything does."""

    async def address_of(self, replica: Replica, server: Path) -> ReplicaAddress:
        """Return where the gateway reaches it; raises `TransientError` while that is nowhere."""

    async def release(self, replica: Replica) -> None:
        """Take that the replica has stopped."""

    async def release_others(self, uids: Collection[str]) -> None:
        """Take that there are no other replicas than these."""


class ReplicaRunner:
    """Runs one replica.

    Parameters
    ----------
    replica
        As last seen; `update` brings newer ones.
    node
        The machine.
    routing
        What the gateways do.
    fronting
        What stands before its server.
    report
        Takes the status whenever it changes.
    before_stop
        Called when no request reaches the server any more, before it stops.
    """

    def __init__(
        self,
        replica: Replica,
        node: Node,
        routing: Routing,
        fronting: Fronting,
        report: Report,
        *,
        before_stop: Callable[[Replica], Awaitable[None]],
    ) -> None:
        self.status = replica.status
        self.process_name = f"replica-{short_id(replica.metadata.uid)}"
        self._replica = replica
        self._node = node
        self._routing = routing
        self._fronting = fronting
        self._report = report
        self._before_stop = before_stop
        self._socket = node.socket(replica.metadata.uid)
        self._stop_asked = asyncio.Event()
        self._restart_asked = asyncio.Event()
        self._history = RestartHistory(was_ready=replica.status.ready_at is not None)
        self.update(replica)

    @property
    def replica(self) -> Replica:
        """The replica as last seen, with its status as of now."""
        return self._replica.with_(status=self.status)

    def update(self, replica: Replica) -> None:
        """Take a newer form: its wishes to stop and to restart may change, and what it logs."""
        self._replica = replica
        if replica.spec.stopped:
            self._stop_asked.set()
        if replica.spec.restart not in {"", self.status.restarted}:
            self._restart_asked.set()
        if replica.status != self.status:
            self._report(replica, self.status)

    def ask_to_stop(self) -> None:
        """Drain and stop, as if the replica's spec said so."""
        self._stop_asked.set()

    async def run(self) -> None:
        """Run the server until the replica is asked to stop, then drain and stop it."""
        if not self._stop_asked.is_set():
            await self._serve_until_stopped()
        await self._drain()

    async def _serve_until_stopped(self) -> None:
        while not self._stop_asked.is_set():
            serving = asyncio.create_task(self._serve())
            stopping = asyncio.create_task(self._stop_asked.wait())
            restarting = asyncio.create_task(self._restart_asked.wait())
            asked = {stopping, restarting}
            try:
                await asyncio.wait({serving, *asked}, return_when=asyncio.FIRST_COMPLETED)
                if serving.done() and not serving.cancelled():
                    serving.result()  # an error in here must not be mistaken for the end
                    await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (serving, *asked):
                    task.cancel()
                await asyncio.gather(serving, *asked, return_exceptions=True)
            if self._restart_asked.is_set() and not self._stop_asked.is_set():
                await self._end_for_restart()

    async def _end_for_restart(self) -> None:
        """End the server so that it is started anew; one that was started for that goes on.

        The process itself knows what it was started for: whatever dies between its end and the
        report, each wish is obeyed once.
        """
        wish = self._replica.spec.restart
        self._restart_asked.clear()
        if wish == self.status.restarted:
            return
        phase, message = self._unready("Starting"), f"started anew for {wish}"
        process = self._running()
        if process is not None and process.labels.get("restart") != wish:
            log.info("replica_restarts", replica=str(self._replica.key), wish=wish)
            self._set(phase, reason="Restarting", message=message)
            self._keep_log()
            readiness = await self._node.servers.ask_readiness(self._socket)
            hangs = readiness is Readiness.NO_ANSWER  # then there is nothing to wait for
            drain_s = 1.0 if hangs else self._node.options.server_drain_s
            await self._node.processes.stop(self.process_name, drain_s)
        self._history = RestartHistory(was_ready=self._history.was_ready)
        restarts = self.status.restarts + 1
        self._set(phase, reason="Restarting", message=message, restarts=restarts, restarted=wish)

    # From nothing to ready --------------------------------------------------------------------

    async def _serve(self) -> None:
        """Keep the server running; returns when it has failed for good."""
        if self.status.phase == "Failed" and not self._running():
            return
        attempts = RestartHistory(was_ready=True)
        while True:
            try:
                await self._keep_running()
                return
            except TransientError as error:
                log.warning("replica_waits", replica=self._replica.key, error=str(error))
                self._set(self._unready("Preparing"), reason="Waiting", message=str(error))
                now_s = self._node.clock.monotonic_s()
                attempts = record_exit(attempts, _RETRY, started_at_s=now_s, ended_at_s=now_s)
                wait = decide_restart(attempts, _RETRY, now_s=now_s)
                await self._node.clock.sleep(wait.delay_s if isinstance(wait, StartAfter) else 30)

    async def _keep_running(self) -> None:
        clock, policy = self._node.clock, self._node.options.server_restarts
        command: ServerCommand | None = None
        cause: ExitCause | None = None
        while True:
            process = self._running()
            if process is None:
                decision = decide_restart(self._history, policy, now_s=clock.monotonic_s())
                if cause is not None and (isinstance(decision, GiveUp) or self._is_final(cause)):
                    self._fail(cause)
                    return
                await clock.sleep(decision.delay_s if isinstance(decision, StartAfter) else 0)
                prepared = command or await self._prepare()
                if isinstance(prepared, ExitCause):
                    cause = prepared
                    self._note_failure(cause, clock.monotonic_s())
                    continue
                command = prepared
                process = await self._start(command)
            started_at_s = clock.monotonic_s()
            cause = await self._watch(process)
            self._note_failure(cause, started_at_s)

    def _is_final(self, cause: ExitCause) -> bool:
        return cause.final and not self._history.was_ready

    def _note_failure(self, cause: ExitCause, started_at_s: float) -> None:
        self._history = record_exit(
            self._history,
            self._node.options.server_restarts,
            started_at_s=started_at_s,
            ended_at_s=self._node.clock.monotonic_s(),
        )
        log.warning("replica_ended", replica=str(self._replica.key), cause=cause.message)
        phase: ReplicaPhase = "NotReady" if self._history.was_ready else "Starting"
        self._set(phase, reason=cause.reason, message=cause.message, pid=None)

    async def _prepare(self) -> ServerCommand | ExitCause:
        """Fetch the artifact and build the environment; what went wrong is a cause."""
        self._set(self._unready("Preparing"))
        digest = self._replica.spec.revision.artifact.digest
        async with self._node.preparations:
            try:
                artifact = await self._node.artifacts.fetch(digest)
            except NotFound as error:
                return ExitCause("ArtifactMissing", str(error), final=True)
            except TerminalError as error:
                return ExitCause("ArtifactChanged", str(error), final=True)
            if (fault := await self._find_signature_fault(artifact)) is not None:
                return ExitCause("SignatureInvalid", f"signature refused: {fault}", final=True)
            outcome = await self._node.servers.prepare(self._replica, artifact, self._socket)
        if isinstance(outcome, PreparationFailed):
            self.status = self.status.with_(log_tail=outcome.log_tail)
            return ExitCause("EnvironmentFailed", outcome.message, final=True)
        return outcome

    async def _find_signature_fault(self, artifact: Path) -> str | None:
        """Return why the files may not start; None when no signature is required, or one holds."""
        spec = self._replica.spec
        if not spec.trusted_keys:
            return None
        if self._node.signatures is None:
            return "this agent cannot verify signatures"
        return await self._node.signatures.find_fault(artifact, spec.signatures, spec.trusted_keys)

    async def _start(self, command: ServerCommand) -> KeptProcess:
        replica = self._replica
        self._socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        work_dir = self._node.places.agent_dir / "replicas" / short_id(replica.metadata.uid)
        work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        environment = replica.metadata.environment or "default"
        spec = ProcessSpec(
            name=self.process_name,
            command=command.command,
            env=command.env,
            cwd=work_dir,
            log_path=self._node.places.log_dir
            / "replicas"
            / environment
            / f"{replica.metadata.name}.log",
            memory_bytes=replica.spec.revision.runtime.resources.memory,
            labels={
                "replica": f"{environment}/{replica.metadata.name}",
                "restart": replica.spec.restart,
            },
        )
        restarts = self.status.restarts + bool(self._history.exits_in_row)
        process = await self._node.processes.start(spec)
        self._set(self._unready("Starting"), pid=process.pid, restarts=restarts)
        return process

    # While it runs ----------------------------------------------------------------------------

    async def _watch(self, process: KeptProcess) -> ExitCause:
        """Ask the server again and again whether it is ready, until it ends."""
        clock, options = self._node.clock, self._node.options
        limit_s = self._replica.spec.revision.runtime.start_timeout_s
        age_s = (clock.now() - process.started_at).total_seconds()
        give_up_at_s = clock.monotonic_s() + limit_s - max(0.0, age_s)
        answered_at_s = clock.monotonic_s()
        ready_since_start, failures = False, 0
        exiting = asyncio.create_task(self._node.processes.wait(self.process_name))
        try:
            while True:
                readiness = await self._node.servers.ask_readiness(self._socket)
                now_s = clock.monotonic_s()
                if readiness is not Readiness.NO_ANSWER:
                    answered_at_s = now_s
                if readiness is Readiness.READY:
                    failures = 0
                    cause = None if ready_since_start else await self._smoke()
                    if cause is not None:
                        return cause
                    ready_since_start = True
                    await self._become_ready(process)
                elif not exiting.done():
                    failures += 1
                    if failures >= options.failures_until_not_ready:
                        self._lose_readiness(readiness)
                    if not ready_since_start and now_s >= give_up_at_s:
                        return await self._end(self._late(limit_s))
                    if ready_since_start and now_s - answered_at_s >= options.unresponsive_s:
                        return await self._end(_UNRESPONSIVE)
                pause_s = options.probe_interval_s
                if not ready_since_start:
                    pause_s = options.starting_probe_interval_s
                if await self._ended_within(exiting, pause_s):
                    return self._explain(exiting.result())
        finally:
            exiting.cancel()

    async def _ended_within(self, exiting: asyncio.Task[ProcessExit], pause_s: float) -> bool:
        pause = asyncio.ensure_future(self._node.clock.sleep(pause_s))
        try:
            await asyncio.wait({exiting, pause}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
        return exiting.done()

    async def _smoke(self) -> ExitCause | None:
        """Try one prediction before the first readiness; None when there is nothing against it."""
        example = self._replica.spec.input_example
        if self.status.smoke == "passed":
            return None
        if example is None:
            self.status = self.status.with_(smoke="skipped")
            return None
        prediction = await self._node.servers.predict(self._socket, self._replica, example)
        if prediction.succeeded or self._history.was_ready:
            outcome = "passed" if prediction.succeeded else "failed"
            self.status = self.status.model_copy(update={"smoke": outcome})
            return None
        self.status = self.status.with_(smoke="failed")
        return await self._end(ExitCause("SmokeFailed", prediction.message, final=True))

    async def _become_ready(self, process: KeptProcess) -> None:
        try:
            at = await self._fronting.address_of(self._replica, self._socket)
        except TransientError as error:
            # One that serves goes on at the address it has.
            if self.status.phase != "Ready":
                self._set(self.status.phase, reason="NotReachable", message=str(error))
            return
        self._history = RestartHistory(
            was_ready=True,
            exits_in_row=self._history.exits_in_row,
            last_exit_at_s=self._history.last_exit_at_s,
        )
        known = ReplicaAddress(self.status.address, self.status.identity)
        if self.status.phase != "Ready" or known != at:
            log.info("replica_ready", replica=str(self._replica.key), pid=process.pid)
            self._set(
                "Ready",
                address=at.address,
                identity=at.identity,
                pid=process.pid,
                ready_at=self.status.ready_at or self._node.clock.now(),
            )

    def _lose_readiness(self, readiness: Readiness) -> None:
        if self.status.phase == "Ready":
            answer = "answers nothing" if readiness is Readiness.NO_ANSWER else "says not ready"
            self._set("NotReady", reason="ProbeFailed", message=f"the model server {answer}")

    def _late(self, limit_s: float) -> ExitCause:
        return ExitCause(
            "NotReadyInTime",
            f"the model server was not ready within {format_duration(limit_s)}; see the end of "
            f"its log{self._memory_hint()}, or give it longer",
            final=True,
        )

    def _memory_hint(self) -> str:
        """Some libraries try for ever to get memory that their limit does not allow."""
        limit = self._replica.spec.revision.runtime.resources.memory
        return f", give it more memory than {format_size(limit)}" if limit else ""

    async def _end(self, cause: ExitCause) -> ExitCause:
        """End a process that is of no use, keeping what it wrote last."""
        self._keep_log()
        await self._node.processes.stop(self.process_name, drain_s=1.0)
        return cause

    def _explain(self, how: ProcessExit) -> ExitCause:
        self._keep_log()
        runtime = self._replica.spec.revision.runtime
        return explain_exit(
            how.code,
            self.status.log_tail,
            memory_bytes=runtime.resources.memory,
            speaks_our_codes=self._replica.spec.revision.artifact.format != "command",
        )

    def _keep_log(self) -> None:
        tail = self._node.processes.log_tail(self.process_name)
        self.status = self.status.with_(log_tail=tail)

    # The end ----------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Wait until the gateway has left the server, then stop it."""
        if self._running() is not None:
            self._set("Draining")
            await self._leave_gateway()
            await self._before_stop(self.replica)
        # Also where it has ended: the record goes.
        await self._node.processes.stop(self.process_name, self._node.options.server_drain_s)
        self._socket.unlink(missing_ok=True)
        await self._fronting.release(self._replica)
        self._set("Stopped", pid=None, address="", identity="")

    async def _leave_gateway(self) -> None:
        environment = self._replica.metadata.environment or ""
        spec = self._replica.spec
        name = self._replica.metadata.name
        cluster = cluster_name(spec.deployment, spec.revision.digest)
        until_s = self._node.clock.monotonic_s() + self._node.options.unroute_timeout_s
        while self._node.clock.monotonic_s() < until_s:
            if not self._routing.names_replica(environment, spec.deployment, name):
                if self._routing.names_cluster(environment, cluster):
                    return  # others serve on; this one finishes its own when it gets SIGTERM
                if not await self._routing.in_flight(environment, cluster):
                    return
            await self._node.clock.sleep(_UNROUTE_POLL_S)

    # Status -----------------------------------------------------------------------------------

    def _running(self) -> KeptProcess | None:
        process = self._node.processes.find(self.process_name)
        return process if process is not None and process.exit is None else None

    def _unready(self, phase: ReplicaPhase) -> ReplicaPhase:
        """Return `phase`, or NotReady for a replica that has served before."""
        return "NotReady" if self._history.was_ready else phase

    def _fail(self, cause: ExitCause) -> None:
        log.error("replica_failed", replica=str(self._replica.key), reason=cause.reason)
        self._set("Failed", reason=cause.reason, message=cause.message, pid=None)

    def _set(
        self, phase: ReplicaPhase, *, reason: str = "", message: str = "", **changes: object
    ) -> None:
        tail = "" if phase == "Ready" else self.status.log_tail
        status: ReplicaStatus = self.status.with_(
            phase=phase, reason=reason, message=message, **{"log_tail": tail, **changes}
        )
        if status != self.status or status != self._replica.status:
            self.status = status
            self._report(self._replica, status)


_UNRESPONSIVE = ExitCause(
    "StartFailed", "the model server answered nothing for too long and was started again"
)
