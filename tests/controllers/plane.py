"""A control plane without processes: the real store and reconcilers, a manual clock, a stand-in
for the agent."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.controllers.alias_guards import AliasGuardController
from modelplane.controllers.approvals import ApprovalController
from modelplane.controllers.automatic import AutomaticController
from modelplane.controllers.contracts import ContractController
from modelplane.controllers.loop import LEASE_NAME, Fence, Reconciler
from modelplane.controllers.placement import PlacementController
from modelplane.controllers.promotion import PromotionController
from modelplane.controllers.rollout import RolloutController
from modelplane.controllers.serving import ServingController
from modelplane.controllers.traffic import TrafficController
from modelplane.controllers.traffic_policies import TrafficPolicyController
from modelplane.errors import Conflict
from modelplane.ports.store import Transaction
from modelplane.resources.environment import Environment
from modelplane.resources.kinds import KINDS
from modelplane.resources.meta import Metadata, ResourceKey, Subject
from modelplane.resources.model_deployment import ModelDeployment, ModelDeploymentSpec
from modelplane.resources.promotion import Promotion, PromotionSpec
from modelplane.resources.replica import Replica
from modelplane.resources.revision import Artifact, Revision, RuntimeSpec, make_revision
from modelplane.resources.rollout import Judgement, Rollout
from modelplane.resources.strategy import Strategy
from modelplane.resources.traffic_split import TrafficSplit
from modelplane.testing.clock import ManualClock
from tests.controllers.stores import open_store

ANA = Subject(name="ana", groups=("admin",))


def revision(version: str) -> Revision:
    artifact = Artifact(format="skops", digest=f"sha256:{version}")
    return make_revision("delay", version, artifact, RuntimeSpec())


class Plane:
    """One deployment, `delay` in production, and everything that moves it."""

    def __init__(self, store: SqliteStore, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock
        self.fence = Fence()
        self.reconcilers: list[Reconciler] = [
            PromotionController(store, self.fence, clock),
            AutomaticController(store, self.fence, clock),
            RolloutController(store, self.fence, clock),
            PlacementController(store, self.fence, clock),
            TrafficController(store, self.fence),
            TrafficPolicyController(store, self.fence, clock),
            ContractController(store, self.fence),
            ServingController(store, self.fence, clock),
            AliasGuardController(store, self.fence, clock),
            ApprovalController(store, self.fence, clock),
        ]
        self.broken: set[str] = set()

    async def take_lease(self, holder: str = "one") -> None:
        self.fence.set(await self.store.claim(LEASE_NAME, holder, 3600))

    async def declare(self, strategy: Strategy | None = None, replicas: int = 1) -> None:
        environment = Environment.model_validate(
            {
                "kind": "Environment",
                "metadata": {"name": "production"},
                "spec": {"stage": "production", "gateway": {"port": 7082}},
            }
        )
        deployment = ModelDeployment(
            metadata=Metadata(name="delay", environment="production"),
            spec=ModelDeploymentSpec(model="delay", strategy=strategy, replicas=replicas),
        )
        transaction = Transaction(ANA)
        transaction.create(environment)
        transaction.create(deployment)
        await self.store.commit(transaction)

    async def promote(self, of: Revision) -> None:
        deployment = await self.deployment()
        ordinal = deployment.status.promotions + 1
        promotion = Promotion(
            metadata=Metadata(name=f"delay-{ordinal}", environment="production"),
            spec=PromotionSpec(deployment="delay", revision=of, ordinal=ordinal, subject=ANA),
        )
        transaction = Transaction(ANA)
        transaction.create(promotion)
        transaction.update(
            deployment.with_status(promotion=promotion.metadata.name, promotions=ordinal)
        )
        await self.store.commit(transaction)

    async def settle(self) -> None:
        """Reconcile everything until nothing changes, the stand-in agent included."""
        for _ in itertools.repeat(None, 60):
            before = await self._version()
            for reconciler in self.reconcilers:
                for key in await self._keys(reconciler):
                    try:
                        await reconciler.reconcile(key)
                    except Conflict:
                        continue
            await self._act_as_agent()
            if await self._version() == before:
                return
        raise AssertionError("it does not settle")

    async def judge(self, **judgement: object) -> None:
        """Store a judgement of the latest rollout's present step, as the analysis would."""
        rollout = await self.rollout()
        fields = {"stepId": rollout.status.step_id, "at": self.clock.now(), "warm": True}
        made = Judgement.model_validate({**fields, "stableRps": 100, **judgement})
        transaction = Transaction(ANA)
        transaction.put_evidence(rollout.metadata.uid, {"judgement": made.to_dict()})
        await self.store.commit(transaction)

    async def deployment(self) -> ModelDeployment:
        return await self.store.get(ModelDeployment, "delay", "production")

    async def rollout(self) -> Rollout:
        name = (await self.deployment()).status.rollout
        assert name is not None
        return await self.store.get(Rollout, name, "production")

    async def shares(self) -> dict[str, float]:
        """Return the weight of each version in the stored split."""
        split = await self.store.find(TrafficSplit, "delay", "production")
        return {v.version: v.weight_pct for v in split.spec.variants} if split else {}

    async def replicas(self) -> dict[str, str]:
        """Return the phase of each replica by version and index."""
        replicas, _ = await self.store.list(Replica)
        return {f"{r.spec.revision.version}/{r.spec.index}": r.status.phase for r in replicas}

    async def _version(self) -> int:
        _, version = await self.store.list(Environment)
        return version

    async def _keys(self, reconciler: Reconciler) -> list[ResourceKey]:
        keys: dict[ResourceKey, None] = {}
        for kind in reconciler.kinds:
            resources, _ = await self.store.list(KINDS[kind.__name__])
            for resource in resources:
                keys.update(dict.fromkeys(reconciler.keys(resource)))
        return list(keys)

    async def _act_as_agent(self) -> None:
        """Start, stop and acknowledge at once; versions in `broken` never start."""
        transaction = Transaction(Subject(name="system:agent"))
        replicas, _ = await self.store.list(Replica)
        for replica in replicas:
            status = replica.status
            if replica.spec.stopped:
                status = status.with_(phase="Stopped")
            elif replica.spec.revision.version in self.broken:
                status = status.with_(phase="Failed", message="exit code 3", log_tail="no such")
            elif status.phase == "Pending":
                status = status.with_(phase="Ready", address=f"unix:/{replica.metadata.name}")
            transaction.update(replica.with_(status=status))
        splits, _ = await self.store.list(TrafficSplit)
        for split in splits:
            generation = split.metadata.generation
            if split.status.accepted_generation != generation:
                transaction.update(
                    split.with_status(accepted_generation=generation, accepted_at=self.clock.now())
                )
        await self.store.commit(transaction)


@asynccontextmanager
async def open_plane(directory: Path) -> AsyncIterator[Plane]:
    async with open_store(directory) as (store, clock):
        plane = Plane(store, clock)
        await plane.take_lease()
        yield plane
