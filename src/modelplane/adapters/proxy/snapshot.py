"""From a `RoutePlan` to what Envoy needs to serve it: one scope, its clusters, their endpoints.

Pure: the same plan gives the same bytes. Called by `ads` for each published plan. The shape is
one scoped route configuration per deployment, because Envoy then applies a change in
milliseconds however many deployments there are; nothing here may refer to another deployment.

The shield is built of three parts. A candidate's endpoints hold stable's replicas at a second
priority; a retry goes to the next priority; and requests assigned to a candidate carry Envoy's
header that adds ``5xx`` to the conditions for a retry. Stable's own 5xx are not retried: that
would hide its failures from the comparison and triple the load of a broken request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from envoy.config.route.v3 import route_components_pb2, scoped_route_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.extensions.retry.priority.previous_priorities.v3 import previous_priorities_config_pb2

from modelplane.adapters.proxy.clusters import (
    METADATA_NAMESPACE,
    compile_cluster,
    compile_endpoints,
)
from modelplane.adapters.proxy.xds import XdsResource, pack, resource
from modelplane.decisions.routing import RoutePlan, Variant

PATH_HEADER = "x-modelplane-path"
"""Inner request header from which `listener` takes the scope; replicas do not see it."""

API_KEY_FILTER = "envoy.filters.http.api_key_auth"
"""Name of the filter that checks the gateway's token; probes of health need none."""

GATEWAY_SCOPE = "gateway/"
"""First part of the names of the scopes that the gateway answers by itself."""

_RETRIES = 2
_PRIORITIES_RETRY = pack(
    previous_priorities_config_pb2.PreviousPrioritiesConfig(update_frequency=1)
)
_HOSTS_RETRY = pack(previous_hosts_pb2.PreviousHostsPredicate())
_NO_TOKEN = pack(route_components_pb2.FilterConfig(disabled=True))
_OVERWRITE = "OVERWRITE_IF_EXISTS_OR_ADD"


@dataclass(frozen=True, slots=True)
class RouteResources:
    """One plan, compiled.

    Attributes
    ----------
    plan
        What it was compiled from.
    scope
        The scoped route configuration.
    clusters, endpoints
        One of each per variant, named `Variant.cluster`.
    """

    plan: RoutePlan
    scope: XdsResource
    clusters: tuple[XdsResource, ...]
    endpoints: tuple[XdsResource, ...]

    @property
    def versions(self) -> tuple[str, ...]:
        """What Envoy would see: two plans with the same versions are the same to it."""
        parts = (self.scope, *self.clusters, *self.endpoints)
        return tuple(part.version for part in parts)


def compile_route(plan: RoutePlan) -> RouteResources:
    """Return the xDS resources of `plan`."""
    return RouteResources(
        plan=plan,
        scope=resource(scope_name(plan.deployment), _scope(plan)),
        clusters=tuple(resource(v.cluster, compile_cluster(v)) for v in plan.variants),
        endpoints=tuple(resource(v.cluster, compile_endpoints(v, plan)) for v in plan.variants),
    )


def scope_name(deployment: str) -> str:
    """Return the name of the deployment's scoped route configuration."""
    return f"deployment/{deployment}"


def _scope(plan: RoutePlan) -> Any:
    prefix = f"/v2/models/{plan.deployment}"
    action = _split(plan)
    served = sorted({variant.version for variant in plan.variants if variant.weight})
    routes = [_route(f"{prefix}/versions/{version}", prefix, action) for version in served]
    routes.append(_version_not_served(prefix, served))
    routes.append(_route(prefix, "", action))
    return scoped_route_pb2.ScopedRouteConfiguration(
        name=scope_name(plan.deployment),
        key={"fragments": [{"string_key": "models"}, {"string_key": plan.deployment}]},
        route_configuration={
            "name": plan.deployment,
            "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}],
            "request_headers_to_remove": [PATH_HEADER],
            "response_headers_to_add": [
                _header(
                    "x-modelplane-version",
                    f"%METADATA(UPSTREAM_HOST:{METADATA_NAMESPACE}:version)%",
                ),
                _header(
                    "x-modelplane-assigned", f"%METADATA(CLUSTER:{METADATA_NAMESPACE}:version)%"
                ),
            ],
        },
    )


