"""What every implementation of `ports.proxy.Proxy` promises; run on the fake and on Envoy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

import pytest
import pytest_asyncio

from modelplane.decisions.routing import Endpoint, RoutePlan, count_key
from modelplane.errors import TransientError
from modelplane.ports.proxy import Proxy, RouteAck, SliceCounts, TrafficReading
from modelplane.resources.strategy import Slice
from modelplane.resources.traffic_split import DEFAULT_RULE
from modelplane.testing.proxy import FakeProxy
from tests.proxy.gateway import Gateway, until
from tests.proxy.plans import rule, ruled_plan, split_plan
from tests.proxy.upstream import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Subject(Protocol):
    """An implementation under test, with what the suite needs around it."""

    @property
    def proxy(self) -> Proxy: ...
    @property
    def replica(self) -> Endpoint: ...
    async def next_ack(self) -> RouteAck: ...
    async def send(self, plan: RoutePlan, requests: int, region: str = "") -> None: ...
    async def stop_process(self) -> None: ...
    async def start_process(self) -> None: ...


class _Acks:
    """Reads a proxy's acknowledgements, one consumer for the whole module."""

    def __init__(self, proxy: Proxy) -> None:
        self._iterator = proxy.acks().__aiter__()

    async def next_ack(self) -> RouteAck:
        return await asyncio.wait_for(anext(self._iterator), 15)


class FakeSubject(_Acks):
    """The fake."""

    def __init__(self) -> None:
        self.proxy = FakeProxy(
            refuse=lambda plan: "bad header" if "\n" in plan.sticky_header else None
        )
        self.replica = Endpoint("r0", "127.0.0.1:9")
        super().__init__(self.proxy)

    async def send(self, plan: RoutePlan, requests: int, region: str = "") -> None:
        self.proxy.count(
            plan.stable.cluster,
            requests,
            latency_us={500: requests},
            replica="r0",
            rule=plan.all_rules[0].name if region else DEFAULT_RULE,
            slices={f"user.region={region}": SliceCounts(requests, 0)} if region else {},
        )

    async def stop_process(self) -> None:
        self.proxy.kill()

    async def start_process(self) -> None:
        self.proxy.restart()


class EnvoySubject(_Acks):
    """The real Envoy."""

    def __init__(self, gateway: Gateway, upstream: Upstream) -> None:
        self._gateway = gateway
        self.proxy = gateway.proxy
        self.replica = Endpoint(upstream.name, upstream.address)
        super().__init__(self.proxy)

    async def send(self, plan: RoutePlan, requests: int, region: str = "") -> None:
        for _ in range(requests):
            answer = await self._gateway.client.post(
                f"/v2/models/{plan.deployment}/infer",
                headers={"x-user-region": region} if region else {},
            )
            assert answer.status_code == 200

    async def stop_process(self) -> None:
        await self._gateway.kill_envoy()

    async def start_process(self) -> None:
        await self._gateway.start_envoy()
        await until(self.proxy.is_ready)


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=["fake", pytest.param("envoy", marks=pytest.mark.e2e)],
)
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    if request.param == "fake":
        yield FakeSubject()
        return
    gateway = Gateway()
    try:
        await gateway.start(collect_acks=False)
        yield EnvoySubject(gateway, await gateway.upstream("r0"))
    finally:
        await gateway.stop()


def plan_of(subject: Subject, deployment: str, generation: int = 1, **settings: Any) -> RoutePlan:
    return split_plan(deployment, generation, stable=(subject.replica,), **settings)


async def test_a_published_plan_is_acknowledged_with_its_generation(subject: Subject) -> None:
    await subject.proxy.publish(plan_of(subject, "first", 7))
    assert await subject.next_ack() == RouteAck("first", 7, accepted=True)


async def test_publishing_the_same_plan_again_acknowledges_again(subject: Subject) -> None:
    for generation in (1, 1, 2):
        await subject.proxy.publish(plan_of(subject, "again", generation))
        assert await subject.next_ack() == RouteAck("again", generation, accepted=True)


async def test_of_a_burst_the_last_plan_counts(subject: Subject) -> None:
    for generation in range(1, 51):
        await subject.proxy.publish(plan_of(subject, "burst", generation, salt=f"s{generation}"))
    seen = [await subject.next_ack()]
    while seen[-1].generation < 50:
        seen.append(await subject.next_ack())
    generations = [ack.generation for ack in seen]
    assert generations == sorted(set(generations))
    assert all(ack.accepted for ack in seen)


async def test_a_refusal_says_why_and_a_good_plan_is_taken_after_it(subject: Subject) -> None:
    await subject.proxy.publish(plan_of(subject, "refused", 1))
    assert (await subject.next_ack()).accepted
    for generation in (2, 3):  # the same bad plan twice: refused twice
        await subject.proxy.publish(
            plan_of(subject, "refused", generation, sticky_header="x\nuser")
        )
        ack = await subject.next_ack()
        assert (ack.deployment, ack.generation, ack.accepted) == ("refused", generation, False)
        assert ack.message
    await subject.proxy.publish(plan_of(subject, "refused", 4))
    assert await subject.next_ack() == RouteAck("refused", 4, accepted=True)


