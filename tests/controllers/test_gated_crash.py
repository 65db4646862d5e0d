"""The guarded road under one seed: people, gates, changing policies, and a control plane that dies
before or after any of its commits. Nothing ever rolls out unapproved, nothing comes twice, and at
the end everything settles.

A failure replays with ``SIMULATION_SEED=N python -m pytest tests/controllers/test_gated_crash.py``.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from modelplane.errors import Conflict
from modelplane.ports.store import AnyResource, Transaction
from modelplane.resources.approval import Approval
from modelplane.resources.gate_run import GateRun
from modelplane.resources.promotion import FINISHED_PROMOTION, Promotion
from modelplane.resources.rollout import Rollout
from tests.controllers.guarded import GuardedPlane, open_guarded
from tests.decisions.gates import approval_policy, policy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SEEDS = [int(os.environ["SIMULATION_SEED"])] if "SIMULATION_SEED" in os.environ else [1, 2, 3]
STEPS = 120
PLACES = ("staging", "production")
WAY = policy(environments=PLACES, pipelines=["checks"], conditions=["metrics.accuracy >= 0.9"])


class Crash(Exception):
    """The control plane dies."""


class CrashingStore:
    """A store whose commits end the process, before or after they are made."""

    def __init__(self, store: Any, dice: random.Random, chance: float) -> None:
        self._store = store
        self._dice = dice
        self.chance = chance

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, transaction: Transaction) -> Sequence[AnyResource]:
        mine = transaction.subject.name.startswith("system:")
        before, after = self._dice.random() < self.chance, self._dice.random() < self.chance
        if mine and before:
            raise Crash
        written: Sequence[AnyResource] = await self._store.commit(transaction)
        if mine and after:
            raise Crash
        return written


class Simulation:
    """A guarded plane whose parts act in the order that a seed gives."""

    def __init__(self, plane: GuardedPlane, seed: int) -> None:
        self.random = random.Random(seed)
        self.store = CrashingStore(plane.store, self.random, 0.0)
        self.plane = plane
        self.restart(plane.fence.lease)
        self.versions = 0
        self.ended: dict[Any, str] = {}
        self.crashes = 0

    def restart(self, lease: Any) -> None:
        self.plane = GuardedPlane(self.store, self.plane.clock)  # type: ignore[arg-type]
        self.plane.fence.set(lease)

    async def run(self) -> None:
        await self.plane.begin(WAY.with_spec(automatic=True), approval_policy())
        await self.push()
        await self.plane.apply("1.0.0", "staging")
        actions = {
            self.reconcile: 50, self.end_runs: 8, self.answer: 8, self.push: 3,
            self.change_policy: 2, self.freeze: 2, self.pass_time: 5, self.ask: 3,
        }  # fmt: skip
        self.store.chance = 0.05
        for action in self.random.choices(list(actions), list(actions.values()), k=STEPS):
            try:
                await action()
            except Crash:
                self.crashes += 1
                self.restart(self.plane.fence.lease)
            except Conflict:
                continue
            await self.check()
        self.store.chance = 0.0

    async def reconcile(self) -> None:
        for reconciler in self.random.sample(self.plane.reconcilers, 5):
            for key in await self.plane._keys(reconciler):
                try:
                    await reconciler.reconcile(key)
                except Conflict:
                    continue
        await self.plane._act_as_agent()

    async def end_runs(self) -> None:
        phase = self.random.choice(["Passed", "Passed", "Passed", "Failed", "Errored"])
        await self.plane.end_runs(phase, accuracy=self.random.choice([0.95, 0.95, 0.85]))

    async def answer(self) -> None:
        await self.plane.answer(self.random.choice(["approve", "approve", "reject"]))

    async def push(self) -> None:
        self.versions += 1
        await self.plane.push(f"{self.versions}.0.0")

    async def ask(self) -> None:
        place = self.random.choice(PLACES)
        await self.plane.ask(f"{self.random.randint(1, self.versions)}.0.0", place)

    async def change_policy(self) -> None:
        floor = self.random.choice([0.9, 0.9, 0.8, 0.99])
        changed = policy(
            environments=PLACES, pipelines=["checks"],
            conditions=[f"metrics.accuracy >= {floor}"], automatic=True,
        )  # fmt: skip
        await self.plane.write(changed)

    async def freeze(self) -> None:
        now = self.plane.clock.now()
        window = {"from": now, "to": now + timedelta(seconds=self.random.randint(1, 60))}
        await self.plane.write(policy("freeze", environments=PLACES, freezes=[window]))

    async def pass_time(self) -> None:
        self.plane.clock.step(self.random.uniform(1, 30))

    async def check(self) -> None:
        """What always holds."""
        store = self.store
        promotions = {p.key: p for p in (await store.list(Promotion))[0]}
        for key, promotion in promotions.items():
            phase = promotion.status.phase
            assert self.ended.get(key, phase) == phase, "what was decided was decided again"
            if phase in FINISHED_PROMOTION:
                self.ended[key] = phase
        for rollout in (await store.list(Rollout))[0]:
            key = rollout.key._replace(kind="Promotion", name=rollout.spec.promotion)
            status = promotions[key].status
            assert status.rollout == rollout.metadata.name, "one rollout for one promotion"
            assert all(p.outcome == "allowed" for p in status.policies)
            assert status.approvals, "somebody agreed"
            for name in status.approvals:
                place, _, approval = name.rpartition("/")
                given = await store.get(Approval, approval, place)
                assert given.status.phase in {"Approved", "Void"}
                assert given.spec.revision_digest == promotions[key].spec.revision.digest
            for gate in status.gates:
                run = await store.get(GateRun, gate.run)
                assert run.status.phase == "Passed"
        asked: dict[tuple[str | None, str], int] = {}
        for promotion in promotions.values():
            if promotion.spec.automatic:
                where = promotion.metadata.environment, promotion.spec.revision.version
                asked[where] = asked.get(where, 0) + 1
        assert set(asked.values()) <= {1}, "a version came by itself twice"


@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_rolls_out_unapproved_and_everything_settles(
    seed: int, tmp_path: Path
) -> None:
    async with open_guarded(tmp_path) as first:
        simulation = Simulation(first, seed)
        await simulation.run()
        plane = simulation.plane
        assert simulation.crashes > 0
        await plane.write(WAY.with_spec(automatic=True))
        plane.clock.step(120)
        await plane.take_lease("one")
        for _ in range(8):
            await plane.settle()
            ended = await plane.end_runs()
            answered = await plane.answer()
            await simulation.check()
            if not ended + answered:
                break
        unfinished = [
            p for place in PLACES for p in await plane.promotions(place)
            if p.status.phase not in FINISHED_PROMOTION
        ]  # fmt: skip
        assert unfinished == []
        assert (await plane.store.verify_audit()).faults == ()


async def test_a_control_plane_that_lost_its_lease_decides_nothing(tmp_path: Path) -> None:
    async with open_guarded(tmp_path) as plane:
        await plane.begin(WAY)
        await plane.push("1.0.0")
        await plane.apply("1.0.0")
        stale = GuardedPlane(plane.store, plane.clock)
        stale.fence.set(plane.fence.lease)
        plane.clock.step(7200)
        await plane.take_lease("two")
        for reconciler in stale.reconcilers:
            for key in await stale._keys(reconciler):
                with contextlib.suppress(Conflict):
                    await reconciler.reconcile(key)
        assert (await plane.store.list(GateRun))[0] == []
        await plane.settle()
        assert len((await plane.store.list(GateRun))[0]) == 1
