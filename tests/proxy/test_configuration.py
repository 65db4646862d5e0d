"""No request fails because of a change, a refusal, a dead agent; a dead Envoy comes back whole."""

from __future__ import annotations

import asyncio

import pytest

from modelplane.decisions.routing import Endpoint, RoutePlan
from tests.proxy.gateway import Gateway, gateway, until
from tests.proxy.load import load
from tests.proxy.plans import split_plan

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


async def test_a_hundred_changes_under_load_lose_no_request(running: Gateway) -> None:
    replicas = [await running.upstream(f"mbb-{number}") for number in range(3)]

    def plan_at(generation: int) -> RoutePlan:
        """Revisions come, go, swap roles and replicas; the same clusters return."""
        return split_plan(
            "changing",
            generation,
            stable=(replicas[generation % 3],),
            candidate=(replicas[(generation + 1) % 3],) if generation % 4 else (),
            weight=(generation * 700) % 9_000 if generation % 4 else 0,
            names=(f"r{generation % 3}", f"r{(generation + 1) % 3}"),
        )

    assert (await running.publish(plan_at(1))).accepted
    async with load(running.config.port, "changing") as answers:
        for generation in range(2, 102):
            assert (await running.publish(plan_at(generation))).accepted
            await answers.grow(5)
    assert answers.failures == 0, answers.problems
    assert answers.total >= 500


async def test_after_the_acknowledgement_the_next_request_meets_the_new_route(
    running: Gateway,
) -> None:
    one, two = await running.upstream("next-1"), await running.upstream("next-2")
    for generation in range(1, 21):
        replica = (one, two)[generation % 2]
        plan = split_plan("next", generation, stable=(replica,), names=(f"r{generation}", ""))
        assert (await running.publish(plan)).accepted
        answer = await running.client.post("/v2/models/next/infer")
        assert answer.json()["served_by"] == replica.name


@pytest.mark.parametrize("fault", ["header", "address", "header-and-replica"])
async def test_a_refused_plan_leaves_the_one_before_it_serving(
    running: Gateway, fault: str
) -> None:
    name = f"bad-{fault}"
    good = await running.upstream(f"{name}-good")
    assert (await running.publish(split_plan(name, 1, stable=(good,)))).accepted
    other = await running.upstream(f"{name}-other")
    if fault == "header-and-replica":  # the endpoints are taken before the route is refused
        bad = split_plan(name, 2, stable=(other,), sticky_header="x\nuser")
    elif fault == "header":
        bad = split_plan(name, 2, stable=(good,), names=("z", ""), sticky_header="x\nuser")
    else:
        bad = split_plan(name, 2, stable=(Endpoint("bad", "not-an-ip:80"),))
    innocent = split_plan(f"{name}-innocent", stable=(good,))
    async with load(running.config.port, name) as answers:
        await asyncio.gather(running.proxy.publish(bad), running.proxy.publish(innocent))
        ack = await running.ack(name, 2)
        assert not ack.accepted
        assert ack.message
        assert (await running.ack(f"{name}-innocent", 1)).accepted
        await answers.grow(50)
        answer = await running.client.post(f"/v2/models/{name}/infer")
        assert answer.json()["served_by"] == good.name
        again = await running.publish(bad)
        assert (again.accepted, again.message) == (False, ack.message)
    assert answers.failures == 0, answers.problems
    assert (await running.publish(split_plan(name, 3, stable=(good,)))).accepted


async def test_a_withdrawn_deployment_is_unknown(running: Gateway) -> None:
    replica = await running.upstream("gone")
    assert (await running.publish(split_plan("gone", 4, stable=(replica,)))).accepted
    running.acks.clear()
    await running.proxy.withdraw("gone")
    assert (await running.ack("gone", 4)).accepted
    assert (await running.client.post("/v2/models/gone/infer")).status_code == 404


