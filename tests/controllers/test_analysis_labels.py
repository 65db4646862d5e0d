"""Labels through the controllers: joined in the store, judged once, shown as figures and series."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from modelplane.adapters.metrics.ring import MetricsRing
from modelplane.controllers.analysis import AnalysisController
from modelplane.decisions.judgements import read_judgement
from modelplane.errors import TransientError
from modelplane.ports.predictions import Label, Outcome, Place, Prediction, Predictions
from modelplane.ports.quality import QualityBook
from modelplane.ports.store import Transaction
from modelplane.resources.monitoring import Labels, PredictionLog
from modelplane.resources.rollout import Judgement, Rollout
from modelplane.resources.strategy import Analysis, CanaryStrategy, MetricRule, Strategy
from modelplane.resources.telemetry import TelemetryBatch, VariantSample
from modelplane.testing.predictions import InMemoryPredictions
from tests.controllers.plane import ANA, Plane, open_plane, revision

pytestmark = pytest.mark.slow

V1, V2 = revision("1.0.0"), revision("2.0.0")
RULES = (MetricRule(name="errors", margin=0.05), MetricRule(name="precision"))
JUDGED = Strategy(canary=CanaryStrategy(min_bake_s=20, analysis=Analysis(metrics=RULES)))


class Broken(InMemoryPredictions):
    """A store of predictions that does not answer."""

    async def outcomes(self, *args: object, **kwargs: object) -> Sequence[Outcome]:
        raise TransientError("the disk is full")


class Bench:
    """A rollout judged by precision, a gateway, and people who label what was predicted."""

    def __init__(self, plane: Plane, predictions: InMemoryPredictions) -> None:
        self.plane = plane
        self.predictions = predictions
        self.metrics = MetricsRing()
        self.random = random.Random(5)
        self.sequence = 0

    async def start(self) -> None:
        plane = self.plane
        await plane.declare(JUDGED)
        deployment = await plane.deployment()
        watched = deployment.with_spec(predictions=PredictionLog(), labels=Labels(horizon_s=600))
        transaction = Transaction(ANA)
        transaction.update(watched)
        await plane.store.commit(transaction)
        await plane.promote(V1)
        await plane.settle()
        await plane.promote(V2)
        await plane.settle()
        self.controller = await self.new_controller()

    async def new_controller(self) -> AnalysisController:
        plane = self.plane
        predictions: Predictions = self.predictions
        controller = AnalysisController(
            plane.store,
            self.metrics,
            plane.fence,
            plane.clock,
            wake=lambda key: None,
            predictions=predictions,
        )
        rollout = await plane.rollout()
        controller._running = {rollout.metadata.uid: rollout}
        return controller

    async def rollout(self) -> Rollout:
        return await self.plane.rollout()

    async def second(self, precision: float = 0.9) -> None:
        """A second of traffic, all predicted positive; a fifth of it meets the candidate."""
        plane = self.plane
        plane.clock.step(1)
        self.sequence += 1
        rollout = await self.rollout()
        met = rollout.status.weight_pct > 0
        counts = [(V1, 32), (V2, 8 if met else 0)]
        batch = TelemetryBatch(
            environment="production",
            proxy="production/local",
            boot_id="boot",
            sequence=self.sequence,
            at=plane.clock.now(),
            seconds=1.0,
            samples=tuple(
                VariantSample(deployment="delay", revision=of.short, requests=n, failures=0)
                for of, n in counts
            ),
            steps={"delay": {rollout.metadata.uid: rollout.status.step_id}},
        )
        self.metrics.record(batch)
        at = plane.clock.now() - timedelta(milliseconds=200)
        for of, n in counts:
            place = Place("production", "delay", of.version, of.short)
            made = [
                Prediction(f"{of.version}-{self.sequence}-{i}", 0, place, at, predicted=1)
                for i in range(n)
            ]
            await self.predictions.add(made)
            share = precision if of is V2 else 0.9
            labels = [
                Label(one.request_id, label=int(self.random.random() < share)) for one in made
            ]
            await self.predictions.label("production", "delay", labels)
        await self.controller.tick()
        await plane.settle()
        if not (await self.rollout()).finished:
            self.controller._running = {rollout.metadata.uid: await self.rollout()}

    async def judgement(self) -> Judgement:
        uid = (await self.rollout()).metadata.uid
        judgement = read_judgement((await self.plane.store.evidence([uid])).get(uid))
        assert judgement is not None
        return judgement


async def test_a_candidate_whose_labels_show_harm_is_rolled_back(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        bench = Bench(plane, InMemoryPredictions(plane.clock))
        await bench.start()
        for _ in range(90):
            await bench.second(precision=0.5)
            if (await bench.rollout()).finished:
                break
        rollout = await bench.rollout()
        assert (rollout.status.phase, rollout.status.reason) == ("RolledBack", "Harm")
        assert "precision" in rollout.status.message
        assert max(step.weight_pct for step in rollout.status.steps) <= 25


async def test_a_label_counts_once_also_after_a_restart(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        bench = Bench(plane, InMemoryPredictions(plane.clock))
        await bench.start()
        for _ in range(15):
            await bench.second()
        before = await bench.judgement()
        bench.controller = await bench.new_controller()
        await bench.controller.tick()
        assert await bench.judgement() == before
        told = next(metric for metric in before.metrics if metric.name == "precision")
        assert told.verdict == "undecided"
        assert told.stable == pytest.approx(0.9, abs=0.05)


async def test_a_store_of_predictions_that_fails_does_not_stop_the_judgement(
    tmp_path: Path,
) -> None:
    async with open_plane(tmp_path) as plane:
        bench = Bench(plane, Broken(plane.clock))
        await bench.start()
        for _ in range(20):
            await bench.second()
        judgement = await bench.judgement()
        assert judgement.candidate_requests > 0
        assert judgement.unavailable == ("precision",)
        assert (await bench.rollout()).status.weight_pct <= 25


async def test_figures_follow_the_labels_and_become_series(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        predictions = InMemoryPredictions(plane.clock)
        bench = Bench(plane, predictions)
        await bench.start()
        book = QualityBook(predictions, plane.clock)
        deployment = await plane.deployment()
        assert (await book.report(deployment)).versions == ()
        for _ in range(20):
            await bench.second(precision=0.6)
        report = await book.report(deployment)
        found = {version.version: version.metrics["precision"] for version in report.versions}
        assert (found["1.0.0"].lower or 1) <= 0.9 <= (found["1.0.0"].upper or 0)
        assert (found["2.0.0"].lower or 1) <= 0.6 <= (found["2.0.0"].upper or 0)
        assert {one.version: one.labelled for one in report.completeness}["1.0.0"] == 20 * 32
        samples = await book.samples([deployment])
        named = {
            (one.labels["version"], one.labels["metric"]): one.value
            for one in samples
            if one.name == "modelplane_quality"
        }
        assert named["2.0.0", "precision"] in {f.value for f in found.values()}
        assert await book.samples([]) == []
