"""What a deployment's `Limits` become in Envoy: filters, their settings per deployment, refusals.

Pure. `listener` installs the filters and the words of the refusals, `snapshot` the settings of
each deployment, `clusters` bounds what a version takes at a time. A deployment without limits
costs nothing: its filter of the rate is not run for it.

Rates are token buckets of this gateway alone, one for each client. Envoy keeps the buckets of
the `CLIENTS_KEPT` clients that were seen last; whoever comes after them finds a full bucket.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from envoy.config.cluster.v3 import circuit_breaker_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.buffer.v3 import buffer_pb2
from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2

from modelplane.adapters.proxy.xds import pack
from modelplane.decisions.routing import RoutePlan
from modelplane.resources.limits import Limits, RateLimit

RATE_LIMIT_FILTER = "envoy.filters.http.local_ratelimit"
BUFFER_FILTER = "envoy.filters.http.buffer"

CLIENTS_KEPT = 10_000
"""Clients of one deployment whose rate is remembered; each costs about a kilobyte."""

USER_MAX_BYTES = 256
"""Longest name that tells users apart: clients write it, and Envoy keeps it with its bucket."""

SHED_FLAG = "UO"
"""Envoy's flag for an attempt that a limit did not allow, the first one or another one."""

SHED_HEADER, SHED_VALUE = "x-modelplane-shed", "1"
"""Header of the gateway's own answer to a request that a version's limit turned away.

Taken from what model servers answer.
"""

_OVERLOAD_RETRY_S = 1
_STATS_PREFIX = "rate"
_RETRIES_MAX = 1024
_ALWAYS = {"default_value": {"numerator": 100}}
_USER = {"safe_regex": {"regex": rf"\C{{1,{USER_MAX_BYTES}}}"}}
# The bucket of a deployment as a whole, which Envoy wants and modelplane does not use.
_NO_BOUND = {
    "max_tokens": 4_000_000_000,
    "tokens_per_fill": {"value": 4_000_000_000},
    "fill_interval": {"seconds": 1},
}


def http_filters() -> list[tuple[str, Any]]:
    """Return the filters, by name, that `per_route` switches on; declare them ``disabled``."""
    idle = local_rate_limit_pb2.LocalRateLimit(stat_prefix=_STATS_PREFIX, token_bucket=_NO_BOUND)
    return [(RATE_LIMIT_FILTER, idle)]


def within(plan: RoutePlan, max_body_bytes: int) -> RoutePlan:
    """Return `plan` with a body limit that is no larger than the gateway's own."""
    limits = plan.limits
    if limits.max_body is None or limits.max_body <= max_body_bytes:
        return plan
    return replace(plan, limits=limits.with_(max_body=None))


def per_route(plan: RoutePlan) -> dict[str, Any]:
    """Return the ``typed_per_filter_config`` of the deployment's virtual host."""
    settings: dict[str, Any] = {}
    limits = plan.limits
    if limits.max_body is not None:
        bound = {"max_request_bytes": {"value": limits.max_body}}
        settings[BUFFER_FILTER] = pack(buffer_pb2.BufferPerRoute(buffer=bound))
    if limits.rate is not None:
        rate = pack(_rate_limit(limits.rate, plan.sticky_header))
        settings[RATE_LIMIT_FILTER] = pack(route_components_pb2.FilterConfig(config=rate))
    return settings


def _rate_limit(rate: RateLimit, user_header: str) -> Any:
    """Return the filter's settings: a bucket for each value of what names a client.

    By user, a request names its client by the user's header and, where that is absent, empty or
    longer than `USER_MAX_BYTES`, by its address; the two kinds have descriptors of their own, so
    that no user can take the name of an address. An address of IPv6 counts by its first 64 bits:
    the others are its owner's to choose.
    """
    bucket = {
        "max_tokens": rate.burst or rate.requests,
        "tokens_per_fill": {"value": rate.requests},
        "fill_interval": _duration(rate.per_s),
    }
    kinds = [_by_user(user_header), _by_address(user_header)] if rate.by == "user" else [_ADDRESS]
    return local_rate_limit_pb2.LocalRateLimit(
        stat_prefix=_STATS_PREFIX,
        token_bucket=_NO_BOUND,
        filter_enabled=_ALWAYS,
        filter_enforced=_ALWAYS,
        descriptors=[{"entries": entries, "token_bucket": bucket} for entries, _ in kinds],
        rate_limits=[{"actions": actions} for _, actions in kinds],
        max_dynamic_descriptors={"value": CLIENTS_KEPT},
        always_consume_default_token_bucket={"value": False},
        response_headers_to_add=[_retry_after(math.ceil(rate.per_s / rate.requests))],
    )


