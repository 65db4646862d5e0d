"""The analysis controller: evidence survives it, a batch counts once, and nothing grows unseen."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from modelplane.adapters.metrics.ring import MetricsRing
from modelplane.api.analysis_replay import AnalysisReplayRequest, load_recorded
from modelplane.controllers.analysis import AnalysisController
from modelplane.decisions.analysis import EvidenceState, judge_many, start_evidence
from modelplane.decisions.analysis_replay import replay_all
from modelplane.decisions.judgements import read_judgement
from modelplane.decisions.recordings import chunk_name
from modelplane.ports.store import Transaction
from modelplane.resources.meta import Metadata, ResourceKey
from modelplane.resources.rollout import Judgement, Rollout
from modelplane.resources.strategy import Analysis, CanaryStrategy, Strategy
from modelplane.resources.telemetry import TelemetryBatch, VariantSample
from tests.controllers.plane import ANA, Plane, open_plane, revision
from tests.controllers.test_lanes import promote_in_lane

pytestmark = pytest.mark.slow

V1, V2 = revision("1.0.0"), revision("2.0.0")
QUICK = Strategy(canary=CanaryStrategy(min_bake_s=20))


class Bench:
    """A plane with a rollout at its first step, and a gateway that reports what it is told."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.metrics = MetricsRing()
        self.woken: list[ResourceKey] = []
        self.sequence = 0

    async def start(self) -> None:
        await self.plane.declare(QUICK)
        await self.plane.promote(V1)
        await self.plane.settle()
        for _ in range(20):
            await self.second(stable=100)
        await self.plane.promote(V2)
        await self.plane.settle()
        self.controller = await self.new_controller()

    async def new_controller(self) -> AnalysisController:
        plane = self.plane
        controller = AnalysisController(
            plane.store, self.metrics, plane.fence, plane.clock, wake=self.woken.append
        )
        rollout = await plane.rollout()
        controller._running = {rollout.metadata.uid: rollout}
        return controller

    async def second(self, stable: int, candidate: int = 0, failed: int = 0) -> None:
        """One second passes at the gateway; the batch arrives twice, as batches may."""
        self.plane.clock.step(1)
        self.sequence += 1
        deployment = await self.plane.deployment()
        steps = {}
        if deployment.status.rollouts > 1:
            rollout = await self.plane.rollout()
            steps["delay"] = {rollout.metadata.uid: rollout.status.step_id}
        samples = [
            VariantSample(deployment="delay", revision=V1.short, requests=stable, failures=0),
            VariantSample(
                deployment="delay", revision=V2.short, requests=candidate, failures=failed
            ),
        ]
        batch = TelemetryBatch(
            environment="production",
            proxy="production/local",
            boot_id="boot",
            sequence=self.sequence,
            at=self.plane.clock.now(),
            seconds=1.0,
            samples=tuple(samples),
            steps=steps,
        )
        self.metrics.record(batch)
        self.metrics.record(batch)

    async def fail(self) -> None:
        """The candidate fails whatever it gets, until its rollout is over; 30 seconds at most."""
        for _ in range(30):
            await self.second(stable=99, candidate=1, failed=1)
            await self.controller.tick()
            await self.plane.settle()
            if (await self.plane.rollout()).finished:
                return

    async def judgement(self) -> Judgement:
        uid = (await self.plane.rollout()).metadata.uid
        judgement = read_judgement((await self.plane.store.evidence([uid])).get(uid))
        assert judgement is not None
        return judgement


