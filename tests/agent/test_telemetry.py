"""Each request is counted once, under the step whose weight was in force, whatever restarts."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.agent.telemetry import MAX_KEPT_BATCHES, Meter, Outbox, difference
from modelplane.decisions.agent_routing import cluster_name
from modelplane.errors import InvalidResource, TransientError
from modelplane.ports.proxy import LatencyBin, SliceCounts, TrafficReading, VariantCounts
from modelplane.resources.meta import Metadata
from modelplane.resources.telemetry import TelemetryBatch, TelemetryReceipt
from modelplane.resources.traffic_split import TrafficSplit, TrafficSplitSpec
from tests.agent.test_gateways import start, two_revisions
from tests.agent.world import World

NOW = datetime(2026, 1, 5, tzinfo=UTC)


def counts(requests: int, failures: int = 0, bins: dict[float, int] | None = None) -> VariantCounts:
    latency = tuple(LatencyBin(lower, lower / 10, n) for lower, n in sorted((bins or {}).items()))
    return VariantCounts(
        requests=requests,
        failures=failures,
        client_failures=0,
        latency=latency,
        replica_attempts={"r0": requests},
        replica_failures={"r0": failures},
    )


def total(batches: list[TelemetryBatch]) -> int:
    return sum(sample.requests for batch in batches for sample in batch.samples)


async def test_what_the_gateway_counts_arrives_once(world: World) -> None:
    await start(world)
    stable, _ = two_revisions(world)
    cluster = cluster_name("fraud", stable.digest)
    await world.settle(2.5)
    for _ in range(5):
        world.gateway.count(cluster, 10, failures=1, latency_us={1000.0: 10}, replica="r0")
        await world.settle(1)
    await world.settle(2)
    batches = world.control_plane.batches
    assert total(batches) == 50
    samples = [sample for batch in batches for sample in batch.samples]
    assert {(s.deployment, s.revision) for s in samples} == {("fraud", stable.short)}
    assert sum(s.failures for s in samples) == 5
    assert sum(n for s in samples for _, _, n in s.latency) == 50
    assert sum(s.replicas["r0"].attempts for s in samples) == 50
    assert [batch.sequence for batch in batches] == list(range(1, len(batches) + 1))
    assert {batch.proxy for batch in batches} == {"production/local"}


async def test_a_new_agent_counts_nothing_again(world: World) -> None:
    await start(world)
    cluster = cluster_name("fraud", two_revisions(world)[0].digest)
    world.gateway.count(cluster, 7)
    await world.settle(3)
    before = world.gateway
    boots = {batch.boot_id for batch in world.control_plane.batches}
    await world.kill_agent()
    world.start_agent()
    await world.until(lambda: len(world.gateways) == 2)
    world.gateway.count(cluster, 7)
    await world.settle(2.5)
    world.gateway.count(cluster, 5)
    await world.settle(2)
    assert before is not world.gateway
    assert total(world.control_plane.batches) <= 7 + 5
    new = [batch for batch in world.control_plane.batches if batch.boot_id not in boots]
    assert total(new) == 5, "the first reading is a start and no count"
    assert new[0].sequence == 1


async def test_a_restarted_proxy_counts_from_zero(world: World) -> None:
    await start(world)
    cluster = cluster_name("fraud", two_revisions(world)[0].digest)
    await world.settle(2)
    world.gateway.count(cluster, 20)
    await world.settle(2)
    world.gateway.kill()
    world.gateway.restart()
    world.gateway.count(cluster, 30)
    await world.settle(2)
    assert total(world.control_plane.batches) == 50
    assert len({batch.boot_id for batch in world.control_plane.batches}) == 2


async def test_what_was_counted_while_the_control_plane_was_away_follows(world: World) -> None:
    await start(world)
    cluster = cluster_name("fraud", two_revisions(world)[0].digest)
    await world.settle(3)
    world.control_plane.set_away(True)
    for _ in range(10):
        world.gateway.count(cluster, 3)
        await world.settle(1)
    received = len(world.control_plane.batches)
    world.control_plane.set_away(False)
    await world.settle(3)
    again = world.control_plane.batches[received:]
    assert total(again) >= 30
    once = {(b.boot_id, b.sequence): b for b in world.control_plane.batches}
    assert total(list(once.values())) == 30
    assert [b.sequence for b in again] == sorted(b.sequence for b in again), "in order"


async def test_a_batch_carries_the_step_of_its_beginning(world: World) -> None:
    split = await start(world)
    stable, candidate = two_revisions(world)
    await world.settle(2)
    world.put_split((stable, 75), (candidate, 25), rollout="ro-1", step=1)
    await world.until(lambda: world.control_plane.read(split).status.accepted_generation == 2)
    await world.settle(3)
    world.put_split((stable, 50), (candidate, 50), rollout="ro-1", step=2)
    await world.until(lambda: world.control_plane.read(split).status.accepted_generation == 3)
    await world.settle(3)
    steps = [
        batch.steps["fraud"]["ro-1"] if "fraud" in batch.steps else 0
        for batch in world.control_plane.batches
    ]
    assert steps == sorted(steps)
    assert set(steps) == {0, 1, 2}


def test_the_batch_in_which_the_weight_changed_is_the_old_weights() -> None:
    meter = Meter("production", "production/local", "n")
    reading = TrafficReading("b", {}, {})

    def measure(at_s: float, step: int) -> TelemetryBatch | None:
        spec = TrafficSplitSpec(deployment="fraud", variants=(), steps={"ro": step})
        accepted = {"fraud": TrafficSplit(metadata=Metadata(name="fraud"), spec=spec)}
        return meter.measure(reading, accepted, now=NOW, now_s=at_s)

    assert measure(1.0, 1) is None
    changed = measure(2.0, 2)
    assert changed is not None
    assert changed.steps["fraud"] == {"ro": 1}
    after = measure(3.5, 2)
    assert after is not None
    assert (after.steps["fraud"], after.seconds) == ({"ro": 2}, 1.5)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 50),
            st.integers(0, 50),
            st.dictionaries(st.sampled_from([100.0, 200.0, 1000.0]), st.integers(0, 9)),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_differences_add_up_to_the_last_reading(
    growth: list[tuple[int, int, dict[float, int]]],
) -> None:
    requests, failures, bins = 0, 0, Counter[float]()
    before = VariantCounts()
    summed, summed_failures, summed_bins = 0, 0, Counter[float]()
    for more, worse, slower in growth:
        requests, failures = requests + more, failures + min(worse, more)
        bins.update(slower)
        after = counts(requests, failures, dict(bins))
        sample = difference(before, after, "fraud.0123456789")
        if sample is not None:
            summed += sample.requests
            summed_failures += sample.failures
            for lower, _, number in sample.latency:
                assert number > 0
                summed_bins[lower] += number
        before = after
    assert (summed, summed_failures) == (requests, failures)
    assert +summed_bins == +bins


def test_nothing_happened_is_no_sample() -> None:
    assert difference(counts(5), counts(5), "fraud.0123456789") is None


class Receiver:
    """A control plane that takes telemetry, sometimes."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self.error: Exception | None = None
        self.confirmed = 0

    async def post_telemetry(self, batch: TelemetryBatch) -> TelemetryReceipt:
        if self.error is not None:
            raise self.error
        self.received.append(batch.sequence)
        return TelemetryReceipt(confirmed_sequence=self.confirmed)


