"""One seed drives everything: people, faults, restarts, duplicate workers, a lazy agent.

After each step nothing that the gateway uses may have been stopped, and at the end everything
settles into a consistent world. A failure replays with
``SIMULATION_SEED=N python -m pytest tests/simulation``.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from modelplane.controllers.loop import LEASE_NAME
from modelplane.errors import Conflict
from modelplane.ports.store import Transaction
from modelplane.resources.meta import Subject
from modelplane.resources.model import AliasMove, Model
from modelplane.resources.promotion import Promotion
from modelplane.resources.replica import Replica
from modelplane.resources.rollout import Rollout, RolloutRequest
from modelplane.resources.strategy import AllAtOnceStrategy, CanaryStrategy, Strategy
from modelplane.resources.traffic_split import TrafficSplit
from tests.controllers.plane import ANA, Plane, open_plane, revision

SEEDS = [int(os.environ["SIMULATION_SEED"])] if "SIMULATION_SEED" in os.environ else [1, 2, 3, 4]
STEPS = 250
STRATEGIES = [
    Strategy(canary=CanaryStrategy(min_bake_s=5)),
    Strategy(canary=CanaryStrategy(steps=(10.0, 40.0), min_bake_s=0)),
    Strategy(all_at_once=AllAtOnceStrategy()),
]


class Simulation:
    """A plane whose parts act in the order that a seed gives."""

    def __init__(self, plane: Plane, seed: int) -> None:
        self.plane = plane
        self.random = random.Random(seed)
        self.served: set[str] = set()
        self.versions = 0
        self.holders = 0
        self.weights: dict[str, list[tuple[int, float]]] = {}

    async def run(self) -> None:
        await self.plane.declare(STRATEGIES[0], replicas=2)
        await self.promote()
        actions = {
            self.reconcile: 40, self.agent_acts: 25, self.pass_time: 8, self.judge: 14,
            self.promote: 2, self.ask: 2, self.edit: 2, self.restart: 2, self.duplicate: 2,
        }  # fmt: skip
        for action in self.random.choices(list(actions), list(actions.values()), k=STEPS):
            await action()
            await self.check()

    async def reconcile(self) -> None:
        """Some controllers act, in any order."""
        for reconciler in self.random.sample(self.plane.reconcilers, self.random.randint(1, 4)):
            for key in await self.plane._keys(reconciler):
                try:
                    await reconciler.reconcile(key)
                except Conflict:
                    continue

    async def agent_acts(self) -> None:
        """Some replicas move on, some splits are acknowledged, some replicas die."""
        store = self.plane.store
        transaction = Transaction(Subject(name="system:agent"))
        for replica in (await store.list(Replica))[0]:
            status = replica.status
            if self.random.random() < 0.3:
                continue
            if replica.spec.stopped:
                status = status.with_(phase="Stopped")
            elif status.phase in {"Pending", "NotReady"}:
                status = status.with_(phase="Ready", address=f"unix:/{replica.metadata.name}")
            elif status.phase == "Ready" and self.random.random() < 0.1:
                status = status.with_(phase="NotReady")
            transaction.update(replica.with_(status=status))
        for split in (await store.list(TrafficSplit))[0]:
            generation = split.metadata.generation
            if self.random.random() < 0.6 and split.status.accepted_generation != generation:
                self.served = {e.replica for v in split.spec.variants for e in v.endpoints}
                transaction.update(
                    split.with_status(
                        accepted_generation=generation, accepted_at=self.plane.clock.now()
                    )
                )
        await store.commit(transaction)

    async def pass_time(self) -> None:
        self.plane.clock.step(self.random.uniform(1, 20))

    async def judge(self) -> None:
        deployment = await self.plane.deployment()
        if deployment.status.rollout is None or (await self.plane.rollout()).finished:
            return
        await self.plane.judge(
            harm=self.random.random() < 0.05,
            passes=self.random.random() < 0.4,
            allowedWeightPct=self.random.choice([1, 5, 30, 50]),
        )

    async def promote(self) -> None:
        self.versions += 1
        await self.plane.promote(revision(f"{self.versions}.0.0"))

    async def ask(self) -> None:
        """A person pauses, resumes, promotes or rolls back."""
        deployment = await self.plane.deployment()
        if deployment.status.rollout is None:
            return
        rollout = await self.plane.rollout()
        if rollout.finished:
            return
        action = self.random.choice(["pause", "resume", "promote", "rollback"])
        if action in {"pause", "resume"}:
            changed = rollout.with_spec(paused=action == "pause")
        else:
            request = RolloutRequest.model_validate(
                {"action": action, "subject": "ana", "at": self.plane.clock.now()}
            )
            changed = rollout.with_spec(request=request)
        transaction = Transaction(ANA)
        transaction.update(changed)
        await self.plane.store.commit(transaction)

    async def edit(self) -> None:
        deployment = await self.plane.deployment()
        changed = deployment.with_spec(
            strategy=self.random.choice(STRATEGIES), replicas=self.random.choice([1, 2, 3])
        )
        transaction = Transaction(ANA)
        transaction.update(changed)
        await self.plane.store.commit(transaction)

    async def restart(self) -> None:
        """The control plane dies; another takes over once the lease has run out."""
        self.plane.clock.step(4000)
        self.holders += 1
        self.plane = Plane(self.plane.store, self.plane.clock)
        await self.plane.take_lease(f"holder-{self.holders}")

    async def duplicate(self) -> None:
        """A worker with a lease of long ago acts once more: nothing it does may count."""
        stale = Plane(self.plane.store, self.plane.clock)
        lease = self.plane.fence.lease
        stale.fence.set(type(lease)(LEASE_NAME, "stale", lease.epoch - 1, lease.expires_at))
        before = (await self.plane.store.list(Rollout))[1]
        for reconciler in stale.reconcilers:
            for key in await stale._keys(reconciler):
                try:
                    await reconciler.reconcile(key)
                except Conflict:
                    continue
        assert (await self.plane.store.list(Rollout))[1] == before

    async def check(self) -> None:
        """What always holds, whatever has or has not been done yet."""
        store = self.plane.store
        stopped = {r.metadata.name for r in (await store.list(Replica))[0] if r.spec.stopped}
        assert not stopped & self.served, "a replica was stopped that the gateway uses"
        rollouts = (await store.list(Rollout))[0]
        assert sum(not rollout.finished for rollout in rollouts) <= 1
        for rollout in rollouts:
            promotion = await store.get(Promotion, rollout.spec.promotion, "production")
            assert promotion.status.phase not in {"Requested", "Refused"}
            if rollout.status.phase in {"RolledBack", "Failed", "Superseded"}:
                assert rollout.status.weight_pct == 0
            steps = [(step.id, step.weight_pct) for step in rollout.status.steps]
            assert [step for step, _ in steps] == list(range(1, len(steps) + 1))
            known = self.weights.get(rollout.metadata.name, [])
            assert steps[: len(known)] == known, "a step was rewritten"
            self.weights[rollout.metadata.name] = steps
        for split in (await store.list(TrafficSplit))[0]:
            assert sum(variant.weight_pct for variant in split.spec.variants) == 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_that_serves_is_stopped_and_everything_settles(
    seed: int, tmp_path: Path
) -> None:
    async with open_plane(tmp_path) as first:
        simulation = Simulation(first, seed)
        await simulation.run()
        plane = simulation.plane
        await plane.take_lease(f"holder-{simulation.holders}" if simulation.holders else "one")
        await plane.settle()
        stable = (await plane.deployment()).status.stable
        if stable is not None:
            assert (await plane.shares()).get(stable.version, 0) >= 50
            model = await plane.store.get(Model, "delay")
            assert [entry.champion for entry in model.status.serving] == [stable.version]
        moves, _ = await plane.store.list(AliasMove, prefix="delay@")
        champions = [m.spec for m in moves if m.spec.alias == "champion" and m.spec.environment]
        promoted = [r for r in (await plane.store.list(Rollout))[0] if r.status.phase == "Promoted"]
        promoted.sort(key=lambda rollout: rollout.spec.ordinal)
        assert [m.after for m in champions] == [r.spec.candidate.version for r in promoted]
        assert (await plane.store.verify_audit()).faults == ()
