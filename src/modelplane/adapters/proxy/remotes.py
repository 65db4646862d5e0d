"""Copies of requests for other environments: a cluster for each gateway, and who copies to it.

Pure; called by `snapshot` and `routes`. A copy travels over mutual TLS to that gateway alone; it
is not tried again, its answer is thrown away, and what the other gateway does with it is counted
there.
"""

from __future__ import annotations

from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2

from modelplane.adapters.proxy.clusters import HTTP1_RENEWED, HTTP_OPTIONS, address
from modelplane.adapters.proxy.secrets import client_socket
from modelplane.adapters.proxy.shadows import copy_breakers
from modelplane.adapters.proxy.xds import XdsResource, resource
from modelplane.decisions.routing import Remote, RoutePlan


def compile_remote(remote: Remote, plan: RoutePlan) -> tuple[XdsResource, XdsResource]:
    """Return the cluster of another environment's gateway, and its endpoint."""
    name = _name(remote, plan)
    cluster = cluster_pb2.Cluster(
        name=name,
        type="EDS",
        eds_cluster_config={"eds_config": {"resource_api_version": "V3", "ads": {}}},
        connect_timeout={"seconds": 1},
        transport_socket=client_socket(remote.identity),
        typed_extension_protocol_options={HTTP_OPTIONS: HTTP1_RENEWED},
        circuit_breakers=copy_breakers(plan),
    )
    endpoints = endpoint_pb2.ClusterLoadAssignment(
        cluster_name=name,
        endpoints=[{"lb_endpoints": [{"endpoint": {"address": address(remote.address)}}]}],
    )
    return resource(name, cluster), resource(name, endpoints)


def remote_policies(plan: RoutePlan) -> list[dict[str, Any]]:
    """Return Envoy's ``request_mirror_policies`` of every request of `plan`."""
    return [
        {
            "cluster": _name(remote, plan),
            "runtime_fraction": {
                "default_value": {"numerator": remote.share, "denominator": "TEN_THOUSAND"}
            },
            "disable_shadow_host_suffix_append": True,
        }
        for remote in plan.remotes
    ]


def _name(remote: Remote, plan: RoutePlan) -> str:
    # No revision begins so.
    return f"{plan.deployment}.@{remote.environment}"
