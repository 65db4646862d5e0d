"""A variant's cluster and endpoints: where its requests go, and what protects it.

Pure; called by `snapshot`. The shield's first part is here: a candidate's endpoints hold stable's
replicas at a second priority, to which a retry goes.
"""

from __future__ import annotations

from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2

from modelplane.adapters.proxy.limits import circuit_breakers, outlier_detection
from modelplane.adapters.proxy.secrets import CONNECTION_LIFE_S, cluster_sockets, endpoint_match
from modelplane.adapters.proxy.shadows import copy_breakers
from modelplane.adapters.proxy.xds import pack
from modelplane.decisions.routing import Endpoint, RoutePlan, Variant

METADATA_NAMESPACE = "mp"
"""Where clusters and endpoints carry the version, replica and cluster they belong to."""

_ADS = {"resource_api_version": "V3", "ads": {}}
# Shorter than the keep-alive of common model servers (5 s), so that Envoy and not the server ends
# an idle connection: the other way round a request can meet the close.
_IDLE = {"idle_timeout": {"seconds": 4}}


def _http1(**common: Any) -> Any:
    return pack(
        http_protocol_options_pb2.HttpProtocolOptions(
            common_http_protocol_options=_IDLE | common,
            explicit_http_config={"http_protocol_options": {}},
        )
    )


HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
"""Name under which a cluster carries the options of its connections."""

_HTTP1 = _http1()
HTTP1_RENEWED = _http1(max_connection_duration={"seconds": CONNECTION_LIFE_S})
"""Where certificates are renewed, connections are too."""


def compile_cluster(variant: Variant, plan: RoutePlan) -> Any:
    """Return the cluster of `variant`; the same for stable and candidate of one plan.

    A promotion therefore changes endpoints and routes only, and never makes Envoy replace a
    cluster that is serving: a shadow that is promoted served nobody before.
    """
    sockets = cluster_sockets(plan)
    return cluster_pb2.Cluster(
        name=variant.cluster,
        type="EDS",
        eds_cluster_config={"eds_config": _ADS},
        connect_timeout={"nanos": 250_000_000},
        lb_policy="LEAST_REQUEST",
        typed_extension_protocol_options={HTTP_OPTIONS: HTTP1_RENEWED if sockets else _HTTP1},
        transport_socket_matches=sockets,
        circuit_breakers=copy_breakers(plan)
        if variant.role == "shadow"
        else circuit_breakers(plan.limits),
        outlier_detection=outlier_detection(plan.limits),
        metadata=_metadata(version=variant.version),
    )


def compile_endpoints(variant: Variant, plan: RoutePlan) -> Any:
    tiers = [(variant, variant.endpoints)]
    if plan.shield and variant.role == "candidate" and plan.stable.endpoints:
        tiers.append((plan.stable, plan.stable.endpoints))
    return endpoint_pb2.ClusterLoadAssignment(
        cluster_name=variant.cluster,
        endpoints=[
            {
                "priority": priority,
                "lb_endpoints": [_endpoint(owner, endpoint) for endpoint in endpoints],
            }
            for priority, (owner, endpoints) in enumerate(tiers)
            if endpoints
        ]
        if variant.endpoints
        else [],
        # The default of 140 sends first attempts to the next priority as soon as one of two
        # replicas is down.
        policy={"overprovisioning_factor": {"value": 1000}},
    )


def _endpoint(owner: Variant, endpoint: Endpoint) -> dict[str, Any]:
    metadata = _metadata(version=owner.version, replica=endpoint.replica, cluster=owner.cluster)
    metadata["filter_metadata"].update(endpoint_match(endpoint))
    return {"endpoint": {"address": address(endpoint.address)}, "metadata": metadata}


def address(text: str) -> dict[str, Any]:
    """Return an Envoy address for ``unix:/path`` or ``host:port``.

    Raises
    ------
    ValueError
        When `text` is neither.
    """
    kind, _, path = text.partition(":")
    if kind == "unix" and path.startswith("/"):
        return {"pipe": {"path": path}}
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"not an address: {text!r}; use unix:/path or host:port")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


def _metadata(**fields: str) -> dict[str, Any]:
    values = {name: {"string_value": value} for name, value in fields.items()}
    return {"filter_metadata": {METADATA_NAMESPACE: {"fields": values}}}
