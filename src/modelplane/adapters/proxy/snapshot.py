"""From a `RoutePlan` to what Envoy needs to serve it: one scope, its clusters, their endpoints.

Pure: the same plan gives the same bytes. Called by `ads` for each published plan. The shape is
one scoped route configuration per deployment, because Envoy then applies a change in
milliseconds however many deployments there are; nothing here may refer to another deployment. What
the routes are is in `routes`, what the clusters are in `clusters`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from envoy.config.route.v3 import route_components_pb2, scoped_route_pb2

from modelplane.adapters.proxy.clusters import (
    METADATA_NAMESPACE,
    compile_cluster,
    compile_endpoints,
)
from modelplane.adapters.proxy.limits import SHED_HEADER
from modelplane.adapters.proxy.remotes import compile_remote
from modelplane.adapters.proxy.routes import header, virtual_host
from modelplane.adapters.proxy.script import USER_HEADER
from modelplane.adapters.proxy.tokens import JWT_FILTER
from modelplane.adapters.proxy.xds import XdsResource, pack, resource
from modelplane.decisions.assignment import VERSION_HEADER
from modelplane.decisions.routing import RoutePlan

PATH_HEADER = "x-modelplane-path"
"""Inner request header from which `listener` takes the scope; replicas do not see it."""

API_KEY_FILTER = "envoy.filters.http.api_key_auth"
"""Name of the filter that checks the gateway's token; probes of health need none."""

GATEWAY_SCOPE = "gateway/"
"""First part of the names of the scopes that the gateway answers by itself."""

_NO_TOKEN = pack(route_components_pb2.FilterConfig(disabled=True))


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
        One of each per variant, named `Variant.cluster`, and per remote.
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
    """Return the xDS resources of `plan`.

    Raises
    ------
    ValueError
        When an address is none, or a predicate does not compile.
    """
    remotes = [compile_remote(remote, plan) for remote in plan.remotes]
    return RouteResources(
        plan=plan,
        scope=resource(scope_name(plan.deployment), _scope(plan)),
        clusters=(
            *(resource(v.cluster, compile_cluster(v, plan)) for v in plan.variants),
            *(cluster for cluster, _ in remotes),
        ),
        endpoints=(
            *(resource(v.cluster, compile_endpoints(v, plan)) for v in plan.variants),
            *(endpoints for _, endpoints in remotes),
        ),
    )


def scope_name(deployment: str) -> str:
    """Return the name of the deployment's scoped route configuration."""
    return f"deployment/{deployment}"


def _scope(plan: RoutePlan) -> Any:
    return scoped_route_pb2.ScopedRouteConfiguration(
        name=scope_name(plan.deployment),
        key={"fragments": [{"string_key": "models"}, {"string_key": plan.deployment}]},
        route_configuration={
            "name": plan.deployment,
            "virtual_hosts": [virtual_host(plan)],
            "request_headers_to_remove": [PATH_HEADER, USER_HEADER, VERSION_HEADER],
            "response_headers_to_remove": [SHED_HEADER],
            "response_headers_to_add": [
                header(VERSION_HEADER, f"%METADATA(UPSTREAM_HOST:{METADATA_NAMESPACE}:version)%"),
                header(
                    "x-modelplane-assigned", f"%METADATA(CLUSTER:{METADATA_NAMESPACE}:version)%"
                ),
            ],
        },
    )


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
        "response_headers_to_add": [header("content-type", "application/json")],
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
                    "typed_per_filter_config": {API_KEY_FILTER: _NO_TOKEN, JWT_FILTER: _NO_TOKEN}
                    if public
                    else {},
                }
            ],
        },
    )
    return resource(full_name, message)
