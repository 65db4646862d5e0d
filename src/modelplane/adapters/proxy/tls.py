"""TLS on the gateway with a certificate that was given: its check, its secret, its socket.

Pure. `credentials` reads the certificate and calls the check; `listener` uses the socket. The
certificate travels as a secret of its own over the private configuration socket, so that a new
one closes no connection and stands in no file of ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2

from modelplane.adapters.proxy.xds import XdsResource, pack, resource
from modelplane.errors import InvalidResource

CERTIFICATE = "certificate"
"""Name of the secret that Envoy asks for."""

_ADS = {"resource_api_version": "V3", "ads": {}}
_CIPHERS_OF_TLS_1_2 = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
)


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """A certificate that was checked.

    Attributes
    ----------
    chain, private_key
        PEM; the chain begins with the server's own certificate.
    expires_at
        When the server's own certificate ends.
    """

    chain: str = field(repr=False)
    private_key: str = field(repr=False)
    expires_at: datetime


def check_certificate(chain: str, private_key: str, now: datetime) -> ServerCertificate:
    """Return the certificate if a server can show it.

    Raises
    ------
    InvalidResource
        When one of the two cannot be read, they do not belong together, or the certificate is
        not valid at `now`. The message holds nothing of the key.
    """
    try:
        certificates = x509.load_pem_x509_certificates(chain.encode())
    except ValueError:
        raise InvalidResource("the certificate is not PEM", hint="BEGIN CERTIFICATE …") from None
    own = certificates[0]
    try:
        public_key = _public_bytes(own.public_key())
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidResource("the certificate's key is of a kind that is not known") from None
    if public_key != _public_bytes(_load_key(private_key).public_key()):
        raise InvalidResource(
            "the private key does not belong to the certificate",
            hint="the server's own certificate comes first, those of its authorities after it",
        )
    if not own.not_valid_before_utc <= now < own.not_valid_after_utc:
        raise InvalidResource(
            f"the certificate is valid from {own.not_valid_before_utc:%Y-%m-%d %H:%M} to "
            f"{own.not_valid_after_utc:%Y-%m-%d %H:%M} UTC only"
        )
    return ServerCertificate(chain, private_key, own.not_valid_after_utc)


def _load_key(private_key: str) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(private_key.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidResource(
            "the private key cannot be read", hint="PEM (BEGIN PRIVATE KEY …), without passphrase"
        ) from None


def _public_bytes(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def certificate_secret(certificate: ServerCertificate) -> XdsResource:
    """Return the secret that the listener's socket names."""
    message = secret_pb2.Secret(
        name=CERTIFICATE,
        tls_certificate={
            "certificate_chain": {"inline_string": certificate.chain},
            "private_key": {"inline_string": certificate.private_key},
        },
    )
    return resource(CERTIFICATE, message)


def downstream_socket() -> dict[str, Any]:
    """Return the socket that clients speak TLS 1.2 or 1.3 to, with HTTP/2 or HTTP/1.1.

    Until Envoy has the certificate, it does not listen.
    """
    context = tls_pb2.DownstreamTlsContext(
        common_tls_context={
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_2",
                "tls_maximum_protocol_version": "TLSv1_3",
                "cipher_suites": _CIPHERS_OF_TLS_1_2,
            },
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificate_sds_secret_configs": [
                {"name": CERTIFICATE, "sds_config": {**_ADS, "initial_fetch_timeout": {}}}
            ],
        }
    )
    return {"name": "envoy.transport_sockets.tls", "typed_config": pack(context)}
