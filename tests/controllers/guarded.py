"""A plane whose environments are guarded: people, policies, versions, and gates that end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.controllers.alias_guards import AliasGuardController
from modelplane.controllers.approvals import ApprovalController
from modelplane.controllers.automatic import AutomaticController
from modelplane.controllers.placement import PlacementController
from modelplane.controllers.promotion import PromotionController
from modelplane.controllers.rollout import RolloutController
from modelplane.controllers.serving import ServingController
from modelplane.controllers.traffic import TrafficController
from modelplane.decisions.admission import Asked, admit_deployment, admit_promotion
from modelplane.decisions.aliases import Mover, move_alias
from modelplane.decisions.approval_answers import Answer, Representation, answer_approval
from modelplane.decisions.publishing import choose_deployment
from modelplane.ports.models import load_model
from modelplane.ports.situations import load_situation, write_admission
from modelplane.ports.store import Transaction
from modelplane.resources.approval import Approval
from modelplane.resources.environment import Environment
from modelplane.resources.gate_run import GateRun
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.model_deployment import ModelDeployment, ModelDeploymentSpec
from modelplane.resources.promotion import Promotion
from modelplane.resources.strategy import AllAtOnceStrategy, Strategy
from modelplane.testing.clock import ManualClock
from tests.controllers.plane import ANA, Plane, open_plane
from tests.decisions.gates import environment, pipeline, result_of

AT_ONCE = Strategy(all_at_once=AllAtOnceStrategy())


class GuardedPlane(Plane):
    """Staging and production of the model `delay`, with everything that guards them."""

    def __init__(self, store: SqliteStore, clock: ManualClock) -> None:
        super().__init__(store, clock)
        self.reconcilers = [
            PromotionController(store, self.fence, clock),
            AutomaticController(store, self.fence, clock),
            RolloutController(store, self.fence, clock),
            PlacementController(store, self.fence, clock),
            TrafficController(store, self.fence),
            ServingController(store, self.fence, clock),
            AliasGuardController(store, self.fence, clock),
            ApprovalController(store, self.fence, clock),
        ]

    async def write(self, *resources: Any) -> None:
        transaction = Transaction(ANA)
        for resource in resources:
            found = await self.store.find(
                type(resource), resource.metadata.name, resource.metadata.environment
            )
            merged = found.with_(spec=resource.spec) if found is not None else resource
            transaction.put(merged, "apply")
        await self.store.commit(transaction)

    async def begin(self, *resources: Any) -> None:
        """Declare the environments, the pipeline `checks`, and what is given."""
        places = [environment("staging", 10), environment("production", 20)]
        await self.write(*places, pipeline(), Model(metadata=Metadata(name="delay")), *resources)

    async def push(self, version: str, **spec: Any) -> ModelVersion:
        """Register a version."""
        fields = {
            "model": "delay", "version": version, "author": "vera", "number": int(version[0]),
            "artifact": {"format": "skops", "digest": f"sha256:{version}"}, **spec,
        }  # fmt: skip
        made = ModelVersion.model_validate(
            {"metadata": {"name": f"delay@{version}"}, "spec": fields}
        )
        await self.write(made)
        return made

    async def apply(self, version: str, place: str = "production", **spec: Any) -> None:
        """Apply a deployment of `delay`, as the API would."""
        declared = ModelDeployment(
            metadata=Metadata(name="delay", environment=place),
            spec=ModelDeploymentSpec(model="delay", version=version, strategy=AT_ONCE, **spec),
        )
        asked = Asked(ANA, self.clock.now())
        found, target = await self._find(version), await self.store.get(Environment, place)
        situation = await load_situation(self.store, target, "delay", found)
        admission = admit_deployment(declared, found, situation, asked)
        await self.store.commit(write_admission(admission, asked, "apply"))

    async def ask(self, version: str, place: str = "production") -> None:
        """Promote a version, as the API would."""
        target = await self.store.get(Environment, place)
        environments, _ = await self.store.list(Environment)
        deployments, _ = await self.store.list(ModelDeployment)
        source = choose_deployment("delay", target, environments, deployments)
        found = await self._find(version)
        asked = Asked(ANA, self.clock.now())
        situation = await load_situation(self.store, target, "delay", found)
        admission = admit_promotion(source, version, found, situation, asked)
        await self.store.commit(write_admission(admission, asked, "promote"))

    async def end_runs(self, phase: str = "Passed", **metrics: float) -> int:
        """End every run that goes on; return how many."""
        ended = 0
        for run in (await self.store.list(GateRun))[0]:
            if not run.finished:
                await self.end_run(run, phase, metrics or {"accuracy": 0.95})
                ended += 1
        return ended

    async def end_run(self, run: GateRun, phase: str, metrics: Mapping[str, float]) -> None:
        transaction = Transaction(Subject(name="system:gates"))
        results = {stage.name: result_of(run, stage.name, metrics) for stage in run.spec.stages}
        status = {
            "phase": "Cancelled" if run.spec.cancelled else phase,
            "message": "" if phase == "Passed" else "quality: too low",
            "finishedAt": self.clock.now(),
            "stages": [
                {"name": name, "phase": phase, "result": result.metadata.name}
                for name, result in results.items()
            ],
        }
        for result in results.values():
            transaction.create(result)
        ended = GateRun.model_validate({**run.to_dict(), "status": status})
        transaction.update(run.with_(status=ended.status))
        await self.store.commit(transaction)

    async def answer(self, decision: Any = "approve", who: str = "lena") -> int:
        """Answer every open approval; return how many."""
        answered = 0
        for approval in (await self.store.list(Approval))[0]:
            if approval.status.phase == "Pending":
                said = Answer(
                    Subject(name=who, groups=("leads",)), decision, "so", self.clock.now()
                )
                transaction = Transaction(said.subject)
                transaction.update(answer_approval(approval, said, Representation()))
                await self.store.commit(transaction)
                answered += 1
        return answered

    async def move(self, alias: str, version: str | None) -> None:
        """Move an alias, as anybody may through whichever API."""
        model = await load_model(self.store, "delay")
        transaction = Transaction(ANA)
        moved = move_alias(model, alias, version, Mover("ana", self.clock.now(), "by hand"))
        for written in moved.written:
            transaction.put(written, "alias")
        await self.store.commit(transaction)

    async def promotions(self, place: str = "production") -> list[Promotion]:
        found, _ = await self.store.list(Promotion, place)
        return sorted(found, key=lambda promotion: promotion.spec.ordinal)

    async def phase(self, place: str = "production") -> str:
        """Return the phase of the latest promotion."""
        return (await self.promotions(place))[-1].status.phase

    async def serving(self, place: str = "production") -> str | None:
        found = await self.store.find(ModelDeployment, "delay", place)
        return found.status.stable.version if found and found.status.stable else None

    async def _find(self, version: str) -> ModelVersion:
        return await self.store.get(ModelVersion, f"delay@{version}")


@asynccontextmanager
async def open_guarded(directory: Path) -> AsyncIterator[GuardedPlane]:
    async with open_plane(directory) as plane:
        guarded = GuardedPlane(plane.store, plane.clock)
        guarded.fence.set(plane.fence.lease)
        yield guarded
