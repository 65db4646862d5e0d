"""What a deployment's limits do: rates per client, body size, requests at a time, ejection."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from envoy.config.route.v3.route_components_pb2 import FilterConfig
from envoy.extensions.filters.http.local_ratelimit.v3.local_rate_limit_pb2 import LocalRateLimit

from modelplane.adapters.proxy.limits import RATE_LIMIT_FILTER, per_route
from modelplane.decisions.routing import Endpoint
from modelplane.resources.limits import Limits
from tests.proxy.gateway import Gateway, until
from tests.proxy.load import load
from tests.proxy.plans import split_plan
from tests.proxy.upstream import Mode

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


def limits(**declared: object) -> Limits:
    """Return limits as a manifest declares them."""
    return Limits.model_validate(declared)


async def ask(running: Gateway, deployment: str, **headers: str) -> httpx.Response:
    return await running.client.post(f"/v2/models/{deployment}/infer", headers=headers)


async def test_one_client_is_held_to_its_rate_and_told_when_to_come_back(running: Gateway) -> None:
    replica = await running.upstream("rate-address")
    rate = {"requests": 2, "per": "1m", "burst": 3}
    plan = split_plan("rate-address", stable=(replica,), limits=limits(rate=rate))
    assert (await running.publish(plan)).accepted
    answers = [await ask(running, "rate-address") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert len(replica.requests) == 3
    refused = answers[-1]
    assert refused.headers["retry-after"] == "30"
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["status"] == 429
    assert "rate limit" in refused.json()["error"]
    reading = await running.read_counts({"rate-address.a": 3})
    assert reading.variants["rate-address.a"].failures == 0


async def test_a_rate_by_user_is_one_for_each_user_and_by_address_for_the_others(
    running: Gateway,
) -> None:
    replica = await running.upstream("rate-user")
    rate = {"requests": 2, "per": "1m", "by": "user"}
    plan = split_plan("rate-user", stable=(replica,), limits=limits(rate=rate))
    assert (await running.publish(plan)).accepted

    async def statuses(**headers: str) -> list[int]:
        return [(await ask(running, "rate-user", **headers)).status_code for _ in range(3)]

    assert await statuses(**{"x-user-id": "ada"}) == [200, 200, 429]
    assert await statuses(**{"x-user-id": "bob"}) == [200, 200, 429]
    # Nobody in particular: one client, its address, whether the header is absent or empty; and
    # no user can be mistaken for it.
    assert await statuses() == [200, 200, 429]
    assert await statuses(**{"x-user-id": ""}) == [429, 429, 429]
    assert await statuses(**{"x-user-id": "127.0.0.1/32"}) == [200, 200, 429]
    # A name is kept with its bucket, so that it has a bound; beyond it a user is nobody.
    assert await statuses(**{"x-user-id": "x" * 256}) == [200, 200, 429]
    assert await statuses(**{"x-user-id": "x" * 257}) == [429, 429, 429]
    assert await statuses(**{"x-user-id": "x" * 50_000}) == [429, 429, 429]


async def test_a_client_cannot_choose_its_address(running: Gateway) -> None:
    replica = await running.upstream("rate-forwarded")
    rate = limits(rate={"requests": 2, "per": "1h"})
    plan = split_plan("rate-forwarded", stable=(replica,), limits=rate)
    assert (await running.publish(plan)).accepted
    names = ("x-forwarded-for", "x-real-ip", "forwarded", "x-envoy-external-address")
    answers = [
        await ask(running, "rate-forwarded", **dict.fromkeys(names, f"10.0.0.{number}"))
        for number in range(4)
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]


@pytest.mark.parametrize("by", ["address", "user"])
async def test_who_owns_a_network_of_ipv6_is_one_client(by: str) -> None:
    plan = split_plan(
        "d", stable=(Endpoint("r", "unix:/r"),), limits=limits(rate={"requests": 1, "by": by})
    )
    switched = FilterConfig()
    per_route(plan)[RATE_LIMIT_FILTER].Unpack(switched)
    settings = LocalRateLimit()
    switched.config.Unpack(settings)
    masks = [
        action.masked_remote_address.v6_prefix_mask_len.value
        for limit in settings.rate_limits
        for action in limit.actions
        if action.HasField("masked_remote_address")
    ]
    assert masks == [64]
    assert not any(a.HasField("remote_address") for r in settings.rate_limits for a in r.actions)


async def test_a_rate_comes_back_with_time_and_does_not_touch_other_deployments(
    running: Gateway,
) -> None:
    replica = await running.upstream("rate-again")
    limited = limits(rate={"requests": 2, "per": "2s"})
    assert (await running.publish(split_plan("again", stable=(replica,), limits=limited))).accepted
    assert (await running.publish(split_plan("free", stable=(replica,)))).accepted
    async with asyncio.timeout(20):  # the rate comes back meanwhile, should the machine stand still
        while (await ask(running, "again")).status_code != 429:
            pass
    assert {(await ask(running, "free")).status_code for _ in range(20)} == {200}

    async def allowed() -> bool:
        return (await ask(running, "again")).status_code == 200

    await until(allowed)


async def test_a_deployment_may_take_smaller_bodies_than_the_gateway_and_none_larger(
    running: Gateway,
) -> None:
    replica = await running.upstream("small")
    small, large = limits(maxBody="1Ki"), limits(maxBody="1Gi")
    assert (await running.publish(split_plan("small", stable=(replica,), limits=small))).accepted
    assert (await running.publish(split_plan("big", stable=(replica,), limits=large))).accepted

    async def status(deployment: str, size: int) -> int:
        path = f"/v2/models/{deployment}/infer"
        answer = await running.client.post(path, content=b"x" * size)
        assert answer.status_code == 200 or "larger" in answer.json()["error"]
        return answer.status_code

    assert await status("small", 1024) == 200
    assert await status("small", 1025) == 413
    assert await status("big", 8 * 2**20) == 200
    assert await status("big", 8 * 2**20 + 1) == 413
    reading = await running.read_counts({"small.a": 1, "big.a": 1})
    assert reading.variants["small.a"].failures == reading.variants["big.a"].failures == 0


async def test_too_many_requests_at_a_time_are_turned_away_at_once_and_the_others_stay_quick(
    running: Gateway,
) -> None:
    replica = await running.upstream("shed", "slow", slow_s=0.3)
    plan = split_plan("shed", stable=(replica,), limits=limits(maxConcurrency=8))
    assert (await running.publish(plan)).accepted
    async with load(running.config.port, "shed", connections=64, pause_s=0.01) as answers:
        while answers.statuses[200] < 8 * 2:
            await answers.grow(100)
    served, shed = answers.statuses[200], answers.statuses[503]
    assert served + shed == answers.total
    assert all("'retry-after': '1'" in problem for problem in answers.problems)
    assert all('"flags":"UO"' in problem for problem in answers.problems)
    # While one request is served, each of the others is turned away at once and asks again.
    assert shed > 2 * served
    assert len(replica.requests) == served
    replica.mode = "ok"
    assert {(await ask(running, "shed")).status_code for _ in range(20)} == {200}
    reading = await running.read_counts({"shed.a": served + 20})
    assert reading.variants["shed.a"].failures == 0
    assert reading.variants["shed.a"].client_failures == 0
    assert reading.variants["shed.a"].replica_attempts == {"shed": served + 20}


async def test_a_candidate_at_its_limit_does_not_take_stables_place(running: Gateway) -> None:
    stable = await running.upstream("room-s")
    candidate = await running.upstream("room-c", "slow", slow_s=2.0)
    plan = split_plan(
        "room",
        stable=(stable,),
        candidate=(candidate,),
        weight=5_000,
        limits=limits(maxConcurrency=2),
    )
    assert (await running.publish(plan)).accepted
    users = [f"user-{number}" for number in range(40)]
    answers = await asyncio.gather(*(ask(running, "room", **{"x-user-id": u}) for u in users))
    by_version = {"1.0.0": 0, "1.1.0": 0}
    for answer in answers:
        if answer.status_code == 200:
            by_version[answer.headers["x-modelplane-version"]] += 1
    assert by_version["1.1.0"] == 2
    assert by_version["1.0.0"] >= 2
    reading = await running.proxy.read_traffic()
    assert reading.variants["room.b"].failures == 0


async def test_limits_change_under_load_without_a_failed_request(running: Gateway) -> None:
    replica = await running.upstream("changing")
    assert (await running.publish(split_plan("changing", stable=(replica,)))).accepted
    async with load(running.config.port, "changing", connections=4) as answers:
        for generation in range(2, 12):
            changed = limits(
                maxConnections=100 + generation,
                maxPending=50,
                ejectAfter=generation,
                retryBudget=20,
                rate={"requests": 100_000 + generation},
                maxBody=f"{generation}Mi",
            )
            plan = split_plan("changing", generation, stable=(replica,), limits=changed)
            assert (await running.publish(plan)).accepted
            await answers.grow(50)
    assert answers.failures == 0, answers.problems


@pytest.mark.parametrize("mode", ["500", "503", "forged"])
async def test_a_retry_budget_hides_no_failure_of_the_candidate(
    running: Gateway, mode: Mode
) -> None:
    name = f"budget-{mode}"
    stable = await running.upstream(f"{name}-s", "slow", slow_s=1.0)
    candidate = await running.upstream(f"{name}-c", mode)
    plan = split_plan(
        name,
        stable=(stable,),
        candidate=(candidate,),
        weight=10_000,
        limits=limits(retryBudget=5, ejectAfter=1000),
    )
    assert (await running.publish(plan)).accepted
    answers = await asyncio.gather(*(ask(running, name) for _ in range(60)))
    good = [answer.status_code for answer in answers].count(200)
    assert 3 <= good < 40
    reading = await running.read_counts({f"{name}.b": 60})
    counts = reading.variants[f"{name}.b"]
    assert counts.failures == 60
    assert counts.client_failures == 60 - good
    assert counts.replica_failures == {f"{name}-c": 60}
    wider = split_plan(name, 2, stable=(stable,), candidate=(candidate,), weight=10_000)
    assert (await running.publish(wider)).accepted
    answers = await asyncio.gather(*(ask(running, name) for _ in range(60)))
    assert {answer.status_code for answer in answers} == {200}
