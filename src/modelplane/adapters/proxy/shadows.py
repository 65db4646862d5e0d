"""Copies of requests: where they go, what tells them apart, how many there may be at a time.

Pure. `routes` takes the mirrors and headers of a rule from here, `clusters` the bounds of a
shadow's cluster, `traffic` the mark by which copies are counted. Envoy sends a copy beside the
request and throws the answer away: whatever becomes of it, the request is answered by the
version it was assigned to, as fast as without. A copy is not tried twice.
"""

from __future__ import annotations

from typing import Any

from modelplane.decisions.routing import TOTAL_WEIGHT, RoutePlan, Rule
from modelplane_runtime import answers, predictions

COPY_HEADER = predictions.COPY_HEADER.decode()
"""Of a copy only: the rule of the request. What clients send under this name is dropped."""

COMPARE_HEADER = answers.COMPARE_HEADER.decode()
"""Of a copied request and its copy: one name for both, ``RULE/ID``, for the answers' comparison.

Not ``x-request-id``, which a client may choose and send twice.
"""

MAX_COPY_BYTES = 512 * 1024 * 1024
"""What the copies to one shadow may hold of Envoy's memory, were each as large as a body may be.

They hold it while the shadow hangs, until the deployment's time-out, when a copy is given up.
"""

_DEFAULT_BODY_BYTES = 8 * 1024 * 1024
_LEAST_COPIES, _MOST_COPIES = 8, 256
_UNIQUE = "%CONNECTION_ID%.%START_TIME(%s%9f)%"
_OVERWRITE = "OVERWRITE_IF_EXISTS_OR_ADD"


def mirror_policies(rule: Rule) -> list[dict[str, Any]]:
    """Return Envoy's ``request_mirror_policies`` of the requests under `rule`."""
    mark = {"header": {"key": COPY_HEADER, "value": rule.name}, "append_action": _OVERWRITE}
    return [
        {
            "cluster": mirror.cluster,
            "runtime_fraction": {
                "default_value": {"numerator": mirror.share, "denominator": "TEN_THOUSAND"}
            },
            "disable_shadow_host_suffix_append": True,
            "request_headers_mutations": [{"append": mark}],
        }
        for mirror in rule.mirrors
        if 0 < mirror.share <= TOTAL_WEIGHT
    ]


def compare_headers(rule: Rule) -> list[dict[str, Any]]:
    """Return the request headers that have the answers under `rule` kept for comparison."""
    if not rule.mirrors:
        return []
    name = {"key": COMPARE_HEADER, "value": f"{rule.name}/{_UNIQUE}"}
    return [{"header": name, "append_action": _OVERWRITE}]


def max_copies(plan: RoutePlan) -> int:
    """Return how many copies may be in flight to a shadow, and as many wait for a connection.

    Copies beyond them are not sent, and count for nothing: the shadow did not fail them.
    """
    body = plan.limits.max_body or _DEFAULT_BODY_BYTES
    return max(_LEAST_COPIES, min(_MOST_COPIES, MAX_COPY_BYTES // (2 * max(1, body))))


def copy_breakers(plan: RoutePlan) -> dict[str, Any]:
    """Return the circuit breakers of a shadow's cluster."""
    bound = {"value": max_copies(plan)}
    return {
        "thresholds": [
            {"max_connections": bound, "max_pending_requests": bound, "max_requests": bound}
        ]
    }
