"""Mutual TLS for Envoy: the secrets it is given, and the sockets that use them.

Pure. The secrets travel over the private configuration socket, under two names that every proxy
uses: who it is, and whom it trusts. Sockets name them, so that a renewal changes two resources
whatever the number of clusters. TLS 1.3 only; a peer is admitted by its SPIFFE id, never by its
authority alone; no session is resumed, since a resumed one is not verified anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2

from modelplane.adapters.proxy.xds import XdsResource, pack, resource
from modelplane.decisions.routing import Endpoint, RoutePlan
from modelplane.ports.identity import Credentials

TRUST = "authorities"
"""Name of the secret that says whom a proxy trusts. Renewals are sent by name, this one first: a
peer may already have a certificate of a new authority."""

IDENTITY = "identity"
"""Name of the secret that says who it is."""

CONNECTION_LIFE_S = 900
"""After so long a gateway makes a new connection, with the certificates of then, and ends the
old one once its requests are done."""

_MATCH = "envoy.transport_socket_match"
_ADS = {"resource_api_version": "V3", "ads": {}}


def secrets(credentials: Credentials) -> tuple[XdsResource, XdsResource]:
    """Return both secrets, whom to trust first: a peer may be ahead."""
    trust = secret_pb2.Secret(
        name=TRUST,
        validation_context={"trusted_ca": {"inline_string": credentials.trusted}},
    )
    identity = secret_pb2.Secret(
        name=IDENTITY,
        tls_certificate={
            "certificate_chain": {"inline_string": credentials.certificate},
            "private_key": {"inline_string": credentials.private_key},
        },
    )
    return resource(TRUST, trust), resource(IDENTITY, identity)


def client_socket(peer: str) -> dict[str, Any]:
    """Return the socket of one who connects to `peer`, a SPIFFE id, and to nobody else."""
    context = tls_pb2.UpstreamTlsContext(
        common_tls_context=_common((peer,)), max_session_keys={"value": 0}
    )
    return {"name": "envoy.transport_sockets.tls", "typed_config": pack(context)}


def server_socket(peers: Sequence[str]) -> dict[str, Any]:
    """Return the socket of one who admits `peers`, SPIFFE ids, and nobody else."""
    if not peers:
        raise ValueError("without peers a verified certificate of anybody would do")
    context = tls_pb2.DownstreamTlsContext(
        common_tls_context=_common(peers),
        require_client_certificate={"value": True},
        disable_stateless_session_resumption=True,
        disable_stateful_session_resumption=True,
    )
    return {"name": "envoy.transport_sockets.tls", "typed_config": pack(context)}


def cluster_sockets(plan: RoutePlan) -> list[dict[str, Any]]:
    """Return the sockets of a cluster of `plan`, one for each identity; empty without any.

    The same for all clusters of a plan, because a candidate's holds stable's replicas too; and
    exact for each endpoint, because `endpoint_match` says which is whose.
    """
    identities = {e.identity for variant in plan.variants for e in variant.endpoints if e.identity}
    # A cluster changes before its endpoints do, and after they did: in between it must know both.
    identities.update(plan.peers)
    return [
        {
            "name": identity,
            "match": {"identity": identity},  # a Struct: no "fields" here
            "transport_socket": client_socket(identity),
        }
        for identity in sorted(identities)
    ]


def endpoint_match(endpoint: Endpoint) -> dict[str, Any]:
    """Return the metadata by which `endpoint` gets its socket; empty for one without identity."""
    if not endpoint.identity:
        return {}
    return {_MATCH: {"fields": {"identity": {"string_value": endpoint.identity}}}}


def _common(peers: Sequence[str]) -> tls_pb2.CommonTlsContext:
    return tls_pb2.CommonTlsContext(
        tls_params={
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
        },
        tls_certificate_sds_secret_configs=[{"name": IDENTITY, "sds_config": _ADS}],
        combined_validation_context={
            "default_validation_context": {
                "match_typed_subject_alt_names": [
                    {"san_type": "URI", "matcher": {"exact": peer}} for peer in sorted(set(peers))
                ]
            },
            "validation_context_sds_secret_config": {"name": TRUST, "sds_config": _ADS},
        },
    )
