"""Everything of the catalogue is measured, and counters never fall.

Real store and rings, a manual clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from modelplane.adapters.metrics.ring import MetricsRing
from modelplane.adapters.metrics.series import MemorySeriesRing
from modelplane.api.metrics import format_samples
from modelplane.controllers.measuring import (
    Counters,
    MeasuringController,
    PredictionSeries,
    tally_samples,
)
from modelplane.decisions.predictions import Place, Tally
from modelplane.decisions.series import BY_NAME, CATALOGUE, Sample, sample
from modelplane.decisions.telemetry_series import TelemetrySeries
from modelplane.ports.store import Transaction
from modelplane.resources.meta import Metadata
from modelplane.resources.model_deployment import ModelDeployment, ModelDeploymentSpec
from modelplane.resources.monitoring import PredictionLog
from modelplane.resources.replica import Replica
from modelplane.resources.telemetry import TelemetryBatch, VariantSample
from modelplane.testing.clock import ManualClock
from tests.controllers.plane import ANA, Plane, open_plane, revision
from tests.controllers.stores import open_store

FIRST, SECOND = revision("1.0.0"), revision("2.0.0")


class Meter:
    """What measures, around a store."""

    def __init__(self, plane: Plane) -> None:
        telemetry = TelemetrySeries()
        self.clock = plane.clock
        self.metrics = MetricsRing(telemetry.add)
        self.ring = MemorySeriesRing()
        self.controller = MeasuringController(plane.store, self.ring, telemetry, plane.clock)
        self._sequence = 0

    def report(self, *samples: VariantSample, unrouted: int = 0, again: bool = False) -> None:
        """Have the gateway report; with `again` the same batch once more."""
        self._sequence += 0 if again else 1
        self.metrics.record(
            TelemetryBatch(
                environment="production",
                proxy="production/local",
                boot_id="b",
                sequence=self._sequence,
                at=self.clock.now(),
                seconds=1,
                samples=samples,
                unrouted=unrouted,
            )
        )

    async def measure(self) -> dict[str, float]:
        self.clock.step(1)
        await self.controller.measure()
        _, samples = self.ring.latest()
        return {text(one): one.value for one in samples}


def text(one: Sample) -> str:
    shown = [one.labels[name] for name in BY_NAME[one.name].labels]
    return f"{one.name.removeprefix('modelplane_')} {' '.join(shown)}".strip()


def counted(requests: int, failures: int, digest: str = FIRST.short) -> VariantSample:
    return VariantSample(
        deployment="delay",
        revision=digest,
        requests=requests,
        failures=failures,
        client_failures=failures // 2,
        latency=((1000.0, 1000.0, requests),),
    )


async def test_what_gateways_and_resources_say_is_measured(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        meter = Meter(plane)
        assert "requests_total production delay 1.0.0" not in await meter.measure()
        await plane.declare(replicas=2)
        await plane.promote(FIRST)
        await plane.settle()
        meter.report(counted(10, 4), unrouted=3)
        meter.report(counted(10, 4), unrouted=3, again=True)
        found = await meter.measure()
        where = "production delay"
        assert found[f"requests_total {where} 1.0.0"] == 10
        assert found[f"request_failures_total {where} 1.0.0"] == 4
        assert found[f"client_failures_total {where} 1.0.0"] == 2
        assert found[f"request_latency_seconds {where} 1.0.0 0.5"] == pytest.approx(0.0015)
        assert found["gateway_up production production/local"] == 1
        assert found["gateway_unrouted_total production production/local"] == 3
        assert found[f"weight_ratio {where} 1.0.0"] == 1
        names = [one for one in found if one.startswith("replica_up")]
        assert [found[name] for name in names] == [1, 1]
        assert found[f"rollouts_finished_total {where} Promoted"] == 1
        assert found["promotions_waiting production"] == 0
        assert found["approvals_pending"] == 0


async def test_a_running_rollout_shows_with_its_evidence(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        meter = Meter(plane)
        await plane.declare()
        await plane.promote(FIRST)
        await plane.settle()
        await plane.promote(SECOND)
        await plane.settle()
        rollout = (await plane.rollout()).metadata.name
        metric = {"name": "error_rate", "verdict": "undecided", "eValue": 3.5}
        await plane.judge(metrics=[metric, {**metric, "eValue": 0.5}])
        found = await meter.measure()
        assert found[f"rollout_running production delay {rollout} 2.0.0"] == 1
        assert found[f"rollout_e_value production delay {rollout} 2.0.0"] == 3.5


async def test_a_replica_that_died_is_down_and_one_on_its_way_is_not(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        meter = Meter(plane)
        await plane.declare()
        await plane.promote(FIRST)
        await plane.settle()
        (replica,) = (await plane.store.list(Replica))[0]
        name = f"production delay 1.0.0 {replica.metadata.name}"
        for status, up in (
            ({"phase": "Starting", "ready_at": None}, None),
            ({"phase": "Ready", "ready_at": plane.clock.now()}, 1),
            ({"phase": "NotReady"}, 0),
            ({"phase": "Starting", "restarts": 1}, 0),
            ({"phase": "Draining"}, None),
        ):
            replica = replica.with_status(**status)
            await _put(plane, replica)
            replica = await plane.store.get(Replica, replica.metadata.name, "production")
            assert (await meter.measure()).get(f"replica_up {name}") == up, status


async def _put(plane: Plane, replica: Replica) -> None:
    transaction = Transaction(ANA)
    transaction.update(replica)
    await plane.store.commit(transaction)


async def test_a_gateway_that_reports_no_more_is_down_and_then_forgotten(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        meter = Meter(plane)
        meter.report()
        name = "gateway_up production production/local"
        assert (await meter.measure())[name] == 1
        meter.clock.step(6)
        assert (await meter.measure())[name] == 0
        meter.clock.step(3600)
        assert name not in await meter.measure()


async def test_a_version_that_is_not_known_yet_is_counted_when_it_is(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        meter = Meter(plane)
        meter.report(counted(7, 0))
        assert "requests_total production delay 1.0.0" not in await meter.measure()
        await plane.declare()
        await plane.promote(FIRST)
        await plane.settle()
        meter.report(counted(3, 0))
        assert (await meter.measure())["requests_total production delay 1.0.0"] == 10


async def test_a_source_that_hangs_or_fails_holds_up_nothing(tmp_path: Path) -> None:
    async with open_store(tmp_path) as (store, clock):
        ring, telemetry = MemorySeriesRing(), TelemetrySeries()
        controller = MeasuringController(store, ring, telemetry, clock)
        waits, asked = asyncio.Event(), 0

        async def hangs() -> Sequence[Sample]:
            nonlocal asked
            asked += 1
            await waits.wait()
            return [sample("modelplane_jobs", 7, phase="odd")]

        async def fails() -> Sequence[Sample]:
            raise ValueError("no such file")

        controller.add_source("hangs", hangs)
        controller.add_source("fails", fails)
        sets = 0

        def count() -> None:
            nonlocal sets
            sets += 1

        controller.add_listener(count)
        for _ in range(2):
            clock.step(1)
            await controller.measure()
        assert (sets, asked) == (2, 1)
        waits.set()
        clock.step(1)
        await controller.measure()
        values = [one.value for one in ring.latest()[1] if one.labels.get("phase") == "odd"]
        assert 7 in values


changes = st.lists(st.integers(0, 50), min_size=1, max_size=30)


@given(values=changes)
def test_counters_never_fall_and_rise_by_what_was_added(values: list[int]) -> None:
    counters, shown = Counters(), []
    for value in values:
        one = sample("modelplane_replica_restarts_total", float(value), environment="p",
                     deployment="d", version="1", replica="r")  # fmt: skip
        (kept,) = counters.keep_rising([one])
        shown.append(kept.value)
    assert shown == sorted(shown)
    added = sum(max(0, b - a) for a, b in pairwise(values))
    assert shown[-1] == values[0] + added


def test_gauges_may_fall_and_what_is_no_number_is_left_out() -> None:
    counters = Counters()
    for value in (5.0, 1.0):
        (kept,) = counters.keep_rising([sample("modelplane_jobs", value, phase="Running")])
        assert kept.value == value
    nothing = sample("modelplane_jobs", float("nan"), phase="Running")
    assert counters.keep_rising([nothing]) == []


async def test_predictions_are_counted_by_version_and_not_each_second() -> None:
    clock, asked = ManualClock(), []

    class Store:
        async def tallies(
            self, environment: str, deployment: str, *, since: datetime, horizon_s: float
        ) -> Sequence[Tally]:
            asked.append(since)
            place = Place(environment, deployment, "1.0.0")
            mirrored = Place(environment, deployment, "1.0.0", mirrored=True)
            return [
                Tally(place, predictions=8, labelled=3, due=4, due_labelled=3, dropped=1),
                Tally(mirrored, predictions=2),
            ]

    def deployment(name: str, log: PredictionLog | None) -> ModelDeployment:
        return ModelDeployment(
            metadata=Metadata(name=name, environment="production"),
            spec=ModelDeploymentSpec(model=name, predictions=log),
        )

    both = [deployment("delay", PredictionLog()), deployment("other", None)]
    series = PredictionSeries(Store(), lambda: both, clock)  # type: ignore[arg-type]
    found = {text(one): one.value for one in await series.samples()}
    assert found == {
        "predictions_total production delay 1.0.0": 10,
        "predictions_dropped_total production delay 1.0.0": 1,
        "labels_total production delay 1.0.0": 3,
        "labels_due_ratio production delay 1.0.0": 0.75,
    }
    await series.samples()
    assert len(asked) == 1
    clock.step(11)
    await series.samples()
    assert len(asked) == 2
    assert tally_samples([]) == []


labels = st.text(alphabet='a"\\\n{},= é', max_size=8)
values = st.floats(allow_nan=False)


@given(parts=st.lists(st.tuples(labels, values), max_size=6))
def test_the_text_of_metrics_reads_back_as_it_was(parts: list[tuple[str, float]]) -> None:
    samples = [sample("modelplane_jobs", value, phase=phase) for phase, value in parts]
    samples.append(sample("modelplane_playbook_runs_total", 3, playbook="p", phase="Done"))
    samples.append(Sample("job:recorded:ratio", {"a": "b"}, 0.5))
    read = {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(format_samples(samples))
        for one in family.samples
    }
    expected = {(one.name, tuple(sorted(one.labels.items()))): one.value for one in samples}
    assert read == expected


def test_every_series_of_the_catalogue_has_its_type_and_help() -> None:
    samples = [sample(one.name, 1, **dict.fromkeys(one.labels, "x")) for one in CATALOGUE]
    families = list(text_string_to_metric_families(format_samples(samples)))
    assert len(families) == len(CATALOGUE)
    for family, series in zip(families, CATALOGUE, strict=True):
        assert family.name == series.name.removesuffix("_total")
        assert family.type == series.type
        assert family.documentation == series.help


def test_the_ring_forgets_what_is_old_and_what_is_too_much() -> None:
    clock, ring = ManualClock(), MemorySeriesRing(max_points=500)
    for second in range(400):
        clock.step(1)
        both = [sample("modelplane_jobs", second, phase=phase) for phase in ("Pending", "Running")]
        ring.record(clock.now(), both)
    since = clock.now() - timedelta(hours=2)
    points = ring.points("modelplane_jobs", lambda _: True, since=since, until=clock.now())
    assert sum(len(one.values) for one in points) <= 500
    assert all(one.values[-1] == 399 for one in points)
    for _ in range(100):
        clock.step(60)
        ring.record(clock.now(), [])
    assert ring.points("modelplane_jobs", lambda _: True, since=since, until=clock.now()) == []
    oldest = ring.oldest()
    assert oldest is not None
    assert clock.now() - oldest <= timedelta(seconds=3700)


def test_a_set_that_is_not_newer_changes_nothing() -> None:
    clock, ring = ManualClock(), MemorySeriesRing()
    ring.record(clock.now(), [sample("modelplane_jobs", 1, phase="Running")])
    ring.record(clock.now(), [sample("modelplane_jobs", 2, phase="Running")])
    assert [one.value for one in ring.latest()[1]] == [1]
    assert ring.newest(clock.now()) == clock.now()
    assert ring.newest(clock.now() - timedelta(seconds=1)) is None
