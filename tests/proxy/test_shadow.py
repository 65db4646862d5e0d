"""Copies of requests through the real Envoy: compared, counted, and never felt by a client."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import Any

import pytest

from modelplane.adapters.proxy.shadows import (
    COMPARE_HEADER,
    COPY_HEADER,
    MAX_COPY_BYTES,
    max_copies,
)
from modelplane.decisions.routing import (
    TOTAL_WEIGHT,
    Endpoint,
    Mirror,
    RoutePlan,
    Rule,
    Segment,
    Variant,
)
from modelplane.ports.proxy import VariantCounts
from modelplane.resources.limits import Limits
from tests.proxy.gateway import Gateway, until
from tests.proxy.load import load
from tests.proxy.plans import Replica, endpoint
from tests.proxy.upstream import Mode

pytestmark = pytest.mark.asyncio(loop_scope="module")


def shadow_plan(
    deployment: str,
    stable: Replica,
    shadow: Replica,
    *,
    generation: int = 1,
    share: int = TOTAL_WEIGHT,
    **settings: Any,
) -> RoutePlan:
    """Return a plan in which `shadow` gets copies of `share` basis points of the requests."""
    ours, theirs = f"{deployment}.a", f"{deployment}.s"
    rule = Rule("default", "", "", (Segment(ours, TOTAL_WEIGHT),), (Mirror(theirs, share),))
    return RoutePlan(
        deployment,
        generation,
        (
            Variant(ours, "1.0.0", "stable", TOTAL_WEIGHT, (endpoint(stable),)),
            Variant(theirs, "2.0.0", "shadow", 0, (endpoint(shadow),)),
        ),
        rules=(rule,),
        **settings,
    )


def names(requests: Iterable[tuple[str, str, dict[str, str]]]) -> list[str]:
    return [headers[COMPARE_HEADER] for _, _, headers in requests]


async def ask(running: Gateway, deployment: str, count: int, **headers: str) -> None:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    for _ in range(count):
        answer = await running.client.post(
            f"/v2/models/{deployment}/infer", json={}, headers={"x-user-id": "u", **sent}
        )
        assert (answer.status_code, answer.headers["x-modelplane-version"]) == (200, "1.0.0")


async def test_a_request_and_its_copy_have_one_name_that_no_client_chooses(
    running: Gateway,
) -> None:
    stable, shadow = await running.upstream("na"), await running.upstream("ns")
    await running.publish(shadow_plan("named", stable, shadow))
    forged = {"x_modelplane_compare": "default/mine", "x_modelplane_copy": "default"}
    await ask(running, "named", 5, x_request_id="always-the-same", **forged)

    async def copied() -> bool:
        return len(shadow.requests) == 5

    await until(copied)
    assert len(set(names(stable.requests))) == 5
    assert sorted(names(stable.requests)) == sorted(names(shadow.requests))
    assert all(name.startswith("default/") for name in names(stable.requests))
    assert all(COPY_HEADER not in headers for _, _, headers in stable.requests)
    assert {headers[COPY_HEADER] for _, _, headers in shadow.requests} == {"default"}
    ours, theirs = stable.requests[0][2], shadow.requests[0][2]
    assert ours["x-request-id"] == theirs["x-request-id"] == "always-the-same"
    assert ours["host"] == theirs["host"]


async def test_without_a_shadow_no_answer_is_kept(running: Gateway) -> None:
    stable, shadow = await running.upstream("wa"), await running.upstream("ws")
    plan = shadow_plan("without", stable, shadow)
    rule = Rule("default", "", "", plan.rules[0].segments)
    await running.publish(RoutePlan("without", 1, plan.variants, rules=(rule,)))
    await ask(running, "without", 3, x_modelplane_compare="default/mine")
    assert all(COMPARE_HEADER not in headers for _, _, headers in stable.requests)
    assert shadow.requests == []


async def test_a_share_of_the_requests_is_copied(running: Gateway) -> None:
    stable, shadow = await running.upstream("fa"), await running.upstream("fs")
    await running.publish(shadow_plan("share", stable, shadow, share=3000))
    async with load(running.config.port, "share") as answers:
        await answers.grow(1000)
    assert answers.failures == 0
    # Six standard deviations of 0.3 of so many.
    assert abs(len(shadow.requests) / answers.total - 0.3) < 6 * (0.21 / answers.total) ** 0.5


async def test_copies_are_counted_and_timed_as_the_shadows_own(running: Gateway) -> None:
    stable, shadow = await running.upstream("ca"), await running.upstream("cs")
    await running.publish(shadow_plan("counted", stable, shadow))
    modes: list[tuple[Mode, int]] = [("ok", 10), ("500", 5), ("cut", 3), ("slow", 2)]
    shadow.slow_s = 2.0
    total = 0
    for mode, count in modes:
        shadow.mode = mode
        await ask(running, "counted", count)
        total += count
        theirs = await copies(running, "counted.s", total)
    assert (theirs.failures, theirs.client_failures) == (8, 0)
    assert (theirs.replica_attempts, theirs.replica_failures) == ({"cs": 20}, {"cs": 8})

    async def timed() -> bool:
        counts = (await running.proxy.read_traffic()).variants["counted.s"]
        return sum(part.count for part in counts.latency) == 17

    await until(timed)  # all but those that broke off
    reading = await running.proxy.read_traffic()
    ours, theirs = reading.variants["counted.a"], reading.variants["counted.s"]
    assert (ours.requests, ours.failures, ours.client_failures) == (20, 0, 0)
    slow = [part.count for part in theirs.latency if part.lower_us >= 1_800_000]
    assert sum(slow) == 2
    assert not [part for part in ours.latency if part.lower_us >= 1_800_000]
    assert {key for key in reading.variants if key.startswith("counted")} == {
        "counted.a",
        "counted.s",
    }


async def copies(running: Gateway, cluster: str, count: int) -> VariantCounts:
    """Wait until so many copies have ended, and return what was counted of them."""

    async def ended() -> bool:
        counts = (await running.proxy.read_traffic()).variants.get(cluster)
        return counts is not None and counts.requests == count

    await until(ended)
    return (await running.proxy.read_traffic()).variants[cluster]


async def _misbehave(running: Gateway, deployment: str, how: str) -> RoutePlan:
    stable = await running.upstream(f"{deployment}a")
    if how in ("stopped", "killed"):
        path, child = await running.upstream_process(f"{deployment}s")
        replica = Endpoint(f"{deployment}s", path)
        plan = shadow_plan(deployment, stable, replica, timeout_s=4)
        await running.publish(plan)
        if how == "stopped":
            os.kill(child.pid, signal.SIGSTOP)
        else:
            child.kill()
            await child.wait()
        return plan
    mode: Mode = "slow" if how == "30 s late" else "hang" if how == "hanging" else "500"
    shadow = await running.upstream(f"{deployment}s", mode, slow_s=30.0)
    plan = shadow_plan(deployment, stable, shadow, timeout_s=4)
    await running.publish(plan)
    return plan


@pytest.mark.parametrize("how", ["stopped", "killed", "500", "30 s late", "hanging"])
async def test_no_client_feels_what_becomes_of_the_shadow(running: Gateway, how: str) -> None:
    deployment = f"unfelt-{how.replace(' ', '')}"
    plan = await _misbehave(running, deployment, how)
    async with load(running.config.port, deployment, connections=8) as answers:
        await answers.grow(500)
    assert answers.failures == 0, answers.problems
    assert set(answers.served) == {"1.0.0"}
    cluster, most = f"{deployment}.s", 2 * max_copies(plan)
    under_way = (await running.proxy.read_traffic()).active_requests.get(cluster, 0)
    assert under_way <= most

    async def over() -> bool:
        reading = await running.proxy.read_traffic()
        counts = reading.variants.get(cluster)
        return not reading.active_requests.get(cluster) and counts is not None

    await until(over)
    reading = await running.proxy.read_traffic()
    theirs, ours = reading.variants[cluster], reading.variants[f"{deployment}.a"]
    assert 0 < theirs.failures == theirs.requests
    assert theirs.requests <= (most if under_way else answers.total), "what was not sent is none's"
    assert (ours.requests, ours.failures) == (answers.total, 0)


async def test_what_copies_hold_of_memory_is_bounded_by_the_size_of_bodies() -> None:
    one, two = Endpoint("a", "unix:/a"), Endpoint("s", "unix:/s")
    for max_body in (None, 1, 100_000, 2**20, 2**26, 2**30):
        plan = shadow_plan("bounded", one, two, limits=Limits(max_body=max_body))
        held = 2 * max_copies(plan) * (max_body or 2**23)
        assert held <= MAX_COPY_BYTES or max_copies(plan) == 8


async def test_a_shadow_that_becomes_stable_takes_over_without_a_lost_request(
    running: Gateway,
) -> None:
    stable, shadow = await running.upstream("pa"), await running.upstream("ps")
    await running.publish(shadow_plan("promoted", stable, shadow))
    async with load(running.config.port, "promoted", connections=8) as answers:
        await answers.grow(200)
        variant = Variant("promoted.s", "2.0.0", "stable", TOTAL_WEIGHT, (endpoint(shadow),))
        await running.publish(RoutePlan("promoted", 2, (variant,)))
        await answers.grow(200)
        await running.publish(shadow_plan("promoted", shadow, stable, generation=3))
        await answers.grow(200)
    assert answers.failures == 0, answers.problems
    assert answers.served["2.0.0"] >= 190
