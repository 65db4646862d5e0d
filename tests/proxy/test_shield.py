"""What the candidate fails, stable answers; and every such request counts against it."""

from __future__ import annotations

import os
import signal

import httpx
import pytest

from modelplane.decisions.routing import Endpoint
from modelplane.ports.proxy import VariantCounts
from tests.proxy.gateway import Gateway, until
from tests.proxy.load import Answers, load
from tests.proxy.plans import Replica, rule, ruled_plan, split_plan
from tests.proxy.upstream import Mode

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


async def counts_of(running: Gateway, deployment: str, answers: Answers) -> VariantCounts:
    """Return the candidate's counts once the gateway has counted all of its requests."""
    cluster, assigned = f"{deployment}.b", answers.assigned["1.1.0"]
    return (await running.read_counts({cluster: assigned})).variants[cluster]


async def test_a_killed_candidate_costs_no_request(running: Gateway) -> None:
    stable = await running.upstream("kill-s")
    address, process = await running.upstream_process("kill-c")
    plan = split_plan(
        "killed", stable=(stable,), candidate=(Endpoint("kill-c", address),), weight=5_000
    )
    assert (await running.publish(plan)).accepted
    async with load(running.config.port, "killed") as answers:
        await answers.grow(300)
        process.kill()
        await process.wait()
        await answers.grow(1_000)
    assert answers.failures == 0, answers.problems
    counts = await counts_of(running, "killed", answers)
    assert counts.client_failures == 0
    hidden = answers.assigned["1.1.0"] - answers.served["1.1.0"]
    assert hidden > 100
    assert counts.failures == hidden


async def test_a_stopped_candidate_costs_no_request(running: Gateway) -> None:
    stable = await running.upstream("stop-s")
    address, process = await running.upstream_process("stop-c")
    plan = split_plan(
        "stopped",
        stable=(stable,),
        candidate=(Endpoint("stop-c", address),),
        weight=2_500,
        try_timeout_s=3.0,
    )
    assert (await running.publish(plan)).accepted
    async with load(running.config.port, "stopped") as answers:
        await answers.grow(200)
        os.kill(process.pid, signal.SIGSTOP)
        await answers.grow(200)
        os.kill(process.pid, signal.SIGCONT)
    assert answers.failures == 0, answers.problems
    counts = await counts_of(running, "stopped", answers)
    hidden = answers.assigned["1.1.0"] - answers.served["1.1.0"]
    assert hidden > 0
    assert counts.failures == hidden


@pytest.mark.parametrize("mode", ["500", "hang"])
async def test_a_candidate_that_never_answers_well_stays_invisible(
    running: Gateway, mode: Mode
) -> None:
    name = f"always-{mode}"
    stable = await running.upstream(f"{name}-s")
    candidate = await running.upstream(f"{name}-c", mode)
    plan = split_plan(
        name, stable=(stable,), candidate=(candidate,), weight=2_500, try_timeout_s=3.0
    )
    assert (await running.publish(plan)).accepted
    async with load(running.config.port, name) as answers:
        await answers.grow(300)
    assert answers.failures == 0, answers.problems
    assert set(answers.served) == {"1.0.0"}
    counts = await counts_of(running, name, answers)
    assert counts.requests == counts.failures == answers.assigned["1.1.0"] > 0
    assert counts.client_failures == 0
    # never asked twice for one request; one that hangs is left out after a few, and rests
    asked = len(candidate.requests)
    assert 0 < asked <= counts.requests
    assert mode == "hang" or asked == counts.requests
    assert counts.replica_attempts == counts.replica_failures == {f"{name}-c": asked}


async def test_one_bad_replica_of_two_is_told_apart(running: Gateway) -> None:
    stable = await running.upstream("pair-s")
    good, bad = await running.upstream("pair-good"), await running.upstream("pair-bad", "500")
    plan = split_plan("pair", stable=(stable,), candidate=(good, bad), weight=5_000)
    assert (await running.publish(plan)).accepted
    async with load(running.config.port, "pair") as answers:
        await answers.grow(600)
    assert answers.failures == 0, answers.problems
    counts = await counts_of(running, "pair", answers)
    assert counts.replica_failures == {"pair-bad": len(bad.requests)}
    assert counts.replica_attempts == {
        "pair-bad": len(bad.requests),
        "pair-good": len(good.requests),
    }
    assert counts.failures == len(bad.requests) > 0


