"""The few words of xDS the adapter speaks: resource types and packed, versioned resources.

Used by all modules that make resources or send them. Pure data; no I/O.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from google.protobuf import any_pb2

_URL = "type.googleapis.com/"

CLUSTER = _URL + "envoy.config.cluster.v3.Cluster"
ENDPOINTS = _URL + "envoy.config.endpoint.v3.ClusterLoadAssignment"
EXTENSION = _URL + "envoy.config.core.v3.TypedExtensionConfig"
LISTENER = _URL + "envoy.config.listener.v3.Listener"
SCOPE = _URL + "envoy.config.route.v3.ScopedRouteConfiguration"
SECRET = _URL + "envoy.extensions.transport_sockets.tls.v3.Secret"


@dataclass(frozen=True, slots=True)
class XdsResource:
    """One resource as Envoy gets it.

    Attributes
    ----------
    name
        Unique within its type on the gateway.
    version
        Digest of the content, so that a reconnecting Envoy which already has it gets nothing.
    packed
        The message as ``google.protobuf.Any``.
    """

    name: str
    version: str
    packed: Any


def pack(message: Any) -> Any:
    """Return `message` as ``google.protobuf.Any``, the same bytes for the same content."""
    return any_pb2.Any(
        type_url=_URL + message.DESCRIPTOR.full_name,
        value=message.SerializeToString(deterministic=True),
    )


def resource(name: str, message: Any) -> XdsResource:
    """Return `message` packed, with the digest of its content as version."""
    packed = pack(message)
    return XdsResource(name, hashlib.blake2b(packed.value, digest_size=8).hexdigest(), packed)
