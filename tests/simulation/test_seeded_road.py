"""One seed drives everything: people, traffic policies, faults, restarts, duplicate workers, a
lazy agent.

After each step the invariants hold, and at the end everything settles into a consistent world in
which nothing is left to do. A failure replays with
``SIMULATION_SEED=N python -m pytest tests/simulation``.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.controllers.loop import LEASE_NAME
from modelplane.errors import Conflict, TransientError
from modelplane.ports.store import AnyResource, Transaction
from modelplane.resources.meta import Subject
from modelplane.resources.replica import Replica
from modelplane.resources.rollout import Judgement, Rollout
from modelplane.resources.traffic_split import TrafficSplit
from tests.controllers.plane import ANA, Plane, open_plane
from tests.simulation.invariants import Invariants, check_evidence
from tests.simulation.people import People

SEEDS = [int(os.environ["SIMULATION_SEED"])] if "SIMULATION_SEED" in os.environ else [1, 2, 3, 4]
STEPS = 250


class FaultyStore:
    """A store whose commits fail now and then, before they are written or just after."""

    def __init__(self, store: SqliteStore, seed: random.Random) -> None:
        self.store = store
        self.random = seed

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def commit(self, transaction: Transaction) -> Sequence[AnyResource]:
        who, roll = transaction.subject.name, self.random.random()
        faulty = who.startswith("system:") and who != "system:agent"
        if faulty and roll < 0.03:
            raise TransientError("the disk is busy")
        written = await self.store.commit(transaction)
        if faulty and roll > 0.97:
            raise TransientError("the answer was lost")
        return written


class Simulation:
    """A plane whose parts act in the order that a seed gives."""

    def __init__(self, plane: Plane, seed: int) -> None:
        self.random = random.Random(seed)
        self.store = plane.store
        self.clock = plane.clock
        self.plane = self._start()
        self.people = People(self.random)
        self.invariants = Invariants()
        self.served: set[str] = set()
        self.holder = "one"
        self.restarts = 0

    def _start(self) -> Plane:
        return Plane(cast(SqliteStore, FaultyStore(self.store, self.random)), self.clock)

    async def run(self) -> None:
        await self.plane.take_lease(self.holder)
        await self.people.begin(self.plane)
        people = self.people
        wishes = {
            people.promote: 2, people.ask: 4, people.edit: 2, people.undo: 1,
            people.apply_policy: 5, people.delete_policy: 2, people.delete_version: 1,
        }  # fmt: skip
        actions = {
            self.reconcile: 40, self.agent_acts: 25, self.pass_time: 8, self.judge: 20,
            self.restart: 2, self.duplicate: 2,
        }  # fmt: skip
        every: dict[Any, int] = {**actions, **wishes}
        for action in self.random.choices(list(every), list(every.values()), k=STEPS):
            await (action(self.plane) if action in wishes else action())
            await self.invariants.check(self.plane, self.served)

    async def end(self) -> None:
        """Let all that is under way come to its end, with nobody in its way."""
        plane = self.plane = Plane(self.store, self.clock)
        await plane.take_lease(self.holder)
        await plane.settle()
        for _ in range(40):
            running = [r for r in (await self.store.list(Rollout))[0] if not r.finished]
            transaction = Transaction(ANA)
            for rollout in running:
                transaction.update(rollout.with_spec(paused=False))
                self._judge(transaction, rollout, passes=True, allowedWeightPct=100)
            await self.store.commit(transaction)
            await plane.settle()
            self.clock.step(400)
            await plane.take_lease(self.holder)
            await plane.settle()
        await self.invariants.check_quiet(plane)

    async def reconcile(self) -> None:
        """Some controllers act, in any order."""
        for reconciler in self.random.sample(self.plane.reconcilers, self.random.randint(1, 4)):
            for key in await self.plane._keys(reconciler):
                try:
                    await reconciler.reconcile(key)
                except (Conflict, TransientError):
                    continue

    async def agent_acts(self) -> None:
        """Some replicas move on, some splits are acknowledged, some replicas die."""
        transaction = Transaction(Subject(name="system:agent"))
        for replica in (await self.store.list(Replica))[0]:
            status = replica.status
            if self.random.random() < 0.3:
                continue
            if replica.spec.stopped:
                status = status.with_(phase="Stopped")
            elif status.phase == "Pending" and self.random.random() < 0.05:
                status = status.with_(phase="Failed", message="exit code 3")
            elif status.phase in {"Pending", "NotReady"}:
                status = status.with_(phase="Ready", address=f"unix:/{replica.metadata.name}")
            elif status.phase == "Ready" and self.random.random() < 0.1:
                status = status.with_(phase="NotReady")
            transaction.update(replica.with_(status=status))
        for split in (await self.store.list(TrafficSplit))[0]:
            generation = split.metadata.generation
            if self.random.random() < 0.6 and split.status.accepted_generation != generation:
                self.served = {e.replica for v in split.spec.variants for e in v.endpoints}
                transaction.update(
                    split.with_status(accepted_generation=generation, accepted_at=self.clock.now())
                )
        await self.store.commit(transaction)

    async def pass_time(self) -> None:
        self.clock.step(self.random.uniform(1, 20))

    async def judge(self) -> None:
        """The evidence says something of each running rollout."""
        transaction = Transaction(ANA)
        for rollout in (await self.store.list(Rollout))[0]:
            if not rollout.finished and rollout.spec.stable is not None:
                self._judge(
                    transaction,
                    rollout,
                    harm=self.random.random() < 0.04,
                    passes=self.random.random() < 0.4,
                    allowedWeightPct=self.random.choice([1, 5, 30, 100]),
                )
        await self.store.commit(transaction)

    def _judge(self, transaction: Transaction, rollout: Rollout, **said: object) -> None:
        fields = {"stepId": rollout.status.step_id, "at": self.clock.now(), "warm": True}
        made = Judgement.model_validate({**fields, "stableRps": 100, "compared": 1000, **said})
        transaction.put_evidence(rollout.metadata.uid, {"judgement": made.to_dict()})

    async def restart(self) -> None:
        """The control plane dies; another takes over once the lease has run out."""
        self.clock.step(4000)
        self.restarts += 1
        self.holder = f"holder-{self.restarts}"
        self.plane = self._start()
        await self.plane.take_lease(self.holder)

    async def duplicate(self) -> None:
        """A worker with a lease of long ago acts once more: nothing it does may count."""
        stale = Plane(self.store, self.clock)
        lease = self.plane.fence.lease
        stale.fence.set(type(lease)(LEASE_NAME, "stale", lease.epoch - 1, lease.expires_at))
        before = (await self.store.list(Rollout))[1]
        for reconciler in stale.reconcilers:
            for key in await stale._keys(reconciler):
                try:
                    await reconciler.reconcile(key)
                except Conflict:
                    continue
        assert (await self.store.list(Rollout))[1] == before


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_that_serves_is_stopped_and_everything_settles(
    seed: int, tmp_path: Path
) -> None:
    async with open_plane(tmp_path) as first:
        simulation = Simulation(first, seed)
        await simulation.run()
        await simulation.end()
        await check_evidence(simulation.plane, tmp_path)
