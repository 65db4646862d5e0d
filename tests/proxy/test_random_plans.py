"""Any plan compiles to what Envoy takes, and means in Envoy what it means in Python."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from envoy.config.route.v3 import scoped_route_pb2
from hypothesis import given

from modelplane.adapters.proxy.filters import rule_filters
from modelplane.adapters.proxy.snapshot import compile_route
from modelplane.decisions.assignment import assign
from modelplane.decisions.routing import TOTAL_WEIGHT, RoutePlan
from modelplane.expressions.predicates import RequestFacts
from tests.proxy.gateway import Gateway
from tests.proxy.plans import endpoint
from tests.proxy.random_plans import ruled_plans, sample
from tests.proxy.raw import Connection

PLANS = 60
REQUESTS = 25
FUZZED = 3_000
RULE_FILTERS = {name for name, _ in rule_filters()}


def host_of(plan: RoutePlan) -> Any:
    scope = compile_route(plan).scope.packed.value
    message = scoped_route_pb2.ScopedRouteConfiguration.FromString(scope)
    (host,) = message.route_configuration.virtual_hosts
    return host


@given(ruled_plans())
def test_routes_name_only_clusters_of_the_plan_and_share_out_everything(plan: RoutePlan) -> None:
    clusters = {variant.cluster for variant in plan.variants}
    host = host_of(plan)
    named = set()
    for route in host.routes:
        split = route.route.weighted_clusters.clusters
        named |= {part.name for part in split} | ({route.route.cluster} - {""})
        named |= {policy.cluster for policy in route.route.request_mirror_policies}
        assert not split or sum(part.weight.value for part in split) == TOTAL_WEIGHT
        assert not split or route.route.weighted_clusters.use_hash_policy.value
    assert named <= clusters


@given(ruled_plans())
def test_every_rule_has_its_routes_in_order_and_the_last_one_takes_whoever_is_left(
    plan: RoutePlan,
) -> None:
    routes = [r for r in host_of(plan).routes if r.route.HasField("weighted_clusters")]
    names = [rule.name for rule in plan.rules]
    assert [route.name for route in routes] == names * (len(routes) // len(names))
    for route in routes:
        ranges = [(part.name, part.weight.value) for part in route.route.weighted_clusters.clusters]
        rule = plan.rules[names.index(route.name)]
        assert ranges == [(segment.cluster, segment.width) for segment in rule.segments]
        assert bool(route.match.dynamic_metadata) == bool(rule.predicate)


@given(ruled_plans())
def test_only_plans_that_need_filters_run_them(plan: RoutePlan) -> None:
    """What a deployment does not use costs its requests nothing."""
    switched_on = set(host_of(plan).typed_per_filter_config) & RULE_FILTERS
    predicates = [rule.predicate for rule in plan.rules if rule.predicate]
    body = any("input." in predicate for predicate in predicates)
    expected = {"envoy.filters.http.rbac"} if predicates else set()
    expected |= {"modelplane.choose_again"} if predicates or plan.sticky_cookie else set()
    expected |= {"modelplane.users"} if body or plan.sticky_cookie or plan.slices else set()
    assert switched_on == expected


@given(ruled_plans())
def test_the_same_plan_gives_the_same_bytes(plan: RoutePlan) -> None:
    assert compile_route(plan) == compile_route(replace(plan))


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
async def test_envoy_takes_every_plan_and_does_what_the_plan_says(running: Gateway) -> None:
    replica = await running.upstream("every")
    rng = random.Random(7)
    compared = 0
    async with Connection(running.config.port) as connection:
        for number, drawn in enumerate(sample(ruled_plans("every"), PLANS), start=1):
            variants = [replace(v, endpoints=(endpoint(replica),)) for v in drawn.variants]
            plan = replace(drawn, generation=number, variants=tuple(variants))
            ack = await running.publish(plan)
            assert ack.accepted, (ack.message, plan)
            for _ in range(REQUESTS):
                path, facts = _facts(rng)
                body = json.dumps(dict(facts.inputs)).encode()
                expected = assign(plan, facts)
                answer = await connection.post(path, body, facts.headers.items())
                if expected.reason == "refused":
                    assert answer.status == 404
                elif expected.reason != "random":
                    compared += 1
                    assert (answer.status, answer.assigned) == (200, expected.version), (
                        plan.rules,
                        facts,
                        expected.why,
                    )
    assert compared > PLANS * REQUESTS / 2


def _facts(rng: random.Random) -> tuple[str, RequestFacts]:
    headers = {
        "x-user-region": rng.choice(["west", "east", "south", ""]),
        "x-user-plan": rng.choice(["pro", "free"]),
        "x-tier": rng.choice(["gold", "silver"]),
        "x-modelplane-version": rng.choice(["1.0.0", "1.1.0", "9.9.9"]),
    }
    headers = {name: value for name, value in headers.items() if rng.random() < 0.5}
    user = str(rng.randrange(10**6))
    headers |= {"x-user-id": user, "cookie": f"uid={user}"}
    amounts: list[float | str | bool] = [5, 250, 99.5, "250", True]
    inputs = {"amount": rng.choice(amounts)} if rng.random() < 0.7 else {}
    path = rng.choice(["/v2/models/every/infer", "/v2/models/every"])
    return path, RequestFacts("POST", path, "gateway", headers, inputs)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
async def test_no_body_is_an_error_of_the_gateway(running: Gateway) -> None:
    """Thousands of broken bodies: each is answered by a version, and Envoy lives."""
    replica = await running.upstream("fuzz")
    (drawn,) = sample(
        ruled_plans("fuzz").filter(lambda plan: "input.amount > 200.0" in str(plan.rules)), 1
    )
    variants = [replace(v, endpoints=(endpoint(replica),)) for v in drawn.variants]
    assert (await running.publish(replace(drawn, variants=tuple(variants)))).accepted
    rng = random.Random(11)
    seeds = [
        b'{"amount": 250.0, "x": [1, {"y": "\\u00e9"}]}',
        b'{"inputs": [{"name": "amount", "shape": [1, 1], "datatype": "FP64", "data": [[9e9]]}]}',
    ]
    pieces = [
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b"\\",
        b"\\u",
        b":",
        b",",
        b"\0",
        b"\xff",
        b"1e9",
        b"null",
    ]
    async with Connection(running.config.port) as connection:
        for _ in range(FUZZED):
            body = bytearray(rng.choice(seeds) * rng.choice([1, 1, 1, 50]))
            for _ in range(rng.randrange(6)):
                at = rng.randrange(len(body) + 1)
                body[at : at + rng.randrange(9)] = rng.choice([*pieces, rng.randbytes(3)])
            answer = await connection.post("/v2/models/fuzz/infer", bytes(body))
            assert answer.status == 200, bytes(body)
            assert json.loads(answer.body)["bytes"] == len(body)
    assert running.process.returncode is None