def batch(sequence: int) -> TelemetryBatch:
    return TelemetryBatch(
        environment="production",
        proxy="production/local",
        boot_id="b",
        sequence=sequence,
        at=NOW,
        seconds=1,
    )


async def test_what_was_not_confirmed_is_sent_again_after_a_failure() -> None:
    receiver = Receiver()
    outbox = Outbox(receiver)  # type: ignore[arg-type]
    for sequence in (1, 2, 3):
        outbox.add(batch(sequence))
    receiver.confirmed = 1
    await outbox.send()
    receiver.error = TransientError("away")
    outbox.add(batch(4))
    with pytest.raises(TransientError):
        await outbox.send()
    receiver.error = None
    await outbox.send()
    assert receiver.received == [1, 2, 3, 2, 3, 4]


async def test_the_outbox_is_bounded_and_says_what_it_dropped() -> None:
    receiver = Receiver()
    receiver.error = TransientError("away")
    outbox = Outbox(receiver)  # type: ignore[arg-type]
    for sequence in range(1, MAX_KEPT_BATCHES + 11):
        outbox.add(batch(sequence))
    assert outbox.dropped == 10
    receiver.error = None
    await outbox.send()
    assert receiver.received == list(range(11, MAX_KEPT_BATCHES + 11))


async def test_a_refused_batch_does_not_hold_up_the_rest() -> None:
    receiver = Receiver()
    receiver.error = InvalidResource("not a batch")
    outbox = Outbox(receiver)  # type: ignore[arg-type]
    outbox.add(batch(1))
    with pytest.raises(InvalidResource):
        await outbox.send()
    receiver.error = None
    outbox.add(batch(2))
    await outbox.send()
    assert receiver.received == [2]


def test_counts_under_a_rule_and_of_parts_of_the_users_are_told_apart() -> None:
    before = VariantCounts(requests=10, slices={"user.region=west": SliceCounts(4, 1)})
    after = VariantCounts(
        requests=30,
        slices={"user.region=west": SliceCounts(9, 3), "user.region=east": SliceCounts(2, 0)},
    )
    sample = difference(before, after, "fraud.01|rule-1f")
    assert sample is not None
    assert (sample.deployment, sample.revision, sample.rule) == ("fraud", "01", "rule-1f")
    assert {name: (part.requests, part.failures) for name, part in sample.slices.items()} == {
        "user.region=west": (5, 2),
        "user.region=east": (2, 0),
    }
    anew = difference(after, before, "fraud.01")
    assert anew is not None
    assert (anew.rule, anew.slices["user.region=west"].requests) == ("", 4)
