"""The gateway's second listener, for gateways of other environments: mutual TLS and nothing else.

Pure; called by `envoy` when it has a certificate. It leads to the same routes as the first one.
A gateway that comes in has proven who it is, so that neither the gateway's token nor an issuer's
is asked for; who may come in is all that differs, and what the other gateway says of its users
(`x-user-…`) is believed.
"""

from __future__ import annotations

from dataclasses import replace

from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2,
)

from modelplane.adapters.proxy.bootstrap import GatewayConfig
from modelplane.adapters.proxy.listener import listener
from modelplane.adapters.proxy.secrets import CONNECTION_LIFE_S, server_socket
from modelplane.adapters.proxy.xds import XdsResource, pack, resource
from modelplane.decisions.identity import allowed_peers, trust_domain_of

LISTENER_NAME = "mesh"


def mesh_listener(config: GatewayConfig, identity: str) -> XdsResource | None:
    """Return the listener of the gateway that is `identity`; None when nobody may come in."""
    mesh = config.mesh
    if mesh is None or not mesh.allow:
        return None
    plain = replace(config, host=mesh.host, port=mesh.port, token=None, jwt=None, tls=False)
    message = listener_pb2.Listener()
    listener(plain).packed.Unpack(message)
    message.name = LISTENER_NAME
    (chain,) = message.filter_chains
    manager = http_connection_manager_pb2.HttpConnectionManager()
    chain.filters[0].typed_config.Unpack(manager)
    # Connections end in time for those who come in to show a certificate that still holds.
    manager.common_http_protocol_options.max_connection_duration.seconds = CONNECTION_LIFE_S
    chain.filters[0].typed_config.CopyFrom(pack(manager))
    peers = allowed_peers(mesh.allow, trust_domain_of(identity))
    message.filter_chains[0].MergeFrom(
        listener_pb2.Listener(
            filter_chains=[
                {
                    "transport_socket": server_socket(peers),
                    "transport_socket_connect_timeout": {"seconds": 5},
                }
            ]
        ).filter_chains[0]
    )
    return resource(LISTENER_NAME, message)
