"""Who meets which version, at which paths, and what the answers say about it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.proxy.gateway import Gateway, until
from tests.proxy.load import load
from tests.proxy.plans import endpoint, split_plan

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

USERS = [f"user-{number}" for number in range(4_000)]


async def assignments(gateway: Gateway, deployment: str) -> dict[str, str]:
    """Return the version that each user is assigned, asking for the cheapest path."""
    seen: dict[str, str] = {}
    queue = iter(USERS)

    async def worker() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.config.port)
        for user in queue:
            writer.write(
                f"GET /v2/models/{deployment} HTTP/1.1\r\nhost: g\r\n"
                f"x-user-id: {user}\r\n\r\n".encode()
            )
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            headers = dict(line.split(": ", 1) for line in head.rstrip().split("\r\n")[1:])
            await reader.readexactly(int(headers["content-length"]))
            assert headers["x-modelplane-version"] == headers["x-modelplane-assigned"]
            seen[user] = headers["x-modelplane-assigned"]
        writer.close()

    await asyncio.gather(*(worker() for _ in range(8)))
    return seen


async def test_a_growing_candidate_only_ever_adds_users(running: Gateway) -> None:
    stable, candidate = await running.upstream("s"), await running.upstream("c")
    before: set[str] = set()
    for generation, weight in enumerate((100, 500, 2_500, 5_000, 10_000), start=1):
        plan = split_plan(
            "ramp",
            generation,
            stable=(stable,),
            candidate=(candidate,),
            weight=weight,
            salt="rollout-1",
        )
        assert (await running.publish(plan)).accepted
        versions = await assignments(running, "ramp")
        now = {user for user, version in versions.items() if version == "1.1.0"}
        assert before <= now
        expected = len(USERS) * weight / 10_000
        assert abs(len(now) - expected) <= 4 * max(1.0, expected * (1 - weight / 10_000)) ** 0.5
        before = now
    assert len(before) == len(USERS)


async def test_the_salt_chooses_other_users(running: Gateway) -> None:
    stable, candidate = await running.upstream("salt-s"), await running.upstream("salt-c")
    groups = []
    for generation, salt in enumerate(("one", r"t\1wo"), start=1):
        plan = split_plan(
            "salted", generation, stable=(stable,), candidate=(candidate,), weight=2_500, salt=salt
        )
        assert (await running.publish(plan)).accepted
        versions = await assignments(running, "salted")
        groups.append({user for user, version in versions.items() if version == "1.1.0"})
    both = len(groups[0] & groups[1])
    assert abs(both - len(USERS) / 16) < len(USERS) / 40  # independent halves of halves


async def test_two_candidates_grow_into_stable_and_leave_each_other_alone(running: Gateway) -> None:
    upstreams = [await running.upstream(f"three-{name}") for name in "sbc"]
    first = split_plan("three", stable=(upstreams[0],), candidate=(upstreams[1],), weight=1_000)
    stable, one = first.variants
    other = replace(
        one, cluster="three.c", version="1.2.0", endpoints=(endpoint(upstreams[2]),), weight=1_000
    )
    before: dict[str, str] = {}
    for generation, (weight_one, weight_other) in enumerate(
        ((1_000, 1_000), (3_000, 1_000), (3_000, 4_000)), start=1
    ):
        variants = (
            replace(stable, weight=10_000 - weight_one - weight_other),
            replace(one, weight=weight_one),
            replace(other, weight=weight_other),
        )
        plan = replace(first, generation=generation, variants=variants)
        assert (await running.publish(plan)).accepted
        now = await assignments(running, "three")
        assert set(now.values()) == {"1.0.0", "1.1.0", "1.2.0"}
        moved = [u for u, version in before.items() if version != "1.0.0" and now[u] != version]
        assert not moved
        before = now


async def test_users_without_a_name_are_spread_by_chance(running: Gateway) -> None:
    stable, candidate = await running.upstream("anon-s"), await running.upstream("anon-c")
    plan = split_plan("anonymous", stable=(stable,), candidate=(candidate,), weight=5_000)
    assert (await running.publish(plan)).accepted
    for _ in range(200):
        await running.client.get("/v2/models/anonymous")
    assert 60 < len(candidate.requests) < 140


PATHS = [
    # asked for, status, seen by the replica
    ("POST", "/v2/models/paths/infer", 200, "/v2/models/paths/infer"),
    ("POST", "/v2/models/paths/infer?x=1", 200, "/v2/models/paths/infer?x=1"),
    ("GET", "/v2/models/paths", 200, "/v2/models/paths"),
    ("GET", "/v2/models/paths?x=1", 200, "/v2/models/paths?x=1"),
    ("GET", "/v2/models/paths?x=/a/b", 200, "/v2/models/paths?x=/a/b"),
    ("GET", "/v2/models/paths/ready", 200, "/v2/models/paths/ready"),
    ("POST", "/v2/models/paths/versions/1.0.0/infer?x=1", 200, "/v2/models/paths/infer?x=1"),
    ("GET", "/v2/models/paths/versions/1.0.0", 200, "/v2/models/paths"),
    ("POST", "/v2/models/paths/versions/1.0/infer", 404, None),
    ("POST", "/v2/models/paths/versions/9.9.9/infer", 404, None),
    ("POST", "/v2/models/path/infer", 404, None),
    ("POST", "/v2/models/paths2/infer", 404, None),
    ("GET", "/v2/models", 404, None),
    ("GET", "/v2/models/", 404, None),
    ("GET", "/elsewhere", 404, None),
    ("GET", "/", 404, None),
    ("GET", "/v2", 200, None),
    ("GET", "/v2?x=1", 200, None),
    ("GET", "/v2/health/live", 200, None),
    ("GET", "/v2/health/ready?x=1", 200, None),
]


@pytest.mark.parametrize(("method", "path", "status", "upstream_path"), PATHS)
async def test_paths(
    running: Gateway, method: str, path: str, status: int, upstream_path: str | None
) -> None:
    replica = await running.upstream("paths")
    try:
        assert (await running.publish(split_plan("paths", stable=(replica,)))).accepted
        answer = await running.client.request(method, path)
        assert answer.status_code == status
        assert [target for _, target, _ in replica.requests] == (
            [upstream_path] if upstream_path else []
        )
        problem = answer.headers["content-type"] == "application/problem+json"
        assert problem == (status == 404)
        if problem:
            body = answer.json()
            assert body["status"] == 404
            assert body["instance"] == path.partition("?")[0]
            assert body["error"] == body["title"]
    finally:
        await replica.stop()


async def test_an_unknown_model_is_named_in_the_problem(running: Gateway) -> None:
    body = (await running.client.post("/v2/models/no-such-model/infer")).json()
    assert "/v2/models/no-such-model/infer" in body["error"]


async def test_answers_carry_the_request_id_and_inner_headers_stay_inside(
    running: Gateway,
) -> None:
    replica = await running.upstream("headers")
    assert (await running.publish(split_plan("headers", stable=(replica,)))).accepted
    given = "4c1f0e9a-0000-4000-8000-00000000000f"
    sent = {
        "x-request-id": given,
        "x-envoy-retry-on": "5xx",
        "x-modelplane-path": "/v2/models/other/infer//",
        "x-modelplane-version": "forged",
    }
    answer = await running.client.get("/v2/models/headers", headers=sent)
    assert answer.headers["x-request-id"] == given
    assert answer.headers["x-modelplane-version"] == "1.0.0"
    seen = replica.requests[-1][2]
    assert seen["x-request-id"] == given
    assert "x-modelplane-path" not in seen
    assert "x-envoy-retry-on" not in seen
    made = (await running.client.get("/v2/models/headers")).headers["x-request-id"]
    assert made == replica.requests[-1][2]["x-request-id"] != given


async def test_the_counts_are_exactly_what_the_client_sent(running: Gateway) -> None:
    stable, candidate = await running.upstream("n-s"), await running.upstream("n-c")
    plan = split_plan("counted", stable=(stable,), candidate=(candidate,), weight=3_000)
    assert (await running.publish(plan)).accepted
    async with load(running.config.port, "counted") as answers:
        await answers.grow(1_500)
    assert answers.failures == 0
    reading = await running.read_counts({"counted.a": answers.assigned["1.0.0"]})
    for cluster, version, replica in (("counted.a", "1.0.0", "n-s"), ("counted.b", "1.1.0", "n-c")):
        counts = reading.variants[cluster]
        assert counts.requests == answers.assigned[version]
        assert sum(part.count for part in counts.latency) == counts.requests
        assert counts.failures == counts.client_failures == 0
        assert counts.replica_attempts == {replica: counts.requests}
        assert reading.active_requests[cluster] == 0


async def test_answers_of_4xx_are_not_failures(running: Gateway) -> None:
    replica = await running.upstream("bad-input", "400")
    assert (await running.publish(split_plan("bad-input", stable=(replica,)))).accepted
    for _ in range(5):
        assert (await running.client.post("/v2/models/bad-input/infer")).status_code == 400
    counts = (await running.read_counts({"bad-input.a": 5})).variants["bad-input.a"]
    assert (counts.failures, counts.client_failures) == (0, 0)
    assert len(replica.requests) == 5


async def test_requests_without_a_route_are_counted_apart(running: Gateway) -> None:
    before = (await running.proxy.read_traffic()).unrouted
    for path in ("/v2/models/nobody/infer", "/nowhere", "/v2/health/live"):
        await running.client.get(path)

    async def counted() -> bool:
        return (await running.proxy.read_traffic()).unrouted == before + 2

    await until(counted)
