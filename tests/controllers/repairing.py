"""Playbooks at work on a plane: alerts are told, the agent obeys, expressions are answered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.controllers.playbook_starts import PlaybookStartController
from modelplane.controllers.playbooks import PlaybookController
from modelplane.decisions.alerts import alert_name, fingerprint
from modelplane.errors import TransientError
from modelplane.ports.alerting import QueryRefused, Result
from modelplane.ports.store import AnyResource, Transaction
from modelplane.resources.alerting import Alert, AlertSpec, AlertStatus
from modelplane.resources.job import FINISHED_JOB, Job
from modelplane.resources.meta import Metadata
from modelplane.resources.notification import Notification, NotificationChannel
from modelplane.resources.playbook import Playbook, PlaybookRun
from modelplane.resources.replica import Replica
from modelplane.testing.clock import ManualClock
from modelplane.testing.notifier import FakeNotifier
from tests.controllers.plane import ANA, Plane, revision
from tests.controllers.stores import open_store

LABELS = {
    "alertname": "ReplicaDown",
    "environment": "production",
    "deployment": "delay",
    "version": "1.0.0",
}


class FakeQuerier:
    """Answers what it was told: by expression, else that it does not hold."""

    def __init__(self) -> None:
        self.holding: set[str] = set()
        self.refused: dict[str, str] = {}
        self.away = False
        self.asked: list[str] = []

    async def query(self, expression: str) -> Sequence[Result] | QueryRefused:
        self.asked.append(expression)
        if self.away:
            raise TransientError("nobody answers")
        if expression in self.refused:
            return QueryRefused(self.refused[expression])
        return [Result({}, 1.0)] if expression in self.holding else []


def playbook(*steps: Mapping[str, Any], name: str = "repair", **spec: Any) -> Playbook:
    """Return a playbook about alerts of the deployment; steps without a name are numbered."""
    named = [{"name": f"step-{n}", **step} for n, step in enumerate(steps, 1)]
    fields = {"matchers": ['alertname="ReplicaDown"'], "steps": named, **spec}
    return Playbook.model_validate({"metadata": {"name": name}, "spec": fields})


class RepairingPlane(Plane):
    """A plane with the two reconcilers of playbooks."""

    def __init__(
        self,
        store: SqliteStore,
        clock: ManualClock,
        *,
        querier: FakeQuerier | None = None,
        poster: FakeNotifier | None = None,
        budget_per_hour: int = 20,
    ) -> None:
        super().__init__(store, clock)
        self.querier = querier or FakeQuerier()
        self.poster = poster or FakeNotifier()
        self.reconcilers += [
            PlaybookStartController(store, self.fence, clock, budget_per_hour=budget_per_hour),
            PlaybookController(
                store, self.fence, clock, querier=self.querier, poster=self.poster, source="here"
            ),
        ]
        self.restarted: list[str] = []
        self.stuck = False

    async def begin(self, *resources: AnyResource, replicas: int = 1) -> None:
        """Serve 1.0.0, with these resources and a channel that wants to know everything."""
        await self.declare(replicas=replicas)
        await self.promote(revision("1.0.0"))
        await self.settle()
        channel = NotificationChannel.model_validate(
            {"metadata": {"name": "all"}, "spec": {"webhook": {"url": "http://hook.test/all"}}}
        )
        await self.write(channel, *resources)

    async def write(self, *resources: Any) -> None:
        transaction = Transaction(ANA)
        for resource in resources:
            transaction.put(resource, "test")
        await self.store.commit(transaction)

    async def fire(self, labels: Mapping[str, str] = LABELS, **status: Any) -> Alert:
        """Begin another episode of an alert."""
        name, now = alert_name(labels["alertname"], labels), self.clock.now()
        found = await self.store.find(Alert, name)
        episode = found.status.episode + 1 if found is not None else 1
        began = AlertStatus(phase="Firing", episode=episode, active_at=now, fired_at=now, value=1.0)
        spec = AlertSpec(
            alert=labels["alertname"],
            source="modelplane",
            labels=dict(labels),
            fingerprint=fingerprint(labels),
        )
        fresh = found or Alert(metadata=Metadata(name=name), spec=spec)
        await self.write(fresh.with_(status=began.with_(**status)))
        return await self.store.get(Alert, name)

    async def resolve(self, labels: Mapping[str, str] = LABELS) -> None:
        alert = await self.alert(labels)
        await self.write(alert.with_status(phase="Resolved", resolved_at=self.clock.now()))

    async def alert(self, labels: Mapping[str, str] = LABELS) -> Alert:
        return await self.store.get(Alert, alert_name(labels["alertname"], labels))

    async def runs(self) -> list[PlaybookRun]:
        found, _ = await self.store.list(PlaybookRun)
        return sorted(found, key=lambda run: int(run.metadata.name.rpartition("-")[2]))

    async def run(self) -> PlaybookRun:
        (run,) = await self.runs()
        return run

    async def events(self) -> list[str]:
        found, _ = await self.store.list(Notification)
        ordered = sorted(found, key=lambda n: (n.spec.event.at, n.spec.event.type))
        events = [n.spec.event.type for n in ordered]
        return [event for event in events if event.startswith("playbook.")]

    async def end_jobs(self, phase: str = "Succeeded", **status: Any) -> int:
        jobs = [j for j in (await self.store.list(Job))[0] if j.status.phase not in FINISHED_JOB]
        for job in jobs:
            ended = "Cancelled" if job.spec.cancelled else phase
            await self.write(job.with_status(phase=ended, **status))
        return len(jobs)

    async def break_replica(self) -> Replica:
        """Have the first model server lose its readiness."""
        replicas, _ = await self.store.list(Replica)
        replica = next(r for r in replicas if r.status.phase == "Ready")
        await self.write(replica.with_status(phase="NotReady"))
        return replica

    async def _act_as_agent(self) -> None:
        """Besides what it does there: start again what is asked to, each time once."""
        await super()._act_as_agent()
        for replica in (await self.store.list(Replica))[0]:
            nonce = replica.spec.restart
            if nonce and nonce != replica.status.restarted and not self.stuck:
                self.restarted.append(nonce)
                await self.write(
                    replica.with_status(
                        phase="Ready", restarted=nonce, restarts=replica.status.restarts + 1
                    )
                )


@asynccontextmanager
async def open_repairing(directory: Path, **options: Any) -> AsyncIterator[RepairingPlane]:
    async with open_store(directory) as (store, clock):
        plane = RepairingPlane(store, clock, **options)
        await plane.take_lease()
        yield plane
