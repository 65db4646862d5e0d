"""From a plan's rules to Envoy's routes: one route for each rule and path, in the rules' order.

Pure; called by `snapshot`. A route has the name of its rule, which tags what is counted. Its
action is a sticky split by the hash of the user: the ranges of the rule's segments, in their
order, so that a user's version is found by walking them.

The shield's second and third parts are here: a retry goes to the next priority, where stable is;
and requests assigned to a candidate carry Envoy's header that adds ``5xx`` to the conditions for
a retry. Stable's own 5xx are not retried: that would hide its failures from the comparison and
triple the load of a broken request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.extensions.retry.priority.previous_priorities.v3 import previous_priorities_config_pb2

from modelplane.adapters.proxy import limits
from modelplane.adapters.proxy.filters import filters_of, rule_match
from modelplane.adapters.proxy.remotes import remote_policies
from modelplane.adapters.proxy.script import USER_HEADER
from modelplane.adapters.proxy.shadows import compare_headers, mirror_policies
from modelplane.adapters.proxy.xds import pack
from modelplane.decisions.assignment import VERSION_HEADER
from modelplane.decisions.routing import (
    OVERRIDE_RULE,
    RoutePlan,
    Rule,
    Segment,
)
from modelplane_runtime import predictions

RULE_HEADER = predictions.RULE_HEADER.decode()
"""Tells the model server the rule of a request, for its log of predictions."""

_RETRIES = 2
# Envoy's own, which would end a request that waits for its answer before a longer time-out does.
_IDLE_S = 300.0
_PRIORITIES_RETRY = pack(
    previous_priorities_config_pb2.PreviousPrioritiesConfig(update_frequency=1)
)
_HOSTS_RETRY = pack(previous_hosts_pb2.PreviousHostsPredicate())


def virtual_host(plan: RoutePlan) -> dict[str, Any]:
    """Return all routes of `plan`, and the filters they need.

    Raises
    ------
    ValueError
        When a predicate does not compile.
    """
    prefix = f"/v2/models/{plan.deployment}"
    in_segments = {segment.cluster for rule in plan.all_rules for segment in rule.segments}
    served = sorted({v.version for v in plan.variants if v.cluster in in_segments})
    actions = [(rule, _split(plan, rule)) for rule in plan.all_rules]
    routes = [
        route
        for version in served
        for route in _routes_at(plan, actions, f"{prefix}/versions/{version}", prefix)
    ]
    routes.append(_not_served({"path_separated_prefix": f"{prefix}/versions"}, served))
    routes += _routes_at(plan, actions, prefix, "")
    return {
        "name": "v",
        "domains": ["*"],
        "routes": routes,
        "typed_per_filter_config": {**limits.per_route(plan), **filters_of(plan)},
    }


def _routes_at(
    plan: RoutePlan, actions: Sequence[tuple[Rule, Any]], prefix: str, rewrite: str
) -> Iterator[Any]:
    """Yield the routes for `prefix` and what lies below it, seen as `rewrite` by the replica."""
    if plan.allow_override:
        yield from _override_routes(plan, prefix, rewrite)
    for rule, action in actions:
        route = route_components_pb2.Route(
            name=rule.name,
            match={"path_separated_prefix": prefix, "dynamic_metadata": rule_match(rule)},
            route=action,
            request_headers_to_add=[header(RULE_HEADER, rule.name), *compare_headers(rule)],
        )
        route.route.prefix_rewrite = rewrite
        yield route


def _override_routes(plan: RoutePlan, prefix: str, rewrite: str) -> Iterator[Any]:
    """Yield routes for requests that name their version.

    A tester wants to meet that version and nothing else, so that no other answers a retry.
    """
    for name, variant in sorted(plan.choices.items()):
        match = {"name": VERSION_HEADER, "string_match": {"exact": name}}
        yield route_components_pb2.Route(
            name=OVERRIDE_RULE,
            match={"path_separated_prefix": prefix, "headers": [match]},
            request_headers_to_add=[header(RULE_HEADER, OVERRIDE_RULE)],
            route={
                "cluster": variant.cluster,
                "prefix_rewrite": rewrite,
                "timeout": _duration(plan.timeout_s),
                "idle_timeout": _idle(plan),
                "retry_policy": _retries(plan, shield=False),
            },
        )
    named = {"name": VERSION_HEADER, "present_match": True}
    live = sorted({variant.version for variant in plan.choices.values()})
    yield _not_served({"path_separated_prefix": prefix, "headers": [named]}, live)


def _not_served(match: dict[str, Any], served: Sequence[str]) -> Any:
    text = f"this version is not served; served now: {', '.join(served)}"
    return route_components_pb2.Route(
        name="version-not-served",
        match=match,
        direct_response={"status": 404, "body": {"inline_string": text}},
    )


def _split(plan: RoutePlan, rule: Rule) -> Any:
    """Return the sticky split over the segments of `rule`, with its retries and mirrors."""
    salt = rule.salt.replace("\\", "\\\\")
    hashing = {
        "header_name": USER_HEADER if plan.sticky_cookie else plan.sticky_header,
        "regex_rewrite": {"pattern": {"regex": "^"}, "substitution": f"{salt}:"},
    }
    shielded = {v.cluster for v in plan.variants if plan.shield and v.role == "candidate"}
    return route_components_pb2.RouteAction(
        weighted_clusters={
            "clusters": [_range(segment, shielded) for segment in rule.segments],
            "use_hash_policy": {"value": True},
        },
        hash_policy=[{"header": hashing}],
        timeout=_duration(plan.timeout_s),
        idle_timeout=_idle(plan),
        retry_policy=_retries(plan, shield=plan.shield),
        request_mirror_policies=[*mirror_policies(rule), *remote_policies(plan)],
    )


def _idle(plan: RoutePlan) -> dict[str, int]:
    return _duration(max(_IDLE_S, plan.timeout_s + 1))


def _range(segment: Segment, shielded: set[str]) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": segment.cluster, "weight": {"value": segment.width}}
    if segment.cluster in shielded:
        entry["request_headers_to_add"] = [header("x-envoy-retry-on", "5xx")]
    return entry


def _retries(plan: RoutePlan, *, shield: bool) -> dict[str, Any]:
    policy = {
        "retry_on": "connect-failure,reset,reset-before-request" if shield else "connect-failure",
        "num_retries": {"value": _RETRIES},
        "per_try_timeout": _duration(plan.try_timeout_s),
        "retry_back_off": {
            "base_interval": {"nanos": 1_000_000},
            "max_interval": {"nanos": 5_000_000},
        },
        "retry_host_predicate": [
            {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": _HOSTS_RETRY}
        ],
        "host_selection_retry_max_attempts": 5,
    }
    if shield:
        policy["retry_priority"] = {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": _PRIORITIES_RETRY,
        }
    return policy


def header(name: str, value: str) -> dict[str, Any]:
    """Return a header that takes the place of what came under its name."""
    return {
        "header": {"key": name, "value": value},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }


def _duration(seconds: float) -> dict[str, int]:
    whole, nanos = divmod(round(seconds * 1e9), 1_000_000_000)
    return {"seconds": whole, "nanos": nanos}