def _header(name: str, value: str) -> dict[str, Any]:
    return {"header": {"key": name, "value": value}, "append_action": _OVERWRITE}


def _route(prefix: str, rewrite: str, action: Any) -> Any:
    """Return a route for `prefix` and what lies below it, seen as `rewrite` by the replica."""
    route = route_components_pb2.Route(
        name="split", match={"path_separated_prefix": prefix}, route=action
    )
    route.route.prefix_rewrite = rewrite
    return route


def _version_not_served(prefix: str, served: list[str]) -> dict[str, Any]:
    text = f"this version is not served; served now: {', '.join(served)}"
    return {
        "name": "version-not-served",
        "match": {"path_separated_prefix": f"{prefix}/versions"},
        "direct_response": {"status": 404, "body": {"inline_string": text}},
    }


def _split(plan: RoutePlan) -> Any:
    """Return the sticky weighted split over all variants with a weight, with its retries."""
    salt = plan.salt.replace("\\", "\\\\")
    hashing = {
        "header_name": plan.sticky_header,
        "regex_rewrite": {"pattern": {"regex": "^"}, "substitution": f"{salt}:"},
    }
    return route_components_pb2.RouteAction(
        weighted_clusters={
            "clusters": [_weight(variant, plan) for variant in _order(plan) if variant.weight],
            "use_hash_policy": {"value": True},
        },
        hash_policy=[{"header": hashing}],
        timeout=_duration(plan.timeout_s),
        retry_policy={
            "retry_on": "connect-failure,reset,reset-before-request"
            if plan.shield
            else "connect-failure",
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
            "retry_priority": {
                "name": "envoy.retry_priorities.previous_priorities",
                "typed_config": _PRIORITIES_RETRY,
            },
        },
    )


def _order(plan: RoutePlan) -> list[Variant]:
    """Return the variants in the order of their ranges of the hash.

    The first candidate grows from the bottom and the second from the top, both into stable
    between them, so that a growing candidate never loses a user. With three or more candidates
    those after the second may exchange users among themselves.
    """
    first, *others = plan.candidates or (None,)
    return [v for v in (first, *others[1:], plan.stable, *others[:1]) if v is not None]


def _weight(variant: Variant, plan: RoutePlan) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": variant.cluster, "weight": {"value": variant.weight}}
    if plan.shield and variant.role == "candidate":
        entry["request_headers_to_add"] = [_header("x-envoy-retry-on", "5xx")]
    return entry


def _duration(seconds: float) -> dict[str, int]:
    whole, nanos = divmod(round(seconds * 1e9), 1_000_000_000)
    return {"seconds": whole, "nanos": nanos}


def gateway_scopes(server_version: str) -> tuple[XdsResource, ...]:
    """Return the scopes of what the gateway answers itself: its health and its name."""
    name = f'{{"name": "modelplane", "version": "{server_version}", "extensions": []}}'
    return (
        _answered("live", ("health", "live"), "/v2/health/live", '{"live": true}', public=True),
        _answered("ready", ("health", "ready"), "/v2/health/ready", '{"ready": true}', public=True),
        _answered("server", ("", ""), "/v2", name),
    )


def _answered(
    name: str, key: tuple[str, str], path: str, body: str, *, public: bool = False
) -> XdsResource:
    full_name = GATEWAY_SCOPE + name
    route = {
        "name": "gateway",
        "match": {"path_separated_prefix": path},
        "direct_response": {"status": 200, "body": {"inline_string": body}},
        "response_headers_to_add": [_header("content-type", "application/json")],
    }
    message = scoped_route_pb2.ScopedRouteConfiguration(
        name=full_name,
        key={"fragments": [{"string_key": part} for part in key]},
        route_configuration={
            "name": full_name,
            "virtual_hosts": [
                {
                    "name": "v",
                    "domains": ["*"],
                    "routes": [route],
                    "typed_per_filter_config": {API_KEY_FILTER: _NO_TOKEN} if public else {},
                }
            ],
        },
    )
    return resource(full_name, message)