_Kind = tuple[list[dict[str, str]], list[dict[str, Any]]]

_BY_ADDRESS = {"masked_remote_address": {"v6_prefix_mask_len": {"value": 64}}}
_ADDRESS: _Kind = ([{"key": "masked_remote_address"}], [_BY_ADDRESS])


def _by_user(header: str) -> _Kind:
    entries = [{"key": "named", "value": "user"}, {"key": "user"}]
    actions = [
        _when(header, present=True),
        {"request_headers": {"header_name": header, "descriptor_key": "user"}},
    ]
    return entries, actions


def _by_address(header: str) -> _Kind:
    entries = [{"key": "named", "value": "address"}, {"key": "masked_remote_address"}]
    return entries, [_when(header, present=False), _BY_ADDRESS]


def _when(header: str, *, present: bool) -> dict[str, Any]:
    match = {
        "name": header,
        "string_match": _USER,
        "invert_match": not present,
        "treat_missing_header_as_empty": True,
    }
    value = "user" if present else "address"
    return {
        "header_value_match": {
            "descriptor_key": "named",
            "descriptor_value": value,
            "headers": [match],
        }
    }


def refusals(problem: Callable[[str], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how the answers look with which the gateway turns requests away.

    Parameters
    ----------
    problem
        Makes Envoy's format of an answer's body from a message.
    """
    return [
        {
            "filter": {"response_flag_filter": {"flags": [SHED_FLAG]}},
            "body_format_override": problem(
                "this version has as many requests in flight as it takes; try again"
            ),
            "headers_to_add": [_retry_after(_OVERLOAD_RETRY_S), _set(SHED_HEADER, SHED_VALUE)],
        },
        {
            "filter": _status(429),
            "body_format_override": problem(
                "this client sends more requests than the deployment's rate limit allows; try "
                "again after the time that Retry-After says"
            ),
        },
        {
            "filter": _status(413),
            "body_format_override": problem("the request is larger than this deployment takes"),
        },
    ]


def _status(code: int) -> dict[str, Any]:
    value = {"default_value": code, "runtime_key": f"modelplane.refused_{code}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def circuit_breakers(limits: Limits) -> Any:
    """Return the bounds on what a version's cluster has in flight."""
    # A request has a connection to itself, so that their number bounds the requests as well.
    thresholds: dict[str, Any] = {
        "max_connections": {"value": limits.max_connections},
        "max_pending_requests": {"value": limits.max_pending},
        "max_requests": {"value": limits.max_concurrency or limits.max_connections},
    }
    if limits.retry_budget is None:
        # Envoy's default of 3 concurrent retries would undo the shield under load.
        thresholds["max_retries"] = {"value": _RETRIES_MAX}
    else:
        thresholds["retry_budget"] = {"budget_percent": {"value": limits.retry_budget}}
    return circuit_breaker_pb2.CircuitBreakers(thresholds=[thresholds])


def outlier_detection(limits: Limits) -> dict[str, Any]:
    """Return when a replica rests: when it cannot be reached or does not answer.

    What it answers, 5xx included, is for the analysis to judge and not for the balancer.
    """
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": {"value": limits.eject_after},
        "enforcing_consecutive_local_origin_failure": {"value": 100},
        "enforcing_local_origin_success_rate": {"value": 0},
        "enforcing_consecutive_5xx": {"value": 0},
        "enforcing_consecutive_gateway_failure": {"value": 0},
        "enforcing_success_rate": {"value": 0},
        "enforcing_failure_percentage": {"value": 0},
        "enforcing_failure_percentage_local_origin": {"value": 0},
        "max_ejection_percent": {"value": 100},
        "interval": {"seconds": 1},
        "base_ejection_time": _duration(limits.eject_for_s),
        "max_ejection_time": _duration(2 * limits.eject_for_s),
    }


def _retry_after(seconds: int) -> dict[str, Any]:
    return _set("retry-after", str(max(1, seconds)))


def _set(name: str, value: str) -> dict[str, Any]:
    header = {"key": name, "value": value}
    return {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _duration(seconds: float) -> dict[str, int]:
    whole, nanos = divmod(round(seconds * 1e9), 1_000_000_000)
    return {"seconds": whole, "nanos": nanos}