async def test_counts_without_a_candidate_request_say_nothing_of_the_step(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        bench = Bench(plane)
        await bench.start()
        for _ in range(10):
            await bench.second(stable=100)
            await bench.controller.tick()
            await plane.settle()
        assert (await bench.judgement()).step_id == -1
        assert (await plane.rollout()).status.weight_pct == 1
        assert (await plane.rollout()).status.reason == "WaitingForTraffic"


async def test_a_batch_counts_once_also_after_a_restart(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        bench = Bench(plane)
        await bench.start()
        for _ in range(5):
            await bench.second(stable=99, candidate=1)
        await bench.controller.tick()
        await bench.controller.tick()
        first = await bench.judgement()
        assert first.candidate_requests == 5
        again = await bench.new_controller()
        await again.tick()
        assert await bench.judgement() == first
        await bench.second(stable=99, candidate=1)
        await again.tick()
        assert (await bench.judgement()).candidate_requests == 6


async def test_a_failing_candidate_is_rolled_back_within_a_few_failures(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        bench = Bench(plane)
        await bench.start()
        await bench.fail()
        rollout = await plane.rollout()
        assert (rollout.status.phase, rollout.status.reason) == ("RolledBack", "Harm")
        assert 3 <= rollout.status.failed_requests <= 12
        assert bench.woken


async def test_what_was_kept_is_confirmed_only_once_it_is_durable(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        bench = Bench(plane)
        await bench.start()
        await bench.second(stable=99, candidate=1)
        position = ("production/local", "boot")
        before = bench.metrics.positions()[position]
        late = TelemetryBatch(
            environment="production",
            proxy="production/local",
            boot_id="boot",
            sequence=before + 1,
            at=plane.clock.now() + timedelta(seconds=1),
            seconds=1.0,
        )
        assert bench.metrics.record(late).confirmed_sequence == 0
        await bench.controller.tick()
        assert bench.metrics.record(late).confirmed_sequence == before + 1


async def test_a_finished_rollout_can_be_judged_anew_from_its_recording(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        bench = Bench(plane)
        await bench.start()
        controller = bench.controller
        for second in range(30):
            await bench.second(stable=99, candidate=1, failed=1)
            if second == 4:  # the process dies and another one goes on
                controller = await bench.new_controller()
            await controller.tick()
            await plane.settle()
            if (await plane.rollout()).finished:
                break
        rollout = await plane.rollout()
        (recorded,) = await load_recorded(
            plane.store, AnalysisReplayRequest(analysis=Analysis(), deployment="delay")
        )
        assert recorded.truth == "harmful"
        assert len({(tick.proxy, tick.sequence) for tick in recorded.ticks}) == len(recorded.ticks)
        counted = sum(tick.candidate.failures for tick in recorded.ticks)
        assert counted == rollout.status.failed_requests
        strategy = rollout.status.strategy
        assert strategy is not None
        assert strategy.canary is not None
        found = replay_all([recorded], strategy.canary.analysis)
        (row,) = found.rollouts
        assert (row.present.said, row.present.failed_requests) == ("rollback", counted)
        assert not row.flips


async def test_old_recordings_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelplane.controllers.analysis.KEPT_ROLLOUTS", 1)
    async with open_plane(tmp_path) as plane:
        bench = Bench(plane)
        await bench.start()
        await bench.fail()
        old = await plane.rollout()
        assert old.finished
        name = chunk_name(old.metadata.uid, 0)
        assert await plane.store.evidence([name])
        await plane.promote(revision("3.0.0"))
        await plane.settle()
        controller = await bench.new_controller()
        await bench.second(stable=100)
        await controller.tick()
        assert not await plane.store.evidence([name])


async def test_what_runs_beside_does_not_hide_what_was_learned_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[str, EvidenceState | None]] = []

    def start(uid: str, settings: Any, history: EvidenceState | None) -> EvidenceState:
        begun.append((uid, history))
        return start_evidence(uid, settings, history)

    async with open_plane(tmp_path) as plane:
        bench = Bench(plane)
        await bench.start()
        await bench.fail()
        learned = await plane.rollout()
        assert learned.finished
        await promote_in_lane(plane, revision("3.0.0"), "beside")
        await plane.settle()
        await promote_in_lane(plane, revision("4.0.0"), "newest")
        await plane.settle()
        monkeypatch.setattr("modelplane.controllers.analysis.start_evidence", start)
        controller = await bench.new_controller()
        rollouts, _ = await plane.store.list(Rollout)
        newest = max(rollouts, key=lambda rollout: rollout.spec.ordinal)
        controller._running = {newest.metadata.uid: newest}
        await bench.second(stable=100)
        await controller.tick()
        ((uid, history),) = begun
        assert uid == newest.metadata.uid
        assert history is not None
        assert history.rollout_uid == learned.metadata.uid


async def test_a_rollout_that_finishes_while_it_is_judged_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_plane(tmp_path) as plane:
        bench = Bench(plane)
        await bench.start()
        await bench.second(stable=99, candidate=1)
        controller = bench.controller
        judge = judge_many

        def judge_as_it_ends(*arguments: Any) -> Any:
            # What following the rollouts does when one has finished.
            for known in (controller._running, controller._evidence, controller._recordings):
                known.clear()
            return judge(*arguments)

        monkeypatch.setattr("modelplane.controllers.analysis.judge_many", judge_as_it_ends)
        await controller.tick()
        uid = (await plane.rollout()).metadata.uid
        assert not await plane.store.evidence([uid])


async def test_what_a_traffic_policy_brought_since_undoes_nothing(tmp_path: Path) -> None:
    """Whether a promotion was undone is told by the deployment's own next rollout."""
    async with open_plane(tmp_path) as plane:
        bench = Bench(plane)
        await bench.start()
        await bench.fail()
        found = await plane.rollout()
        assert found.spec.stable is not None
        transaction = Transaction(ANA)
        transaction.update(found.with_status(phase="Promoted", reason="WithinMargins"))
        for ordinal, lane in ((1, "test/3.0.0"), (2, "")):
            number = found.spec.ordinal + ordinal
            spec = found.spec.with_(ordinal=number, lane=lane, candidate=found.spec.stable)
            if lane:
                spec = spec.with_(candidate=revision("3.0.0"))
            metadata = Metadata(name=f"delay-{number}", environment="production")
            transaction.create(Rollout(metadata=metadata, spec=spec))
        await plane.store.commit(transaction)
        (recorded,) = await load_recorded(
            plane.store, AnalysisReplayRequest(analysis=Analysis(), deployment="delay")
        )
        assert recorded.truth == "harmful"