async def test_stables_own_errors_are_seen_and_not_tried_again(running: Gateway) -> None:
    stable = await running.upstream("err-s", "500")
    candidate = await running.upstream("err-c")
    plan = split_plan("erring", stable=(stable,), candidate=(candidate,), weight=5_000)
    assert (await running.publish(plan)).accepted
    async with load(running.config.port, "erring") as answers:
        await answers.grow(200)
    assert answers.statuses[500] == answers.assigned["1.0.0"] == len(stable.requests)
    reading = await running.read_counts({"erring.a": answers.statuses[500]})
    counts = reading.variants["erring.a"]
    assert counts.failures == counts.client_failures == answers.statuses[500]
    assert reading.variants["erring.b"].failures == 0


async def test_without_shield_a_failure_is_the_clients(running: Gateway) -> None:
    stable = await running.upstream("open-s")
    candidate = await running.upstream("open-c", "500")
    plan = split_plan("open", stable=(stable,), candidate=(candidate,), weight=5_000, shield=False)
    assert (await running.publish(plan)).accepted
    async with load(running.config.port, "open") as answers:
        await answers.grow(200)
    assert answers.statuses[500] == answers.assigned["1.1.0"] == len(candidate.requests)
    counts = await counts_of(running, "open", answers)
    assert counts.failures == counts.client_failures == counts.requests


async def test_an_answer_that_breaks_off_is_a_failure(running: Gateway) -> None:
    stable = await running.upstream("cut-s", "cut")
    assert (await running.publish(split_plan("cut", stable=(stable,)))).accepted
    async with load(running.config.port, "cut", connections=4) as answers:
        await answers.grow(4)
    assert answers.statuses[0] == answers.total

    async def counted() -> bool:
        counts = (await running.proxy.read_traffic()).variants["cut.a"]
        return counts.failures == counts.client_failures == counts.requests == answers.total

    await until(counted)


async def test_a_client_that_hangs_up_is_nobodys_failure(running: Gateway) -> None:
    stable = await running.upstream("slow-s", "slow", slow_s=0.3)
    assert (await running.publish(split_plan("impatient", stable=(stable,)))).accepted
    for _ in range(3):
        with pytest.raises(httpx.TimeoutException):
            await running.client.post("/v2/models/impatient/infer", timeout=0.05)
    assert (await running.client.post("/v2/models/impatient/infer")).status_code == 200
    counts = (await running.read_counts({"impatient.a": 1})).variants["impatient.a"]
    assert (counts.requests, counts.failures) == (1, 0)
    assert sum(part.count for part in counts.latency) == 1


async def test_a_rollback_while_requests_hang_loses_none_of_them(running: Gateway) -> None:
    stable = await running.upstream("back-s")
    candidate = await running.upstream("back-c", "hang")
    plan = split_plan(
        "back", stable=(stable,), candidate=(candidate,), weight=5_000, try_timeout_s=3.0
    )
    assert (await running.publish(plan)).accepted
    async with load(running.config.port, "back", connections=16) as answers:
        await answers.grow(16)
        assert (await running.publish(split_plan("back", 2, stable=(stable,)))).accepted
        await answers.grow(300)
    assert answers.failures == 0, answers.problems


async def test_three_versions_fail_at_once_and_no_request_does(running: Gateway) -> None:
    stable, erring = await running.upstream("all-s"), await running.upstream("all-500", "500")
    address, process = await running.upstream_process("all-killed")
    hanging = await running.upstream("all-hang", "hang")
    killed = Endpoint("all-killed", address)
    replicas: dict[str, Replica] = {"a": stable, "b": erring, "c": killed, "d": hanging}
    west = rule("all", "user.region == 'west'", b=5_000)
    everybody = rule("all", b=2_000, c=2_000, d=500)
    plan = ruled_plan("all", replicas=replicas, rules=(west, everybody), try_timeout_s=3.0)
    assert (await running.publish(plan)).accepted
    async with load(running.config.port, "all") as answers:
        await answers.grow(200)
        process.kill()
        await process.wait()
        await answers.grow(600)
    assert answers.failures == 0, answers.problems
    met = {"all.b": "1.1.0", "all.c": "1.2.0", "all.d": "1.3.0"}
    reading = await running.read_counts({c: answers.assigned[v] for c, v in met.items()})
    for cluster, version in met.items():
        counts = reading.variants[cluster]
        assert counts.client_failures == 0
        assert counts.failures == answers.assigned[version] - answers.served[version] > 0
    assert answers.served["1.1.0"] == answers.served["1.3.0"] == 0 < answers.served["1.2.0"]