async def test_a_withdrawal_is_acknowledged_with_the_last_generation(subject: Subject) -> None:
    await subject.proxy.publish(plan_of(subject, "leaving", 3))
    assert (await subject.next_ack()).accepted
    await subject.proxy.withdraw("leaving")
    assert await subject.next_ack() == RouteAck("leaving", 3, accepted=True)


@pytest.mark.parametrize("good_before", [True, False])
async def test_a_withdrawal_after_a_refusal_carries_the_refused_generation(
    subject: Subject, good_before: bool
) -> None:
    name = f"refused-{good_before}"
    if good_before:
        await subject.proxy.publish(plan_of(subject, name, 1))
        assert (await subject.next_ack()).accepted
    await subject.proxy.publish(plan_of(subject, name, 2, sticky_header="x\nuser"))
    assert not (await subject.next_ack()).accepted
    await subject.proxy.withdraw(name)
    assert await subject.next_ack() == RouteAck(name, 2, accepted=True)


async def test_withdrawing_an_unknown_deployment_changes_nothing(subject: Subject) -> None:
    await subject.proxy.withdraw("never-there")
    await subject.proxy.publish(plan_of(subject, "witness"))
    assert (await subject.next_ack()).deployment == "witness"


async def test_counts_are_cumulative_within_a_boot(subject: Subject) -> None:
    plan = plan_of(subject, "counted")
    await subject.proxy.publish(plan)
    assert (await subject.next_ack()).accepted
    readings = []
    for requests in (3, 4):
        await subject.send(plan, requests)
        readings.append(await _settled(subject, plan, 3 if requests == 3 else 7))
    first, second = readings
    assert first.boot_id == second.boot_id
    counts = second.variants[plan.stable.cluster]
    assert (counts.requests, counts.failures, counts.client_failures) == (7, 0, 0)
    assert sum(part.count for part in counts.latency) == 7
    assert all(part.width_us >= 0 for part in counts.latency)
    assert [part.lower_us for part in counts.latency] == sorted(
        part.lower_us for part in counts.latency
    )
    assert counts.replica_attempts == {"r0": 7}
    assert sum(counts.replica_failures.values()) == 0


async def test_requests_are_counted_under_their_rule_and_in_their_slice(subject: Subject) -> None:
    west, everybody = rule("ruled", "user.region == 'west'"), rule("ruled")
    plan = ruled_plan(
        "ruled",
        replicas={"a": subject.replica},
        rules=(west, everybody),
        slices=(Slice(by="user.region", values=("west",)),),
    )
    await subject.proxy.publish(plan)
    assert (await subject.next_ack()).accepted
    await subject.send(plan, 3, region="west")
    await subject.send(plan, 2)
    key = count_key(plan.stable.cluster, west.name)
    await _settled(subject, plan, 2)
    variants = (await _settled(subject, plan, 3, key)).variants
    assert variants[key].slices == {"user.region=west": SliceCounts(3, 0)}
    assert not variants[plan.stable.cluster].slices
    assert variants[key].replica_attempts == {"r0": 3}


async def test_a_predicate_that_does_not_compile_is_refused(subject: Subject) -> None:
    await subject.proxy.publish(plan_of(subject, "miswritten", 1))
    assert (await subject.next_ack()).accepted
    rules = (rule("miswritten", "user.region == 1"), rule("miswritten"))
    bad = ruled_plan("miswritten", 2, replicas={"a": subject.replica}, rules=rules)
    await subject.proxy.publish(bad)
    ack = await subject.next_ack()
    assert (ack.deployment, ack.generation, ack.accepted) == ("miswritten", 2, False)
    assert rules[0].name in ack.message
    await subject.proxy.withdraw("miswritten")
    assert await subject.next_ack() == RouteAck("miswritten", 2, accepted=True)


async def test_a_restarted_process_has_another_boot_id_counts_from_zero_and_its_plans(
    subject: Subject,
) -> None:
    plan = plan_of(subject, "restarted")
    await subject.proxy.publish(plan)
    assert (await subject.next_ack()).accepted
    await subject.send(plan, 2)
    before = await _settled(subject, plan, 2)

    await subject.stop_process()
    assert not await subject.proxy.is_ready()
    with pytest.raises(TransientError):
        await subject.proxy.read_traffic()
    await subject.proxy.publish(plan_of(subject, "published-while-down", 5))
    await subject.start_process()

    assert await subject.proxy.is_ready()
    assert await subject.next_ack() == RouteAck("published-while-down", 5, accepted=True)
    after = await subject.proxy.read_traffic()
    assert after.boot_id != before.boot_id
    assert not after.variants
    await subject.send(plan, 1)
    assert (await _settled(subject, plan, 1)).boot_id == after.boot_id


async def test_draining_an_idle_proxy_returns_at_once(subject: Subject) -> None:
    await asyncio.wait_for(subject.proxy.drain(timeout_s=60), 20)


async def _settled(
    subject: Subject, plan: RoutePlan, requests: int, key: str = ""
) -> TrafficReading:
    """Return a reading that holds all `requests`: a proxy may count a moment after it answers."""
    key = key or plan.stable.cluster

    async def there() -> bool:
        counts = (await subject.proxy.read_traffic()).variants.get(key)
        done = sum(part.count for part in counts.latency) if counts else 0
        return counts is not None and counts.requests == done == requests

    await until(there)
    return await subject.proxy.read_traffic()
