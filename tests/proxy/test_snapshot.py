"""Compiled routes: consistent by construction, stable under what does not matter."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.route.v3 import scoped_route_pb2
from hypothesis import given
from hypothesis import strategies as st

from modelplane.adapters.proxy.clusters import address
from modelplane.adapters.proxy.snapshot import RouteResources, compile_route
from modelplane.decisions.routing import TOTAL_WEIGHT, Endpoint, RoutePlan, Variant

_replicas = st.integers(1, 3)
_up_to_three = st.integers(0, 3)


@st.composite
def plans(draw: st.DrawFn, candidates: st.SearchStrategy[int] = _up_to_three) -> RoutePlan:
    """Draw a plan with any number of candidates, some of them without traffic."""
    count = draw(candidates)
    cuts = sorted(draw(st.lists(st.integers(0, TOTAL_WEIGHT), min_size=count, max_size=count)))
    weights = [end - start for start, end in zip([0, *cuts], [*cuts, TOTAL_WEIGHT], strict=True)]
    variants = []
    for number, weight in enumerate(weights):
        cluster = f"d.{number}"
        endpoints = tuple(
            Endpoint(f"{cluster}.{replica}", f"unix:/tmp/{cluster}-{replica}")
            for replica in range(draw(_replicas) if weight else draw(st.integers(0, 1)))
        )
        role: Any = "stable" if number == count else "candidate"
        variants.append(Variant(cluster, f"1.{number}.0", role, weight, endpoints))
    return RoutePlan("d", 1, tuple(variants), shield=draw(st.booleans()))


def scope_of(route: RouteResources) -> Any:
    return scoped_route_pb2.ScopedRouteConfiguration.FromString(route.scope.packed.value)


def splits_of(route: RouteResources) -> list[Any]:
    (host,) = scope_of(route).route_configuration.virtual_hosts
    return [r.route.weighted_clusters for r in host.routes if r.HasField("route")]


def endpoints_of(route: RouteResources) -> dict[str, Any]:
    return {
        e.name: endpoint_pb2.ClusterLoadAssignment.FromString(e.packed.value)
        for e in route.endpoints
    }


@given(plans())
def test_routes_name_only_clusters_of_the_same_plan_and_share_out_everything(
    plan: RoutePlan,
) -> None:
    route = compile_route(plan)
    clusters = {cluster.name for cluster in route.clusters}
    assert clusters == {e.name for e in route.endpoints} == {v.cluster for v in plan.variants}
    assert splits_of(route)
    for split in splits_of(route):
        weights = {entry.name: entry.weight.value for entry in split.clusters}
        assert weights == {v.cluster: v.weight for v in plan.variants if v.weight}
        assert split.use_hash_policy.value


@given(plans())
def test_only_a_shielded_candidate_falls_back_to_stable(plan: RoutePlan) -> None:
    tiers = endpoints_of(compile_route(plan))
    for variant in plan.variants:
        by_priority = {
            tier.priority: tuple(
                e.metadata.filter_metadata["mp"].fields["replica"].string_value
                for e in tier.lb_endpoints
            )
            for tier in tiers[variant.cluster].endpoints
        }
        own = tuple(e.replica for e in variant.endpoints)
        expected = {0: own} if own else {}
        if plan.shield and variant.role == "candidate" and own and plan.stable.endpoints:
            expected[1] = tuple(e.replica for e in plan.stable.endpoints)
        assert by_priority == expected


@given(plans())
def test_the_generation_changes_nothing_that_envoy_sees(plan: RoutePlan) -> None:
    assert compile_route(plan).versions == compile_route(replace(plan, generation=9)).versions


@given(plans(candidates=st.just(1)))
def test_a_promotion_keeps_the_cluster_and_changes_routes_and_endpoints(plan: RoutePlan) -> None:
    candidate, stable = plan.candidates[0], plan.stable
    if not candidate.endpoints:
        return
    promoted = replace(plan, variants=(replace(candidate, role="stable", weight=TOTAL_WEIGHT),))
    (before, _), (after,) = compile_route(plan).clusters, compile_route(promoted).clusters
    assert before == after
    assert stable.cluster not in {c.name for c in compile_route(promoted).clusters}
    message = cluster_pb2.Cluster.FromString(after.packed.value)
    assert message.metadata.filter_metadata["mp"].fields["version"].string_value == "1.0.0"


@given(st.data())
def test_of_two_candidates_a_growing_one_only_ever_adds_users(data: st.DataObject) -> None:
    weights = [data.draw(st.integers(0, 5_000)) for _ in range(2)]
    grown = [data.draw(st.integers(weight, 5_000)) for weight in weights]

    def buckets(first: int, second: int) -> dict[str, set[int]]:
        one = (Endpoint("r", "unix:/r"),)
        plan = RoutePlan(
            "d",
            1,
            (
                Variant("one", "1", "candidate", first, one),
                Variant("two", "2", "candidate", second, one),
                Variant("stable", "0", "stable", TOTAL_WEIGHT - first - second, one),
            ),
        )
        shares: dict[str, set[int]] = {"one": set(), "two": set(), "stable": set()}
        start = 0
        for entry in splits_of(compile_route(plan))[0].clusters:
            shares[entry.name] = set(range(start, start + entry.weight.value))
            start += entry.weight.value
        return shares

    before, after = buckets(*weights), buckets(*grown)
    assert before["one"] <= after["one"]
    assert before["two"] <= after["two"]


def test_only_requests_of_a_shielded_candidate_ask_for_retries_of_5xx() -> None:
    stable = Variant("d.a", "1", "stable", 5_000, (Endpoint("a", "unix:/a"),))
    candidate = Variant("d.b", "2", "candidate", 5_000, (Endpoint("b", "unix:/b"),))
    for shield in (True, False):
        route = compile_route(RoutePlan("d", 1, (stable, candidate), shield=shield))
        for split in splits_of(route):
            added = {
                entry.name: [(h.header.key, h.header.value) for h in entry.request_headers_to_add]
                for entry in split.clusters
            }
            assert added == {
                "d.b": [("x-envoy-retry-on", "5xx")] if shield else [],
                "d.a": [],
            }


@pytest.mark.parametrize("timeout_s", [0.1, 60.0, 600.0, 7200.0])
def test_nothing_ends_a_request_before_its_time_out(timeout_s: float) -> None:
    stable = Variant("d.a", "1", "stable", 10_000, (Endpoint("a", "unix:/a"),))
    plan = RoutePlan("d", 1, (stable,), timeout_s=timeout_s, allow_override=True)
    (host,) = scope_of(compile_route(plan)).route_configuration.virtual_hosts
    actions = [route.route for route in host.routes if route.HasField("route")]
    assert len(actions) >= 4
    for action in actions:
        timeout = action.timeout.ToTimedelta()
        assert timeout == timedelta(seconds=timeout_s)
        assert action.idle_timeout.ToTimedelta() > timeout


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("unix:/tmp/a.sock", "pipe", {"path": "/tmp/a.sock"}),
        ("10.0.0.1:8080", "socket_address", {"address": "10.0.0.1", "port_value": 8080}),
        ("[::1]:80", "socket_address", {"address": "::1", "port_value": 80}),
    ],
)
def test_addresses(text: str, field: str, value: dict[str, Any]) -> None:
    assert address(text) == {field: value}


@pytest.mark.parametrize("text", ["", "unix:", "unix:relative", "host", ":80", "host:", "host:x"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        address(text)