async def test_clusters_that_nobody_names_go_after_their_requests_can_have_ended(
    running: Gateway,
) -> None:
    replica = await running.upstream("linger")
    before = split_plan("linger", 1, stable=(replica,), names=("old", ""), timeout_s=0.1)
    assert (await running.publish(before)).accepted
    assert await running.status("/v2/models/linger/infer") == 200
    after = split_plan("linger", 2, stable=(replica,), names=("new", ""), timeout_s=0.1)
    assert (await running.publish(after)).accepted
    assert await running.status("/v2/models/linger/infer") == 200
    assert "linger.old" in (await running.proxy.read_traffic()).active_requests

    async def gone() -> bool:
        return "linger.old" not in (await running.proxy.read_traffic()).active_requests

    await until(gone)
    assert "linger.new" in (await running.proxy.read_traffic()).active_requests


async def test_an_agent_that_restarts_changes_nothing_for_traffic() -> None:
    async with gateway() as restarted:
        replicas = [await restarted.upstream(f"r{number}") for number in range(20)]
        plans = [
            split_plan(f"d{number}", 3, stable=(replica,))
            for number, replica in enumerate(replicas)
        ]
        for plan in plans:
            assert (await restarted.publish(plan)).accepted
        async with load(restarted.config.port, "d7") as answers:
            await answers.grow(50)
            await restarted.stop_proxy()
            await answers.grow(200)
            restarted.acks.clear()
            updates = await restarted.update_counts()
            await restarted.start_proxy(plans)
            waited_s = await until(restarted.proxy.is_ready)
            for plan in plans:  # loaded plans are acknowledged, too
                assert (await restarted.ack(plan.deployment, 3)).accepted
            assert await restarted.update_counts() == updates  # Envoy was sent nothing again
            await answers.grow(200)
            moved = split_plan("d7", 4, stable=(replicas[8],), names=("z", ""))
            assert (await restarted.publish(moved)).accepted
            await answers.grow(50)
        assert answers.failures == 0, answers.problems
        assert replicas[8].requests
        assert waited_s < 5


async def test_an_agent_that_comes_back_with_other_plans_brings_them_without_a_gap() -> None:
    async with gateway() as changed:
        old, new = await changed.upstream("old"), await changed.upstream("new")
        assert (await changed.publish(split_plan("kept", 1, stable=(old,)))).accepted
        assert (await changed.publish(split_plan("dropped", 1, stable=(old,)))).accepted
        async with load(changed.config.port, "kept") as answers:
            await changed.stop_proxy()
            await changed.start_proxy([split_plan("kept", 2, stable=(new,), names=("n", ""))])
            assert (await changed.ack("kept", 2)).accepted
            await answers.grow(100)
        assert answers.failures == 0, answers.problems
        assert new.requests
        assert (await changed.client.post("/v2/models/dropped/infer")).status_code == 404


async def test_bad_plans_among_those_loaded_at_the_start_do_not_hurt_the_others() -> None:
    async with gateway() as loaded:
        replica = await loaded.upstream("r")
        await loaded.stop_proxy()
        await loaded.kill_envoy()
        plans = [split_plan(f"good-{number}", 1, stable=(replica,)) for number in range(5)]
        plans.insert(2, split_plan("bad-header", 1, stable=(replica,), sticky_header="x\nuser"))
        plans.insert(4, split_plan("bad-address", 1, stable=(Endpoint("bad", "not-an-ip:80"),)))
        await loaded.start(plans)
        for plan in plans:
            ack = await loaded.ack(plan.deployment, 1)
            assert ack.accepted == plan.deployment.startswith("good")
            status = await loaded.status(f"/v2/models/{plan.deployment}/infer")
            assert status == (200 if ack.accepted else 404)


async def test_a_killed_envoy_gets_its_configuration_back_within_two_seconds() -> None:
    async with gateway() as killed:
        replica = await killed.upstream("r")
        assert (await killed.publish(split_plan("d", 1, stable=(replica,)))).accepted
        refused = split_plan("d", 2, stable=(replica,), sticky_header="x\nuser")
        assert not (await killed.publish(refused)).accepted
        for _ in range(3):
            await killed.kill_envoy()
            await killed.start_envoy()
            answers: list[int] = []
            # asked a hundred times a second; what stands still with Envoy asks nothing
            while 200 not in answers and len(answers) < 200:
                answers.append(await killed.status("/v2/models/d/infer"))
                await asyncio.sleep(0.01)
            # from its first answer on it serves: never a 404 or 503 before the routes are there
            assert set(answers) <= {0, 200}
            assert answers[-1] == 200
